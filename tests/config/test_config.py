"""Configs: every field is read, every mistake is named, every field does something."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from atss_jax.config import (
    as_dict,
    build_experiment,
    build_model,
    load_config,
    parse_overrides,
    to_json,
)
from atss_jax.config.sections import closest, flatten
from tests.conftest import ROOT

CONFIGS = sorted(str(p) for p in (ROOT / 'configs').glob('*.py') if p.stem[0] != '_')
R50 = str(ROOT / 'configs' / 'atss_r50_1x.py')
BASE = as_dict(load_config(R50))
LEAVES = flatten(BASE)


def changed(values, remove=()):
    """The R50 config with some leaves set to other values, or removed."""
    config = copy.deepcopy(BASE)
    for path, value in values.items():
        *parents, name = path.split('.')
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    for path in remove:
        *parents, name = path.split('.')
        section = config
        for parent in parents:
            section = section[parent]
        del section[name]
    return config


def error(values, remove=()):
    with pytest.raises(ValueError) as caught:
        build_experiment(changed(values, remove))
    return str(caught.value)


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


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_missing_field_is_named(leaf):
    assert f"'{leaf}" in error({}, remove=[leaf])


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_value_of_a_wrong_type_is_named_with_what_is_accepted(leaf):
    value = LEAVES[leaf]
    wrong = 1.5 if value is None or isinstance(value, str) else 'wrong'
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
    'img_norm_cfg.mean': (0.0, 0.0, 0.0),
    'img_norm_cfg.std': (1.0, 1.0, 1.0),
    'img_norm_cfg.to_rgb': False,
}
DCN = {'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}
DYHEAD = {
    'type': 'DyHead',
    'in_channels': 256,
    'out_channels': 256,
    'num_blocks': 6,
    'zero_init_offset': True,
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
    'model.backbone.type': {
        'model.backbone.type': 'ResNeXt',
        'model.backbone.groups': 32,
        'model.backbone.base_width': 8,
    },
    'model.backbone.dcn': {
        'model.backbone.dcn': DCN,
        'model.backbone.stage_with_dcn': (False, False, True, True),
    },
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
    'test_cfg.nms.iou_threshold': 0.5,
    'test_cfg.max_per_img': 300,
    'test_cfg.tta': {'test_cfg.tta': {'img_scales': ((1333, 800),), 'flip': False}},
    'data.samples_per_gpu': 4,
    'data.workers_per_gpu': 0,
    'data.max_boxes': 500,
    'data.on_error': 'skip',
    'data.max_bad_pictures': 0,
    'data.canvases': ((800, 1344), (1344, 800), (1088, 1088)),
    'data.train.ann_file': 'other.json',
    'data.train.img_prefix': 'other/',
    'data.train.classes': ('cat', 'dog'),
    'data.train.filter_empty_gt': False,
    'data.train.min_size': 1,
    'data.train.times': 8,
    'data.train.pipeline.flip_ratio': 0,
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
    'evaluation.interval': 2,
    'checkpoint_config.interval': 3,
    'checkpoint_config.max_keep_ckpts': 5,
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
    'test_cfg.nms.type',
    'optimizer.type',
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


def with_sections(changes=None):
    """Changes that make every optional section of the model, then `changes`."""
    values = {
        **ALTERNATIVES['model.backbone.type'],
        **ALTERNATIVES['model.backbone.dcn'],
        'model.neck': (BASE['model']['neck'], DYHEAD),
    }
    config = changed(values)
    for path, value in (changes or {}).items():
        *parents, name = path.split('.')
        section = config['model'] = copy.deepcopy(config['model'])
        for parent in parents[1:]:
            section = section[int(parent) if parent.isdigit() else parent]
        section[name] = value
    return config


@pytest.mark.parametrize(
    'path, value, others',
    [
        ('model.backbone.groups', 64, {}),
        ('model.backbone.base_width', 4, {}),
        ('model.backbone.dcn.deform_groups', 4, {}),
        ('model.backbone.stage_with_dcn', (False, True, True, True), {}),
        ('model.neck.0.add_extra_convs', 'on_input', {}),
        ('model.neck.1.num_blocks', 2, {}),
        ('model.neck.1.zero_init_offset', False, {}),
        ('model.neck.1.out_channels', 128, {'model.bbox_head.in_channels': 128}),
        (
            'model.neck.1.in_channels',
            64,
            {'model.neck.0.out_channels': 64},
        ),
    ],
)
def test_fields_of_optional_sections_change_what_is_built(path, value, others):
    plain = build_experiment(with_sections())
    assert build_experiment(with_sections({path: value, **others})) != plain
    with pytest.raises(ValueError, match=f'config.{path} = .*expected'):
        build_experiment(with_sections({path: 'wrong'}))


@pytest.mark.parametrize(
    'changes, path, expected',
    [
        ({'model.neck.1.in_channels': 64}, 'model.neck.1.in_channels', '256'),
        ({'model.neck.1.out_channels': 8}, 'model.neck.1.out_channels', '16 groups'),
        ({'model.neck.1.out_channels': 64}, 'model.bbox_head.in_channels', '64'),
        ({'model.backbone.depth': 18}, 'model.backbone.depth', '50'),
        ({'model.backbone.groups': 1}, 'model.backbone.groups', 'at least 2'),
        ({'model.backbone.dcn.type': 'DCN'}, 'model.backbone.dcn.type', 'DCNv2'),
        (
            {'model.backbone.dcn.fallback_on_stride': True},
            'model.backbone.dcn.fallback_on_stride',
            'False',
        ),
        (
            {'model.backbone.dcn.deform_groups': 3},
            'model.backbone.dcn.deform_groups',
            'does not divide 1024',
        ),
        (
            {'model.backbone.stage_with_dcn': (True, True)},
            'model.backbone.stage_with_dcn',
            'a tuple of 4',
        ),
        (
            {'model.backbone.stage_with_dcn': (False,) * 4},
            'model.backbone.stage_with_dcn',
            'no stage',
        ),
        (
            {'model.bbox_head.stacked_convs': 0, 'model.bbox_head.feat_channels': 64},
            'model.bbox_head.feat_channels',
            'in_channels 256',
        ),
        (
            {
                'model.bbox_head.stacked_convs': 0,
                'model.bbox_head.dcn_on_last_conv': True,
            },
            'model.bbox_head.dcn_on_last_conv',
            'stacked_convs is 0',
        ),
        (
            {'model.bbox_head.pred_kernel_size': 2},
            'model.bbox_head.pred_kernel_size',
            'odd',
        ),
        (
            {'model.bbox_head.anchor_generator.center_offset': 2},
            'model.bbox_head.anchor_generator.center_offset',
            'from 0 to 1',
        ),
    ],
)
def test_contradictions_in_optional_sections_are_named(changes, path, expected):
    with pytest.raises(ValueError) as caught:
        build_experiment(with_sections(changes))
    message = str(caught.value)
    assert f'config.{path} = ' in message and expected in message


def test_stages_without_a_deformable_convolution_are_refused():
    values = {'model.backbone.stage_with_dcn': (False, True, True, True)}
    assert "'model.backbone.stage_with_dcn' that nothing reads" in error(values)
    values = {'model.backbone.dcn': DCN, 'model.backbone.depth': 18}
    assert 'stage_with_dcn' in error(values)


def test_two_necks_by_override_and_from_text(tmp_path):
    necks = (BASE['model']['neck'], DYHEAD)
    config = load_config(R50, {'model.neck': necks, 'model.neck.1.num_blocks': 2})
    neck = build_model(config).neck
    assert neck[1].num_blocks == 2 and neck[0] == build_model(BASE).neck
    file = tmp_path / 'config.json'
    file.write_text(to_json(config))
    assert build_experiment(load_config(str(file))) == build_experiment(config)
    for path in ('model.neck.2.num_blocks', 'model.neck.x.num_blocks', 'model.neck.1'):
        with pytest.raises(ValueError, match=f"no section for '{path}'"):
            load_config(R50, {'model.neck': necks, path: 2})
    with pytest.raises(ValueError, match=r'model\.neck\.1\.type'):
        load_config(R50, {'model.neck': necks[:1]})
    with pytest.raises(ValueError, match=r'model\.neck\.2\.\w+. that nothing reads'):
        load_config(R50, {'model.neck': (*necks, DYHEAD)})


# Contradictions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'values, path, expected',
    [
        (
            {'model.neck.in_channels': (256, 512, 1024, 1024)},
            'model.neck.in_channels',
            '(256, 512, 1024, 2048)',
        ),
        ({'model.backbone.depth': 18}, 'model.neck.in_channels', '(64, 128, 256, 512)'),
        ({'model.bbox_head.in_channels': 128}, 'model.bbox_head.in_channels', '256'),
        (
            {'model.bbox_head.anchor_generator.strides': (4, 8, 16, 32, 64)},
            'model.bbox_head.anchor_generator.strides',
            '(8, 16, 32, 64, 128)',
        ),
        (
            {'model.bbox_head.anchor_generator.strides': (8, 16, 32)},
            'model.bbox_head.anchor_generator.strides',
            '(8, 16, 32, 64, 128)',
        ),
        ({'model.neck.start_level': 4}, 'model.neck.start_level', '4 inputs'),
        ({'model.neck.num_outs': 2}, 'model.neck.start_level', '2 outputs'),
        (
            {'model.bbox_head.norm_cfg.num_groups': 48},
            'model.bbox_head.norm_cfg.num_groups',
            '256 channels',
        ),
        ({'model.backbone.out_indices': (0, 2, 3)}, 'model.backbone.out_indices', ''),
        ({'model.backbone.num_stages': 3}, 'model.backbone.out_indices', '2'),
        ({'data.canvases': ((800, 1333),)}, 'data.canvases', '32'),
        (
            {'data.val.pipeline.pad.size_divisor': 64},
            'data.val.pipeline.pad.size_divisor',
            '32',
        ),
        (
            {'data.train.pipeline.img_scales': ((1333, 640),)},
            'data.train.pipeline.img_scales',
            'expected two scales',
        ),
        (
            {
                'data.train.pipeline.img_scales': ((1333, 640), (1333, 800)),
                'data.train.pipeline.random_resize': {'ratio_range': (1, 2)},
            },
            'data.train.pipeline.img_scales',
            'random_resize',
        ),
        (
            {'data.train.pipeline.random_resize': {'ratio_range': (2, 1)}},
            'data.train.pipeline.random_resize.ratio_range',
            'smaller ratio first',
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_contradictions_are_named(values, path, expected):
    message = error(values)
    assert f'config.{path} = ' in message and expected in message


@pytest.mark.parametrize(
    'leaf, value',
    [
        ('optimizer.lr', 0),
        ('optimizer.lr', float('inf')),
        ('optimizer.momentum', -0.1),
        ('total_epochs', 1.5),
        ('total_epochs', 0),
        ('model.backbone.depth', 77),
        ('model.bbox_head.bbox_coder.target_stds', (0.1, 0.1, 0.2)),
        ('model.bbox_head.bbox_coder.target_stds', (0.1, 0.1, 0.2, 0)),
        ('data.train.pipeline.img_scale', (1333,)),
        ('data.train.pipeline.img_norm_cfg.std', (1, 1, '1')),
        ('data.canvases', (800, 1344)),
        ('model.neck.add_extra_convs', 'on_top'),
        ('optimizer_config.grad_clip', 'hard'),
        ('data.train.pipeline.flip_ratio', 1.5),
        ('model.bbox_head.loss_cls.alpha', 1.5),
        ('data.train.times', 0),
        ('data.train.pipeline.img_scales', (1333, 800)),
        ('data.train.pipeline.multiscale_mode', 'both'),
        ('optimizer_config.cumulative_iters', 0),
    ],
)
def test_values_out_of_range_are_refused(leaf, value):
    assert f'config.{leaf} = {value!r} is not supported; expected' in error(
        {leaf: value}
    )


@pytest.mark.parametrize(
    'section, leaf, value',
    [
        ({'fp16': {'loss_scale': 0}}, 'fp16.loss_scale', 0),
        ({'fp16': {'loss_scale': 'static'}}, 'fp16.loss_scale', 'static'),
        ({'ema': {'momentum': 0}}, 'ema.momentum', 0),
        ({'ema': {'momentum': 1}}, 'ema.momentum', 1),
    ],
)
def test_values_out_of_range_in_optional_sections(section, leaf, value):
    assert f'config.{leaf} = {value!r} is not supported; expected' in error(section)


def test_lists_are_as_good_as_tuples():
    listed = json.loads(to_json(BASE))
    assert isinstance(listed['model']['neck']['in_channels'], list)
    assert build_experiment(listed) == build_experiment(BASE)


# Files, overrides, text --------------------------------------------------------------


def test_overrides_change_one_field():
    config = load_config(R50, {'model.bbox_head.num_classes': 3})
    assert config.model.bbox_head.num_classes == 3
    expected = changed({'model.bbox_head.num_classes': 3})
    assert as_dict(config) == expected
    assert build_model(config).bbox_head.num_classes == 3


def test_override_of_a_section_replaces_it():
    clip = {'max_norm': 10, 'norm_type': 2}
    config = load_config(R50, {'optimizer_config.grad_clip': clip})
    assert build_experiment(config).optimizer.max_norm == 10
    norm_cfg = {'type': 'BN', 'requires_grad': True}
    config = load_config(R50, {'model.bbox_head.norm_cfg': norm_cfg})
    assert as_dict(config)['model']['bbox_head']['norm_cfg'] == norm_cfg


def test_override_touches_no_other_split():
    """The file builds three splits from one function; none may share a dict."""
    config = load_config(R50, {'data.val.pipeline.img_scale': (512, 512)})
    assert config.data.test.pipeline.img_scale == (1333, 800)
    assert config.data.train.pipeline.img_scale == (1333, 800)


@pytest.mark.parametrize(
    'overrides, expected',
    [
        ({'optimiser.lr': 1}, "did you mean 'optimizer.lr'?"),
        ({'optimizer.learning_rate': 1}, "'optimizer.learning_rate'"),
        ({'optimizer': 1}, "'optimizer' is a section"),
        ({'optimizer.lr.x': 1}, "'optimizer.lr.x'"),
        ({'model.neck.num_out': 5}, "did you mean 'model.neck.num_outs'?"),
        ({'optimizer.lr': 'fast'}, "config.optimizer.lr = 'fast'"),
    ],
)
def test_wrong_overrides_are_refused(overrides, expected):
    with pytest.raises(ValueError) as caught:
        load_config(R50, overrides)
    assert expected in str(caught.value)


def test_json_round_trip(tmp_path):
    config = load_config(R50, {'optimizer.lr': 0.005, 'data.canvases': ((64, 96),)})
    file = tmp_path / 'config.json'
    file.write_text(to_json(config))
    again = load_config(str(file))
    assert build_experiment(again) == build_experiment(config)
    assert to_json(again) == to_json(config)


def test_equal_configs_give_equal_text():
    backwards = {name: BASE[name] for name in reversed(BASE)}
    assert to_json(backwards) == to_json(BASE) == to_json(ConfigDict(BASE))


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match=r'no config file at .*/missing\.py'):
        load_config(tmp_path / 'missing.py')


def test_file_without_get_config(tmp_path):
    file = tmp_path / 'empty.py'
    file.write_text('x = 1\n')
    with pytest.raises(ValueError, match='get_config'):
        load_config(str(file))


# Shipped configs, and configs that build on others ------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A current folder without importable `configs`, as after pip install."""
    paths = [
        path for path in sys.path if path and not (Path(path) / 'configs').exists()
    ]
    monkeypatch.setattr(sys, 'path', paths)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(path, imports, lr):
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'{imports} as base\n\n\ndef get_config():\n'
        f'    config = base.get_config()\n    config.optimizer.lr = {lr}\n'
        '    return config\n'
    )
    return path


