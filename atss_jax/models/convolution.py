"""The convolution itself, and other ways to compute it where XLA's own is slow."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Cells of the map, all images together; measured with a 3x3 of 256 channels on 2 cores.
_TINY = 32  # below, a product of the gathered windows is faster than a convolution
_SMALL = 512  # below, so are the products of the backward pass
_LARGE = 2**19  # numbers in the map; from here, XLA's kernel gradient is slow
_MOST_GATHERED = 2**23  # numbers in gathered windows; 32 MiB


def convolve(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """Cross-correlation with k // 2 zeros on every side, as PyTorch's Conv2d.

    A kernel of c input channels makes C / c groups: the first D / (C / c) outputs see
    the first c channels alone, and so on.
    """
    is_plain = stride == 1 and kernel.shape[2] == x.shape[-1]
    # A size that is not known yet (see export.py) is that of a program that detects.
    is_known = isinstance(x.size, int)
    if is_plain and is_known and jax.default_backend() == 'cpu':
        return _convolve_cpu(x, kernel)
    is_stem = stride == 2 and kernel.shape[:3] == (7, 7, 3)
    if is_stem and jax.default_backend() != 'cpu':
        return convolve_blocks(x, kernel)
    return _convolve(x, kernel, stride)


@jax.jit
def convolve_blocks(
    x: Float[Array, 'B H W c'], kernel: Float[Array, '7 7 c D']
) -> Float[Array, 'B h w D']:
    """A 7x7 at stride 2, computed as a 4x4 over blocks of 2x2 cells.

    3 channels leave the matrix units of an accelerator mostly idle, the 12 of a block
    do not. `cost.py` knows it by its name, since a quarter of what it multiplies is by
    zeros.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(batch, height // 2, width // 2, 4 * channels)
    # An output looks 3 cells back, which is 2 blocks less one cell: the zeros.
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return jax.lax.conv_general_dilated(
        x,
        kernel.reshape(4, 4, 4 * channels, -1),
        window_strides=(1, 1),
        padding=[(2, 1)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _convolve(x, kernel, stride):
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(margin, margin)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


# XLA on CPU computes the gradient for the kernel as a convolution with a kernel of the
# size of the map, and turns and transposes the kernel for the gradient of the input.
# Matrix products save both. Which of them is fastest depends on the sizes.
@jax.custom_vjp
def _convolve_cpu(x, kernel):
    if _cells(x) < _TINY:
        product = _windows(x, len(kernel)) @ kernel.reshape(-1, kernel.shape[-1])
        return product.reshape(*x.shape[:3], -1)
    return _convolve(x, kernel, 1)


def _forward(x, kernel):
    return _convolve_cpu(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    k, (channels, features) = len(kernel), kernel.shape[2:]
    if _cells(x) < _SMALL and x.dtype == jnp.float32:
        dkernel = _windows(x, k).T @ dy.reshape(-1, features)
        return _input_gradient(dy, kernel), dkernel.reshape(kernel.shape)
    dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    if features < channels and dy.size * k * k < _MOST_GATHERED:
        # Fewer numbers to gather than windows of `x`; they come out back to front.
        dkernel = x.reshape(-1, channels).T @ _windows(dy, k)
        dkernel = dkernel.reshape(channels, k, k, features)[:, ::-1, ::-1]
        return dx, dkernel.transpose(1, 2, 0, 3)
    if x.size >= _LARGE:
        return dx, _kernel_gradient_by_shift(x, dy, k)
    return dx, jax.vjp(lambda kernel: _convolve(x, kernel, 1), kernel)[1](dy)[0]


def _cells(x):
    return x.shape[0] * x.shape[1] * x.shape[2]


def _neighbors(height, width, k):
    """(cells, k*k) cells of one map under the kernel at each; past the end: none."""
    row, column = np.mgrid[:height, :width]
    offset = np.arange(k) - k // 2
    row, column = (
        row[..., None, None] + offset[:, None],
        column[..., None, None] + offset,
    )
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cells = np.where(is_inside, row * width + column, height * width)
    return cells.reshape(height * width, k * k)


def _take(x, indices):
    """Rows of (B, n, C); the row n is zeros."""
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    return x.at[:, indices].get(mode='promise_in_bounds')


def _windows(x, k):
    """(cells, k*k*C): what lies under the kernel at each cell."""
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height * width, channels)
    # One gather compiles four times as fast as k*k slices.
    return _take(rows, _neighbors(height, width, k)).reshape(_cells(x), -1)


def _input_gradient(dy, kernel):
    """One product with the kernel as it lies; then each cell sums its k*k shares."""
    batch, height, width, features = dy.shape
    channels, positions = kernel.shape[2], kernel.shape[0] ** 2
    shares = dy.reshape(-1, features) @ kernel.reshape(-1, features).T
    # A cell that is right of another sees it on its left.
    origin = _neighbors(height, width, len(kernel))[:, ::-1]
    is_none = origin == height * width
    origin = origin * positions + np.arange(positions)
    origin = np.where(is_none, height * width * positions, origin)
    dx = _take(shares.reshape(batch, -1, channels), origin).sum(2)
    return dx.reshape(batch, height, width, channels)


def _kernel_gradient_by_shift(x, dy, k):
    """A product for each place in the kernel: no windows of a large map in memory."""
    height, width, channels = x.shape[1:]
    margin, features = k // 2, dy.shape[-1]
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    dy = dy.reshape(-1, features)

    def shifted(i, j):
        window = x[:, i : i + height, j : j + width]
        return window.reshape(-1, channels).T @ dy

    products = [shifted(i, j) for i in range(k) for j in range(k)]
    return jnp.stack(products).reshape(k, k, channels, features)


_convolve_cpu.defvjp(_forward, _backward)
