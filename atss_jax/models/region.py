"""The valid region of each image on a canvas that images of several sizes share."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.structures import ceil_divide


def halve(size: Int[Array, 'B 2']) -> Int[Array, 'B 2']:
    """Valid size after a layer of stride 2, which keeps every second cell."""
    return ceil_divide(size, 2)


def level_sizes(size: Int[Array, 'B 2'], strides: tuple[int, ...]) -> list[Array]:
    """Valid sizes at each stride, for image regions of `size` pixels."""
    return [ceil_divide(size, stride) for stride in strides]


def inside(size: Int[Array, 'B 2'], height: int, width: int) -> Bool[Array, 'B H W 1']:
    """Validity mask of the cells of a (height, width) canvas."""
    rows = jnp.arange(height) < size[:, :1]
    columns = jnp.arange(width) < size[:, 1:]
    return rows[:, :, None, None] & columns[:, None, :, None]


def zero_outside(
    x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
) -> Float[Array, 'B H W C']:
    """Replaces all cells outside the valid region by exact zeros."""
    return jnp.where(inside(size, *x.shape[1:3]), x, 0)
