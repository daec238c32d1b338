"""The ATSS head: two towers shared by all levels, three outputs per cell."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.models.initializers import ONES, ZEROS, Constant, Normal
from atss_jax.models.layers import Conv, ConvModule, convolve_valid
from atss_jax.models.norms import GroupNorm
from atss_jax.models.towers import LayerWeights, Tower, apply_towers
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


class TowerLayer(nn.Module):
    """The parameters of a ConvModule with group norm, by the same names.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, channels: int) -> LayerWeights:
        """Those of a 3x3 convolution of `channels`."""
        conv = Conv(self.features, use_bias=False, kernel_init=NORMAL, name='conv')
        scale, bias = GroupNorm(name='gn').weights(self.features)
        return LayerWeights(conv.weights(channels)[0], scale, bias)


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
        a = self.num_anchors
        atss_cls = self._output('atss_cls', a * self.num_classes, PRIOR_BIAS)
        atss_reg = self._output('atss_reg', a * 4)
        atss_centerness = self._output('atss_centerness', a)
        channels = self.feat_channels if self.stacked_convs else self.in_channels
        kernels, biases = zip(
            *(conv.weights(channels) for conv in (atss_cls, atss_reg, atss_centerness)),
            strict=True,
        )
        # For a few features two convolutions are a lot slower than one of both.
        outputs = kernels[0], jnp.concatenate(kernels[1:], -1)
        logits, regression = self._towers(features, sizes, outputs, train)
        levels = []
        for index, (y, z) in enumerate(zip(logits, regression, strict=True)):
            parts = y, *jnp.split(z, [4 * a], -1)
            # In float32: the gradient is a sum over all cells, which bfloat16 loses.
            # And near the prior of -4.6 its steps of 0.03 are too coarse for a logit.
            cls, deltas, centerness = (
                part + bias for part, bias in zip(parts, biases, strict=True)
            )
            deltas = Scale(name=f'scales_{index}')(deltas)
            levels.append((cls, deltas, centerness))
        return HeadOutputs(*(tuple(output) for output in zip(*levels, strict=True)))

    def _towers(self, features, sizes, outputs, train):
        """Both towers and the convolutions after them, whose kernels are `outputs`."""
        names = 'cls_convs', 'reg_convs'
        if self.norm_cfg['type'] == 'GN' and not self.dcn_on_last_conv:
            towers = {
                name: Tower(self._layers(name), kernel)
                for name, kernel in zip(names, outputs, strict=True)
            }
            num_groups = self.norm_cfg['num_groups']
            results = apply_towers(features, sizes, towers, num_groups)
            return [results[name] for name in names]
        results = []
        for name, kernel in zip(names, outputs, strict=True):
            tower, levels = self._tower(name), []
            for x, size in zip(features, sizes, strict=True):
                for conv in tower:
                    x = conv(x, size, train)
                levels.append(convolve_valid(x, size, kernel, 1))
            results.append(levels)
        return results

    def _layers(self, name):
        channels = [self.in_channels, *[self.feat_channels] * self.stacked_convs]
        return [
            TowerLayer(self.feat_channels, name=f'{name}_{i}')(channels[i])
            for i in range(self.stacked_convs)
        ]

    def _tower(self, name):
        return [
            ConvModule(
                self.feat_channels,
                norm_cfg=self.norm_cfg,
                kernel_init=NORMAL,
                deformable=self.dcn_on_last_conv and i == self.stacked_convs - 1,
                name=f'{name}_{i}',
            )
            for i in range(self.stacked_convs)
        ]

    def _output(self, name, features, bias_init=ZEROS):
        return Conv(
            features,
            self.pred_kernel_size,
            kernel_init=NORMAL,
            bias_init=bias_init,
            name=name,
        )
