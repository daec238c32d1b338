"""Small pyramid levels side by side in one map, with zeros in between.

The towers of the head are shared by all levels. On an accelerator each level is a
program of its own: small convolutions that fill neither a GPU nor a TPU, and that take
as long to compile as large ones. One map for all but the largest level has 14% more
cells than they have alone, a twenty-eighth of all cells.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.models.norms import moments_at_once, sums_over_group
from atss_jax.models.region import inside

Levels = Sequence[Float[Array, 'B _h _w C']]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each level lies.

    Attributes:
        grids: rows and columns of each level.
        corners: row and column of the first cell of each level.
        shape: rows and columns of the map.
    """

    grids: tuple[tuple[int, int], ...]
    corners: tuple[tuple[int, int], ...]
    shape: tuple[int, int]

    def owners(self) -> Int[np.ndarray, 'H W']:
        """Index of the level of each cell; -1 in between."""
        owners = np.full(self.shape, -1)
        for level, (row, column, height, width) in enumerate(self._places()):
            owners[row : row + height, column : column + width] = level
        return owners

    def split(self, x: Float[Array, 'B H W C']) -> Levels:
        """The levels of a map."""
        return tuple(
            x[:, row : row + height, column : column + width]
            for row, column, height, width in self._places()
        )

    def join(self, levels: Sequence[Array]) -> Array:
        """A map of all levels; zeros, or False, in between."""
        parts = []
        for x, (row, column, height, width) in zip(levels, self._places(), strict=True):
            rows = row, self.shape[0] - row - height
            columns = column, self.shape[1] - column - width
            parts.append(jnp.pad(x, ((0, 0), rows, columns, (0, 0))))
        return functools.reduce(
            jnp.logical_or if parts[0].dtype == bool else jnp.add, parts
        )

    def _places(self):
        pairs = zip(self.corners, self.grids, strict=True)
        return [(*corner, *grid) for corner, grid in pairs]


def layout_of(grids: tuple[tuple[int, int], ...]) -> Layout:
    """The first level in the corner, the others in a row below it or next to it.

    Between two levels is one row or column, the padding of a 3x3 convolution. A level
    has at most half the sides of the one before, so that the others together are
    hardly longer than the first.
    """
    below = _in_a_row(grids)
    beside = _in_a_row(tuple((width, height) for height, width in grids))
    if below.shape[0] * below.shape[1] <= beside.shape[0] * beside.shape[1]:
        return below
    corners = tuple((row, column) for column, row in beside.corners)
    return Layout(grids, corners, beside.shape[::-1])


def _in_a_row(grids):
    (height, width), *others = grids
    lengths = [0, *(columns + 1 for _, columns in others)]
    starts = list(itertools.accumulate(lengths))
    corners = [(0, 0), *((height + 1, start) for start in starts[:-1])]
    rows = height + 1 + max(rows for rows, _ in others) if others else height
    return Layout(grids, tuple(corners), (rows, max(width, starts[-1] - 1)))


def valid_cells(
    layout: Layout, sizes: Sequence[Int[Array, 'B 2']]
) -> Bool[Array, 'B H W 1']:
    """Validity mask of the cells of a map, whose levels have valid `sizes`."""
    masks = [
        inside(size, *grid) for size, grid in zip(sizes, layout.grids, strict=True)
    ]
    return layout.join(masks)


def group_norm(
    x: Float[Array, 'B H W C'],
    sizes: Sequence[Int[Array, 'B 2']],
    scale: Float[Array, ' C'],
    bias: Float[Array, ' C'],
    layout: Layout,
    num_groups: int,
    epsilon: float,
) -> Float[Array, 'B H W C']:
    """`norms.group_norm` of each level of a map.

    Args:
        x: a map.
        sizes: valid rows and columns of each level.
        scale: factor of each channel after the normalization.
        bias: added to each channel then.
        layout: where each level lies.
        num_groups: groups of channels that share statistics.
        epsilon: added to the variance.
    """
    return _group_norm(x, tuple(sizes), scale, bias, layout, num_groups, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _group_norm(x, sizes, scale, bias, layout, num_groups, epsilon):
    return _forward(x, sizes, scale, bias, layout, num_groups, epsilon)[0]


def _forward(x, sizes, scale, bias, layout, num_groups, epsilon):
    moments = [
        moments_at_once(level, size, num_groups)
        for level, size in zip(layout.split(x), sizes, strict=True)
    ]
    means, variances = jnp.stack(moments, 1)
    inverses = jax.lax.rsqrt(variances + epsilon)
    factors = scale * inverses
    at_cells = functools.partial(_at_cells, layout)
    centered = x.astype(jnp.float32) - at_cells(means)
    y = centered * at_cells(factors) + bias
    return y.astype(x.dtype), (x, sizes, scale, means, inverses)


def _backward(layout, num_groups, epsilon, saved, dy):
    x, sizes, scale, means, inverses = saved
    factors = scale * inverses
    totals, products, by_means, by_variances = [], [], [], []
    levels = layout.split(x), layout.split(dy), sizes, means, inverses, factors
    for level, level_dy, size, mean, inverse, factor in zip(*levels, strict=True):
        level_dy = level_dy.astype(jnp.float32)
        centered = level.astype(jnp.float32) - mean[:, None, None]
        totals.append(level_dy.sum((1, 2)))
        products.append((level_dy * centered).sum((1, 2)))
        grid = jnp.array(level.shape[1:3])
        count = jnp.clip(size, max=grid).prod(-1)[:, None] * (x.shape[-1] // num_groups)
        count = count.astype(jnp.float32)
        by_means.append(sums_over_group(totals[-1] * factor, num_groups) / count)
        by_variance = sums_over_group(products[-1] * factor, num_groups)
        by_variances.append(by_variance * inverse**2 / count)
    by_means, by_variances = jnp.stack(by_means), jnp.stack(by_variances)
    at_cells = functools.partial(_at_cells, layout)
    centered = x.astype(jnp.float32) - at_cells(means)
    shared = at_cells(by_means) + centered * at_cells(by_variances)
    dx = dy.astype(jnp.float32) * at_cells(factors)
    dx = dx - jnp.where(valid_cells(layout, sizes), shared, 0)
    dscale = (jnp.stack(products) * inverses).sum((0, 1))
    return dx.astype(x.dtype), None, dscale, jnp.stack(totals).sum((0, 1))


_group_norm.defvjp(_forward, _backward)


def _at_cells(layout, values):
    """(B,H,W,C) the values (L,B,C) of the level of each cell."""
    owners = layout.owners()[None, :, :, None]
    result = values[0][:, None, None]
    for level in range(1, len(layout.grids)):
        result = jnp.where(owners == level, values[level][:, None, None], result)
    return result
