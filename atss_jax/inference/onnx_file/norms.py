"""Norms, as in `models/norms.py`."""

import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.norms import BatchNorm, GroupNorm, LayerNorm


def stored(g: Graph, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, factor and bias of each channel of a batch norm; `BatchNorm.stored`."""
    with g.module(name):
        scale, bias = g.parameter('scale'), g.parameter('bias')
        mean, var = (g.parameter(name, 'batch_stats') for name in ('mean', 'var'))
    return mean, scale / np.sqrt(var + np.float32(BatchNorm.epsilon)), bias


def group_norm(
    g: Graph, name: str, x: Tensor, region: Region, num_groups: int
) -> Tensor:
    """Group normalization by the statistics of the valid cells of each image."""
    with g.module(name):
        scale, bias = g.parameter('scale'), g.parameter('bias')
        per_group = len(scale) // num_groups
        grouped = 1, num_groups, per_group, 1, 1
        count = g.op('Unsqueeze', region.count, [2, 3, 4])
        count = g.op('Mul', count, float(per_group))

        def over_group(kind, x):
            # Row by row first: onnxruntime adds up one number after the other.
            return g.op('Div', g.op('ReduceSum', g.op(kind, x, [4]), [2, 3]), count)

        sides = region.height, region.width
        x = g.reshape(region.zero_outside(x), 0, num_groups, per_group, *sides)
        mean = over_group('ReduceSum', x)
        mask = g.op('Unsqueeze', region.mask, [2])
        # Not E[x^2] - mean^2, which loses all digits where the mean is large.
        centered = g.op('Mul', g.op('Sub', x, mean), mask)
        var = over_group('ReduceSumSquare', centered)
        deviation = g.op('Sqrt', g.op('Add', var, float(GroupNorm.epsilon)))
        factor = g.op('Div', g.weight('scale', scale.reshape(grouped)), deviation)
        y = g.op('Mul', centered, factor)
        y = g.op('Add', y, g.weight('bias', bias.reshape(grouped)))
        return g.reshape(y, 0, len(scale), *sides)


def layer_norm(g: Graph, name: str, x: Tensor) -> Tensor:
    """Normalization over the last axis."""
    with g.module(name):
        scale, bias = (g.weight(n, g.parameter(n)) for n in ('scale', 'bias'))
        epsilon = LayerNorm.epsilon
        return g.op('LayerNormalization', x, scale, bias, axis=-1, epsilon=epsilon)
