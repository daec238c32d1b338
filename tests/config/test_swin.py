"""Configs with a Swin Transformer: fields, contradictions, pretrained weights."""

import pytest

from atss_jax.config import as_dict, build_experiment, load_config
from atss_jax.models.detector import parameter_count
from atss_jax.models.swin import SwinTransformer
from tests.support.configs import changed, error

SWIN_L = as_dict(load_config('atss_swin_l_dyhead_2x_ms'))['model']


def detector(**fields):
    """Changes of the R50 config that make it a Swin-L with DyHead."""
    return {
        'model.backbone': {**SWIN_L['backbone'], **fields},
        'model.neck': SWIN_L['neck'],
        'model.bbox_head.stacked_convs': 0,
        'model.bbox_head.pred_kernel_size': 1,
        'model.bbox_head.anchor_generator.center_offset': 0.5,
        **{
            f'data.{split}.pipeline.pad.size_divisor': 128
            for split in ('train', 'val', 'test')
        },
    }


def test_swin_l_has_as_many_parameters_as_mmdets():
    model = build_experiment(changed(detector())).model
    assert model.size_divisor == 128
    assert parameter_count(model) == 210_361_014


@pytest.mark.parametrize(
    'field, value',
    [
        ('pretrain_img_size', (256, 384)),
        ('depths', (2, 2, 6, 2)),
        ('num_heads', (3, 6, 12, 24)),
        ('window_size', 7),
        ('mlp_ratio', 2),
        ('qkv_bias', False),
        ('qk_scale', 0.25),
        ('drop_rate', 0.1),
        ('attn_drop_rate', 0.1),
        ('drop_path_rate', 0.3),
        ('patch_norm', False),
        ('use_abs_pos_embed', True),
        ('frozen_stages', 2),
        ('with_cp', True),
        ('convert_weights', False),
    ],
)
def test_every_field_changes_the_backbone(field, value):
    backbone = build_experiment(changed(detector(**{field: value}))).model.backbone
    assert isinstance(backbone, SwinTransformer)
    assert getattr(backbone, field) == value


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('num_heads', (6, 12, 24), 'depths has 4 stages'),
        ('num_heads', (6, 12, 24, 5), '5 does not divide 1536 channels'),
        ('depths', (2,) * 5, 'at most 4 stages'),
        ('out_indices', (1, 3), 'consecutive stages'),
        ('frozen_stages', 5, 'is not supported'),
        ('drop_path_rate', 1.0, 'at least 0 and below 1'),
        ('window_size', 0, 'an integer of at least 1'),
        ('pretrain_img_size', '224', 'a number of pixels'),
        ('pretrain_img_size', (1, 2, 3), 'a number of pixels'),
        ('embed_dims', 96, 'the backbone has (192, 384, 768)'),
        ('norm_cfg', None, "field 'model.backbone.norm_cfg' that nothing reads"),
    ],
)
def test_contradictions(field, value, message):
    assert message in error(detector(**{field: value}))


# Pretrained weights ------------------------------------------------------------------

CHECKPOINT = {'type': 'Pretrained', 'checkpoint': 'https://x.org/swin.pth'}


def test_init_cfg_or_pretrained():
    values = {**detector(init_cfg=CHECKPOINT), 'model.pretrained': None}
    built = build_experiment(changed(values))
    assert built.pretrained == 'https://x.org/swin.pth'
    assert built.pretrained_field == 'model.backbone.init_cfg.checkpoint'
    values = {**detector(init_cfg=None), 'model.pretrained': 'a.pth'}
    built = build_experiment(changed(values))
    assert (built.pretrained, built.pretrained_field) == ('a.pth', 'model.pretrained')
    assert 'init_cfg gives weights, too' in error(detector(init_cfg=CHECKPOINT))
    wrong = {**CHECKPOINT, 'type': 'Kaiming'}
    assert "'Pretrained'" in error(
        detector(init_cfg=wrong) | {'model.pretrained': None}
    )
