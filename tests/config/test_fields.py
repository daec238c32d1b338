"""Every field of a config is read, checked and has an effect."""

import copy

import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.config.fields import ADDED
from tests.support.configs import (
    BASE,
    CONFIGS,
    DEFORMABLE,
    LEAVES,
    RESNEXT,
    changed,
    error,
)

# Every field -------------------------------------------------------------------------


@pytest.mark.parametrize('path', CONFIGS)
def test_every_config_is_accepted(path):
    experiment = build_experiment(load_config(path))
    assert set(experiment.data) == {'train', 'val', 'test'}


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_misspelled_field_is_named_with_the_right_one(leaf):
    """In addition to the right one (nothing reads it), and instead of it."""
    wrong = f'{leaf}x'
    message = error({wrong: LEAVES[leaf]})
    assert f"'{wrong}'" in message and f"did you mean '{leaf}'?" in message
    message = error({wrong: LEAVES[leaf]}, remove=[leaf])
    assert f"'{leaf}'" in message and f"'{wrong}'" in message


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf not in ADDED])
def test_a_missing_field_is_named(leaf):
    assert f"'{leaf}" in error({}, remove=[leaf])


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_value_of_a_wrong_type_is_named_with_what_is_accepted(leaf):
    value = LEAVES[leaf]
    is_number = leaf == 'data.train.oversample_thr' or not isinstance(value, str | None)
    wrong = 'wrong' if is_number else 1.5
    message = error({leaf: wrong})
    assert f'config.{leaf} = {wrong!r} is not supported; expected ' in message
    assert len(message.partition('expected ')[2]) > 3


@pytest.mark.parametrize('leaf', LEAVES)
@pytest.mark.parametrize('wrong', [{}, (), [], float('nan')], ids=repr)
def test_empty_and_nan_are_refused(leaf, wrong):
    assert leaf in error({leaf: wrong})


@pytest.mark.parametrize('leaf', LEAVES)
def test_bools_and_numbers_are_not_mixed(leaf):
    value = LEAVES[leaf]
    if isinstance(value, bool):
        assert leaf in error({leaf: int(value)})
    elif isinstance(value, int | float):
        assert leaf in error({leaf: True})


# What a field decides ----------------------------------------------------------------

