"""Convolutions alone and with a norm, as in `models/layers.py`.

Every writer is named after a Flax module or function, reads the parameters below the
current module, and takes the `region` of its input where that takes `size`. Maps are
(B,C,H,W).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.norms import group_norm, stored
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.norms import norm_prefix


class Conv(NamedTuple):
    """A convolution of the current module.

    Attributes:
        name: its name there.
        stride: step in both directions.
        groups: groups of channels that are convolved separately.
        deform_groups: groups of channels with offsets of their own (DCNv2); 0: an
            ordinary convolution.
    """

    name: str
    stride: int = 1
    groups: int = 1
    deform_groups: int = 0


def conv(g: Graph, layer: Conv, x: Tensor, region: Region) -> Tensor:
    """A convolution with the bias that it has, if any."""
    with g.module(layer.name):
        kernel = g.parameter('kernel')
        bias = g.parameter('bias') if g.has_parameter('bias') else None
        return convolve(g, layer, x, region, kernel, bias)


def convolve(
    g: Graph,
    layer: Conv,
    x: Tensor,
    region: Region,
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Tensor:
    """Convolution with a given (k,k,c,D) kernel, which reads zeros outside."""
    if kernel.shape[0] > 1:
        x = region.zero_outside(x)
    return g.op('Conv', x, *_weights(g, kernel, bias), **_attributes(layer, kernel))


def convolve_and_norm(
    g: Graph, layer: Conv, norm: str, norm_cfg: Mapping[str, Any], x: Tensor, region
) -> Tensor:
    """A convolution without bias, then a norm; batch norm becomes part of the kernel.

    Args:
        g: the graph.
        layer: the convolution.
        norm: name of the norm in the current module.
        norm_cfg: mmdet's description of it.
        x: features.
        region: their valid region.
    """
    convolution = deform_conv if layer.deform_groups else convolve
    is_group_norm = norm_cfg['type'] == 'GN'
    mean, factor, bias = (0, 1, None) if is_group_norm else stored(g, norm)
    bias = None if bias is None else bias - mean * factor
    with g.module(layer.name):
        kernel = g.parameter('kernel') * factor
        y = convolution(g, layer, x, region, kernel, bias)
    if not is_group_norm:
        return y
    region_out = region if layer.stride == 1 else region.half
    return group_norm(g, norm, y, region_out, norm_cfg['num_groups'])


def deform_conv(
    g: Graph,
    layer: Conv,
    x: Tensor,
    region: Region,
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Tensor:
    """DCNv2: the offsets and masks come from a convolution within."""
    taps = layer.deform_groups * kernel.shape[0] ** 2
    offset_and_mask = conv(g, Conv('conv_offset', layer.stride), x, region)
    offset, mask = g.ops('Split', 2, offset_and_mask, [2 * taps, taps], axis=1)
    mask = g.op('Sigmoid', mask)
    return modulated_deform_conv(g, layer, x, region, (offset, mask), kernel, bias)


def modulated_deform_conv(
    g: Graph,
    layer: Conv,
    x: Tensor,
    region: Region,
    taps: tuple[Tensor, Tensor],
    kernel: np.ndarray,
    bias: np.ndarray | None = None,
) -> Tensor:
    """Convolution whose taps read where given offsets point, times given masks.

    Reading beyond the canvas gives 0, as reading outside the region does, which is
    zero. The order of offsets and masks is that of ONNX.
    """
    offset, mask = taps
    weights = _weights(g, kernel, bias)
    if bias is None:
        weights.append('')
    return g.op(
        'DeformConv',
        region.zero_outside(x),
        weights[0],
        offset,
        weights[1],
        mask,
        offset_group=layer.deform_groups,
        **_attributes(layer, kernel),
    )


def _weights(g, kernel, bias):
    kernel = g.weight('kernel', kernel.transpose(3, 2, 0, 1))
    return [kernel] if bias is None else [kernel, g.weight('bias', bias)]


def _attributes(layer, kernel):
    k = kernel.shape[0]
    return {
        'kernel_shape': [k, k],
        'pads': [k // 2] * 4,
        'strides': [layer.stride] * 2,
        'group': layer.groups,
    }


def conv_module(
    g: Graph,
    layer: Conv,
    x: Tensor,
    region: Region,
    norm_cfg: Mapping[str, Any] | None = None,
) -> Tensor:
    """Convolution, then norm and ReLU where `norm_cfg` is given; see `ConvModule`."""
    inner = layer._replace(name='conv')
    with g.module(layer.name):
        if norm_cfg is None:
            return conv(g, inner, x, region)
        norm = norm_prefix(norm_cfg)
        return g.op('Relu', convolve_and_norm(g, inner, norm, norm_cfg, x, region))