@pytest.mark.parametrize('path', CONFIGS)
def test_a_shipped_config_by_name(path, elsewhere):
    assert to_json(load_config(Path(path).stem)) == to_json(load_config(path))


def test_an_unknown_name_lists_the_shipped_configs(elsewhere):
    for unknown in ('atss_shape', 'atss_shape.py', 'configs/atss_shape.py'):
        with pytest.raises(ValueError) as caught:
            load_config(unknown)
        message = str(caught.value)
        assert f'no config file at {unknown}' in message
        assert all(Path(path).stem in message for path in CONFIGS)
        assert message.endswith("did you mean 'atss_shapes'?")
    with pytest.raises(ValueError) as caught:
        load_config('zzz')
    assert 'did you mean' not in str(caught.value)


def test_a_file_is_not_mistaken_for_a_name(elsewhere):
    write_config(
        elsewhere / 'atss_shapes.py', 'from atss_jax.configs import atss_shapes', 0.5
    )
    assert load_config('atss_shapes.py').optimizer.lr == 0.5
    assert load_config('atss_shapes').optimizer.lr == 0.04


@pytest.mark.parametrize('folder', ['.', 'configs', 'experiments'])
@pytest.mark.parametrize(
    'imports',
    [
        'from atss_jax.configs import atss_r50_1x',
        'from configs import atss_r50_1x',
        'import atss_jax.configs.atss_r50_1x',
        'import configs.atss_r50_1x',
    ],
)
def test_a_config_of_any_folder_builds_on_a_shipped_one(elsewhere, folder, imports):
    file = write_config(elsewhere / folder / 'mine.py', imports, 0.5)
    expected = changed({'optimizer.lr': 0.5})
    assert as_dict(load_config(file)) == expected
    assert as_dict(load_config(file.relative_to(elsewhere))) == expected


