"""Convolutions and norms that see an image's valid region only.

Images of several sizes share a canvas. Every layer here takes, beside the features
(B,H,W,C), `size` (B,2): the valid rows and columns of each image at this resolution.
Cells outside never reach a result inside: spatial convolutions read them as zeros (the
zero padding that the image alone would get), norms leave them out of their statistics.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atss_jax.models.convolution import convolve
from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.group_norm import group_norm
from atss_jax.models.initializers import KAIMING, ONES, ZEROS, VarianceScaling
from atss_jax.models.region import blank, halve, inside, zero_outside

BATCH_AXIS = 'batch'
"""Name of the mapped device axis; SyncBN reduces over it."""


class Conv(nn.Module):
    """Convolution with PyTorch's symmetric padding of `kernel_size // 2`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        use_bias: adds a bias.
        kernel_init: initialiser of the (k,k,in,out) kernel.
        bias_init: initialiser of the bias.
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
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
    ) -> Float[Array, 'B h w D']:
        """Computes in the type of `x`; the parameters stay float32."""
        k = self.kernel_size
        shape = k, k, x.shape[-1] // self.groups, self.features
        kernel = self.param('kernel', self.kernel_init, shape)
        if self.is_initializing():
            y = blank(x, self.features, self.stride)
        else:
            y = _convolved(x, size, kernel, self.stride)
        if self.use_bias:
            bias = self.param('bias', self.bias_init, (self.features,))
            # In float32: its gradient is a sum over all cells, which bfloat16 loses.
            y = y + bias
        return y if self.float32_output else y.astype(x.dtype)


@functools.partial(jax.jit, static_argnames='stride')
def _convolved(x, size, kernel, stride):
    kernel = jnp.asarray(kernel, x.dtype)
    if kernel.shape[:3] == (1, 1, x.shape[-1]):
        # A plain matrix product; XLA on CPU runs it about twice as fast as the
        # convolution. No cell sees its neighbours, so nothing needs to be zeroed.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    return convolve(zero_outside(x, size), kernel, stride)


class DeformConv(nn.Module):
    """3x3 convolution that looks where a second one tells it to: DCNv2, without bias.

    Source: arXiv 1811.11168; mmcv `ModulatedDeformConv2dPack`.

    Attributes:
        features: output channels.
        kernel_size: side of the kernel, odd.
        stride: step in both directions.
        groups: of channels that do not see each other.
        deform_groups: of channels that share offsets.
        offset_init: initialiser of the kernel that computes offsets and masks.
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


class BatchNorm(nn.Module):
    """Batch normalisation over valid cells, with PyTorch's running statistics.

    Differs from mmdet: padding never counts; and after a training step on several
    devices the running statistics are the mean over devices, so that all hold the same
    (mmdet saves those of rank 0).

    Attributes:
        synced: statistics over all devices (SyncBN) rather than one.
        scale_init: initialiser of the scale.
        momentum: share of the new statistics in the running ones.
        epsilon: added to the variance.
    """

    synced: bool = False
    scale_init: Callable[..., Any] = ONES
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool
    ) -> Float[Array, 'B H W C']:
        """Normalises by batch statistics if `train`, else by the stored ones."""
        channels = (x.shape[-1],)
        scale = self.param('scale', self.scale_init, channels)
        bias = self.param('bias', ZEROS, channels)
        mean = self.variable('batch_stats', 'mean', ZEROS, None, channels)
        var = self.variable('batch_stats', 'var', ONES, None, channels)
        # Read by nothing here; kept because PyTorch's checkpoints carry it.
        steps = self.variable(
            'batch_stats', 'num_batches_tracked', ZEROS, None, (), np.int32
        )
        if self.is_initializing():
            return x
        if train:
            axis_name = BATCH_AXIS if self.synced else None
            batch_mean, batch_var, count = _statistics(x, size, axis_name)
            m = self.momentum
            unbiased = batch_var * count / jnp.maximum(count - 1, 1)
            mean.value = (1 - m) * mean.value + m * batch_mean
            var.value = (1 - m) * var.value + m * unbiased
            steps.value = steps.value + 1
        else:
            batch_mean, batch_var = mean.value, var.value
        return _normalised(x, batch_mean, batch_var, scale, bias, self.epsilon)


@functools.partial(jax.jit, static_argnames='axis_name')
def _statistics(x, size, axis_name):
    """Mean, biased variance and count over valid cells, in float32."""
    valid = inside(size, *x.shape[1:3])
    x = jnp.where(valid, x, 0).astype(jnp.float32)
    total, count = jnp.sum(x, (0, 1, 2)), jnp.sum(valid).astype(jnp.float32)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean = total / count
    squares = jnp.sum(jnp.where(valid, x - mean, 0) ** 2, (0, 1, 2))
    if axis_name is not None:
        squares = jax.lax.psum(squares, axis_name)
    return mean, squares / count, count


@functools.partial(jax.jit, static_argnames='epsilon')
def _normalised(x, mean, var, scale, bias, epsilon):
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return ((x - mean) * factor + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over the valid cells of each image.

    Attributes:
        num_groups: groups of channels that share statistics.
        scale_init: initialiser of the scale.
        epsilon: added to the variance.
    """

    num_groups: int = 32
    scale_init: Callable[..., Any] = ONES
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool = False
    ) -> Float[Array, 'B H W C']:
        """The same in training and evaluation; statistics in float32."""
        scale = self.param('scale', self.scale_init, x.shape[-1:])
        bias = self.param('bias', ZEROS, x.shape[-1:])
        if self.is_initializing():
            return x
        return group_norm(x, size, scale, bias, self.num_groups, self.epsilon)


def norm_prefix(norm_cfg: Mapping[str, Any]) -> str:
    """How mmdet names this norm's parameters: 'bn' or 'gn'."""
    return 'gn' if norm_cfg['type'] == 'GN' else 'bn'


def make_norm(
    norm_cfg: Mapping[str, Any],
    name: str,
    scale_init: Callable[..., Any] = ONES,
) -> nn.Module:
    """Builds the norm that an mmdet `norm_cfg` names: BN, SyncBN or GN."""
    if norm_cfg['type'] == 'GN':
        return GroupNorm(norm_cfg['num_groups'], scale_init, name=name)
    synced = norm_cfg['type'] == 'SyncBN'
    return BatchNorm(synced, scale_init, name=name)


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
        x = conv(x, size)
        if self.norm_cfg is None:
            return x
        size = size if self.stride == 1 else halve(size)
        norm = make_norm(self.norm_cfg, norm_prefix(self.norm_cfg))
        return nn.relu(norm(x, size, train))
