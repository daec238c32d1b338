"""The samples of a deformable convolution, read in the way that suits a TPU.

`deform_conv.py` gathers the four cells around each position, of all images at once:
four maps for each tap, which a TPU writes to HBM and copies to another layout. Here
images are processed one after the other, positions in chunks and channels in parts, so
that all of it fits into the memory of the core; and the four cells are one row of a
table, so that a position is read at once.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int

from atss_jax.models.convolution_accelerator import merge_groups
from atss_jax.models.region import zero_outside

_CHUNK = 2**24
"""Bytes that are read at once: an eighth of the memory of a v5e's core."""

_TABLE = 2**25
"""Bytes of a table, of which the backward pass has two: a quarter of that memory."""


def sum_of_taps(
    product: Callable[[Array, Array], Array],
    x: Float[Array, 'B H W C'],
    row: Float[Array, 'B h w G taps'],
    column: Float[Array, 'B h w G taps'],
    mask: Float[Array, 'B h w G taps'],
    weights: Float[Array, 'taps c D'],
    size: Int[Array, 'B 2'],
) -> Float[Array, 'B h w D']:
    """The sum over all taps of `product(samples * mask, weight)`.

    Args:
        product: of samples (N,C) and a weight (c,D) to (N,D), linear in both.
        x: features.
        row: rows that the taps read, for each of G groups of channels.
        column: columns that they read.
        mask: factor of each sample.
        weights: weight of each tap.
        size: valid rows and columns of each image; no more than `x` has.
    """
    weights = merge_groups(weights, x.shape[-1])
    parts = _channel_parts(x, row.shape[3], weights.shape[1])
    divided = zip(jnp.split(x, parts, -1), jnp.split(weights, parts, 1), strict=True)
    return sum(
        _sum_of_taps(product, part, row, column, mask, weight, size)
        for part, weight in divided
    )


def _channel_parts(x, groups, inputs):
    """The number of equal parts of the channels that are convolved separately."""
    _, height, width, channels = x.shape
    size = 4 * height * width * channels * x.dtype.itemsize
    if groups > 1 or inputs < channels or is_symbolic_dim(size):
        return 1
    parts = 1
    while size > parts * _TABLE and channels % (2 * parts) == 0:
        parts *= 2
    return parts


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_of_taps(product, x, row, column, mask, weights, size):
    def of_image(image):
        x, size, taps = image
        tables = _tables(x, size, row.shape[3])
        return jax.lax.map(lambda chunk: of_chunk(tables, x, size, chunk), taps)

    def of_chunk(tables, x, size, taps):
        def add_tap(total, tap):
            *positions, weight = tap
            place = _place(*positions[:2], size, x.shape[1])
            values = _read(tables, place)
            return total + _of_tap(product, size, values, *positions, weight), None

        zero = jnp.zeros((taps[0].shape[1], weights.shape[-1]), _sum_dtype(x))
        return jax.lax.scan(add_tap, zero, (*taps, weights))[0]

    y = jax.lax.map(of_image, (x, size, _divide_taps(x, row, column, mask)))
    return _join(y, row.shape[1:3])


def _forward(product, *operands):
    return _sum_of_taps(product, *operands), operands


def _backward(product, operands, dy):
    x, row, column, mask, weights, size = operands
    groups, grid = row.shape[3], row.shape[1:3]

    def of_image(dweights, image):
        x, size, taps, dy = image
        tables, to_dx = jax.vjp(lambda x: _tables(x, size, groups), x)
        zeros = jax.tree.map(jnp.zeros_like, tables)

        def of_chunk(sums, chunk):
            dtables, dweights = sums
            dtables, (dtaps, dw) = gradients(dtables, tables, x, size, *chunk)
            return (dtables, dweights + dw), dtaps

        sums = jax.lax.scan(of_chunk, (zeros, dweights), (taps, dy))
        (dtables, dweights), dtaps = sums
        return dweights, (*to_dx(dtables), dtaps)

    def gradients(dtables, tables, x, size, taps, dy):
        def of_tap(dtables, tap):
            *positions, weight = tap
            place = _place(*positions[:2], size, x.shape[1])
            values = _read(tables, place)
            function = functools.partial(_of_tap, product, size)
            _, vjp = jax.vjp(function, values, *positions, weight)
            dvalues, *dpositions, dweight = vjp(dy)
            dtables = _add(dtables, place, dvalues)
            return dtables, (dpositions, dweight.astype(_sum_dtype(x)))

        return jax.lax.scan(of_tap, dtables, (*taps, weights))

    taps = _divide_taps(x, row, column, mask)
    dy = _divide(dy, taps[0].shape[1])
    zeros = jnp.zeros(weights.shape, _sum_dtype(x))
    dweights, (dx, dtaps) = jax.lax.scan(of_image, zeros, (x, size, taps, dy))
    dtaps = [_join(jnp.moveaxis(z, 2, -1), grid) for z in dtaps]
    return dx, *dtaps, dweights.astype(weights.dtype), None


