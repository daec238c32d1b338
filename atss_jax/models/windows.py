"""Windows of a map: cutting it into them, shifting them, and putting it together.

Images of several sizes share a canvas. Each is divided into windows as if it were
alone: padded with zeros to whole windows of its own, around which the shift wraps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

OTHER_REGION = -100.0
"""Added to the logits of two cells that only the wrapped shift made neighbors."""


class Attention(NamedTuple):
    """How the cells of a map attend to each other.

    Attributes:
        window_size: side of a window, in cells.
        shift: cells by which the windows are shifted, down and to the right.
        num_heads: heads, among which the channels are divided.
        scale: factor of the queries.
    """

    window_size: int
    shift: int
    num_heads: int
    scale: float


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
