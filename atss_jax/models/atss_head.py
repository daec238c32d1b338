"""The ATSS head: two towers shared by all levels, three outputs per cell."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from atss_jax.models.initializers import ONES, ZEROS, Constant, Normal
from atss_jax.models.layers import Conv, ConvModule, gives_zeros
from atss_jax.structures import HeadOutputs

NORMAL = Normal(0.01)
PRIOR_BIAS = Constant(-math.log(99))
"""Every class starts at probability 0.01 (focal loss, arXiv 1708.02002)."""


class Scale(nn.Module):
    """A learnable factor."""

    @nn.compact
    def __call__(self, x: Float[Array, '*any']) -> Float[Array, '*any']:
        """Multiplies in float32 by the factor, which starts at 1."""
        return x * self.param('scale', ONES, ())


class ATSSHead(nn.Module):
    """Class logits, box deltas and centerness for each anchor.

    No `exp` on the box branch: a learnable scale per level gives the deltas.
    Source: arXiv 1912.02424; mmdet `models/dense_heads/atss_head.py`.

    Attributes:
        num_classes: C.
        in_channels: channels of every pyramid level; checked against the features.
        num_anchors: anchors per cell.
        stacked_convs: convolutions in each tower; 0: no towers.
        feat_channels: channels of the towers.
        norm_cfg: norm of the towers.
        pred_kernel_size: side of the kernels after the towers, odd.
        dcn_on_last_conv: the last convolution of each tower is deformable (DCNv2), as
            in the code of the paper's authors; mmdet's FCOS head has this field.
    """

    num_classes: int
    in_channels: int = 256
    num_anchors: int = 1
    stacked_convs: int = 4
    feat_channels: int = 256
    norm_cfg: Mapping[str, Any] = nn.FrozenDict(
        type='GN', num_groups=32, requires_grad=True
    )
    pred_kernel_size: int = 3
    dcn_on_last_conv: bool = False

    @nn.compact
    def __call__(
        self,
        features: tuple[Float[Array, 'B _h _w D'], ...],
        sizes: list[Int[Array, 'B 2']],
        train: bool = False,
    ) -> HeadOutputs:
        """Head outputs of all levels, whose valid sizes are `sizes`."""
        if features[0].shape[-1] != self.in_channels:
            raise ValueError(
                f'model.bbox_head.in_channels = {self.in_channels}, but the neck gives '
                f'{features[0].shape[-1]}'
            )
        towers = {name: self._tower(name) for name in ('cls_convs', 'reg_convs')}
        a = self.num_anchors
        atss_cls = self._output('atss_cls', a * self.num_classes, PRIOR_BIAS)
        atss_reg = self._output('atss_reg', a * 4)
        atss_centerness = self._output('atss_centerness', a)
        levels = []
        for index, (x, size) in enumerate(zip(features, sizes, strict=True)):
            cls_x = reg_x = x
            for cls_conv, reg_conv in zip(*towers.values(), strict=True):
                cls_x = cls_conv(cls_x, size, train)
                reg_x = reg_conv(reg_x, size, train)
            deltas, centerness = atss_reg.together_with(atss_centerness, reg_x, size)
            deltas = Scale(name=f'scales_{index}')(deltas)
            levels.append((atss_cls(cls_x, size), deltas, centerness))
        return HeadOutputs(*(tuple(output) for output in zip(*levels, strict=True)))

    def _tower(self, name):
        return [
            ConvModule(
                self.feat_channels,
                norm_cfg=self.norm_cfg,
                kernel_init=NORMAL,
                deformable=self.dcn_on_last_conv and i == self.stacked_convs - 1,
                has_zeros_on_gpus=self._reads_zeros(i),
                name=f'{name}_{i}',
            )
            for i in range(self.stacked_convs)
        ]

    def _output(self, name, features, bias_init=ZEROS):
        # Near the prior of -4.6, bfloat16 has steps of 0.03: too coarse for a logit.
        return Conv(
            features,
            self.pred_kernel_size,
            kernel_init=NORMAL,
            bias_init=bias_init,
            float32_output=True,
            has_zeros_on_gpus=self._reads_zeros(self.stacked_convs),
            name=name,
        )

    def _reads_zeros(self, place):
        """Whether the layer at a place of a tower has zeros outside already."""
        return place > 0 and gives_zeros(self.norm_cfg)
