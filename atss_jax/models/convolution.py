"""Convolutions, each computed in the way that suits the platform of the program."""

import functools

import jax
from jaxtyping import Array, Float

from atss_jax.models import convolution_accelerator as accelerator
from atss_jax.models import convolution_cpu as cpu
from atss_jax.models.norms import normalize
from atss_jax.models.platforms import by_platform


def convolve(
    x: Float[Array, 'B H W C'], kernel: Float[Array, 'k k c D'], stride: int
) -> Float[Array, 'B h w D']:
    """Cross-correlation with k // 2 zeros on every side, as PyTorch's Conv2d.

    A kernel of c input channels makes C / c groups: the first D / (C / c) outputs see
    the first c channels only, and so on.
    """
    return by_platform(
        x,
        kernel,
        cpu=functools.partial(cpu.convolve, stride=stride),
        accelerator=functools.partial(accelerator.convolve, stride=stride),
        tpu=functools.partial(accelerator.convolve_on_tpu, stride=stride),
        gpu=functools.partial(accelerator.convolve_on_gpu, stride=stride),
    )


def convolve_and_normalize(
    x: Float[Array, 'B H W C'],
    kernel: Float[Array, 'k k c D'],
    stride: int,
    stored: tuple[Float[Array, ' D'], Float[Array, ' D'], Float[Array, ' D']],
    constant_input: bool = False,
) -> Float[Array, 'B h w D']:
    """Returns `(convolve(x, kernel, stride) - mean) * factor + bias`.

    Accelerators multiply the kernel by the factor, and only add to the map. On a CPU,
    which computes few images at a time, the kernel is mostly the larger of the two.

    Args:
        x: features; the result has their type.
        kernel: in float32.
        stride: step in both directions.
        stored: mean, factor and bias of each channel, in float32.
        constant_input: `x` has no gradient.
    """
    mean, factor, bias = stored
    if constant_input and kernel.shape[:2] == (1, 1):
        tpu = functools.partial(_convolve_every_nth, stride=stride)
    else:
        tpu = functools.partial(
            accelerator.convolve_scaled,
            stride=stride,
            convolve=accelerator.convolve_on_tpu,
        )
    # Not one function: its gradient would compute the convolution anew.
    y = by_platform(
        x,
        kernel,
        factor,
        cpu=functools.partial(_convolve_unscaled, stride=stride),
        accelerator=functools.partial(accelerator.convolve_scaled, stride=stride),
        tpu=tpu,
    )
    return _finish_norm(y, mean, factor, bias)


def _convolve_every_nth(x, kernel, factor, stride):
    """Reads the cells that a 1x1 needs once, for the output and the kernel's gradient.

    The gradient of the features is dense all the same: it would cost more than is saved
    here. By the compiler for a v5e, the first shortcut after the frozen stages moves
    0.62 instead of 1.10 GB, in 2.6 instead of 3.7 million cycles, with 8 images of 800
    x 1344.
    """
    return accelerator.convolve_scaled(x[:, ::stride, ::stride], kernel, factor, 1)


def _convolve_unscaled(x, kernel, factor, stride):
    return cpu.convolve(x, kernel.astype(x.dtype), stride)


# Jitted, so that convolutions of several kernels share it.
@jax.jit
def _finish_norm(y, mean, factor, bias):
    return by_platform(
        y, mean, factor, bias, cpu=normalize, accelerator=accelerator.add_rest_of_norm
    )
