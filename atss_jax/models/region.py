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


def stretch(
    x: Float[Array, 'B h w C'],
    size: Int[Array, 'B 2'],
    other: Int[Array, 'B 2'],
    grid: tuple[int, int],
) -> Float[Array, 'B H W C']:
    """Resizes the valid region from `size` to `other`, bilinearly, aligning corners.

    Args:
        x: features.
        size: valid rows and columns.
        other: valid rows and columns of the result.
        grid: rows and columns of the result, which means nothing outside `other`.

    Source: PyTorch `interpolate(mode='bilinear', align_corners=True)`.
    """
    rows = _weights(size[:, 0], other[:, 0], x.shape[1], grid[0])
    columns = _weights(size[:, 1], other[:, 1], x.shape[2], grid[1])
    # Matrix products, whose gradients are matrix products, too.
    x = jnp.where(inside(size, *x.shape[1:3]), x, 0)
    x = jnp.einsum('bih,bhwc->biwc', rows.astype(x.dtype), x)
    return jnp.einsum('bjw,biwc->bijc', columns.astype(x.dtype), x)


def _weights(old, new, old_length, new_length):
    """(B,new,old) share of each old cell in each new one, along one side."""
    scale = (old - 1) / jnp.maximum(new - 1, 1)
    position = jnp.arange(new_length) * scale[:, None]
    distance = jnp.abs(position[:, :, None] - jnp.arange(old_length))
    return jnp.maximum(1 - distance, 0)
