"""Convolutions that see an image's valid region only, alone and with a norm.

Images of several sizes share a canvas. Every layer here takes, beside the features
(B,H,W,C), `size` (B,2): the valid rows and columns of each image at this resolution.
Cells outside never reach a result inside: spatial convolutions read them as zeros (the
zero padding that the image alone would get), norms (see `norms.py`) leave them out of
their statistics.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from atss_jax.models.convolution import convolve
from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.initializers import KAIMING, ZEROS, VarianceScaling
from atss_jax.models.norms import Affine, BatchNorm, make_norm, norm_prefix
from atss_jax.models.region import blank, halve, zero_outside


@jax.custom_vjp
def relu(x: Float[Array, '*n']) -> Float[Array, '*n']:
    """max(x, 0); the gradient at 0 is 0.

    The output says where the gradient passes, so that the input need not be kept; and a
    GPU computes the output with the convolution before it.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, dy):
    # XLA would make x > 0 of y > 0, and keep the input after all.
    return (jnp.where(y != 0, dy, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def add_to_channels(
    x: Float[Array, 'B H W C'], summand: Float[Array, ' C']
) -> Float[Array, 'B H W C']:
    """Adds in the type of `x`; the gradient of the summand is summed in float32.

    In bfloat16 such a sum over all cells would lose most of them.
    """
    return x + summand.astype(x.dtype)


def _add_forward(x, summand):
    return add_to_channels(x, summand), None


def _add_backward(_, dy):
    return dy, dy.astype(jnp.float32).sum((0, 1, 2))


add_to_channels.defvjp(_add_forward, _add_backward)


class Conv(nn.Module):
    """Convolution with PyTorch's symmetric padding of `kernel_size // 2`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        use_bias: adds a bias.
        kernel_init: initializer of the (k,k,in,out) kernel.
        bias_init: initializer of the bias.
        float32_output: with the bias, which is added in float32 in any case; else the
            output is of the input's type.
        groups: of channels that do not see each other.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = KAIMING
    bias_init: Callable[..., Any] = ZEROS
    float32_output: bool = False
    groups: int = 1

    @nn.compact
    def weights(self, channels: int) -> tuple[ArrayLike, ArrayLike | None]:
        """Kernel (k,k,channels/groups,features) and bias, in float32."""
        k = self.kernel_size
        shape = k, k, channels // self.groups, self.features
        kernel = self.param('kernel', self.kernel_init, shape)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param('bias', self.bias_init, (self.features,))

    def __call__(
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        affine: Affine | None = None,
    ) -> Float[Array, 'B h w D']:
        """Computes in the type of `x`; the parameters stay float32.

        Args:
            x: features.
            size: their valid region.
            affine: factor and summand of each output, in place of a bias.
        """
        kernel, bias = self.weights(x.shape[-1])
        if self.is_initializing():
            y = blank(x, self.features, self.stride)
        elif affine is not None:
            return _convolved_affine(x, size, kernel, affine, self.stride)
        else:
            y = _convolved(x, size, kernel, self.stride)
        return self._finished(y, bias, x.dtype)

    def _finished(self, y, bias, dtype):
        if bias is not None:
            # In float32: its gradient is a sum over all cells, which bfloat16 loses.
            y = y + bias
        return y if self.float32_output else y.astype(dtype)

    def beside(
        self, other: 'Conv', x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
    ) -> tuple[Float[Array, 'B h w D'], Float[Array, 'B h w _E']]:
        """Both outputs; computed as one, which for a few features is a lot faster.

        Args:
            other: a convolution like this one but for its features.
            x: what both read.
            size: its valid region.
        """
        (kernel, bias), (other_kernel, other_bias) = (
            conv.weights(x.shape[-1]) for conv in (self, other)
        )
        if self.is_initializing():
            features = self.features + other.features
            y = blank(x, features, self.stride)
        else:
            kernel = jnp.concatenate([kernel, other_kernel], -1)
            y = _convolved(x, size, kernel, self.stride)
        first, second = jnp.split(y, [self.features], -1)
        return (
            self._finished(first, bias, x.dtype),
            other._finished(second, other_bias, x.dtype),
        )


@functools.partial(jax.jit, static_argnames='stride')
def _convolved(x, size, kernel, stride):
    kernel = jnp.asarray(kernel, x.dtype)
    is_1x1 = kernel.shape[:3] == (1, 1, x.shape[-1])
    if is_1x1 and jax.default_backend() == 'cpu':
        # A plain matrix product; XLA on CPU runs it about twice as fast as the
        # convolution. On a GPU a convolution takes bias, ReLU and short cut along.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    # No cell of a 1x1 sees its neighbors, so nothing needs to be zeroed.
    return convolve(x if is_1x1 else zero_outside(x, size), kernel, stride)


@functools.partial(jax.jit, static_argnames='stride')
def _convolved_affine(x, size, kernel, affine, stride):
    factor, summand = affine
    y = _convolved(x, size, kernel * factor, stride)
    return add_to_channels(y, summand)


class DeformConv(nn.Module):
    """3x3 convolution that looks where a second one tells it to: DCNv2, without bias.

    Source: arXiv 1811.11168; mmcv `ModulatedDeformConv2dPack`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        groups: of channels that do not see each other.
        deform_groups: of channels that share offsets.
        offset_init: initializer of the kernel that computes offsets and masks.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    groups: int = 1
    deform_groups: int = 1
    offset_init: Callable[..., Any] = ZEROS

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
    ) -> Float[Array, 'B h w D']:
        """Offsets in float32, the rest in the type of `x`."""
        k, channels = self.kernel_size, x.shape[-1]
        kernel = self.param(
            'kernel',
            deform_init(self.groups),
            (k, k, channels // self.groups, self.features),
        )
        where = Conv(
            3 * self.deform_groups * k * k,
            k,
            self.stride,
            kernel_init=self.offset_init,
            float32_output=True,
            name='conv_offset',
        )(x, size)
        offset, mask = jnp.split(where, [2 * self.deform_groups * k * k], axis=-1)
        mask = jax.nn.sigmoid(mask)
        if self.is_initializing():
            return blank(x, self.features, self.stride)
        kernel = jnp.asarray(kernel)
        return modulated_deform_conv(x, offset, mask, kernel, size, self.stride)


def deform_init(groups: int = 1) -> Callable[..., Any]:
    """How mmcv starts a deformable kernel: uniform within 1/sqrt(channels * k * k)."""
    return VarianceScaling(1 / (3 * groups), 'fan_in', 'uniform')


def convolve_and_norm(
    conv: nn.Module,
    norm: nn.Module,
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    train: bool,
) -> Float[Array, 'B h w D']:
    """`norm(conv(x))`.

    On accelerators the factor of a norm by stored statistics goes into the kernel,
    which is smaller than the map: then the convolution adds what is left of the norm,
    and the gradient of the factor is a sum over the kernel.

    Args:
        conv: Conv without bias, or DeformConv.
        norm: as `make_norm` builds it.
        x: features.
        size: their valid region.
        train: batch statistics in the norm.
    """
    if _is_joined(conv, norm, train):
        return conv(x, size, norm.affine())
    size_out = size if conv.stride == 1 else halve(size)
    return norm(conv(x, size), size_out, train)


def _is_joined(conv, norm, train):
    if conv.is_initializing() or train or jax.default_backend() == 'cpu':
        return False  # a CPU has few images at a time, and the kernels are larger
    return isinstance(conv, Conv) and isinstance(norm, BatchNorm)


class ConvModule(nn.Module):
    """Convolution, then norm and ReLU where `norm_cfg` is given.

    Source: mmcv's ConvModule, which also decides that a norm replaces the bias.

    Attributes:
        deformable: DCNv2 in place of the convolution; with a norm only.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    norm_cfg: Mapping[str, Any] | None = None
    kernel_init: Callable[..., Any] = KAIMING
    deformable: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool = False
    ) -> Float[Array, 'B h w D']:
        """`size` is that of the input."""
        shape = self.features, self.kernel_size, self.stride
        if self.deformable:
            conv = DeformConv(*shape, offset_init=self.kernel_init, name='conv')
        else:
            bias = self.norm_cfg is None
            conv = Conv(*shape, bias, self.kernel_init, name='conv')
        if self.norm_cfg is None:
            return conv(x, size)
        name = norm_prefix(self.norm_cfg)
        norm = make_norm(self.norm_cfg, name, self.features)
        return relu(convolve_and_norm(conv, norm, x, size, train))
