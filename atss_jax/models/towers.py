"""The towers of the head, which are shared by all levels of the pyramid.

On a CPU each level is computed alone. Accelerators have few large operations rather
than many small ones: there all levels but the largest are one map (`level_map.py`).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models import level_map
from atss_jax.models.convolution import convolve
from atss_jax.models.layers import convolve_valid, relu
from atss_jax.models.norms import EPSILON, group_norm
from atss_jax.models.platforms import by_platform_keeping

Levels = Sequence[Float[Array, 'B _h _w _c']]


class Tower(NamedTuple):
    """Parameters of a tower.

    Attributes:
        layers: convolutions with group norm and ReLU.
        output: kernel of the last convolution, which has neither.
    """

    layers: list['LayerWeights']
    output: Float[Array, 'k k c D']


class LayerWeights(NamedTuple):
    """Parameters of a convolution with group norm.

    Attributes:
        kernel: of the convolution.
        scale: factor of each channel after the normalization.
        bias: added to each channel then.
    """

    kernel: Float[Array, 'k k c D']
    scale: Float[Array, ' D']
    bias: Float[Array, ' D']


def apply_towers(
    features: Levels,
    sizes: Sequence[Int[Array, 'B 2']],
    towers: Mapping[str, Tower],
    num_groups: int,
) -> dict[str, Levels]:
    """Outputs of each tower, for all levels. Convolutions see the valid region only.

    Args:
        features: the pyramid.
        sizes: valid rows and columns of each level.
        towers: parameters of each tower, by its name.
        num_groups: groups of channels that share statistics.
    """
    count = len(features)
    names = sorted(towers)
    weights, tree = jax.tree.flatten({name: towers[name] for name in names})
    settings = {'count': count, 'tree': tree, 'num_groups': num_groups}
    plain = functools.partial(_level_by_level, **settings)
    accelerator = plain
    # Symbolic sizes, as of an exported detector, cannot be compared.
    is_static = all(isinstance(side, int) for x in features for side in x.shape)
    # Between levels of a map lies one cell, which is enough for a 3x3.
    is_small = all(tower.output.shape[0] <= 3 for tower in towers.values())
    if count > 2 and is_static and is_small:
        accelerator = functools.partial(_side_by_side, **settings)
    outputs = by_platform_keeping(
        *features, *sizes, *weights, cpu=plain, accelerator=accelerator
    )
    return {name: outputs[i * count : (i + 1) * count] for i, name in enumerate(names)}


def _unpack(operands, count, tree):
    """Features, sizes and towers."""
    features, sizes = operands[:count], operands[count : 2 * count]
    return features, sizes, jax.tree.unflatten(tree, operands[2 * count :])


def _level_by_level(*operands, count, tree, num_groups):
    features, sizes, towers = _unpack(operands, count, tree)
    outputs = []
    for name, tower in towers.items():
        for x, size in zip(features, sizes, strict=True):
            outputs.append(_apply(name, tower, x, size, num_groups))
    return tuple(outputs)


def _apply(name, tower, x, size, num_groups):
    for index, (kernel, scale, bias) in enumerate(tower.layers):
        with jax.named_scope(f'{name}_{index}'):
            x = convolve_valid(x, size, kernel, 1)
            x = relu(group_norm(x, size, scale, bias, num_groups, EPSILON))
    return convolve_valid(x, size, tower.output, 1)


def _side_by_side(*operands, count, tree, num_groups):
    features, sizes, towers = _unpack(operands, count, tree)
    largest, *small = features
    layout = level_map.layout_of(tuple(x.shape[1:3] for x in small))
    valid = level_map.valid_cells(layout, sizes[1:])
    joined = layout.join(small)
    outputs = []
    for name, tower in towers.items():
        outputs.append(_apply(name, tower, largest, sizes[0], num_groups))
        x = joined
        for index, (kernel, scale, bias) in enumerate(tower.layers):
            norm = scale, bias, layout, num_groups, EPSILON
            with jax.named_scope(f'{name}_{index}'):
                x = _convolve(x, valid, kernel)
                x = relu(level_map.group_norm(x, sizes[1:], *norm))
        outputs.extend(layout.split(_convolve(x, valid, tower.output)))
    return tuple(outputs)


def _convolve(x, valid, kernel):
    return convolve(jnp.where(valid, x, 0), kernel.astype(x.dtype), 1)
