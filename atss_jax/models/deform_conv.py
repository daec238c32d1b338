"""Deformable convolution by gathers and matrix products."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models import deform_conv_tpu
from atss_jax.models.platforms import by_platform


# Jitted, since DyHead calls it 78 times with a dozen shapes: each is traced once.
@functools.partial(jax.jit, static_argnames='stride')
def modulated_deform_conv(
    x: Float[Array, 'B H W C'],
    offset: Float[Array, 'B h w _o'],
    mask: Float[Array, 'B h w _m'],
    kernel: Float[Array, 'k k c D'],
    size: Int[Array, 'B 2'],
    stride: int = 1,
) -> Float[Array, 'B h w D']:
    """Convolution whose taps read between the cells, each shifted and weighted.

    Tap (i, j) of the output cell (r, s) reads `x` at row `r * stride + i - k // 2 + dy`
    and column `s * stride + j - k // 2 + dx`, bilinearly, and multiplies by its mask.
    Outside the valid region it reads 0, as if the image had been padded alone, and the
    output means nothing there. Positions, masks and sums are at least float32; the
    output has the type of `x`.

    Memory: one tap is read at a time, and its four corners are kept, 4*B*h*w*C numbers;
    the backward pass reads them again. It scatters into the gradient of `x`, on GPUs in
    no fixed order unless `--xla_gpu_deterministic_ops=true` is set.

    Args:
        x: features.
        offset: (dy, dx) in cells for each tap, tap by tap within each of G groups of
            channels: 2*k*k*G. Its rows and columns are those of the output.
        mask: factor of each tap, in the same order: k*k*G.
        kernel: C / c groups of channels are convolved separately.
        size: valid rows and columns of each image in `x`.
        stride: step in both directions.

    Source: arXiv 1811.11168, equation 1; mmcv `modulated_deform_conv2d`.
    """
    grid = (*mask.shape[:3], -1, len(kernel) ** 2)
    row, column = _positions(offset.reshape(*grid, 2), len(kernel), stride)
    size = jnp.minimum(size, jnp.array(x.shape[1:3]))
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    weights = kernel.astype(x.dtype).reshape(-1, *kernel.shape[2:])
    operands = x, row, column, mask.reshape(grid), weights, size
    product = functools.partial(_grouped_product, dtype=sum_dtype)
    gather = functools.partial(sum_of_taps, product)
    y = by_platform(
        *operands,
        cpu=gather,
        accelerator=gather,
        tpu=functools.partial(deform_conv_tpu.sum_of_taps, product),
    )
    return y.astype(x.dtype)


def sum_of_taps(product, x, row, column, mask, weights, size):
    """See `deform_conv_tpu.sum_of_taps`; of all images at once."""

    # Computed again in the backward pass: samples of all taps would be k*k times `x`.
    @jax.checkpoint
    def of_tap(row, column, mask, weight):
        samples = _sample(x, row, column, mask, size).astype(x.dtype)
        samples = samples.reshape(*mask.shape[:3], x.shape[-1])
        return product(samples, weight)

    def add_tap(total, tap):
        return total + of_tap(*tap), None

    by_tap = [jnp.moveaxis(z, -1, 0) for z in (row, column, mask)]
    sum_dtype = jnp.promote_types(x.dtype, jnp.float32)
    zero = jnp.zeros((*mask.shape[:3], weights.shape[-1]), sum_dtype)
    return jax.lax.scan(add_tap, zero, (*by_tap, weights))[0]


def _positions(offset, k, stride):
    """Rows and columns that taps read, (B,h,w,G,taps), from offsets (...,taps,2)."""
    height, width = offset.shape[1:3]
    tap_row, tap_column = jnp.divmod(jnp.arange(k * k), k)
    rows = jnp.arange(height) * stride - k // 2
    columns = jnp.arange(width) * stride - k // 2
    row = rows[:, None, None, None] + tap_row
    column = columns[:, None, None] + tap_column
    offset = offset.astype(jnp.promote_types(offset.dtype, jnp.float32))
    return row + offset[..., 0], column + offset[..., 1]


def _sample(x, row, column, mask, size):
    """Bilinear samples (B,h,w,G,C/G) of x (B,H,W,C), times masks (B,h,w,G).

    `row` and `column` are (B,h,w,G). Cells outside the valid `size` are 0.
    """
    batch, height, width, _ = x.shape
    groups = row.shape[-1]
    rows, columns = (size[:, None, None, None, side] for side in (0, 1))
    # Otherwise all four corners are outside. mmcv's gradient is 0 on the border, too.
    near = (row > -1) & (row < rows) & (column > -1) & (column < columns)
    row, column = jnp.where(near, row, 0), jnp.where(near, column, 0)
    top, left = jnp.floor(row), jnp.floor(column)
    below, right = row - top, column - left
    # The four cells around each position, and the share of each: (B,h,w,G,4).
    down, across = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
    i = top.astype(jnp.int32)[..., None] + down
    j = left.astype(jnp.int32)[..., None] + across
    is_valid = near[..., None] & (i >= 0) & (i < rows[..., None])
    is_valid = is_valid & (j >= 0) & (j < columns[..., None])
    image = jnp.arange(batch)[:, None, None, None, None] * height
    cell = jnp.where(is_valid, (image + i) * width + j, 0)
    place = cell * groups + jnp.arange(groups)[:, None]
    vertical = jnp.stack([1 - below, 1 - below, below, below], -1)
    horizontal = jnp.stack([1 - right, right, 1 - right, right], -1)
    weights = jnp.where(is_valid, vertical * horizontal, 0) * mask[..., None]
    # Otherwise XLA on CPU would compute them anew for every channel.
    place, weights = jax.lax.optimization_barrier((place, weights))
    # Reading rows of one list of cells is the gather that is fast on every platform.
    cells = x.reshape(batch * height * width * groups, -1)
    values = cells.at[place].get(mode='promise_in_bounds')
    # A matrix product: XLA on CPU would fuse a sum, and the sum that is its gradient,
    # with the gather, which would then read one number at a time.
    values = values.astype(weights.dtype)
    return jnp.einsum('bhwgk,bhwgkc->bhwgc', weights, values, precision='highest')


def _grouped_product(samples, weight, dtype):
    """(...,C) times (c,D) for each of C / c groups, summed in `dtype`."""
    inputs, outputs = weight.shape
    groups = samples.shape[-1] // inputs
    if groups == 1:
        return jnp.matmul(samples, weight, preferred_element_type=dtype)
    product = jnp.einsum(
        '...gi,igo->...go',
        samples.reshape(*samples.shape[:-1], groups, inputs),
        weight.reshape(inputs, groups, outputs // groups),
        preferred_element_type=dtype,
    )
    return product.reshape(*samples.shape[:-1], outputs)