def test_a_config_builds_on_another_in_its_folder(elsewhere):
    for folder in ('configs', 'experiments'):
        base = elsewhere / folder / 'base.py'
        write_config(base, 'from atss_jax.configs import atss_r50_1x', 0.5)
        file = write_config(
            base.with_name('mine.py'), f'from {folder} import base', 0.5
        )
        file.write_text(file.read_text().replace('optimizer.lr', 'optimizer.momentum'))
        optimizer = load_config(file).optimizer
        assert (optimizer.lr, optimizer.momentum) == (0.5, 0.5)


def test_configs_that_are_built_on_are_read_anew_each_time(elsewhere):
    file = write_config(
        elsewhere / 'configs' / 'mine.py', 'from configs import base', 1
    )
    file.write_text(file.read_text().replace('optimizer.lr', 'total_epochs'))
    for lr in (0.5, 0.25):
        base, imports = file.with_name('base.py'), 'from configs import atss_r50_1x'
        write_config(elsewhere / 'configs' / f'base_{lr}.py', imports, lr).rename(base)
        assert load_config(file).optimizer.lr == lr


def test_modules_called_configs_stay_as_they_were(elsewhere):
    before = {name for name in sys.modules if name.startswith('configs')}
    path = list(sys.path)
    load_config(
        write_config(elsewhere / 'mine.py', 'from configs import atss_r50_1x', 1)
    )
    assert {name for name in sys.modules if name.startswith('configs')} == before
    assert sys.path == path


