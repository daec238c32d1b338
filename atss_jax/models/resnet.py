"""ResNet and ResNeXt as mmdetection builds them: frozen stages, both styles, DCNv2."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from atss_jax.models.frozen_bottleneck import NARROW, Weights, frozen_bottleneck
from atss_jax.models.initializers import ONES, ZEROS
from atss_jax.models.layers import (
    Conv,
    DeformConv,
    convolve_and_norm,
    relu,
    relu_for_window,
)
from atss_jax.models.norms import BatchNorm, make_norm, norm_prefix
from atss_jax.models.platforms import on_gpus
from atss_jax.models.region import halve, zero_outside
from atss_jax.models.stem import max_pool, stem

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def stage_channels(depth: int) -> tuple[int, ...]:
    """Channels of C2..C5, for the neck's `in_channels`."""
    expansion = 1 if depth in (18, 34) else 4
    return tuple(64 * 2**stage * expansion for stage in range(4))


def bottleneck_width(planes: int, groups: int, base_width: int) -> int:
    """Channels of a bottleneck's 3x3; `base_width` counts only with several groups."""
    return planes if groups == 1 else planes * base_width // 64 * groups


class _Block(nn.Module):
    """The fields and the shortcut of both residual blocks.

    `constant_input`: all before the block is frozen, so that its input has no gradient.
    """

    planes: int
    stride: int
    downsample: bool
    style: str
    norm_cfg: Mapping[str, Any]
    constant_input: bool = False

    def _norm(self, features, index, zero=False):
        init = ZEROS if zero else ONES
        name = f'{norm_prefix(self.norm_cfg)}{index}'
        return make_norm(self.norm_cfg, name, features, init)

    def _conv(self, features, kernel_size, stride, index):
        return Conv(features, kernel_size, stride, use_bias=False, name=f'conv{index}')

    def _shortcut(self, x, size, features, train):
        if not self.downsample:
            return x
        return convolve_and_norm(*self._shortcut_layers(features), x, size, train)

    def _shortcut_layers(self, features):
        conv = Conv(
            features,
            1,
            self.stride,
            use_bias=False,
            constant_input=self.constant_input,
            name='downsample_0',
        )
        return conv, make_norm(self.norm_cfg, 'downsample_1', features)


def _weights(conv: Conv, norm: BatchNorm, channels: int) -> Weights:
    kernel, _ = conv.weights(channels)
    return Weights(kernel, *norm.stored())


