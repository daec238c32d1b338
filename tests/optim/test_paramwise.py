"""Factors on learning rate and decay: mmengine's for Swin-L, and each rule by hand."""

import json

import pytest

from atss_jax.optim.paramwise import (
    Multipliers,
    ParamwiseConfig,
    multipliers,
    unused_settings,
)
from tests.conftest import GOLDEN

NO_DECAY = Multipliers(decay_mult=0.0)


def test_swin_l_equals_mmengine_parameter_by_parameter():
    """The config of atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco."""
    file = GOLDEN / 'swin' / 'swin_l_groups.json'
    groups = json.loads(file.read_text())['groups']
    keys = ('absolute_pos_embed', 'relative_position_bias_table', 'norm')
    config = ParamwiseConfig(tuple((key, NO_DECAY) for key in keys))
    factors = multipliers(dict.fromkeys(groups, 2), config)
    assert {
        name: [5e-5 * each.lr_mult, 0.05 * each.decay_mult]
        for name, each in factors.items()
    } == groups
    assert len({tuple(settings) for settings in groups.values()}) == 2


AXES = {
    'backbone.layer1.0.conv1.weight': 4,
    'backbone.layer1.0.bn1.weight': 1,
    'backbone.layer1.0.bn1.bias': 1,
    'backbone.layer2.0.conv2.conv_offset.weight': 4,
    'backbone.layer2.0.conv2.conv_offset.bias': 1,
    'neck.1.dyhead_blocks.0.spatial_conv_offset.bias': 1,
    'neck.1.dyhead_blocks.0.spatial_conv_offset.weight': 4,
    'bbox_head.atss_cls.weight': 4,
    'bbox_head.atss_cls.bias': 1,
    'bbox_head.scales.0.scale': 0,
}
CONV, NORM, NORM_BIAS, OFFSET, OFFSET_BIAS, DYHEAD_BIAS, *_ = AXES
BIAS = 'bbox_head.atss_cls.bias'


@pytest.mark.parametrize(
    ('rules', 'expected'),
    [
        ({'norm_decay_mult': 0.0}, {NORM: (1, 0), NORM_BIAS: (1, 0)}),
        (
            {'bias_decay_mult': 0.5},
            {NORM_BIAS: (1, 0.5), DYHEAD_BIAS: (1, 0.5), BIAS: (1, 0.5)},
        ),
        (
            {'bias_decay_mult': 0.5, 'norm_decay_mult': 1.0},
            {DYHEAD_BIAS: (1, 0.5), BIAS: (1, 0.5)},
        ),
        ({'bias_lr_mult': 2.0}, {DYHEAD_BIAS: (2, 1), BIAS: (2, 1)}),
        ({'dcn_offset_lr_mult': 0.1}, {OFFSET: (0.1, 1), OFFSET_BIAS: (0.1, 1)}),
        (
            {'flat_decay_mult': 0.0},
            {NORM: (1, 0), NORM_BIAS: (1, 0), DYHEAD_BIAS: (1, 0), BIAS: (1, 0)},
        ),
        (
            {'custom_keys': (('bn1', Multipliers(3.0)),), 'norm_decay_mult': 0.0},
            {NORM: (3, 1), NORM_BIAS: (3, 1)},
        ),
    ],
)
def test_rules_by_hand(rules, expected):
    found = multipliers(AXES, ParamwiseConfig(**rules))
    assert {name: x for name, x in found.items() if x != (1, 1)} == expected
    assert list(found) == list(AXES)


def test_the_longest_key_wins_then_the_first_in_the_alphabet():
    keys = {'backbone': 0.1, 'layer1': 0.2, 'layer1.0': 0.3, 'backbone.layer1': 0.4}
    keys |= {'bn1.': 0.5, 'nv1.': 0.6, 'conv': 0.7}
    config = ParamwiseConfig(tuple((key, Multipliers(x)) for key, x in keys.items()))
    found = multipliers(AXES, config)
    assert found[CONV].lr_mult == 0.4 and found[OFFSET].lr_mult == 0.1
    assert found['bbox_head.atss_cls.weight'].lr_mult == 1
    same = ParamwiseConfig((('yer', Multipliers(2.0)), ('lay', Multipliers(3.0))))
    assert multipliers(AXES, same)[CONV].lr_mult == 3
    assert config.lr_mults == {1.0, *keys.values()}


def test_settings_that_apply_to_no_parameter():
    keys = ('bn1', 'layer1', 'bn3', 'atss_cls.bias', 'Layer1')
    config = ParamwiseConfig(
        tuple((key, Multipliers(2.0)) for key in keys), dcn_offset_lr_mult=0.1
    )
    assert unused_settings(AXES, config) == ['custom_keys.bn3', 'custom_keys.Layer1']
    without_offsets = [name for name in AXES if '.conv_offset.' not in name]
    assert unused_settings(without_offsets, config)[2:] == ['dcn_offset_lr_mult']
    assert unused_settings(AXES, ParamwiseConfig()) == []
    assert unused_settings(without_offsets, ParamwiseConfig(norm_decay_mult=0.0)) == []
