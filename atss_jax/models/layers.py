"""Convolutions that see an image's valid region only, alone and with a norm.

Images of several sizes share a canvas. Besides the features (B,H,W,C), every layer here
takes `size` (B,2): the valid rows and columns of each image at this resolution. Cells
outside never influence a result inside: spatial convolutions read them as zeros (the
zero padding that the image alone would get), norms (see `norms.py`) exclude them from
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

from atss_jax.models.convolution import convolve, convolve_and_normalize
from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.initializers import KAIMING, ZEROS, VarianceScaling
from atss_jax.models.norms import BatchNorm, make_norm, norm_prefix
from atss_jax.models.platforms import by_platform, on_gpus
from atss_jax.models.region import halve, zero_outside


class ConvModule(nn.Module):
    """Convolution, then norm and ReLU where `norm_cfg` is given.

    Source: mmcv's ConvModule, in which a norm replaces the bias, too.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        norm_cfg: mmdet's description of the norm; None: neither norm nor ReLU.
        kernel_init: initializer of the kernel.
        deformable: DCNv2 in place of the convolution; requires a norm.
        has_zeros_on_gpus: as of Conv.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    norm_cfg: Mapping[str, Any] | None = None
    kernel_init: Callable[..., Any] = KAIMING
    deformable: bool = False
    has_zeros_on_gpus: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool = False
    ) -> Float[Array, 'B h w D']:
        """`size` is that of the input; `train`: batch statistics in the norm."""
        shape = self.features, self.kernel_size, self.stride
        if self.deformable:
            conv = DeformConv(*shape, offset_init=self.kernel_init, name='conv')
        else:
            use_bias = self.norm_cfg is None
            conv = Conv(
                *shape,
                use_bias,
                self.kernel_init,
                has_zeros_on_gpus=self.has_zeros_on_gpus,
                name='conv',
            )
        if self.norm_cfg is None:
            return conv(x, size)
        name = norm_prefix(self.norm_cfg)
        norm = make_norm(self.norm_cfg, name, self.features)
        if gives_zeros(self.norm_cfg):
            size_out = size if self.stride == 1 else halve(size)
            return norm(conv(x, size), size_out, with_relu=True)
        return relu(convolve_and_norm(conv, norm, x, size, train))


def gives_zeros(norm_cfg: Mapping[str, Any] | None) -> bool:
    """Whether a ConvModule with this norm leaves zeros in the cells outside."""
    return norm_cfg is not None and norm_cfg['type'] == 'GN'


def convolve_and_norm(
    conv: nn.Module,
    norm: nn.Module,
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    train: bool,
) -> Float[Array, 'B h w D']:
    """`norm(conv(x))`, as one function where the norm has stored statistics.

    Args:
        conv: Conv without bias, or DeformConv.
        norm: as `make_norm` builds it.
        x: features.
        size: their valid region.
        train: batch statistics in the norm.
    """
    if isinstance(conv, Conv) and isinstance(norm, BatchNorm) and not train:
        return conv(x, size, norm)
    size_out = size if conv.stride == 1 else halve(size)
    return norm(conv(x, size), size_out, train)