PIPELINE = {
    'img_scale': (1000, 600),
    'keep_ratio': False,
    'backend': 'pillow',
    'img_norm_cfg.mean': (0.0, 0.0, 0.0),
    'img_norm_cfg.std': (1.0, 1.0, 1.0),
    'img_norm_cfg.to_rgb': False,
}
# Another accepted value of each field; a dict where others must change with it.
ALTERNATIVES = {
    'model.pretrained': None,
    'model.backbone.depth': 101,
    'model.backbone.num_stages': {
        'model.backbone.num_stages': 3,
        'model.backbone.out_indices': (0, 1, 2),
        'model.neck.in_channels': (256, 512, 1024),
    },
    'model.backbone.out_indices': {
        'model.backbone.out_indices': (1, 2, 3),
        'model.neck.in_channels': (512, 1024, 2048),
        'model.neck.start_level': 0,
    },
    'model.backbone.frozen_stages': -1,
    'model.backbone.norm_cfg.type': 'SyncBN',
    'model.backbone.norm_cfg.requires_grad': False,
    'model.backbone.norm_eval': False,
    'model.backbone.style': 'caffe',
    'model.backbone.type': RESNEXT,
    'model.backbone.dcn': DEFORMABLE,
    'model.neck.in_channels': {
        'model.neck.in_channels': (64, 128, 256, 512),
        'model.backbone.depth': 34,
    },
    'model.neck.out_channels': {
        'model.neck.out_channels': 128,
        'model.bbox_head.in_channels': 128,
    },
    'model.neck.start_level': {
        'model.neck.start_level': 0,
        'model.bbox_head.anchor_generator.strides': (4, 8, 16, 32, 64),
    },
    'model.neck.add_extra_convs': 'on_input',
    'model.neck.num_outs': {
        'model.neck.num_outs': 4,
        'model.bbox_head.anchor_generator.strides': (8, 16, 32, 64),
    },
    'data.train.oversample_thr': 0.5,
    'model.bbox_head.num_classes': 3,
    'model.bbox_head.in_channels': {
        'model.neck.out_channels': 64,
        'model.bbox_head.in_channels': 64,
    },
    'model.bbox_head.stacked_convs': 2,
    'model.bbox_head.feat_channels': 128,
    'model.bbox_head.norm_cfg.type': {
        'model.bbox_head.norm_cfg': {'type': 'BN', 'requires_grad': True}
    },
    'model.bbox_head.norm_cfg.num_groups': 16,
    'model.bbox_head.norm_cfg.requires_grad': False,
    'model.bbox_head.pred_kernel_size': 1,
    'model.bbox_head.dcn_on_last_conv': True,
    'model.bbox_head.anchor_generator.ratios': (0.5, 1.0, 2.0),
    'model.bbox_head.anchor_generator.octave_base_scale': 4,
    'model.bbox_head.anchor_generator.scales_per_octave': 3,
    'model.bbox_head.anchor_generator.center_offset': 0.5,
    'model.bbox_head.anchor_generator.strides': {
        'model.neck.num_outs': 3,
        'model.bbox_head.anchor_generator.strides': (8, 16, 32),
    },
    'model.bbox_head.bbox_coder.target_means': (0.1, 0.0, 0.0, 0.0),
    'model.bbox_head.bbox_coder.target_stds': (1.0, 1.0, 1.0, 1.0),
    'model.bbox_head.loss_cls.gamma': 1.5,
    'model.bbox_head.loss_cls.alpha': 0.5,
    'model.bbox_head.loss_cls.loss_weight': 2,
    'model.bbox_head.loss_bbox.type': 'CIoULoss',
    'model.bbox_head.loss_bbox.loss_weight': 1,
    'model.bbox_head.loss_centerness.loss_weight': 0,
    'train_cfg.assigner.topk': 15,
    'train_cfg.allowed_border': 0,
    'train_cfg.pos_weight': 1.5,
    'test_cfg.nms_pre': 100,
    'test_cfg.min_bbox_size': 4,
    'test_cfg.score_thr': 0.3,
    'test_cfg.nms.type': 'soft_nms',
    'test_cfg.with_nms': False,
    'test_cfg.nms.iou_threshold': 0.5,
    'test_cfg.max_per_img': 300,
    'test_cfg.dtype': 'bfloat16',
    'test_cfg.tta': {'test_cfg.tta': {'img_scales': ((1333, 800),), 'flip': False}},
    'data.samples_per_gpu': 4,
    'data.workers_per_gpu': 0,
    'data.max_boxes': 500,
    'data.on_error': 'skip',
    'data.max_bad_pictures': 0,
    'data.reduced_decoding': True,
    'data.canvases': ((800, 1344), (1344, 800), (1088, 1088)),
    'data.train.ann_file': 'other.json',
    'data.train.img_prefix': 'other/',
    'data.train.classes': ('cat', 'dog'),
    'data.train.filter_empty_gt': False,
    'data.train.min_size': 1,
    'data.train.times': 8,
    'data.train.pipeline.flip_ratio': 0,
    'data.train.pipeline.flip_direction': 'vertical',
    **{
        f'data.train.pipeline.{name}': {
            f'data.train.pipeline.{name}': ({'type': 'PhotoMetricDistortion'},)
        }
        for name in ('before_resize', 'after_flip')
    },
    'data.train.pipeline.random_resize': {
        'data.train.pipeline.random_resize': {'ratio_range': (0.1, 2.0)}
    },
    'data.train.pipeline.img_scales': ((1333, 640), (1333, 800)),
    'data.train.pipeline.multiscale_mode': 'value',
    'data.train.pipeline.random_crop': {
        'data.train.pipeline.random_crop': {
            'crop_size': (512, 512),
            'recompute_bbox': False,
            'allow_negative_crop': True,
        }
    },
    'data.train.pipeline.filter_annotations': {
        'data.train.pipeline.filter_annotations': {
            'min_gt_bbox_wh': (1, 1),
            'keep_empty': True,
        }
    },
    'data.val.ann_file': 'other.json',
    'data.val.img_prefix': 'other/',
    'data.val.classes': ('cat', 'dog'),
    'data.test.ann_file': 'other.json',
    'data.test.img_prefix': 'other/',
    'data.test.classes': ('cat', 'dog'),
    'optimizer.type': {
        'optimizer': {
            'type': 'AdamW',
            'lr': 0.01,
            'betas': (0.9, 0.999),
            'eps': 1e-8,
            'weight_decay': 0.0001,
        }
    },
    'optimizer.lr': 0.02,
    'optimizer.momentum': 0,
    'optimizer.weight_decay': 0.001,
    'optimizer_config.grad_clip': {
        'optimizer_config.grad_clip': {'max_norm': 35, 'norm_type': 2}
    },
    'optimizer_config.cumulative_iters': 2,
    'fp16': {'fp16': {'loss_scale': 512}},
    'ema': {'ema': {'momentum': 0.0002}},
    'lr_config.policy': {
        'lr_config': {
            'policy': 'CosineAnnealing',
            'min_lr_ratio': 0.01,
            'warmup': None,
            'warmup_iters': 1,
            'warmup_ratio': 1,
        }
    },
    'lr_config.warmup': None,
    'lr_config.warmup_iters': 1000,
    'lr_config.warmup_ratio': 0.1,
    'lr_config.step': (16, 22),
    'lr_config.gamma': 0.5,
    'auto_scale_lr.enable': True,
    'auto_scale_lr.base_batch_size': 32,
    'total_epochs': 24,
    'early_stopping': {
        'early_stopping': {'metric': 'AP', 'min_delta': 0, 'patience': 3}
    },
    'evaluation.interval': 2,
    'evaluation.num_eval_images': 0,
    'evaluation.save_best': 'AP50',
    'checkpoint_config.interval': 3,
    'checkpoint_config.max_keep_ckpts': 5,
    'log_config.hooks': {'log_config.hooks': ({'type': 'WandbLoggerHook'},)},
    'log_config.interval': 10,
    'load_from': 'weights.pth',
    'resume_from': 'work_dirs/x',
    'seed': 1,
    'parallel': 'shard_map',
}
for split in ('train', 'val', 'test'):
    for name, value in PIPELINE.items():
        ALTERNATIVES[f'data.{split}.pipeline.{name}'] = value
    ALTERNATIVES[f'data.{split}.indices'] = 5
    ALTERNATIVES[f'data.{split}.pipeline.pad.size_divisor'] = {
        f'data.{each}.pipeline.pad.size_divisor': 64
        for each in ('train', 'val', 'test')
    }
    ALTERNATIVES[f'data.{split}.type'] = {
        f'data.{split}': {
            'type': 'ShapesDataset',
            'num_images': 10,
            'seed': 0,
            'min_size': 64,
            'max_size': 128,
            'max_objects': 5,
            'object_size': (0.1, 0.5),
            'min_visible': 0.5,
            'max_rotation': 180,
            'clutter': 0,
            'noise': 0,
            'pipeline': BASE['data'][split]['pipeline'],
            **({'times': 1} if split == 'train' else {}),
        }
    }
