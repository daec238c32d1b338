"""Attention within windows, computed in the way that suits a TPU.

`window_attention.py` computes all windows and heads at once. A TPU keeps the last
dimension of an array in rows of 128 numbers, of which the 32 channels of a head fill a
quarter, so it would copy queries, keys and values between layouts, and move the logits
of all windows several times between the chip and HBM. Here

- windows are processed in chunks, whose logits fit into the memory of the core, and
  are computed again for the gradient;
- heads that fill whole rows together share their products, for each of them with zeros
  in the queries of the others, for which a matrix unit of 128 rows takes no longer;
- windows are cut from the input of the linear layer, which has a third of the channels
  of queries, keys and values.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models.linear import add_bias
from atss_jax.models.region import zero_outside
from atss_jax.models.windows import (
    OTHER_REGION,
    Attention,
    merge,
    partition,
    shifted_regions,
)
from atss_jax.structures import round_up

_LANES = 128  # numbers in a row

_CHUNK = 2**24
"""Bytes of the logits of a chunk: an eighth of the memory of a v5e's core."""


def attend(
    attention: Attention,
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, 'C _c'],
    positions: Float[Array, 'heads N N'],
    bias: Float[Array, ' _c'] | None = None,
) -> Float[Array, 'B H W C']:
    """The same as `window_attention.attend`, up to rounding."""
    window_size, shift = attention.window_size, attention.shift
    height, width = x.shape[1:3]
    grid = height + -height % window_size, width + -width % window_size
    period = round_up(size, window_size)

    def into_windows(image):
        x, period = image
        return partition(_shifted(x, period, grid, shift)[None], window_size)[0]

    def into_map(image):
        y, period = image
        return _shifted_back(merge(y[None], window_size)[0], period, shift)

    x = jax.lax.map(into_windows, (zero_outside(x, size), period))
    *batch, cells, channels = x.shape
    region = None
    if shift:
        region = shifted_regions(period, grid, window_size, shift).reshape(-1, cells)
    x = x.reshape(-1, cells, channels)
    y = _attend(attention, x, region, kernel.astype(x.dtype), positions, bias)
    y = jax.lax.map(into_map, (y.reshape(*batch, cells, channels), period))
    return y[:, :height, :width]


# Windows of one image ----------------------------------------------------------------


def _shifted(x, period, grid, shift):
    """A map in a larger one, moved up and to the left in a cycle of each side.

    Dynamic slices of whole rows, which `vmap` would make gathers of.
    """
    missing = (new - old + shift for new, old in zip(grid, x.shape, strict=False))
    x = jnp.pad(x, (*((0, n) for n in missing), (0, 0)))
    if shift:
        x = jax.lax.dynamic_update_slice(x, x[:shift], (period[0], 0, 0))
        x = jax.lax.dynamic_update_slice(x, x[:, :shift], (0, period[1], 0))
    return x[shift:, shift:]


def _shifted_back(x, period, shift):
    """Undoes `_shifted` within the period; what is outside means nothing."""
    if not shift:
        return x
    for axis in range(2):
        first = jax.lax.dynamic_slice_in_dim(x, period[axis] - shift, shift, axis)
        rest = jax.lax.slice_in_dim(x, 0, x.shape[axis] - shift, axis=axis)
        x = jnp.concatenate([first, rest], axis)
    return x


# Attention ---------------------------------------------------------------------------


def _attend(attention, x, region, kernel, positions, bias):
    """(M,N,C) to (M,N,C), for M windows of N cells."""
    windows, cells, channels = x.shape
    heads = heads_of_a_row(attention.num_heads, channels)
    rows = attention.num_heads // heads
    positions = positions.reshape(rows, heads, cells, cells)
    length = windows_of_a_chunk(windows, heads, cells)
    missing = -windows % length
    # With windows of zeros at the end.
    qkv = jnp.pad(x, ((0, missing), (0, 0), (0, 0))) @ kernel
    if region is not None:
        region = jnp.pad(region, ((0, missing), (0, 0)))
    chunks = jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), (qkv, region))

    @jax.checkpoint
    def of_chunk(chunk):
        qkv, region = chunk
        three = jnp.split(add_bias(qkv, bias), 3, -1)
        query, key, value = (jnp.stack(jnp.split(x, rows, -1)) for x in three)
        apart = 0.0
        if region is not None:
            apart = region[:, :, None] != region[:, None, :]
            apart = jnp.where(apart, OTHER_REGION, 0.0)[:, None]

        @jax.checkpoint
        def of_row(row):
            return _attend_in_row(*row, apart)

        y = jax.lax.map(of_row, (query * attention.scale, key, value, positions))
        return jnp.concatenate(list(y), -1)

    y = jax.lax.map(of_chunk, chunks)
    return y.reshape(-1, cells, channels)[:windows]


def _attend_in_row(query, key, value, positions, apart):
    """(m,N,c) of m windows, where the c channels are those of h heads.

    `positions` is (h,N,N), and what is added to pairs of different regions (m,1,N,N).
    """
    heads, channels = len(positions), query.shape[-1]
    head = jnp.arange(channels) // (channels // heads)
    of_head = (head == jnp.arange(heads)[:, None, None]).astype(query.dtype)  # (h,1,c)
    logits = jnp.einsum(
        'mhqc,mkc->mhqk',
        query[:, None] * of_head,
        key,
        preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits + positions + apart).astype(value.dtype)
    y = jnp.einsum('mhqk,mkc->mhqc', weights, value)
    return (y * of_head).sum(1).astype(value.dtype)


def heads_of_a_row(num_heads: int, channels: int) -> int:
    """The fewest heads whose channels fill whole rows; all, if no number of them does.

    The number divides that of all heads. All heads together are few where no number
    of them fills a row: the 6 heads of Swin-L's first stage have 192 channels.
    """
    per_head = channels // num_heads
    for heads in range(1, num_heads):
        if num_heads % heads == 0 and heads * per_head % _LANES == 0:
            return heads
    return num_heads


def windows_of_a_chunk(windows: int, heads: int, cells: int) -> int:
    """How many windows are processed at once: as many as divide all, if not too few.

    Too few are less than a third of what fits. Otherwise all chunks are alike, and
    windows of zeros, for which all others are copied, complete the last one.
    """
    bytes_per_window = 4 * heads * cells * (cells + -cells % _LANES)
    most = max(_CHUNK // bytes_per_window, 1)
    divisor = max(n for n in range(1, min(windows, most) + 1) if windows % n == 0)
    if 3 * divisor >= min(windows, most):
        return divisor
    chunks = -(-windows // most)
    return -(-windows // chunks)
