"""The convolution itself, and other ways to compute it where XLA's own is slow."""

import jax
import jax.numpy as jnp
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
    return _convolve(x, kernel, stride)


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


def _shifts(x, k):
    """The map as each of the k*k positions of a kernel sees it, row by row."""
    height, width = x.shape[1:3]
    margin = k // 2
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return [x[:, i : i + height, j : j + width] for i in range(k) for j in range(k)]


def _windows(x, k):
    """(cells, k*k*C): what lies under the kernel at each cell."""
    return jnp.concatenate(_shifts(x, k), -1).reshape(_cells(x), -1)


def _input_gradient(dy, kernel):
    """One product with the kernel as it lies, whose k*k parts are shifted and added."""
    k, margin = len(kernel), len(kernel) // 2
    batch, height, width, features = dy.shape
    product = dy.reshape(-1, features) @ kernel.reshape(-1, features).T
    parts = product.reshape(batch, height, width, k, k, -1)
    parts = jnp.pad(parts, ((0, 0), (margin, margin), (margin, margin), *[(0, 0)] * 3))
    return sum(
        parts[:, k - 1 - i : k - 1 - i + height, k - 1 - j : k - 1 - j + width, i, j]
        for i in range(k)
        for j in range(k)
    )


def _kernel_gradient_by_shift(x, dy, k):
    """A product for each place in the kernel: no windows of a large map in memory."""
    channels, features = x.shape[-1], dy.shape[-1]
    dy = dy.reshape(-1, features)
    products = [shift.reshape(-1, channels).T @ dy for shift in _shifts(x, k)]
    return jnp.stack(products).reshape(k, k, channels, features)


_convolve_cpu.defvjp(_forward, _backward)