# Fields with one accepted value: mmdetection's name for the only thing there is.
FIXED = {
    'model.type',
    'model.neck.type',
    'model.bbox_head.type',
    'model.bbox_head.anchor_generator.type',
    'model.bbox_head.bbox_coder.type',
    'model.bbox_head.loss_cls.type',
    'model.bbox_head.loss_cls.use_sigmoid',
    'model.bbox_head.loss_centerness.type',
    'model.bbox_head.loss_centerness.use_sigmoid',
    'train_cfg.assigner.type',
    'train_cfg.debug',
    'evaluation.metric',
}


def test_every_field_is_in_one_of_the_two_lists():
    assert set(LEAVES) == set(ALTERNATIVES) | FIXED
    assert not set(ALTERNATIVES) & FIXED


@pytest.mark.parametrize('leaf', ALTERNATIVES)
def test_every_field_changes_what_is_built(leaf):
    value = ALTERNATIVES[leaf]
    values = value if isinstance(value, dict) else {leaf: value}
    plain = build_experiment(BASE)
    assert build_experiment(copy.deepcopy(BASE)) == plain
    assert build_experiment(changed(values)) != plain


@pytest.mark.parametrize('leaf', sorted(FIXED))
def test_fields_with_one_value_refuse_any_other(leaf):
    value = LEAVES[leaf]
    other = not value if isinstance(value, bool) else f'{value}2'
    message = error({leaf: other})
    assert message.endswith(f'expected {value!r}')