@pytest.mark.parametrize('package', ['configs', 'atss_jax.configs'])
@pytest.mark.parametrize('form', ['from {} import atss_r50_1', 'import {}.atss_r50_1'])
def test_an_import_of_an_unknown_config_says_what_to_write(elsewhere, package, form):
    file = write_config(elsewhere / 'mine.py', form.format(package), 1)
    with pytest.raises(ValueError) as caught:
        load_config(file)
    message = str(caught.value)
    assert str(file) in message and 'from atss_jax.configs import NAME' in message
    assert 'atss_r101_lsj_200e' in message


INSTALLED = """
import sys
from atss_jax.commands.import_mmdet import read_config
from atss_jax.config import load_config, shipped_configs

assert 'site-packages' in str(shipped_configs()['atss_r50_1x'])
assert load_config('atss_shapes').optimizer.lr == 0.04
assert load_config('mine.py').optimizer.lr == 0.5
assert read_config(sys.argv[1])[0].data.max_boxes == 100
"""


def test_as_installed(tmp_path):
    """The wheel has the configs inside the package, and nothing of the checkout."""
    site = tmp_path / 'site-packages'
    shutil.copytree(ROOT / 'atss_jax', site / 'atss_jax')
    shutil.copytree(ROOT / 'configs', site / 'atss_jax/configs', dirs_exist_ok=True)
    folder = tmp_path / 'empty'
    write_config(folder / 'mine.py', 'from configs import atss_r101_1x', 0.5)
    mmdet_config = ROOT / 'tests' / 'mmdet_configs' / 'v3_r50.py'
    subprocess.run(
        [sys.executable, '-c', INSTALLED, mmdet_config],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(site)},
        check=True,
    )