_sum_of_taps.defvjp(_forward, _backward)


def _sum_dtype(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _divide_taps(x, *taps):
    """(B,h,w,G,taps) to (B,chunks,taps,length,G), with zeros at the end."""
    size = 4 * math.prod(taps[0].shape[1:3]) * x.shape[-1] * x.dtype.itemsize
    # Exported files have canvases of any size: one chunk.
    chunks = 1 if is_symbolic_dim(size) else -(-size // _CHUNK)
    return [jnp.moveaxis(_divide(z, chunks), -1, 2) for z in taps]


def _divide(z, chunks):
    """(B,h,w,...) to (B,chunks,length,...), with zeros at the end."""
    batch, height, width, *rest = z.shape
    z = z.reshape(batch, height * width, *rest)
    missing = -height * width % chunks
    z = jnp.pad(z, ((0, 0), (0, missing), *((0, 0) for _ in rest)))
    return z.reshape(batch, chunks, (height * width + missing) // chunks, *rest)


def _join(z, grid):
    """(B,chunks,length,...) to (B,h,w,...): undoes `_divide`."""
    batch, chunks, length, *rest = z.shape
    z = z.reshape(batch, chunks * length, *rest)[:, : math.prod(grid)]
    return z.reshape(batch, *grid, *rest)


def _tables(x, size, groups):
    """A table (cells,4c) for each group: cells (i,j), (i,j+1), (i+1,j), (i+1,j+1).

    They begin at i = j = -1. Outside the valid region there are zeros.
    """
    x = jnp.pad(zero_outside(x[None], size[None])[0], ((1, 1), (1, 1), (0, 0)))
    corners = x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]
    by_group = zip(*(jnp.split(z, groups, -1) for z in corners), strict=True)
    tables = [jnp.concatenate(z, -1) for z in by_group]
    return [z.reshape(z.shape[0] * z.shape[1], z.shape[2]) for z in tables]


def _near(row, column, size):
    """Whether one of the four corners may be valid; mmcv's gradient is 0 else, too."""
    return (row > -1) & (row < size[0]) & (column > -1) & (column < size[1])


def _place(row, column, size, width):
    """Rows of the tables, (N,G)."""
    near = _near(row, column, size)
    top, left = (jnp.floor(jnp.where(near, z, 0)).astype(int) for z in (row, column))
    return (top + 1) * (width + 1) + left + 1


def _read(tables, place):
    """Rows of each table, (N,4c)."""
    return [
        table.at[place[:, group]].get(mode='promise_in_bounds')
        for group, table in enumerate(tables)
    ]


def _add(tables, place, values):
    """Adds to the rows that `_read` gives."""
    return [
        table.at[place[:, group]].add(value, mode='promise_in_bounds')
        for group, (table, value) in enumerate(zip(tables, values, strict=True))
    ]


def _of_tap(product, size, values, row, column, mask, weight):
    """What a tap adds to the output, (N,D)."""
    near = _near(row, column, size)
    row, column = jnp.where(near, row, 0), jnp.where(near, column, 0)
    mask = jnp.where(near, mask, 0)
    below, right = row - jnp.floor(row), column - jnp.floor(column)
    above, left = (1 - below) * mask, 1 - right
    below = below * mask
    shares = above * left, above * right, below * left, below * right
    samples = []
    for group, value in enumerate(values):
        # Divided before they are widened, which is then part of the product.
        corners = zip(shares, jnp.split(value, 4, -1), strict=True)
        terms = [
            share[:, group, None] * corner.astype(mask.dtype)
            for share, corner in corners
        ]
        samples.append(sum(terms).astype(value.dtype))
    return product(jnp.concatenate(samples, -1), weight)
