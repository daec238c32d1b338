"""A map's numbers read as if the map had another size, which DyHead does."""

import functools

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int

from atss_jax.models.platforms import by_platform


def reread(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    other: Int[Array, 'B 2'],
    grid: tuple[int, int],
) -> Float[Array, 'B h w C']:
    """Reads the numbers of a map in PyTorch's order as if it had the size `other`.

    DyHead passes the offsets of one level to the convolution of the next, which has a
    quarter of the cells. mmcv's kernel then reads the first of these numbers, channel
    by channel and row by row, with the row length of the smaller map. Weights are
    trained with this, so it is reproduced here.

    Args:
        x: the map.
        size: its valid rows and columns; no more than it has.
        other: valid rows and columns to read it with; no more than those of `size`.
        grid: rows and columns of the result, which means nothing outside `other`; no
            more than those of `x`.
    """
    by_number = functools.partial(_by_number, grid=grid)
    by_line = functools.partial(_by_line, grid=grid)
    # Exported files have canvases of any size, whose lines cannot be rolled here.
    is_any_size = any(map(is_symbolic_dim, x.shape))
    return by_platform(
        x,
        size,
        other,
        cpu=by_number,
        accelerator=by_number,
        tpu=by_number if is_any_size else by_line,
    )


def _by_number(x, size, other, grid):
    def of_image(x, size, other):
        row, column, channel = jnp.meshgrid(
            *(jnp.arange(n) for n in (*grid, x.shape[-1])), indexing='ij'
        )
        place = (channel * other[0] + row) * other[1] + column
        channel, cell = jnp.divmod(place, size[0] * size[1])
        row, column = jnp.divmod(cell, size[1])
        return x.at[row, column, channel].get(mode='clip')

    return jax.vmap(of_image)(x, size, other)


def _by_line(x, size, other, grid):
    """Reads whole lines, since a TPU takes about as long to read a single number.

    A line of the result is no longer than a valid line of the map, so that its numbers
    lie in two of these that follow each other: the end of one, the start of the next.
    """
    height, width, channels = x.shape[1:]

    def of_image(x, size, other):
        lines = jnp.moveaxis(x, -1, 0).reshape(channels * height, width)

        def read(number):
            """Lines by their number among the valid ones."""
            channel, row = jnp.divmod(number, size[0])
            return lines.at[channel * height + row].get(mode='clip')

        channel, row = jnp.divmod(jnp.arange(channels * grid[0]), grid[0])
        place = (channel * other[0] + row) * other[1]
        number, start = jnp.divmod(place, size[1])
        end = _roll(read(number), start)
        beginning = _roll(read(number + 1), start - size[1])
        is_end = jnp.arange(width) < (size[1] - start)[:, None]
        result = jnp.where(is_end, end, beginning)[:, : grid[1]]
        return jnp.moveaxis(result.reshape(channels, *grid), 0, -1)

    return jax.vmap(of_image)(x, size, other)


def _roll(lines, counts):
    """Each of the lines (N,W) rolled to the left by its own count (N)."""
    width = lines.shape[1]
    counts, step = counts % width, 1
    while step < width:
        rolled = jnp.roll(lines, -step, axis=1)
        lines = jnp.where((counts & step > 0)[:, None], rolled, lines)
        step *= 2
    return lines
