"""Attention within windows of a map, with windows shifted in every other block.

Images of several sizes share a canvas. Each is divided into windows as if it were
alone: padded with zeros to whole windows of its own, around which the shift wraps.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from atss_jax.models.initializers import ZEROS
from atss_jax.models.linear import Linear, add_bias, dropout, fold
from atss_jax.models.region import zero_outside
from atss_jax.structures import round_up

OTHER_REGION = -100.0
"""Added to the logits of two cells that only the wrapped shift made neighbors."""


class WindowMSA(nn.Module):
    """Multi-head self-attention of the cells of a window, biased by their distance.

    Source: arXiv 2103.14030, section 3.2; mmdet `models/backbones/swin.py`.

    Attributes:
        channels: C.
        num_heads: heads; divides C.
        window_size: side of a window, in cells.
        qkv_bias: bias of queries, keys and values.
        qk_scale: factor of the queries; None: 1 over the root of a head's channels.
        attn_drop_rate: dropout of the attention weights.
    """

    channels: int
    num_heads: int
    window_size: int
    qkv_bias: bool = True
    qk_scale: float | None = None
    attn_drop_rate: float = 0.0

    def setup(self) -> None:
        """Creates the parameters, which several methods read."""
        self.relative_position_bias_table = self.param(
            'relative_position_bias_table',
            ZEROS,
            ((2 * self.window_size - 1) ** 2, self.num_heads),
        )
        self.qkv = Linear(3 * self.channels, self.qkv_bias)
        self.proj = Linear(self.channels)

    def __call__(
        self,
        qkv: Float[Array, 'B I J N _c'],
        region: Int[Array, 'B I J N'] | None,
        keys: Key[Array, ' B'] | None,
    ) -> Float[Array, 'B I J N C']:
        """Attends within each of the I x J windows of N cells.

        Logits, biases and softmax are float32.

        Args:
            qkv: queries, keys and values of all cells, as `self.qkv` gives them.
            region: cells attend to those of the same region; None: to all.
            keys: one for each image, for dropout.
        """
        qkv = qkv.reshape(*qkv.shape[:-1], 3, self.num_heads, -1)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        query = query * (self.qk_scale or query.shape[-1] ** -0.5)
        logits = jnp.einsum(
            'bijqhd,bijkhd->bijhqk', query, key, preferred_element_type=jnp.float32
        )
        logits += position_bias(
            jnp.asarray(self.relative_position_bias_table), self.window_size
        )
        if region is not None:
            apart = region[..., :, None] != region[..., None, :]
            logits += jnp.where(apart, OTHER_REGION, 0.0)[:, :, :, None]
        weights = jax.nn.softmax(logits).astype(value.dtype)
        weights = dropout(weights, self.attn_drop_rate, keys)
        output = jnp.einsum('bijhqk,bijkhd->bijqhd', weights, value)
        return output.reshape(*output.shape[:-2], self.channels)


class ShiftWindowMSA(nn.Module):
    """WindowMSA of all windows of a map.

    Attributes:
        shift: cells by which the windows are shifted, down and to the right.
        channels, num_heads, window_size, qkv_bias, qk_scale, attn_drop_rate: see
            `WindowMSA`.
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
        attention = WindowMSA(
            self.channels,
            self.num_heads,
            self.window_size,
            self.qkv_bias,
            self.qk_scale,
            self.attn_drop_rate,
            name='w_msa',
        )
        # The cells that fill the windows are zeros: only the bias is left of them. So
        # the linear layers compute the cells of the map alone.
        kernel, bias = attention.qkv.weights(self.channels)
        qkv = zero_outside(x, size) @ kernel.astype(x.dtype)
        qkv = pad_to_multiple(qkv, self.window_size)
        region = None
        if self.shift:
            period = round_up(size, self.window_size)
            qkv = roll_within(qkv, period, self.shift)
            region = shifted_regions(
                period, qkv.shape[1:3], self.window_size, self.shift
            )
        qkv = add_bias(partition(qkv, self.window_size), bias)
        y = attention(qkv, region, fold(keys, 0))
        y = merge(y, self.window_size)
        if self.shift:
            y = roll_within(y, period, -self.shift)
        y = attention.proj(cropped(y, x.shape[1:3]))
        return dropout(y, self.drop_rate, fold(keys, 1))


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