def test_other_failing_imports_are_left_alone(elsewhere):
    file = write_config(elsewhere / 'mine.py', 'import no_such_module', 1)
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        load_config(file)


def test_parse_overrides():
    assert parse_overrides(
        [
            '--config.optimizer.lr=0.02',
            '--config.load_from=work_dirs/x=y.pth',
            '--config.pretrained=None',
            '--config.data.canvases=((64, 96), (96, 64))',
            '--config.model.neck.add_extra_convs=True',
            '--config.a.b={"c": 1}',
            "--config.name='1'",
        ]
    ) == {
        'optimizer.lr': 0.02,
        'load_from': 'work_dirs/x=y.pth',
        'pretrained': None,
        'data.canvases': ((64, 96), (96, 64)),
        'model.neck.add_extra_convs': True,
        'a.b': {'c': 1},
        'name': '1',
    }


@pytest.mark.parametrize('argument', ['--lr=1', '--config.lr', 'config.lr=1', '-x'])
def test_parse_overrides_refuses_other_arguments(argument):
    with pytest.raises(ValueError) as caught:
        parse_overrides([argument])
    assert argument in str(caught.value) and '--config.FIELD=VALUE' in str(caught.value)


@pytest.mark.parametrize('kind', ['ShapesDataset', 'TFDSDataset'])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_another_type_without_its_fields(kind, split):
    """Nothing is misspelled, so nothing is guessed."""
    message = error({f'data.{split}.type': kind})
    assert f"config has no field 'data.{split}." in message
    assert 'misspelled' not in message and 'did you mean' not in message
    assert f'config.data.{split}.type = {kind!r}' in message
    assert f'--config.data.{split}="{{' in message


