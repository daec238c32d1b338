"""The convolution itself, and what makes it faster on GPUs and TPUs.

Milliseconds in this file are those of one H200, training the R50 with 16 images of 800
x 1344 in bfloat16 (docs/performance.md). The step took 58.5 ms before, 50.0 ms after.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def correlate(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """See `convolution.convolve`; computed as XLA does it by itself."""
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(margin, margin)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def convolve(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """See `convolution.convolve`."""
    is_stem = stride == 2 and kernel.shape[:3] == (7, 7, 3)
    return convolve_blocks(x, kernel) if is_stem else correlate(x, kernel, stride)


def convolve_on_gpu(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """See `convolution.convolve`; in half precision, of a multiple of 8 features.

    Of another number cuDNN would copy the maps to pad them, and take slower kernels: on
    P3, forward and backward, alone, deltas and centerness take 0.46 ms as 5 features,
    and 0.41 ms as 8.
    """
    features, is_grouped = kernel.shape[-1], x.shape[-1] != kernel.shape[2]
    if x.dtype.itemsize > 2 or is_grouped or features % 8 == 0:
        return convolve(x, kernel, stride)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, -features % 8)))
    return convolve(x, kernel, stride)[..., :features]


@jax.jit
def convolve_blocks(
    x: Float[Array, 'B H W c'], kernel: Float[Array, '7 7 c D']
) -> Float[Array, 'B h w D']:
    """A 7x7 at stride 2, computed as a 4x4 over blocks of 2x2 cells.

    3 channels leave the matrix units of an accelerator mostly idle, the 12 of a block
    do not: 1.05 instead of 2.67 ms. `cost.py` knows this function by its name, since a
    quarter of its products are with zeros.
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


def convolve_on_tpu(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """See `convolution.convolve`; groups of few channels are computed together."""
    return convolve(x, merge_groups(kernel, x.shape[-1]), stride)


def merge_groups(
    kernel: Float[Array, '*k c D'], channels: int
) -> Float[Array, '*k _c D']:
    """The kernel of the same convolution in fewer groups, of up to 128 input channels.

    Each group then sees the channels of several, with zeros for those that are not its
    own. A TPU multiplies 128 channels at a time anyway, while XLA takes smaller groups
    apart: by its compiler for a v5e, the first block of a ResNeXt with 32 groups of 8
    channels takes 18 instead of 213 ms, forward and backward (docs/tpu.md). An infinite
    feature makes NaN of what its neighbors give, too.

    Args:
        kernel: of C / c groups.
        channels: C, those of the features.
    """
    *sides, inputs, features = kernel.shape
    groups = channels // inputs
    fits = (n for n in range(1, groups + 1) if n * inputs <= 128 and groups % n == 0)
    count = max(fits, default=1)
    if count == 1:
        return kernel
    # One axis for the group whose channels are seen, one for the group that sees them.
    by_group = kernel.reshape(*sides, 1, inputs, groups // count, count, -1)
    is_same_group = jnp.eye(count, dtype=bool)[:, None, None, :, None]
    merged = jnp.where(is_same_group, by_group, 0)
    return merged.reshape(*sides, count * inputs, features)


# A norm by stored statistics is a factor and a summand of each channel. The factor goes
# into the kernel, which is smaller than the map: cuDNN then computes convolution,
# summand, shortcut and ReLU in one pass, nothing in between is kept for the gradient,
# and the gradient of the factor is a sum over the kernel. A step takes 53.6 instead of
# 58.5 ms, together with `layers.relu` and 1x1 convolutions that are no matrix products.
def convolve_scaled(
    x: Float[Array, 'B H W C'],
    kernel: Float[Array, 'k k c D'],
    factor: Float[Array, ' D'],
    stride: int,
    convolve: Callable[..., Array] = convolve,
) -> Float[Array, 'B h w D']:
    """`convolve(x, kernel, stride) * factor`; the kernel is scaled in float32."""
    return convolve(x, (kernel * factor).astype(x.dtype), stride)


def add_rest_of_norm(
    y: Float[Array, 'B H W D'],
    mean: Float[Array, ' D'],
    factor: Float[Array, ' D'],
    bias: Float[Array, ' D'],
) -> Float[Array, 'B H W D']:
    """Completes the norm of what `convolve_scaled` returns."""
    return add_to_channels(y, bias - mean * factor)


@jax.custom_vjp
def add_to_channels(
    x: Float[Array, 'B H W C'], summand: Float[Array, ' C']
) -> Float[Array, 'B H W C']:
    """Adds in the type of `x`; the gradient of the summand is summed in float32.

    In bfloat16, a sum over all cells would lose most of them.
    """
    return x + summand.astype(x.dtype)


def _add_forward(x, summand):
    return add_to_channels(x, summand), None


def _add_backward(_, dy):
    return dy, dy.astype(jnp.float32).sum((0, 1, 2))


add_to_channels.defvjp(_add_forward, _add_backward)