# Windows -----------------------------------------------------------------------------


def pad_to_multiple(
    x: Float[Array, 'B H W C'], divisor: int
) -> Float[Array, 'B _h _w C']:
    """Zeros at the bottom and on the right, up to multiples of `divisor`."""
    height, width = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, -height % divisor), (0, -width % divisor), (0, 0)))


def cropped(
    x: Float[Array, 'B _h _w C'], grid: tuple[int, int]
) -> Float[Array, 'B H W C']:
    """The first rows and columns of a map.

    By a negative padding: a slice would have to compare sizes, which are symbolic where
    a detector is exported.
    """
    less = [(0, new - old, 0) for new, old in zip(grid, x.shape[1:3], strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *less, (0, 0, 0)))


def partition(
    x: Float[Array, 'B H W C'], window_size: int
) -> Float[Array, 'B I J N C']:
    """The windows of a map of whole windows; their cells row by row."""
    batch, height, width, channels = x.shape
    rows, columns = height // window_size, width // window_size
    x = x.reshape(batch, rows, window_size, columns, window_size, channels)
    return x.swapaxes(2, 3).reshape(batch, rows, columns, window_size**2, channels)


def merge(x: Float[Array, 'B I J N C'], window_size: int) -> Float[Array, 'B H W C']:
    """The map of given windows: the inverse of `partition`."""
    batch, rows, columns, _, channels = x.shape
    x = x.reshape(batch, rows, columns, window_size, window_size, channels)
    height, width = rows * window_size, columns * window_size
    return x.swapaxes(2, 3).reshape(batch, height, width, channels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def roll_within(
    x: Float[Array, 'B H W C'], period: Int[Array, 'B 2'], shift: int
) -> Float[Array, 'B H W C']:
    """Moves the cells of each image up and to the left by `shift`, in a cycle.

    Args:
        x: the map.
        period: rows and columns of each image that are rolled; the others stay.
        shift: number of cells; negative: down and to the right.
    """
    rows = _rolled(period[:, 0], x.shape[1], shift)
    columns = _rolled(period[:, 1], x.shape[2], shift)

    def of_image(x, rows, columns):
        rolled = x.at[rows].get(mode='promise_in_bounds')
        return rolled.at[:, columns].get(mode='promise_in_bounds')

    return jax.vmap(of_image)(x, rows, columns)


def _roll_forward(x, period, shift):
    return roll_within(x, period, shift), period


def _roll_backward(shift, period, dy):
    # It only moves cells. JAX would add them up by a scatter.
    return roll_within(dy, period, -shift), None


roll_within.defvjp(_roll_forward, _roll_backward)


def _rolled(period, length, shift):
    """(B,length) index of the cell that comes to each place."""
    place, period = jnp.arange(length), period[:, None]
    return jnp.where(place < period, (place + shift) % period, place)


def shifted_regions(
    period: Int[Array, 'B 2'], grid: tuple[int, int], window_size: int, shift: int
) -> Int[Array, 'B I J N']:
    """Number of the region of each cell of shifted windows.

    The last row of windows has cells from the bottom and, wrapped, from the top of the
    image; the last column likewise. They are of different regions.
    """

    def along(period, length):
        place, period = jnp.arange(length), period[:, None]
        return (
            (place >= period - shift)
            .astype(jnp.int32)
            .reshape(period.shape[0], length // window_size, window_size)
        )

    rows, columns = along(period[:, 0], grid[0]), along(period[:, 1], grid[1])
    region = 2 * rows[:, :, None, :, None] + columns[:, None, :, None, :]
    return region.reshape(*region.shape[:3], window_size**2)