def test_fields_left_of_another_type():
    shapes = {'type': 'ShapesDataset', 'num_images': 5, 'seed': 0, 'max_size': 96}
    shapes |= {'min_size': 96, 'max_objects': 3, 'object_size': (0.3, 0.6)}
    shapes |= {'min_visible': 0.6, 'max_rotation': 30, 'clutter': 1, 'noise': 8}
    message = error({f'data.train.{name}': value for name, value in shapes.items()})
    assert "'data.train.ann_file' that nothing reads; did" not in message
    assert "config.data.train.type = 'ShapesDataset'" in message


def test_closest_prefers_the_same_section():
    known = ['optimizer.lr', 'model.lrs', 'data.train.type', 'data.val.type']
    assert closest('optimizer.lrr', known) == "; did you mean 'optimizer.lr'?"
    assert closest('data.val.typ', known) == "; did you mean 'data.val.type'?"
    assert closest('something.else.entirely', known) == ''
    assert closest('data.type', known) == "; did you mean 'data.val.type'?"
    assert closest('data.train.noise', known) == ''


@pytest.mark.parametrize(
    'overrides, part',
    [
        ({'seed': float('inf')}, 'config.seed'),
        ({'seed': 2**63}, 'config.seed'),
        ({'optimizer.momentum': 1.5}, 'config.optimizer.momentum'),
        ({'model.backbone.num_stages': 3}, 'config.model.backbone.out_indices'),
        (
            {
                'model.backbone.depth': 18,
                'model.backbone.style': 'caffe',
                'model.neck.in_channels': (64, 128, 256, 512),
            },
            'config.model.backbone.style',
        ),
        (
            {
                'model.backbone.num_stages': 3,
                'model.backbone.out_indices': (0, 1, 2),
                'model.backbone.frozen_stages': 4,
            },
            'config.model.backbone.frozen_stages',
        ),
    ],
)
def test_values_that_would_do_nothing_or_overflow_are_refused(overrides, part):
    with pytest.raises(ValueError, match=part):
        load_config(str(ROOT / 'configs' / 'atss_r50_1x.py'), overrides)
