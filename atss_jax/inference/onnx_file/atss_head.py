"""The ATSS head, as in `models/atss_head.py`."""

from typing import NamedTuple

import numpy as np

from atss_jax.inference.onnx_file.fpn import Features
from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.layers import Conv, conv_module, convolve
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.atss_head import ATSSHead


class LevelOutputs(NamedTuple):
    """What the head computes for one level; see `HeadOutputs`.

    Attributes:
        cls_logits: (B,n,C), anchors by row, column, anchor.
        deltas: (B,n,4).
        centerness: (B,n).
        region: valid cells of the level.
        num_classes: C.
    """

    cls_logits: Tensor
    deltas: Tensor
    centerness: Tensor
    region: Region
    num_classes: int


def atss_head(g: Graph, module: ATSSHead, features: Features) -> list[LevelOutputs]:
    """Head outputs of all levels."""
    a = module.num_anchors
    levels = []
    for index, (x, region) in enumerate(features):
        cls_x = _tower(g, module, 'cls_convs', x, region)
        reg_x = _tower(g, module, 'reg_convs', x, region)
        deltas, centerness = _reg_and_centerness(g, reg_x, region, a)
        with g.module(f'scales_{index}'):
            deltas = g.op('Mul', deltas, g.weight('scale', g.parameter('scale')))
        with g.module('atss_cls'):
            weights = g.parameter('kernel'), g.parameter('bias')
            cls_logits = convolve(g, Conv('atss_cls'), cls_x, region, *weights)
        levels.append(
            LevelOutputs(
                _by_anchor(g, cls_logits, module.num_classes),
                _by_anchor(g, deltas, 4),
                g.reshape(g.transpose(centerness, 0, 2, 3, 1), 0, -1),
                region,
                module.num_classes,
            )
        )
    return levels


def _tower(g, module, name, x, region):
    for i in range(module.stacked_convs):
        is_last = i == module.stacked_convs - 1
        is_deformable = module.dcn_on_last_conv and is_last
        conv = Conv(f'{name}_{i}', deform_groups=int(is_deformable))
        x = conv_module(g, conv, x, region, module.norm_cfg)
    return x


def _reg_and_centerness(g, x, region, num_anchors):
    """Box deltas and centerness, by one convolution; a lot faster than two."""
    kernels, biases = [], []
    for name in ('atss_reg', 'atss_centerness'):
        with g.module(name):
            kernels.append(g.parameter('kernel'))
            biases.append(g.parameter('bias'))
    kernel, bias = np.concatenate(kernels, -1), np.concatenate(biases)
    with g.module('atss_reg_and_centerness'):
        y = convolve(g, Conv(''), x, region, kernel, bias)
        return g.ops('Split', 2, y, [4 * num_anchors, num_anchors], axis=1)


def _by_anchor(g, x, channels):
    """(B,a*c,H,W) as (B,n,c): anchors in order of row, column, anchor."""
    return g.reshape(g.transpose(x, 0, 2, 3, 1), 0, -1, channels)
