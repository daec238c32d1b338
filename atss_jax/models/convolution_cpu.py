"""Convolutions on a CPU: matrix products, where XLA's own convolution is slow.

XLA computes the gradient for the kernel as a convolution with a kernel of the size of
the map, and reverses and transposes the kernel for the gradient of the input. Matrix
products avoid both; which of them is fastest depends on the sizes. With this file, the
R50's forward and backward pass at (256, 320) takes 0.74 instead of 0.98 s on 2 cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atss_jax.models import winograd
from atss_jax.models.convolution_accelerator import correlate

# Measured with a 3x3 of 256 channels. Cells are those of all images together.
_FEWEST_CELLS_TO_CONVOLVE = 32  # a product of the gathered windows is faster below
_FEWEST_CELLS_TO_CONVOLVE_BACKWARD = 512  # likewise in the backward pass
_FEWEST_NUMBERS_TO_SHIFT = 2**19  # in a map; XLA's kernel gradient is slow from here on
_MOST_NUMBERS_TO_GATHER = 2**23  # in all windows; 32 MiB
# Of a cell's channels by features, over all cells. Compiling takes 0.5 to 3 s more.
_FEWEST_PRODUCTS_FOR_WINOGRAD = 2**26
_FEWEST_CHANNELS_FOR_WINOGRAD = 64  # or features


def convolve(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """See `convolution.convolve`."""
    if kernel.shape[:3] == (1, 1, x.shape[-1]):
        # A matrix product is about twice as fast as a 1x1 convolution.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    is_plain = stride == 1 and kernel.shape[2] == x.shape[-1]
    # Symbolic sizes, as of an exported detector, cannot be compared.
    if is_plain and isinstance(x.size, int):
        return _convolve_plain(x, kernel)
    return correlate(x, kernel, stride)


@jax.custom_vjp
def _convolve_plain(x, kernel):
    """Stride 1, no groups."""
    if _suits_winograd(x, kernel):
        return winograd.convolve(x, kernel)
    if _cells(x) < _FEWEST_CELLS_TO_CONVOLVE:
        product = _windows(x, len(kernel)) @ kernel.reshape(-1, kernel.shape[-1])
        return product.reshape(*x.shape[:3], -1)
    return correlate(x, kernel, 1)


def _forward(x, kernel):
    return _convolve_plain(x, kernel), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    if _suits_winograd(x, kernel):
        return winograd.gradients(x, kernel, dy)
    k, (channels, features) = len(kernel), kernel.shape[2:]
    if _cells(x) < _FEWEST_CELLS_TO_CONVOLVE_BACKWARD and x.dtype == jnp.float32:
        dkernel = _windows(x, k).T @ dy.reshape(-1, features)
        return _input_gradient(dy, kernel), dkernel.reshape(kernel.shape)
    dx = correlate(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    if features < channels and dy.size * k * k < _MOST_NUMBERS_TO_GATHER:
        # Fewer numbers to gather than windows of `x`; positions come out reversed.
        dkernel = x.reshape(-1, channels).T @ _windows(dy, k)
        dkernel = dkernel.reshape(channels, k, k, features)[:, ::-1, ::-1]
        return dx, dkernel.transpose(1, 2, 0, 3)
    if x.size >= _FEWEST_NUMBERS_TO_SHIFT:
        return dx, _kernel_gradient_by_shift(x, dy, k)
    return dx, jax.vjp(lambda kernel: correlate(x, kernel, 1), kernel)[1](dy)[0]


_convolve_plain.defvjp(_forward, _backward)


def _suits_winograd(x, kernel):
    channels, features = kernel.shape[2:]
    return (
        len(kernel) == 3
        and x.dtype == jnp.float32
        and min(channels, features) >= _FEWEST_CHANNELS_FOR_WINOGRAD
        and _cells(x) * channels * features >= _FEWEST_PRODUCTS_FOR_WINOGRAD
    )


def _cells(x):
    return x.shape[0] * x.shape[1] * x.shape[2]


def _windows(x, k):
    """(cells, k*k*C) numbers under the kernel at each cell."""
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height * width, channels)
    # One gather compiles four times as fast as k*k slices.
    return _take(rows, _neighbors(height, width, k)).reshape(_cells(x), -1)


def _take(x, indices):
    """Rows of (B, n, C); row n is zeros."""
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
    return x.at[:, indices].get(mode='promise_in_bounds')


def _neighbors(height, width, k):
    """(cells, k*k) indices of the cells under the kernel at each cell of one map.

    Outside the map the index is the number of cells.
    """
    row, column = np.mgrid[:height, :width]
    offset = np.arange(k) - k // 2
    row = row[..., None, None] + offset[:, None]
    column = column[..., None, None] + offset
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cells = np.where(is_inside, row * width + column, height * width)
    return cells.reshape(height * width, k * k)


def _input_gradient(dy, kernel):
    """One product with the kernel as it is; then each cell sums its k*k shares."""
    batch, height, width, features = dy.shape
    channels, positions = kernel.shape[2], kernel.shape[0] ** 2
    shares = dy.reshape(-1, features) @ kernel.reshape(-1, features).T
    # The right neighbor of a cell sees this cell on its left.
    neighbor = _neighbors(height, width, len(kernel))[:, ::-1]
    is_outside = neighbor == height * width
    share_index = neighbor * positions + np.arange(positions)
    share_index = np.where(is_outside, height * width * positions, share_index)
    dx = _take(shares.reshape(batch, -1, channels), share_index).sum(2)
    return dx.reshape(batch, height, width, channels)


def _kernel_gradient_by_shift(x, dy, k):
    """A product for each position of the kernel, without windows in memory."""
    height, width, channels = x.shape[1:]
    margin, features = k // 2, dy.shape[-1]
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    dy = dy.reshape(-1, features)

    def shifted_product(i, j):
        window = x[:, i : i + height, j : j + width]
        return window.reshape(-1, channels).T @ dy

    products = [shifted_product(i, j) for i in range(k) for j in range(k)]
    return jnp.stack(products).reshape(k, k, channels, features)