@jax.custom_vjp
def relu(x: Float[Array, '*n']) -> Float[Array, '*n']:
    """max(x, 0); the gradient at 0 is 0.

    The gradient is computed from the output, so that the input need not be kept; and a
    GPU computes the output together with the convolution before it.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, dy):
    # XLA would turn y > 0 into x > 0, and keep the input after all.
    return (jnp.where(y != 0, dy, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def relu_for_window(
    x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
) -> Float[Array, 'B H W C']:
    """`relu`; on GPUs with zeros in the cells outside that a 3x3 at valid cells reads.

    As one function, so that only its output is kept for the gradient.
    """
    return on_gpus(_zero_beside, relu(x), size)


def _zero_beside(x, size):
    """Zeros in the row and the column next to the valid region.

    Cells farther away are left as they are, and may grow from layer to layer: a 3x3
    does not reach them from valid cells, and no gradient comes from where it does. A
    GPU writes these few numbers in place; a pass over all takes 87 microseconds for the
    first stage of a ResNet, 16 images of 800 x 1344, on an H200.
    """
    image = jnp.arange(x.shape[0])
    settings = {'mode': 'drop', 'unique_indices': True}
    x = x.at[image, size[:, 0]].set(0, **settings)
    return x.at[image, :, size[:, 1]].set(0, **settings)


def _relu_for_window_forward(x, size):
    y = relu_for_window(x, size)
    return y, (y, size)


def _relu_for_window_backward(saved, dy):
    y, size = saved
    return zero_outside(jnp.where(y != 0, dy, 0), size), None


relu_for_window.defvjp(_relu_for_window_forward, _relu_for_window_backward)


class Conv(nn.Module):
    """Convolution with PyTorch's symmetric padding of `kernel_size // 2`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        use_bias: adds a bias.
        kernel_init: initializer of the (k,k,in,out) kernel.
        bias_init: initializer of the bias.
        float32_output: the output stays float32 after the bias, which is added in
            float32 in any case; else it has the type of the input.
        groups: groups of channels that are convolved separately.
        constant_input: the input has no gradient, so that a TPU may compute the output
            in another way; matters to norms by stored statistics only.
        has_zeros_on_gpus: in programs for GPUs the cells outside that the kernel reads
            are zeros already, as what came before wrote the map anyway. Others write
            the zeros where the convolution reads them.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = KAIMING
    bias_init: Callable[..., Any] = ZEROS
    float32_output: bool = False
    groups: int = 1
    constant_input: bool = False
    has_zeros_on_gpus: bool = False

    def __call__(
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        norm: BatchNorm | None = None,
    ) -> Float[Array, 'B h w D']:
        """Computes in the type of `x`; the parameters stay float32.

        Args:
            x: features.
            size: their valid region.
            norm: normalizes the output by its stored statistics, in place of a bias.
        """
        kernel, bias = self.weights(x.shape[-1])
        if norm is not None:
            return convolve_valid_and_normalize(
                x,
                size,
                kernel,
                norm.stored(),
                self.stride,
                self.constant_input,
                self.has_zeros_on_gpus,
            )
        y = convolve_valid(x, size, kernel, self.stride, self.has_zeros_on_gpus)
        return self._add_bias(y, bias, x.dtype)

    def together_with(
        self, other: 'Conv', x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
    ) -> tuple[Float[Array, 'B h w D'], Float[Array, 'B h w _E']]:
        """The outputs of this and another convolution of `x`, computed as one.

        For a few features this is a lot faster than two.

        Args:
            other: a convolution that differs in its features only.
            x: input of both.
            size: its valid region.
        """
        kernel, bias = self.weights(x.shape[-1])
        other_kernel, other_bias = other.weights(x.shape[-1])
        both = jnp.concatenate([kernel, other_kernel], -1)
        y = convolve_valid(x, size, both, self.stride, self.has_zeros_on_gpus)
        y, other_y = jnp.split(y, [self.features], -1)
        return (
            self._add_bias(y, bias, x.dtype),
            other._add_bias(other_y, other_bias, x.dtype),
        )

    @nn.compact
    def weights(self, channels: int) -> tuple[Array, ArrayLike | None]:
        """Kernel (k,k,channels/groups,features) and bias, in float32."""
        k = self.kernel_size
        shape = k, k, channels // self.groups, self.features
        kernel = jnp.asarray(self.param('kernel', self.kernel_init, shape))
        if not self.use_bias:
            return kernel, None
        return kernel, self.param('bias', self.bias_init, (self.features,))

    def _add_bias(self, y, bias, dtype):
        if bias is not None:
            # In float32: its gradient is a sum over all cells, which bfloat16 loses.
            y = y + bias
        return y if self.float32_output else y.astype(dtype)


# Jitted functions are traced once for all layers of the same shapes.
@functools.partial(jax.jit, static_argnames=('stride', 'has_zeros_on_gpus'))
def convolve_valid(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, 'k k c D'],
    stride: int,
    has_zeros_on_gpus: bool = False,
) -> Float[Array, 'B h w D']:
    """A convolution of the valid region, whose size is `size`."""
    x = _read_by(kernel, x, size, has_zeros_on_gpus)
    return convolve(x, kernel.astype(x.dtype), stride)


@functools.partial(
    jax.jit, static_argnames=('stride', 'constant_input', 'has_zeros_on_gpus')
)
def convolve_valid_and_normalize(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    kernel: Float[Array, 'k k c D'],
    stored: tuple[Array, Array, Array],
    stride: int,
    constant_input: bool = False,
    has_zeros_on_gpus: bool = False,
) -> Float[Array, 'B h w D']:
    """A convolution of the valid region, and a norm by `stored` statistics.

    Args:
        x: features.
        size: their valid region.
        kernel: in float32.
        stored: mean, factor and bias of each channel.
        stride: step in both directions.
        constant_input: `x` has no gradient.
        has_zeros_on_gpus: as of Conv.
    """
    x = _read_by(kernel, x, size, has_zeros_on_gpus)
    return convolve_and_normalize(x, kernel, stride, stored, constant_input)


def _read_by(kernel, x, size, has_zeros_on_gpus):
    """`x` with zeros outside; a 1x1 reads no neighbors, and does not need them."""
    if kernel.shape[:2] == (1, 1):
        return x
    if not has_zeros_on_gpus:
        return zero_outside(x, size)
    return by_platform(
        x, size, cpu=zero_outside, accelerator=zero_outside, gpu=lambda x, _: x
    )


class DeformConv(nn.Module):
    """Convolution that samples where a second convolution points: DCNv2, without bias.

    Source: arXiv 1811.11168; mmcv `ModulatedDeformConv2dPack`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        groups: groups of channels that are convolved separately.
        deform_groups: groups of channels that share offsets.
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
        offset_and_mask = Conv(
            3 * self.deform_groups * k * k,
            k,
            self.stride,
            kernel_init=self.offset_init,
            float32_output=True,
            name='conv_offset',
        )(x, size)
        offset, mask = jnp.split(
            offset_and_mask, [2 * self.deform_groups * k * k], axis=-1
        )
        mask, kernel = jax.nn.sigmoid(mask), jnp.asarray(kernel)
        return modulated_deform_conv(x, offset, mask, kernel, size, self.stride)


def deform_init(groups: int = 1) -> Callable[..., Any]:
    """mmcv's initializer of deformable kernels: uniform within 1/sqrt(channels*k*k)."""
    return VarianceScaling(1 / (3 * groups), 'fan_in', 'uniform')