class BasicBlock(_Block):
    """Two 3x3 convolutions (R18, R34)."""

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool
    ) -> Float[Array, 'B h w D']:
        """`train`: batch statistics in the norms."""
        planes = self.planes
        size_out = size if self.stride == 1 else halve(size)
        conv, norm = self._conv(planes, 3, self.stride, 1), self._norm(planes, 1)
        y = relu(convolve_and_norm(conv, norm, x, size, train))
        conv, norm = self._conv(planes, 3, 1, 2), self._norm(planes, 2, zero=True)
        y = convolve_and_norm(conv, norm, y, size_out, train)
        return relu(y + self._shortcut(x, size, planes, train))


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 (R50 and deeper); stride in the 3x3, or in the first for caffe.

    Attributes:
        groups: groups of the 3x3.
        base_width: channels per group of the 3x3, at 64 planes.
        deform_groups: groups with offsets of their own in a deformable 3x3 (DCNv2); 0:
            the 3x3 is not deformable.
        is_frozen: the parameters have no gradient.
    """

    groups: int = 1
    base_width: int = 4
    deform_groups: int = 0
    is_frozen: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool
    ) -> Float[Array, 'B h w D']:
        """`train`: batch statistics in the norms."""
        size_out = size if self.stride == 1 else halve(size)
        strides = (self.stride, 1) if self.style == 'caffe' else (1, self.stride)
        size_mid = size_out if self.style == 'caffe' else size
        width = bottleneck_width(self.planes, self.groups, self.base_width)
        if self._fills_half_of_lanes() and not train:
            return self._frozen(x, size)
        conv, norm = self._conv(width, 1, strides[0], 1), self._norm(width, 1)
        y = convolve_and_norm(conv, norm, x, size, train)
        y = self._before_middle(y, size_mid, train)
        conv, norm = self._middle(width, strides[1]), self._norm(width, 2)
        y = relu(convolve_and_norm(conv, norm, y, size_mid, train))
        features = 4 * self.planes
        # mmdet starts the scale at zero in ResNet's blocks, not in ResNeXt's.
        zero = self.groups == 1
        conv, norm = self._conv(features, 1, 1, 3), self._norm(features, 3, zero)
        y = convolve_and_norm(conv, norm, y, size_out, train)
        return relu(y + self._shortcut(x, size, features, train))

    def _fills_half_of_lanes(self):
        is_plain = self.groups == 1 and not self.deform_groups and self.stride == 1
        has_statistics = self.norm_cfg['type'] != 'GN'
        has_no_gradient = self.is_frozen and self.constant_input
        is_narrow = self.planes == NARROW
        return has_no_gradient and is_narrow and is_plain and has_statistics

    def _frozen(self, x, size):
        features = 4 * self.planes
        layers, channels = [], x.shape[-1]
        for index, (width, kernel_size) in enumerate(
            [(self.planes, 1), (self.planes, 3), (features, 1)], start=1
        ):
            conv = self._conv(width, kernel_size, 1, index)
            norm = self._norm(width, index, zero=index == 3)
            layers.append(_weights(conv, norm, channels))
            channels = width
        shortcut = None
        if self.downsample:
            shortcut = _weights(*self._shortcut_layers(features), x.shape[-1])
        return frozen_bottleneck(x, size, layers, shortcut)

    def _before_middle(self, y, size, train):
        if self.deform_groups:
            return relu(y)
        # Batch statistics would scale what is left outside, more with each layer.
        return (
            on_gpus(zero_outside, relu(y), size) if train else relu_for_window(y, size)
        )

    def _middle(self, width, stride):
        groups = self.groups
        if self.deform_groups:
            return DeformConv(
                width, 3, stride, groups, self.deform_groups, name='conv2'
            )
        return Conv(
            width,
            3,
            stride,
            use_bias=False,
            groups=groups,
            has_zeros_on_gpus=True,
            name='conv2',
        )


class ResNet(nn.Module):
    """ResNet and ResNeXt, with mmdet's field names, parameter names and numbers.

    Source: arXiv 1512.03385, 1611.05431; mmdet `models/backbones/resnet.py` and
    `resnext.py`.

    Attributes:
        depth: 18, 34, 50, 101 or 152; at least 50 with `groups` or `dcn`.
        num_stages: number of stages, 1..4.
        out_indices: stages whose features are returned, 0..num_stages-1.
        frozen_stages: -1: none; 0: the stem; n: the stem and the first n stages.
            Frozen parts use stored statistics, and training keeps their parameters.
        norm_cfg: type BN, SyncBN or GN (with num_groups), requires_grad.
        norm_eval: stored statistics in training, too.
        style: 'pytorch' or 'caffe'.
        groups: groups of the 3x3 convolutions; more than one makes a ResNeXt.
        base_width: channels of each group in the first stage.
        dcn: type DCNv2, deform_groups; None: no stage is deformable.
        stage_with_dcn: stages whose 3x3 convolutions are deformable, if `dcn` is given.
    """

    depth: int = 50
    num_stages: int = 4
    out_indices: tuple[int, ...] = (0, 1, 2, 3)
    frozen_stages: int = 1
    norm_cfg: Mapping[str, Any] = nn.FrozenDict(type='BN', requires_grad=True)
    norm_eval: bool = True
    style: str = 'pytorch'
    groups: int = 1
    base_width: int = 4
    dcn: Mapping[str, Any] | None = None
    stage_with_dcn: tuple[bool, ...] = (False, False, False, False)

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W 3'], size: Int[Array, 'B 2'], train: bool = False
    ) -> tuple[Float[Array, 'B _h _w _c'], ...]:
        """Features of `out_indices`, at strides 4, 8, 16, 32 (C2..C5)."""
        train = train and not self.norm_eval
        conv = Conv(64, 7, 2, use_bias=False, name='conv1')
        norm = make_norm(self.norm_cfg, f'{norm_prefix(self.norm_cfg)}1', 64)
        is_train = train and self.frozen_stages < 0
        if isinstance(norm, BatchNorm) and not is_train:
            kernel, _ = conv.weights(x.shape[-1])
            x = stem(x, size, kernel, norm.stored())
        else:
            x = relu(convolve_and_norm(conv, norm, x, size, is_train))
            x = max_pool(x, halve(size))
        size = halve(halve(size))
        outputs = []
        for stage in range(self.num_stages):
            x, size = self._stage(stage, x, size, train and self.frozen_stages <= stage)
            if stage in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    @nn.nowrap
    def is_frozen(self, module: str) -> bool:
        """Whether the parameters of a module directly below this one are frozen."""
        if module.startswith('layer'):
            stage = int(module.split('_')[0].removeprefix('layer'))
            return stage <= self.frozen_stages
        return self.frozen_stages >= 0

    def _stage(self, stage, x, size, train):
        planes = 64 * 2**stage
        block, expansion = BasicBlock, 1
        if self.depth not in (18, 34):
            block, expansion = self._bottleneck(stage), 4
        for index in range(BLOCKS[self.depth][stage]):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(
                planes,
                stride,
                downsample=stride != 1 or x.shape[-1] != planes * expansion,
                style=self.style,
                norm_cfg=self.norm_cfg,
                constant_input=stage + (index > 0) <= self.frozen_stages,
                name=f'layer{stage + 1}_{index}',
            )(x, size, train)
            size = size if stride == 1 else halve(size)
        return x, size

    def _bottleneck(self, stage):
        deformable = self.dcn is not None and self.stage_with_dcn[stage]
        return functools.partial(
            Bottleneck,
            groups=self.groups,
            base_width=self.base_width,
            deform_groups=self.dcn['deform_groups'] if deformable else 0,
            is_frozen=stage < self.frozen_stages,
        )
