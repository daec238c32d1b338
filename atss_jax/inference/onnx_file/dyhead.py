"""DyHead, as in `models/dyhead.py`."""

from atss_jax.inference.onnx_file.fpn import Features
from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.layers import (
    Conv,
    conv,
    conv_module,
    modulated_deform_conv,
)
from atss_jax.inference.onnx_file.norms import group_norm
from atss_jax.inference.onnx_file.region import Region, stretch
from atss_jax.models.dyhead import DyHead

_TAPS = 3 * 3
_OFFSETS = 2 * _TAPS


def dyhead(g: Graph, module: DyHead, inputs: Features) -> Features:
    """A stack of blocks that mix every level with its neighbors."""
    rereading = _Rereading(g)
    for i in range(module.num_blocks):
        with g.module(f'dyhead_blocks_{i}'):
            inputs = dyhead_block(g, inputs, rereading)
    return inputs


def dyhead_block(g: Graph, features: Features, rereading: '_Rereading') -> Features:
    """Averages each level and the levels below and above, convolved and weighted."""
    outputs = []
    for level, (x, region) in enumerate(features):
        offset_and_mask = conv(g, Conv('spatial_conv_offset'), x, region)
        offset, mask = g.ops('Split', 2, offset_and_mask, [_OFFSETS, _TAPS], axis=1)
        taps = offset, g.op('Sigmoid', mask)
        terms = [_deform_conv_norm(g, 'mid', 1, x, region, taps)]
        if level > 0:
            terms.append(_deform_conv_norm(g, 'low', 2, *features[level - 1], taps))
        if level + 1 < len(features):
            above, region_above = features[level + 1]
            counts = _OFFSETS, _TAPS
            taps = tuple(
                rereading.reread(z, count, region, region_above)
                for z, count in zip(taps, counts, strict=True)
            )
            y = _deform_conv_norm(g, 'high', 1, above, region_above, taps)
            terms.append(stretch(g, y, region_above, region))
        terms = [_weighted(g, y, region) for y in terms]
        mean = g.op('Div', g.op('Sum', *terms), float(len(terms)))
        outputs.append((dyrelu(g, mean, region), region))
    return outputs


def _deform_conv_norm(g, name, stride, x, region, taps):
    """Deformable convolution with given offsets, then GroupNorm."""
    region_out = region if stride == 1 else region.half
    with g.module(f'spatial_conv_{name}'):
        with g.module('conv'):
            layer = Conv('conv', stride, deform_groups=1)
            kernel = g.parameter('kernel')
            y = modulated_deform_conv(g, layer, x, region, taps, kernel)
        return group_norm(g, 'norm', y, region_out, 16)


def _weighted(g, x, region):
    weight = conv(g, Conv('scale_attn_module_1'), _mean(g, x, region), region)
    return g.op('Mul', x, _hard_sigmoid(g, g.op('Relu', weight)))


def dyrelu(g: Graph, x: Tensor, region: Region) -> Tensor:
    """The maximum of two linear functions, whose coefficients depend on the image."""
    with g.module('task_attn_module'):
        y = g.op('Relu', conv_module(g, Conv('conv1'), _mean(g, x, region), region))
        y = _hard_sigmoid(g, conv_module(g, Conv('conv2'), y, region))
        coefficients = g.op('Sub', y, 0.5)
        slope_1, bias_1, slope_2, bias_2 = g.ops(
            'Split', 4, coefficients, axis=1, num_outputs=4
        )
        slope_1 = g.op('Add', g.op('Mul', slope_1, 2.0), 1.0)
        slope_2 = g.op('Mul', slope_2, 2.0)
        first = g.op('Add', g.op('Mul', x, slope_1), bias_1)
        second = g.op('Add', g.op('Mul', x, slope_2), bias_2)
        return g.op('Max', first, second)


def _hard_sigmoid(g, x):
    return g.op('Clip', g.op('Div', g.op('Add', x, 3.0), 6.0), 0.0, 1.0)


def _mean(g, x, region):
    """(B,C,1,1) means over the valid cells."""
    # Row by row first: onnxruntime adds up one number after the other.
    total = g.op('ReduceSum', g.op('ReduceSum', region.zero_outside(x), [3]), [2])
    return g.op('Div', total, g.op('Unsqueeze', region.count, [2, 3]))


class _Rereading:
    """Reads maps in the order of another size, as `reread` does and says why.

    The indices are the same in all blocks, and computed once.
    """

    def __init__(self, g: Graph):
        self._graph = g
        self._indices = {}

    def reread(self, x: Tensor, channels: int, region: Region, other: Region) -> Tensor:
        """A (B,channels,H,W) map as if it had the size of `other`."""
        g, key = self._graph, (channels, region, other)
        if key not in self._indices:
            self._indices[key] = self._index(channels, region, other)
        y = g.op('GatherElements', g.reshape(x, 0, -1), self._indices[key], axis=1)
        return g.reshape(y, 0, channels, other.height, other.width)

    def _index(self, channels, region, other):
        """(B,channels*h*w) place in the map of each number of the result."""
        g = self._graph
        side = [(r.rows, r.columns) for r in (region, other)]
        (rows, columns), (other_rows, other_columns) = (
            (g.op('Unsqueeze', n, [2, 3]) for n in sides) for sides in side
        )
        channel = g.op('Unsqueeze', g.range(g.constant([channels])), [1, 2])
        row = g.op('Unsqueeze', g.range(other.height), [1])
        place = g.op('Add', g.op('Mul', channel, other_rows), row)
        place = g.op('Mul', place, other_columns)
        place = g.op('Add', place, g.range(other.width))
        channel, cell = g.divmod(place, g.op('Mul', rows, columns))
        row, column = g.divmod(cell, columns)
        index = g.op('Add', g.op('Mul', channel, region.height), row)
        index = g.op('Add', g.op('Mul', index, region.width), column)
        # What lies outside `other` means nothing, but must be a place in the map.
        count = g.op('Mul', g.op('Mul', region.height, region.width), channels)
        index = g.op('Min', index, g.op('Sub', count, 1))
        return g.reshape(index, 0, -1)
