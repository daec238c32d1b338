"""Attention within windows of a map, with windows shifted in every other block."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int, Key

from atss_jax.models import window_attention_tpu
from atss_jax.models.initializers import ZEROS
from atss_jax.models.linear import Linear, add_bias, dropout, fold
from atss_jax.models.platforms import by_platform
from atss_jax.models.region import zero_outside
from atss_jax.models.windows import (
    OTHER_REGION,
    Attention,
    cropped,
    merge,
    pad_to_multiple,
    partition,
    roll_within,
    shifted_regions,
)
from atss_jax.structures import round_up


class WindowMSA(nn.Module):
    """The parameters of multi-head self-attention within windows.

    Attributes:
        channels: C.
        num_heads: heads; divides C.
        window_size: side of a window, in cells.
        qkv_bias: bias of queries, keys and values.
    """

    channels: int
    num_heads: int
    window_size: int
    qkv_bias: bool = True

    def setup(self) -> None:
        """Creates the parameters, which several methods read."""
        self.relative_position_bias_table = self.param(
            'relative_position_bias_table',
            ZEROS,
            ((2 * self.window_size - 1) ** 2, self.num_heads),
        )
        self.qkv = Linear(3 * self.channels, self.qkv_bias)
        self.proj = Linear(self.channels)

    def inputs(self) -> tuple[Array, ...]:
        """Kernel of `qkv`, bias of each pair of cells, and the bias of `qkv` if any."""
        kernel, bias = self.qkv.weights(self.channels)
        table = jnp.asarray(self.relative_position_bias_table)
        positions = position_bias(table, self.window_size)
        return (kernel, positions) if bias is None else (kernel, positions, bias)

    def output(self, x: Float[Array, '*n C']) -> Float[Array, '*n C']:
        """The linear layer after the attention."""
        return self.proj(x)


class ShiftWindowMSA(nn.Module):
    """Multi-head self-attention of the cells of each window, biased by their distance.

    Source: arXiv 2103.14030, section 3.2; mmdet `models/backbones/swin.py`.

    Attributes:
        channels: C.
        num_heads: heads; divides C.
        window_size: side of a window, in cells.
        shift: cells by which the windows are shifted, down and to the right.
        qkv_bias: bias of queries, keys and values.
        qk_scale: factor of the queries; None: 1 over the root of a head's channels.
        attn_drop_rate: dropout of the attention weights.
        drop_rate: dropout of the output.
    """

    channels: int
    num_heads: int
    window_size: int
    shift: int = 0
    qkv_bias: bool = True
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0
    drop_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        keys: Key[Array, ' B'] | None = None,
    ) -> Float[Array, 'B H W C']:
        """`size`: the valid region; `keys`: one for each image, for dropout."""
        weights = WindowMSA(
            self.channels, self.num_heads, self.window_size, self.qkv_bias, name='w_msa'
        )
        attention = Attention(
            self.window_size,
            self.shift,
            self.num_heads,
            self.qk_scale or (self.channels // self.num_heads) ** -0.5,
        )
        operands = x, size, *weights.inputs()
        drops = keys is not None and self.attn_drop_rate > 0
        # The way of TPUs has no dropout, and divides windows, whose number has to be
        # known: not so in exported programs, which take any canvas.
        if drops or any(map(is_symbolic_dim, x.shape)):
            drop = functools.partial(
                dropout, rate=self.attn_drop_rate, keys=fold(keys, 0)
            )
            y = attend(attention, *operands, drop=drop)
        else:
            everywhere = functools.partial(attend, attention)
            tpu = functools.partial(window_attention_tpu.attend, attention)
            y = by_platform(*operands, cpu=everywhere, accelerator=everywhere, tpu=tpu)
        return dropout(weights.output(y), self.drop_rate, fold(keys, 1))


def attend(
    attention: Attention,
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, 'C _c'],
    positions: Float[Array, 'heads N N'],
    bias: Float[Array, ' _c'] | None = None,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, 'B H W C']:
    """The attention of all windows at once, without the linear layer after it.

    Logits, biases and softmax are float32.

    Args:
        attention: windows and heads.
        x: features.
        size: the valid region, outside of which the result means nothing.
        kernel: of the linear layer that gives queries, keys and values.
        positions: bias of every pair of cells of a window, see `position_bias`.
        bias: of the linear layer.
        drop: dropout of the attention weights.
    """
    window_size, shift, num_heads, scale = attention
    # The cells that fill the windows are zeros: only the bias is left of them. So
    # the linear layer computes the cells of the map alone.
    qkv = pad_to_multiple(zero_outside(x, size) @ kernel.astype(x.dtype), window_size)
    region = None
    if shift:
        period = round_up(size, window_size)
        qkv = roll_within(qkv, period, shift)
        region = shifted_regions(period, qkv.shape[1:3], window_size, shift)
    qkv = add_bias(partition(qkv, window_size), bias)
    qkv = qkv.reshape(*qkv.shape[:-1], 3, num_heads, -1)
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    logits = jnp.einsum(
        'bijqhd,bijkhd->bijhqk', query * scale, key, preferred_element_type=jnp.float32
    )
    logits += positions
    if region is not None:
        apart = region[..., :, None] != region[..., None, :]
        logits += jnp.where(apart, OTHER_REGION, 0.0)[:, :, :, None]
    weights = drop(jax.nn.softmax(logits).astype(value.dtype))
    y = jnp.einsum('bijhqk,bijkhd->bijqhd', weights, value)
    y = merge(y.reshape(*y.shape[:-2], x.shape[-1]), window_size)
    if shift:
        y = roll_within(y, period, -shift)
    return cropped(y, x.shape[1:3])


def position_bias(
    table: Float[Array, 'T heads'], window_size: int
) -> Float[Array, 'heads N N']:
    """The bias of every pair of cells of a window, from a table of their distances.

    Row (y * (2 * window_size - 1) + x) of the table belongs to queries that lie
    y - window_size + 1 rows below and x - window_size + 1 columns right of the key.
    """
    side, heads = 2 * window_size - 1, table.shape[-1]
    by_row = _differences(table.reshape(side, side * heads))  # query row, key row, ...
    by_row = by_row.reshape(window_size**2, side, heads).swapaxes(0, 1)
    by_cell = _differences(by_row.reshape(side, -1))  # query column, key column, ...
    shape = (window_size,) * 4 + (heads,)
    # Query and key column, query and key row, head.
    by_cell = by_cell.reshape(shape).transpose(4, 2, 0, 3, 1)
    return by_cell.reshape(heads, window_size**2, window_size**2)


def _differences(values: Array) -> Array:
    """`result[i, j] = values[i - j + n - 1]`, n x n rows of the 2n - 1 values.

    Copies and slices only: the gradient of an indexed read would be a scatter, which
    GPUs add up in any order.
    """
    side = values.shape[0]
    count = (side + 1) // 2
    # Written one after another, and read in rows that are longer by one.
    repeated = jnp.tile(values[::-1], (count + 1, 1))[: count * (side + 1)]
    return repeated.reshape(count, side + 1, -1)[::-1, :count]
