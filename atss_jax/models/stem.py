"""The stem of a ResNet: a 7x7 at stride 2, norm, ReLU, a 3x3 maximum at stride 2.

TPUs keep the last dimension of an array in rows of 128 numbers, and images of 3
channels take 40 times their size there. What programs for TPUs contain instead is at
the end of this file. By the compiler for a v5e, 8 images of 800 x 1344 in bfloat16 then
move 1.4 instead of 4.0 GB, in 8 instead of 38 million cycles (docs/tpu.md).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models.convolution import convolve_and_normalize
from atss_jax.models.convolution_accelerator import add_rest_of_norm
from atss_jax.models.layers import relu
from atss_jax.models.platforms import by_platform
from atss_jax.models.region import halve, zero_outside


def stem(
    x: Float[Array, 'B H W 3'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, '7 7 3 D'],
    stored: tuple[Float[Array, ' D'], Float[Array, ' D'], Float[Array, ' D']],
) -> Float[Array, 'B h w D']:
    """The whole stem, with a norm by stored statistics; the result is at stride 4.

    Args:
        x: images; the result has their type.
        size: their valid region.
        kernel: of the convolution, in float32.
        stored: mean, factor and bias of the norm, as by `BatchNorm.stored`.
    """
    in_blocks = all(side % BLOCK == 0 for side in x.shape[1:3])
    by_pairs = functools.partial(_step_by_step, pool=max_pool_by_pairs)
    return by_platform(
        x,
        size,
        kernel,
        *stored,
        cpu=_step_by_step,
        accelerator=_step_by_step,
        tpu=_in_blocks if in_blocks else _step_by_step,
        gpu=by_pairs if in_blocks else _step_by_step,
    )


def _step_by_step(x, size, kernel, *stored, pool=None):
    with jax.named_scope('conv1'):
        y = convolve_and_normalize(zero_outside(x, size), kernel, 2, stored)
    return max_pool(relu(y), halve(size), pool)


def max_pool(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    pool: Callable[[Array], Array] | None = None,
) -> Float[Array, 'B h w C']:
    """3x3 maximum at stride 2, after a ReLU.

    All inputs are at least 0 and each window contains a valid cell, so zeros outside
    the valid region act like the minus infinity that PyTorch pads with.

    Args:
        x: features.
        size: their valid region.
        pool: the maximum itself; None: XLA's.
    """
    pool = _max_pool_of_windows if pool is None else pool
    return pool(zero_outside(x, size))


def _max_pool_of_windows(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


# On GPUs -----------------------------------------------------------------------------


@jax.custom_vjp
def max_pool_by_pairs(x: Float[Array, 'B H W C']) -> Float[Array, 'B h w C']:
    """`max_pool` of features that are at least 0, on a grid of even sides.

    A GPU reads eight channels at once this way, which XLA's own way to look at windows
    does not.
    """
    batch, height, width, channels = x.shape
    # A window: a pair of rows and the one before, a pair of columns and the one before.
    rows = x.reshape(batch, height // 2, 2, width // 2, 2 * channels)
    upper, lower = rows[:, :, 0], rows[:, :, 1]
    pairs = jnp.maximum(jnp.maximum(upper, lower), _shifted(lower, 1))
    left, right = jnp.split(pairs, 2, -1)
    return jnp.maximum(jnp.maximum(left, right), _shifted(right, 2))


def _shifted(x, axis):
    """Each number at the next place, and zeros at the first."""
    margins = [(0, 0)] * x.ndim
    margins[axis] = (1, 0)
    return jnp.pad(jax.lax.slice_in_dim(x, 0, -1, axis=axis), margins)


def _pool_forward(x):
    return max_pool_by_pairs(x), x


def _pool_backward(x, dy):
    # Of equal numbers one has the gradient, as in `max_pool`, and not each a share.
    return jax.vjp(_max_pool_of_windows, x)[1](dy)


max_pool_by_pairs.defvjp(_pool_forward, _pool_backward)


# On TPUs -----------------------------------------------------------------------------

# A block of 4x4 pixels gives 2x2 cells of the convolution, and one of the maximum. Of
# the 48 numbers of a block and the 4 x 64 channels of its cells few rows of 128 are
# empty, and no other array of the stem is large.
BLOCK = 4
"""Pixels, the side of a block."""


def _in_blocks(x, size, kernel, mean, factor, bias):
    with jax.named_scope('conv1'):
        blocks = to_blocks(zero_outside(x, size))
        y = jax.lax.conv_general_dilated(
            blocks,
            _kernel_of_blocks((kernel * factor).astype(x.dtype)),
            window_strides=(1, 1),
            padding=[(1, 1)] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        stored = (jnp.tile(values, 4) for values in (mean, factor, bias))
        y = relu(add_rest_of_norm(y, *stored))
        y = _zero_cells_outside(y, halve(size))
    with jax.named_scope('max_pool'):
        return _max_pool_of_blocks(y)


def to_blocks(x: Float[Array, 'B H W c']) -> Float[Array, 'B h w _d']:
    """The pixels of each block of 4x4, row by row, as channels of one cell.

    Numbers must be finite. A product with ones and zeros, which changes none, separates
    the columns: TPUs take ten times as long to read every fourth number of a row.
    """
    batch, height, width, channels = x.shape
    h, w = height // BLOCK, width // BLOCK
    x = x.transpose(0, 3, 1, 2).reshape(batch, channels, h, BLOCK, width)
    is_column = jnp.eye(width, dtype=x.dtype).reshape(width, w, BLOCK)
    x = jnp.einsum('bchik,kwj->bhwijc', x, is_column)
    return x.reshape(batch, h, w, BLOCK * BLOCK * channels)


def _kernel_of_blocks(kernel):
    """The (3,3,48,4*D) kernel that gives the 2x2 cells of a block, row by row.

    A cell sees from 3 pixels before its first to 3 after it, all of them in the 12x12
    pixels of its own block and those around it.
    """
    before, after = BLOCK - 3, 3 * BLOCK - (BLOCK - 3) - 7
    margins = [(before + 2 * cell, after - 2 * cell) for cell in (0, 1)]
    of_cells = [
        jnp.pad(kernel, (rows, columns, (0, 0), (0, 0)))
        for rows in margins
        for columns in margins
    ]
    kernel = jnp.concatenate(of_cells, -1)
    channels, features = kernel.shape[2:]
    kernel = kernel.reshape(3, BLOCK, 3, BLOCK, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return kernel.reshape(3, 3, BLOCK * BLOCK * channels, features)


def _zero_cells_outside(y, size):
    """`zero_outside` for the cells of blocks."""
    height, width, features = y.shape[1:]
    row, column = jnp.divmod(jnp.arange(features) // (features // 4), 2)
    rows = 2 * jnp.arange(height)[:, None] + row < size[:, :1, None]
    columns = 2 * jnp.arange(width)[:, None] + column < size[:, 1:, None]
    return jnp.where(rows[:, :, None] & columns[:, None], y, 0)


def _max_pool_of_blocks(y):
    """`max_pool`, of the cells of blocks: rows first, whose halves are whole rows.

    The window of a block is its own cells, and the nearest of the blocks before it.
    These are reached by windows: shifted copies would be written to memory.
    """
    upper, lower = jnp.split(y, 2, -1)
    y = jnp.maximum(upper, nn.max_pool(lower, (2, 1), padding=((1, 0), (0, 0))))
    left, right = jnp.split(y, 2, -1)
    return jnp.maximum(left, nn.max_pool(right, (1, 2), padding=((0, 0), (1, 0))))
