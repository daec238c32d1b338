"""DyHead: attention over scales, positions and channels, after an FPN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.initializers import ZEROS, Normal
from atss_jax.models.layers import Conv, ConvModule, deform_init
from atss_jax.models.norms import GroupNorm
from atss_jax.models.region import halve, inside, stretch
from atss_jax.models.reread import reread

_NORMAL = Normal(0.01)
_OFFSETS = 2 * 3 * 3  # of a 3x3 kernel with one group; there are half as many masks


class DyHead(nn.Module):
    """A stack of blocks that mix every level with its neighbors.

    Source: arXiv 2106.08322; mmdet `models/necks/dyhead.py`.

    Attributes:
        in_channels: channels of every level; checked against the inputs.
        out_channels: channels of every output.
        num_blocks: number of blocks.
        zero_init_offset: the deformable convolutions start as ordinary ones.
    """

    in_channels: int = 256
    out_channels: int = 256
    num_blocks: int = 6
    zero_init_offset: bool = True

    @nn.compact
    def __call__(
        self,
        inputs: tuple[Float[Array, 'B _h _w _c'], ...],
        sizes: list[Int[Array, 'B 2']],
    ) -> tuple[Float[Array, 'B _h _w D'], ...]:
        """`sizes`: the valid size of each level, half that of the level before."""
        if inputs[0].shape[-1] != self.in_channels:
            raise ValueError(
                f'model.neck.1.in_channels = {self.in_channels}, but the FPN gives '
                f'{inputs[0].shape[-1]}'
            )
        for i in range(self.num_blocks):
            block = DyHeadBlock(
                self.out_channels, self.zero_init_offset, name=f'dyhead_blocks_{i}'
            )
            inputs = block(inputs, sizes)
        return inputs


class DyHeadBlock(nn.Module):
    """Averages each level and the levels below and above, convolved and weighted.

    Attributes:
        channels: channels of the outputs.
        zero_init_offset: see `DyHead`.
    """

    channels: int
    zero_init_offset: bool = True

    @nn.compact
    def __call__(
        self,
        features: tuple[Float[Array, 'B _h _w _c'], ...],
        sizes: list[Int[Array, 'B 2']],
    ) -> tuple[Float[Array, 'B _h _w D'], ...]:
        """`sizes`: the valid size of each level."""
        high, mid, low = (
            _DeformConvNorm(self.channels, stride, name=f'spatial_conv_{name}')
            for name, stride in (('high', 1), ('mid', 1), ('low', 2))
        )
        offset_conv = Conv(
            _OFFSETS + _OFFSETS // 2,
            kernel_init=ZEROS if self.zero_init_offset else _NORMAL,
            float32_output=True,
            name='spatial_conv_offset',
        )
        weight = Conv(1, 1, kernel_init=_NORMAL, name='scale_attn_module_1')
        relu = DyReLU(self.channels, name='task_attn_module')

        def weighted(x, size):
            return x * _hard_sigmoid(nn.relu(weight(_mean(x, size), size)))

        outputs = []
        for level, (x, size) in enumerate(zip(features, sizes, strict=True)):
            offset, mask = jnp.split(offset_conv(x, size), [_OFFSETS], axis=-1)
            taps = offset, jax.nn.sigmoid(mask)
            terms = [weighted(mid(x, *taps, size), size)]
            if level > 0:
                y = low(features[level - 1], *taps, sizes[level - 1])
                terms.append(weighted(y, size))
            if level + 1 < len(features):
                above, size_above = features[level + 1], sizes[level + 1]
                grid = above.shape[1:3]
                taps = [reread(z, size, size_above, grid) for z in taps]
                y = high(above, *taps, size_above)
                y = stretch(y, size_above, size, x.shape[1:3])
                terms.append(weighted(y, size))
            mean = sum(terms) / len(terms)
            outputs.append(relu(mean.astype(x.dtype), size))
        return tuple(outputs)


class _DeformConvNorm(nn.Module):
    """Deformable convolution with given offsets, then GroupNorm."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, offset, mask, size):
        conv = _DeformConv(self.features, self.stride, name='conv')
        size_out = size if self.stride == 1 else halve(size)
        return GroupNorm(16, name='norm')(conv(x, offset, mask, size), size_out)


class _DeformConv(nn.Module):
    """Deformable convolution with given offsets: only the kernel is a parameter."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, offset, mask, size):
        shape = (3, 3, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param('kernel', deform_init(), shape))
        return modulated_deform_conv(x, offset, mask, kernel, size, self.stride)


class DyReLU(nn.Module):
    """The maximum of two linear functions, whose coefficients depend on the image.

    Source: arXiv 2003.10027; mmdet `models/layers/se_layer.py`.

    Attributes:
        channels: channels of input and output.
    """

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W D'], size: Int[Array, 'B 2']
    ) -> Float[Array, 'B H W D']:
        """`size`: the valid cells, whose mean determines the coefficients."""
        conv1 = ConvModule(self.channels // 4, 1, kernel_init=_NORMAL, name='conv1')
        conv2 = ConvModule(4 * self.channels, 1, kernel_init=_NORMAL, name='conv2')
        mean = _mean(x, size)
        coefficients = _hard_sigmoid(conv2(nn.relu(conv1(mean, size)), size)) - 0.5
        slope_1, bias_1, slope_2, bias_2 = jnp.split(coefficients, 4, axis=-1)
        first, second = x * (2 * slope_1 + 1) + bias_1, x * (2 * slope_2) + bias_2
        return jnp.maximum(first, second).astype(x.dtype)


def _hard_sigmoid(x):
    return jnp.clip((x + 3) / 6, 0, 1)


def _mean(x, size):
    """(B,1,1,C) means over the valid cells, in float32."""
    height, width = x.shape[1:3]
    x = jnp.where(inside(size, height, width), x, 0).astype(jnp.float32)
    count = jnp.minimum(size, jnp.array([height, width])).prod(-1)
    return x.sum((1, 2), keepdims=True) / count[:, None, None, None]
