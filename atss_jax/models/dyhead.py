"""DyHead: attention over scales, places and channels, behind an FPN."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.initializers import ZEROS, Normal
from atss_jax.models.layers import Conv, ConvModule, deform_init
from atss_jax.models.norms import GroupNorm
from atss_jax.models.region import halve, inside

_NORMAL = Normal(0.01)
_OFFSETS = 2 * 3 * 3  # and half as many masks, for one group of a 3x3 kernel


class DyHead(nn.Module):
    """A stack of blocks, each of which mixes every level with its neighbors.

    Source: arXiv 2106.08322; mmdet `models/necks/dyhead.py`.

    Attributes:
        in_channels: channels of every level; checked against what comes in.
        out_channels: channels of every output.
        num_blocks: blocks.
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
        """`sizes`: the valid size of each level, half that of the one before."""
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
    """Each level, the one below and the one above: convolved, weighted, averaged.

    Attributes:
        channels: of the outputs.
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
        where = Conv(
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
            offset, mask = jnp.split(where(x, size), [_OFFSETS], axis=-1)
            read = offset, jax.nn.sigmoid(mask)
            parts = [weighted(mid(x, *read, size), size)]
            if level > 0:
                y = low(features[level - 1], *read, sizes[level - 1])
                parts.append(weighted(y, size))
            if level + 1 < len(features):
                above, small = features[level + 1], sizes[level + 1]
                grid = above.shape[1:3]
                read = [reread(z, size, small, grid) for z in read]
                y = stretch(high(above, *read, small), small, size, x.shape[1:3])
                parts.append(weighted(y, size))
            total = sum(parts) / len(parts)
            outputs.append(relu(total.astype(x.dtype), size))
        return tuple(outputs)


class _DeformConvNorm(nn.Module):
    """Deformable convolution by given offsets, then GroupNorm."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, offset, mask, size):
        conv = _DeformConv(self.features, self.stride, name='conv')
        size_out = size if self.stride == 1 else halve(size)
        return GroupNorm(16, name='norm')(conv(x, offset, mask, size), size_out)


class _DeformConv(nn.Module):
    """Holds the kernel; offsets are computed elsewhere."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x, offset, mask, size):
        shape = (3, 3, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param('kernel', deform_init(), shape))
        return modulated_deform_conv(x, offset, mask, kernel, size, self.stride)


class DyReLU(nn.Module):
    """The larger of two lines, whose slopes and intercepts depend on the image.

    Source: arXiv 2003.10027; mmdet `models/layers/se_layer.py`.

    Attributes:
        channels: of input and output.
    """

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W D'], size: Int[Array, 'B 2']
    ) -> Float[Array, 'B H W D']:
        """`size`: the valid cells, over whose mean the lines are chosen."""
        mean = _mean(x, size)
        y = ConvModule(self.channels // 4, 1, kernel_init=_NORMAL, name='conv1')
        lines = ConvModule(4 * self.channels, 1, kernel_init=_NORMAL, name='conv2')
        found = _hard_sigmoid(lines(nn.relu(y(mean, size)), size)) - 0.5
        slope_1, start_1, slope_2, start_2 = jnp.split(found, 4, axis=-1)
        one = x * (2 * slope_1 + 1) + start_1
        return jnp.maximum(one, x * (2 * slope_2) + start_2).astype(x.dtype)


def _hard_sigmoid(x):
    return jnp.clip((x + 3) / 6, 0, 1)


def _mean(x, size):
    """(B,1,1,C) means over the valid cells, in float32."""
    height, width = x.shape[1:3]
    x = jnp.where(inside(size, height, width), x, 0).astype(jnp.float32)
    count = jnp.minimum(size, jnp.array([height, width])).prod(-1)
    return x.sum((1, 2), keepdims=True) / count[:, None, None, None]


def reread(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    other: Int[Array, 'B 2'],
    grid: tuple[int, int],
) -> Float[Array, 'B h w C']:
    """The same numbers in PyTorch's order, taken for a map of `other` size.

    DyHead gives the offsets of one level to the convolution of the next, which has a
    quarter of the cells; mmcv's kernel then reads the first of these numbers, channel
    by channel and row by row, with the smaller map's row length. Weights are trained
    with it, so that it is done here too.

    Args:
        x: the map.
        size: its valid rows and columns.
        other: valid rows and columns that it is read with; no more cells than `size`.
        grid: rows and columns of the result, which means nothing outside `other`.
    """

    def one(x, size, other):
        row, column, channel = jnp.meshgrid(
            *(jnp.arange(n) for n in (*grid, x.shape[-1])), indexing='ij'
        )
        place = (channel * other[0] + row) * other[1] + column
        channel, cell = jnp.divmod(place, size[0] * size[1])
        row, column = jnp.divmod(cell, size[1])
        return x.at[row, column, channel].get(mode='clip')

    return jax.vmap(one)(x, size, other)


def stretch(
    x: Float[Array, 'B h w C'],
    size: Int[Array, 'B 2'],
    other: Int[Array, 'B 2'],
    grid: tuple[int, int],
) -> Float[Array, 'B H W C']:
    """Bilinear resize of the valid `size` to `other`, corner cell on corner cell.

    Args:
        x: features.
        size: valid rows and columns.
        other: those of the result.
        grid: rows and columns of the result, which means nothing outside `other`.

    Source: PyTorch `interpolate(mode='bilinear', align_corners=True)`.
    """
    rows = _weights(size[:, 0], other[:, 0], x.shape[1], grid[0])
    columns = _weights(size[:, 1], other[:, 1], x.shape[2], grid[1])
    # A product of matrices, whose gradient is one too.
    x = jnp.where(inside(size, *x.shape[1:3]), x, 0)
    x = jnp.einsum('bih,bhwc->biwc', rows.astype(x.dtype), x)
    return jnp.einsum('bjw,biwc->bijc', columns.astype(x.dtype), x)


def _weights(old, new, old_length, new_length):
    """(B,new,old) share of each old cell in each new one, along one side."""
    scale = (old - 1) / jnp.maximum(new - 1, 1)
    position = jnp.arange(new_length) * scale[:, None]
    distance = jnp.abs(position[:, :, None] - jnp.arange(old_length))
    return jnp.maximum(1 - distance, 0)
