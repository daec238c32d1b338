"""The convolution itself, and its gradient where XLA's own is slow."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LARGE = 2**19


def convolve(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """Cross-correlation with k // 2 zeros on every side, as PyTorch's Conv2d.

    A kernel of c input channels makes C / c groups: the first D / (C / c) outputs see
    the first c channels alone, and so on.
    """
    if kernel.shape[2] != x.shape[-1]:
        return _convolve(x, kernel, stride)
    # A size that is not known yet (see export.py) is that of a program that detects.
    is_large = isinstance(x.size, int) and x.size >= _LARGE
    if stride == 1 and is_large and jax.default_backend() == 'cpu':
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


# XLA on CPU computes the gradient for the kernel as a convolution with a kernel of
# the size of the picture, at a quarter of the speed of a matrix product. One product
# for each of the k*k shifts makes the whole backward pass of a 256-channel layer
# twice as fast.
@jax.custom_vjp
def _convolve_cpu(x, kernel):
    return _convolve(x, kernel, 1)


def _forward(x, kernel):
    return _convolve(x, kernel, 1), (x, kernel)


def _backward(saved, dy):
    x, kernel = saved
    height, width, channels = x.shape[1:]
    k = len(kernel)
    dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    dy = dy.reshape(-1, dy.shape[-1])

    def shifted(i, j):
        window = padded[:, i : i + height, j : j + width]
        return window.reshape(-1, channels).T @ dy

    dkernel = [[shifted(i, j) for j in range(k)] for i in range(k)]
    return dx, jnp.stack([jnp.stack(row) for row in dkernel])


_convolve_cpu.defvjp(_forward, _backward)
