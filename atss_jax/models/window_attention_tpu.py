"""Attention within windows, computed in the way that suits a TPU.

`window_attention.py` computes all windows and heads at once. A TPU keeps the last
dimension of an array in rows of 128 numbers, of which the 32 channels of a head fill a
quarter, so it would copy queries, keys and values between layouts, and move the logits
of all windows several times between the chip and HBM. Here

- windows are processed in chunks, whose logits fit into the memory of the core, and
  are computed again for the gradient;
- heads that fill a row together share their products, for each of them with zeros in
  the queries of the others: a matrix unit, which has 128 rows, is not used more;
- windows are cut from the input of the linear layer, which has a third of the channels
  of queries, keys and values.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from atss_jax.models.linear import add_bias
from atss_jax.models.region import zero_outside
from atss_jax.models.windows import OTHER_REGION, merge, partition, shifted_regions
from atss_jax.structures import round_up

_LANES = 128  # numbers in a row

_CHUNK = 2**24
"""Bytes of the logits of a chunk: an eighth of the memory of a v5e's core."""


def attend(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, 'C _c'],
    positions: Float[Array, 'heads N N'],
    bias: Float[Array, ' _c'] | None = None,
    *,
    window_size: int,
    shift: int,
    num_heads: int,
    scale: float,
) -> Float[Array, 'B H W C']:
    """The same as `window_attention.attend`, up to rounding."""
    grid = x.shape[1:3]
    padded = tuple(side + -side % window_size for side in grid)
    period = round_up(size, window_size)
    x = zero_outside(x, size)

    def into_windows(image):
        x, period = image
        return partition(_rolled(x, period, padded, shift)[None], window_size)[0]

    def into_map(image):
        y, period = image
        return _rolled_back(merge(y[None], window_size)[0], period, shift)

    x = lax.map(into_windows, (x, period))
    *batch, cells, _ = x.shape
    region = None
    if shift:
        region = shifted_regions(period, padded, window_size, shift)
        region = region.reshape(-1, cells)
    x = x.reshape(-1, cells, x.shape[-1])
    qkv = x @ kernel.astype(x.dtype)
    y = _attend(qkv, positions, bias, region, num_heads, scale)
    y = lax.map(into_map, (y.reshape(*batch, *y.shape[1:]), period))
    return y[:, : grid[0], : grid[1]]


# Windows of one image ----------------------------------------------------------------


def _rolled(x, period, grid, shift):
    """A map in a larger one, moved up and to the left in a cycle of each side.

    Dynamic slices of whole rows, which `vmap` would make gathers of.
    """
    missing = (new - old + shift for new, old in zip(grid, x.shape, strict=False))
    x = jnp.pad(x, (*((0, n) for n in missing), (0, 0)))
    if shift:
        x = lax.dynamic_update_slice(x, x[:shift], (period[0], 0, 0))
        x = lax.dynamic_update_slice(x, x[:, :shift], (0, period[1], 0))
    return x[shift:, shift:]


def _rolled_back(x, period, shift):
    """Undoes `_rolled` within the period; what is outside means nothing."""
    if not shift:
        return x
    for axis in range(2):
        first = lax.dynamic_slice_in_dim(x, period[axis] - shift, shift, axis)
        rest = lax.slice_in_dim(x, 0, x.shape[axis] - shift, axis=axis)
        x = jnp.concatenate([first, rest], axis)
    return x


# Attention ---------------------------------------------------------------------------


def _attend(qkv, positions, bias, region, num_heads, scale):
    """(M,N,3C) to (M,N,C), for M windows."""
    windows, cells, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    shared = heads_of_a_row(num_heads, channels)
    rows = num_heads // shared
    positions = positions.reshape(rows, shared, cells, cells)
    each = 4 * shared * cells * (cells + -cells % _LANES)
    chunks = windows // _largest_divisor(windows, max(_CHUNK // each, 1))

    def of_chunk(chunk):
        qkv, region = chunk
        parts = jnp.split(add_bias(qkv, bias), 3, -1)
        query, key, value = (jnp.stack(jnp.split(x, rows, -1)) for x in parts)
        apart = 0.0
        if region is not None:
            apart = region[:, :, None] != region[:, None, :]
            apart = jnp.where(apart, OTHER_REGION, 0.0)[:, None]

        @jax.checkpoint
        def of_row(row):
            return _attend_in_row(*row, apart)

        y = lax.map(of_row, (query * scale, key, value, positions))
        return jnp.concatenate(list(y), -1)

    divided = jax.tree.map(lambda x: x.reshape(chunks, -1, *x.shape[1:]), (qkv, region))
    return lax.map(jax.checkpoint(of_chunk), divided).reshape(windows, cells, channels)


def _attend_in_row(query, key, value, positions, apart):
    """(m,N,c) of m windows, where the c channels are those of h heads.

    `positions` is (h,N,N), and what is added to pairs of different regions (m,1,N,N).
    """
    heads, channels = len(positions), query.shape[-1]
    head = jnp.arange(channels) // (channels // heads)
    own = (head == jnp.arange(heads)[:, None, None]).astype(query.dtype)  # (h,1,c)
    logits = jnp.einsum(
        'mhqc,mkc->mhqk',
        query[:, None] * own,
        key,
        preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits + positions + apart).astype(value.dtype)
    y = jnp.einsum('mhqk,mkc->mhqc', weights, value)
    return (y * own).sum(1).astype(value.dtype)


def heads_of_a_row(num_heads: int, channels: int) -> int:
    """The fewest heads whose channels fill whole rows; all, if no number of them does.

    The number divides that of all heads.
    """
    per_head = channels // num_heads
    for heads in range(1, num_heads):
        if num_heads % heads == 0 and heads * per_head % _LANES == 0:
            return heads
    return num_heads


def _largest_divisor(number, limit):
    return max(n for n in range(1, min(number, limit) + 1) if number % n == 0)
