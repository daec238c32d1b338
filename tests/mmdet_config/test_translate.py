"""Translated mmdet configs have the same numbers, or an error names the field."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from atss_jax.commands.import_mmdet import label_order, read_config
from atss_jax.config import as_dict, build_experiment, build_model, load_config, to_json
from atss_jax.config.tree import flatten
from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.detection.nms import SoftNms
from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.section import plain
from atss_jax.mmdet_config.translate import translate
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.swin import SwinTransformer
from atss_jax.optim.paramwise import Multipliers, ParamwiseConfig
from atss_jax.optim.schedule import learning_rates
from tests.conftest import ROOT

OWN = ROOT / 'tests' / 'mmdet_configs'
R50 = ROOT / 'configs' / 'atss_r50_1x.py'
# pip download --no-deps mmdet==3.3.0, unzipped: make test-mmdet
MMDET = ROOT / '.cache' / 'mmdet' / 'mmdet' / '.mim' / 'configs'


@pytest.mark.parametrize('name', ['v2_r50', 'v3_r50'])
def test_both_styles_equal_our_config_field_by_field(name):
    config, translation = read_config(OWN / f'{name}.py')
    assert to_json(config) == to_json(load_config(str(R50)))
    assert translation.style == f'{name[1]}.x'
    ours = {'data.canvases', 'data.max_boxes', 'parallel', 'resume_from', 'seed'}
    ours |= {'data.on_error', 'data.max_bad_pictures', 'test_cfg.tta'}
    ours |= {'data.reduced_decoding', 'test_cfg.dtype'}
    ours |= {'model.bbox_head.dcn_on_last_conv'}  # in mmdet a field of FCOS only
    kept = 'checkpoint_config.max_keep_ckpts'  # mmdet keeps all
    for path in flatten(as_dict(config)):
        # A type has one value; every other field comes from the file.
        is_set = path in flatten(translation.fields) or path.endswith('.type')
        is_new = path in NEUTRAL
        one_value = path in ('evaluation.metric', 'train_cfg.debug')
        assert is_set or is_new or one_value or path in {kept, *ours}, path


# Off in the R50 recipe: a translation names them only where they are on.
NEUTRAL = {
    *('fp16', 'ema', 'optimizer_config.cumulative_iters', 'data.train.times'),
    'data.train.oversample_thr',
    *(
        f'data.train.pipeline.{name}'
        for name in ('img_scales', 'multiscale_mode', 'random_resize', 'random_crop')
    ),
    'data.train.pipeline.filter_annotations',
    *(
        f'data.train.pipeline.{name}'
        for name in ('flip_direction', 'before_resize', 'after_flip')
    ),
    *('auto_scale_lr.enable', 'auto_scale_lr.base_batch_size'),
    *('early_stopping', 'log_config.hooks'),
    *('evaluation.save_best', 'evaluation.num_eval_images'),
    'test_cfg.with_nms',
}


def test_soft_nms():
    """With mmcv's values where the file has none."""
    soft = {'type': 'soft_nms', 'method': 'gaussian', 'min_score': 0.05}
    values = changed('v3_r50', 'model.test_cfg.nms', soft)
    fields = translate(values).fields
    config = load_config(str(R50), {'test_cfg.nms': fields['test_cfg.nms']})
    detect = build_experiment(config).detect
    assert detect.iou_threshold == 0.3
    assert detect.soft_nms == SoftNms('gaussian', sigma=0.5, min_score=0.05)


def test_what_changes_nothing_is_listed():
    unused = read_config(OWN / 'v3_r50.py')[1].unused
    for path in ('model.backbone.with_cp', 'env_cfg', 'work_dir', 'log_level'):
        assert path in unused
    assert unused['work_dir'] == 'work_dirs/v3_r50'
    translation = read_config(OWN / 'v2_r50.py')[1]
    assert 'dist_params' in translation.unused
    assert translation.variables == ('root', 'norm', 'finish', 'held_out')


def changed(name, path, value):
    """The values of a config with one field of another value, or a new one."""
    values = copy.deepcopy(source.read(OWN / f'{name}.py'))
    *parents, last = path.split('.')
    section = values
    for parent in parents:
        section = section[int(parent) if parent.isdigit() else parent]
    section[int(last) if last.isdigit() else last] = value
    return values


V3_TRAIN = 'train_dataloader.dataset'
V3_PIPELINE = f'{V3_TRAIN}.pipeline'


@pytest.mark.parametrize(
    ('name', 'path', 'value'),
    [
        ('v3_r50', 'model.type', 'RetinaNet'),
        ('v3_r50', 'model.backbone.deep_stem', True),
        ('v3_r50', 'model.backbone.strides', (1, 2, 2, 1)),
        ('v3_r50', 'model.backbone.norm_cfg.eps', 1e-3),
        ('v3_r50', 'model.backbone.misspelt', 1),
        ('v3_r50', 'model.backbone.init_cfg.type', 'Kaiming'),
        ('v3_r50', 'model.neck.end_level', 2),
        ('v3_r50', 'model.neck.norm_cfg', {'type': 'BN'}),
        ('v3_r50', 'model.bbox_head.reg_decoded_bbox', False),
        ('v3_r50', 'model.bbox_head.anchor_generator.scales', [4, 8]),
        ('v3_r50', 'model.bbox_head.loss_bbox.eps', 1e-3),
        ('v3_r50', 'model.bbox_head.loss_cls.type', 'QualityFocalLoss'),
        ('v3_r50', 'model.train_cfg.assigner.alpha', 0.8),
        ('v3_r50', 'model.test_cfg.nms.type', 'nms_match'),
        ('v3_r50', 'model.data_preprocessor.pad_value', 114),
        ('v3_r50', 'optim_wrapper.optimizer.type', 'Adam'),
        ('v3_r50', 'optim_wrapper.optimizer.nesterov', True),
        ('v3_r50', 'optim_wrapper.paramwise_cfg', {'dwconv_decay_mult': 0}),
        ('v3_r50', 'optim_wrapper.paramwise_cfg', {'bypass_duplicate': True}),
        ('v3_r50', 'optim_wrapper.paramwise_cfg', {'norm_decay': 0.5}),
        ('v3_r50', 'optim_wrapper.paramwise_cfg', {'norm_decay_mult': 'x'}),
        ('v3_r50', 'optim_wrapper.paramwise_cfg', {'custom_keys': {'a': {'wd': 3}}}),
        (
            'v3_r50',
            'optim_wrapper.constructor',
            'LearningRateDecayOptimizerConstructor',
        ),
        ('v3_r50', 'param_scheduler.0.by_epoch', True),
        ('v3_r50', 'param_scheduler.1.end', 9),
        ('v3_r50', 'param_scheduler.1.type', 'ExponentialLR'),
        ('v3_r50', 'param_scheduler.0.end_factor', 0.5),
        ('v3_r50', 'train_cfg.type', 'IterBasedTrainLoop'),
        ('v3_r50', 'train_dataloader.sampler.shuffle', False),
        ('v3_r50', f'{V3_TRAIN}.type', 'VOCDataset'),
        ('v3_r50', f'{V3_PIPELINE}.0.to_float32', True),
        ('v3_r50', f'{V3_PIPELINE}.2.interpolation', 'area'),
        ('v3_r50', f'{V3_PIPELINE}.2.backend', 'turbojpeg'),
        ('v3_r50', f'{V3_PIPELINE}.3.swap_seg_labels', (1, 5)),
        ('v3_r50', f'{V3_PIPELINE}.3.type', 'Expand'),
        ('v3_r50', 'val_evaluator.ann_file', 'other.json'),
        ('v3_r50', 'val_evaluator.metric', ['bbox', 'segm']),
        ('v3_r50', 'val_evaluator.proposal_nums', (1, 2, 3)),
        ('v3_r50', 'custom_hooks', [{'type': 'EMAHook', 'ema_type': 'ExpMomentumEMA'}]),
        ('v3_r50', 'custom_hooks', [{'type': 'YOLOXModeSwitchHook'}]),
        ('v3_r50', 'custom_imports', {'imports': ['my.models']}),
        ('v2_r50', 'custom_hooks', [{'type': 'EMAHook'}]),
        ('v2_r50', 'lr_config.warmup', 'cosine'),
        ('v2_r50', 'lr_config.policy', 'inv'),
        ('v2_r50', 'lr_config.warmup_by_epoch', True),
        ('v2_r50', 'lr_config.step', 0),
        ('v2_r50', 'lr_config.step', 2.5),
        ('v2_r50', 'data.train_dataloader', {'shuffle': False}),
        ('v2_r50', 'data.imgs_per_gpu', 4),
        ('v2_r50', 'workflow', [('train', 1), ('val', 1)]),
        ('v2_r50', 'data.train.type', 'CrowdHumanDataset'),
        ('v2_r50', 'data.train.classes', 'names.txt'),
        ('v2_r50', 'data.train.pipeline.5.size_divisor', None),
        ('v2_r50', 'data.val.pipeline.1.flip', True),
        ('v2_r50', 'evaluation.metric', 'proposal'),
        ('v2_r50', 'runner.type', 'IterBasedRunner'),
    ],
)
def test_what_may_change_numbers_is_an_error_that_names_it(name, path, value):
    with pytest.raises(ValueError) as caught:
        translate(changed(name, path, value))
    message = str(caught.value)
    assert path.rsplit('.', 1)[-1] in message or 'custom_hooks[0].' in message
    leaf = value
    while isinstance(leaf, dict | list) and leaf:
        leaf = [*(leaf.values() if isinstance(leaf, dict) else leaf)][-1]
    assert str(leaf) in message


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('model.backbone.depth', 'no model.backbone.depth'),
        ('model.test_cfg', 'no model.test_cfg'),
        ('param_scheduler', 'no MultiStepLR'),
        ('train_dataloader', 'neither an mmdetection 3.x config'),
        ('model.data_preprocessor.mean', 'no model.data_preprocessor.mean'),
        (f'{V3_PIPELINE}', 'no train_dataloader.dataset.pipeline'),
    ],
)
def test_a_missing_field_is_named(path, expected):
    values = copy.deepcopy(source.read(OWN / 'v3_r50.py'))
    *parents, last = path.split('.')
    section = values
    for parent in parents:
        section = section[parent]
    del section[last]
    with pytest.raises(ValueError, match=expected):
        translate(values)


def paths(value, above=()):
    yield above
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        if isinstance(part, dict | list | tuple):
            yield from paths(part, (*above, key))
        else:
            yield (*above, key)


def replaced(value, path, new):
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


@pytest.mark.parametrize('name', ['v2_r50', 'v3_r50'])
def test_no_value_anywhere_breaks_it(name):
    """Any value of any field gives a translation or a clear error."""
    values = source.read(OWN / f'{name}.py')
    refused = 0
    for path in list(paths(values))[1:]:
        for odd in (None, 5, 'x', [[1]], {'type': 'Foo'}):
            try:
                translate(replaced(values, path, odd))
            except ValueError as error:
                refused += 1
                assert 'mmdet' in str(error) or 'not supported' in str(error)
    assert refused > 500


def v3_fields(path, value):
    return flatten(translate(changed('v3_r50', path, value)).fields)


def test_transforms_out_of_order_are_refused():
    steps = source.read(OWN / 'v3_r50.py')['train_dataloader']['dataset']['pipeline']
    load, boxes, resize, flip, pack = steps
    for wrong, expected in [
        ([load, resize, boxes, flip, pack], 'LoadAnnotations after Resize'),
        ([load, boxes, resize, resize, pack], 'Resize after Resize'),
        ([load, boxes, flip, pack], 'no transform resizes'),
    ]:
        with pytest.raises(ValueError, match=expected):
            v3_fields(V3_PIPELINE, wrong)


@pytest.mark.parametrize(
    ('resize', 'expected'),
    [
        (
            {'type': 'RandomResize', 'scale': [(1333, 640), (1333, 800)]},
            {'img_scales': ((1333, 640), (1333, 800)), 'multiscale_mode': 'range'},
        ),
        (
            {'type': 'RandomResize', 'scale': (1333, 800), 'ratio_range': (0.1, 2.0)},
            {'random_resize.ratio_range': (0.1, 2.0), 'img_scale': (1333, 800)},
        ),
        (
            {'type': 'RandomChoiceResize', 'scales': [(1333, 640), (1333, 800)]},
            {'img_scales': ((1333, 640), (1333, 800)), 'multiscale_mode': 'value'},
        ),
    ],
)
def test_random_sizes(resize, expected):
    fields = v3_fields(f'{V3_PIPELINE}.2', resize | {'keep_ratio': True})
    for name, value in expected.items():
        assert fields[f'data.train.pipeline.{name}'] == value
    assert fields['data.train.pipeline.keep_ratio'] is True


@pytest.mark.parametrize('name', ['RandomResize', 'RandomChoiceResize', 'Resize'])
def test_the_backend_of_resizes(name):
    scales = {
        'RandomResize': 'scale',
        'RandomChoiceResize': 'scales',
        'Resize': 'scale',
    }
    scale = (1333, 800) if name == 'Resize' else [(1333, 640), (1333, 800)]
    resize = {'type': name, scales[name]: scale, 'backend': 'pillow'}
    values = changed('v3_r50', f'{V3_PIPELINE}.2', resize)
    fields = translate(values).fields
    assert fields['data.train.pipeline.backend'] == 'pillow'
    assert fields['data.val.pipeline.backend'] == 'cv2'
    older = changed('v2_r50', 'data.test.pipeline.1.transforms.0.backend', 'pillow')
    fields = translate(older).fields
    assert fields['data.test.pipeline.backend'] == 'pillow'


def assert_equals_ours(values, name):
    expected = as_dict(load_config(str(ROOT / 'configs' / f'{name}.py')))
    found = as_dict(load_config(str(R50), translate(values).fields))
    assert plain(flatten(found)) == plain(flatten(expected))


def test_a_longer_recipe_at_random_scales():
    scales = [(1333, 640), (1333, 800)]
    resize = {'type': 'RandomResize', 'scale': scales, 'keep_ratio': True}
    values = changed('v3_r50', f'{V3_PIPELINE}.2', resize)
    values['param_scheduler'][1] |= {'milestones': [16, 22], 'end': 24}
    values['train_cfg']['max_epochs'] = 24
    assert_equals_ours(values, 'atss_r50_2x_ms')
    older = {'type': 'Resize', 'img_scale': scales, 'multiscale_mode': 'range'}
    values = changed('v2_r50', 'data.train.pipeline.2', older)
    values['lr_config']['step'] = [16, 22]
    values['runner']['max_epochs'] = 24
    assert_equals_ours(values, 'atss_r50_2x_ms')


def test_weights_from_caffe():
    values = changed('v3_r50', 'model.backbone.style', 'caffe')
    backbone = values['model']['backbone']
    backbone['norm_cfg'] = {'type': 'BN', 'requires_grad': False}
    backbone['init_cfg']['checkpoint'] = 'open-mmlab://detectron2/resnet50_caffe'
    values['model']['data_preprocessor'] |= {
        'mean': [103.53, 116.28, 123.675],
        'std': [1.0, 1.0, 1.0],
        'bgr_to_rgb': False,
    }
    assert_equals_ours(values, 'atss_r50_caffe_1x')


def test_deformable_convolutions():
    values = changed('v3_r50', 'model.backbone.dcn', {'type': 'DCNv2'})
    # Without stages it does nothing, in mmdet too.
    translation = translate(values)
    assert translation.fields['model.backbone.dcn'] is None
    assert 'model.backbone.dcn' in translation.unused
    backbone = values['model']['backbone']
    backbone['stage_with_dcn'] = [False, True, True, True]
    fields = translate(values).fields
    assert fields['model.backbone.stage_with_dcn'] == (False, True, True, True)
    model = build_model(load_config(str(R50), fields))
    assert model.backbone.dcn['deform_groups'] == 1
    for name, value in [('type', 'DCN'), ('extra', 1)]:
        backbone['dcn'] = {'type': 'DCNv2', name: value}
        with pytest.raises(ValueError, match=f'model.backbone.dcn.{name}'):
            translate(values)
    backbone['dcn'] = {'type': 'DCNv2', 'fallback_on_stride': True}
    with pytest.raises(ValueError, match='fallback_on_stride'):
        load_config(str(R50), translate(values).fields)


def test_resnext():
    values = changed('v3_r50', 'model.backbone.type', 'ResNeXt')
    values['model']['backbone'] |= {'groups': 32, 'base_width': 8}
    model = build_model(load_config(str(R50), translate(values).fields))
    assert (model.backbone.groups, model.backbone.base_width) == (32, 8)


def test_swin():
    """With the defaults of mmdet's constructor, and the fields that decide numbers."""
    values = changed('v3_r50', 'model.backbone', {'type': 'SwinTransformer'})
    values['model']['neck']['in_channels'] = [96, 192, 384, 768]
    model = build_model(load_config(str(R50), translate(values).fields))
    assert model.backbone == SwinTransformer(drop_path_rate=0.1)
    backbone = values['model']['backbone']
    backbone |= {
        'pretrain_img_size': (192, 256),
        'embed_dims': 128,
        'depths': [2, 2, 18, 2],
        'num_heads': [4, 8, 16, 32],
        'window_size': 12,
        'qkv_bias': False,
        'qk_scale': 0.5,
        'drop_rate': 0.1,
        'attn_drop_rate': 0.2,
        'drop_path_rate': 0.3,
        'patch_norm': False,
        'out_indices': (1, 2, 3),
        'use_abs_pos_embed': True,
        'frozen_stages': 1,
        'with_cp': True,
        'convert_weights': True,
        'init_cfg': {'type': 'Pretrained', 'checkpoint': 'swin.pth'},
    }
    values['model']['neck'] |= {'in_channels': [256, 512, 1024], 'start_level': 0}
    fields = translate(values).fields
    assert fields['model.pretrained'] == 'swin.pth'
    model = build_model(load_config(str(R50), fields))
    for name, value in backbone.items():
        if name not in ('type', 'init_cfg'):
            assert getattr(model.backbone, name) == plain(value), name


@pytest.mark.parametrize(
    'name, value',
    [
        ('in_channels', 4),
        ('patch_size', 2),
        ('strides', (2, 2, 2, 2)),
        ('act_cfg', {'type': 'ReLU'}),
        ('norm_cfg', {'type': 'BN'}),
        ('norm_eval', True),
        ('init_cfg', {'type': 'TruncNormal'}),
    ],
)
def test_what_swin_does_not_have(name, value):
    values = changed('v3_r50', 'model.backbone', {'type': 'SwinTransformer'})
    values['model']['backbone'][name] = value
    with pytest.raises(ValueError, match=rf'model\.backbone\.{name}'):
        translate(values)


def test_two_necks():
    """A list of two necks, with the head's settings of DyHead's own configs."""
    neck = source.read(OWN / 'v3_r50.py')['model']['neck']
    dyhead = {'type': 'DyHead', 'in_channels': 256, 'out_channels': 256}
    values = changed('v3_r50', 'model.neck', [neck, dyhead])
    head = values['model']['bbox_head']
    head |= {'stacked_convs': 0, 'pred_kernel_size': 1}
    head['anchor_generator']['center_offset'] = 0.5
    config = load_config(str(R50), translate(values).fields)
    experiment = build_experiment(config)
    assert experiment.model.neck == (FPN(), DyHead())
    assert experiment.model.bbox_head.pred_kernel_size == 1
    assert experiment.model.bbox_head.stacked_convs == 0
    assert experiment.detect.anchors.center_offset == 0.5
    assert experiment.loss.anchors == experiment.detect.anchors
    dyhead['num_block'] = 6
    with pytest.raises(ValueError, match=r'model\.neck\[1\]\.num_block'):
        translate(values)
    values['model']['neck'] = [neck]
    with pytest.raises(ValueError, match='an FPN, or an FPN and a DyHead'):
        translate(values)


def test_the_2x_list_of_scales():
    resize = {'type': 'Resize', 'img_scale': [(1333, 640), (1333, 800)]}
    values = changed('v2_r50', 'data.train.pipeline.2', resize)
    fields = translate(values).fields
    scales = ((1333, 640), (1333, 800))
    assert fields['data.train.pipeline.img_scales'] == scales
    assert fields['data.train.pipeline.multiscale_mode'] == 'range'
    assert fields['data.train.pipeline.keep_ratio'] is True  # 2.x's default
    values['data']['val']['pipeline'][1]['img_scale'] = list(scales)
    with pytest.raises(ValueError, match='one scale'):
        translate(values)


def test_repeats_half_precision_accumulation_and_averages():
    inner = source.read(OWN / 'v3_r50.py')['train_dataloader']['dataset']
    repeat = {'type': 'RepeatDataset', 'times': 8, 'dataset': inner}
    fields = v3_fields(V3_TRAIN, repeat)
    assert fields['data.train.times'] == 8
    assert fields['data.train.ann_file'].endswith('instances_train2017.json')
    values = changed('v3_r50', 'optim_wrapper.type', 'AmpOptimWrapper')
    values['optim_wrapper']['accumulative_counts'] = 4
    values['custom_hooks'] = [{'type': 'EMAHook', 'momentum': 0.001, 'priority': 49}]
    fields = translate(values).fields
    assert fields['fp16'] == {'loss_scale': 'dynamic'}
    assert fields['optimizer_config.cumulative_iters'] == 4
    assert fields['ema'] == {'momentum': 0.001}
    half = translate(changed('v2_r50', 'fp16', {'loss_scale': 512.0})).fields
    assert half['fp16'] == {'loss_scale': 512.0}


def test_cosine_rates():
    cosine = {'type': 'CosineAnnealingLR', 'T_max': 12, 'eta_min': 0.001}
    fields = v3_fields('param_scheduler', [cosine])
    assert fields['lr_config.policy'] == 'CosineAnnealing'
    assert fields['lr_config.min_lr_ratio'] == pytest.approx(0.1)
    assert fields['lr_config.warmup'] is None
    with pytest.raises(ValueError, match='T_max'):
        v3_fields('param_scheduler', [cosine | {'T_max': 10}])


# The optimizer ------------------------------------------------------------------------

# As in atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.
ADAMW = {'type': 'AdamW', 'lr': 5e-5, 'betas': (0.9, 0.999), 'weight_decay': 0.05}
KEYS = {
    'absolute_pos_embed': {'decay_mult': 0.0},
    'relative_position_bias_table': {'decay_mult': 0.0},
    'norm': {'decay_mult': 0.0},
}


def optimizer_of(values):
    return build_experiment(load_config(str(R50), translate(values).fields)).optimizer


def test_adamw_and_custom_keys_in_both_styles():
    third = changed('v3_r50', 'optim_wrapper.optimizer', ADAMW)
    third['optim_wrapper']['paramwise_cfg'] = {'custom_keys': KEYS}
    second = changed(
        'v2_r50', 'optimizer', ADAMW | {'paramwise_cfg': {'custom_keys': KEYS}}
    )
    optimizer = optimizer_of(third)
    assert optimizer == optimizer_of(second)
    assert (optimizer.type, optimizer.lr, optimizer.eps) == ('AdamW', 5e-5, 1e-8)
    assert (optimizer.betas, optimizer.weight_decay) == ((0.9, 0.999), 0.05)
    assert dict(optimizer.paramwise.custom_keys) == {
        key: Multipliers(decay_mult=0.0) for key in KEYS
    }


def test_settings_of_torch_that_a_config_omits():
    optimizer = optimizer_of(
        changed('v3_r50', 'optim_wrapper.optimizer', {'type': 'AdamW', 'lr': 0.1})
    )
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
    assert optimizer.weight_decay == 0.01
    amsgrad = changed('v3_r50', 'optim_wrapper.optimizer', ADAMW | {'amsgrad': True})
    with pytest.raises(ValueError, match=r'optimizer\.amsgrad = True'):
        translate(amsgrad)


def test_factors_for_sgd_by_name_with_dots_and_by_kind():
    paramwise = {
        'custom_keys': {'backbone.layer4': {'lr_mult': 0.1, 'decay_mult': 2}},
        'bias_lr_mult': 2.0,
        'bias_decay_mult': 0.0,
        'dcn_offset_lr_mult': 0.5,
        'bypass_duplicate': False,
    }
    values = changed('v3_r50', 'optim_wrapper.paramwise_cfg', paramwise)
    expected = ParamwiseConfig(
        (('backbone.layer4', Multipliers(0.1, 2)),),
        bias_lr_mult=2.0,
        bias_decay_mult=0.0,
        dcn_offset_lr_mult=0.5,
    )
    optimizer = optimizer_of(values)
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert optimizer.paramwise == expected
    # In mmcv biases of norms are not among the biases.
    values = changed('v2_r50', 'optimizer.paramwise_cfg', paramwise)
    expected = dataclasses.replace(expected, norm_decay_mult=1.0)
    assert optimizer_of(values).paramwise == expected


@pytest.mark.parametrize('nothing', [None, {}])
def test_factors_that_are_none(nothing):
    values = changed('v3_r50', 'optim_wrapper.paramwise_cfg', nothing)
    assert optimizer_of(values).paramwise is None


# The learning rate --------------------------------------------------------------------

LINEAR = {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 50}


def lr_config(*schedulers):
    """Our section, checked: it is also what a config accepts."""
    fields = translate(changed('v3_r50', 'param_scheduler', [*schedulers])).fields
    load_config(str(R50), fields)
    return fields['lr_config']


@pytest.mark.parametrize(
    ('scheduler', 'expected'),
    [
        ({}, {'by_epoch': True}),
        ({'end': 12, 'begin': 0}, {'by_epoch': True}),
        ({'begin': 2, 'end': 9}, {'by_epoch': True, 'begin': 2, 'end': 9}),
        ({'begin': 2}, {'by_epoch': True, 'begin': 2, 'end': None}),
        ({'by_epoch': False}, {'by_epoch': False}),
        (
            {'by_epoch': False, 'begin': 50, 'end': 900},
            {'by_epoch': False, 'begin': 50, 'end': 900},
        ),
        ({'by_epoch': False, 'end': 12}, {'by_epoch': False, 'begin': 0, 'end': 12}),
        ({'end': 12, 'convert_to_iter_based': True}, {'by_epoch': False}),
    ],
)
def test_the_range_of_a_polynomial(scheduler, expected):
    poly = {'type': 'PolyLR', 'power': 0.9, 'eta_min': 1e-4} | scheduler
    warm_up = {'warmup': 'linear', 'warmup_iters': 50, 'warmup_ratio': 0.1}
    expected = {'policy': 'poly', 'power': 0.9, 'min_lr': 1e-4, **warm_up, **expected}
    assert lr_config(LINEAR, poly) == expected


@pytest.mark.parametrize(
    'scheduler',
    [
        {'begin': 1, 'convert_to_iter_based': True},
        {'end': 11, 'convert_to_iter_based': True},
        {'by_epoch': False, 'convert_to_iter_based': True},
    ],
)
def test_iterations_that_are_not_known(scheduler):
    with pytest.raises(ValueError, match='convert_to_iter_based = True'):
        lr_config({'type': 'PolyLR'} | scheduler)


def test_one_cycle():
    cycle = {'type': 'OneCycleLR', 'eta_max': 0.02, 'pct_start': 0.4}
    shape = {'pct_start': 0.4, 'anneal_strategy': 'cos', 'div_factor': 25.0}
    shape |= {'final_div_factor': 1e4, 'three_phase': False}
    found = lr_config(cycle | {'total_steps': 12, 'convert_to_iter_based': True})
    assert found.pop('warmup') is None
    assert found.pop('warmup_iters') == 1 and found.pop('warmup_ratio')
    expected = {'policy': 'OneCycle', 'max_lr': 0.02, 'by_epoch': False, **shape}
    assert found == expected
    assert lr_config(cycle | {'by_epoch': False})['by_epoch'] is False
    assert lr_config(cycle)['by_epoch'] is True
    for wrong in ({'total_steps': 9}, {'total_steps': 12, 'by_epoch': False}):
        with pytest.raises(ValueError, match='total_steps'):
            lr_config(cycle | wrong)
    with pytest.raises(ValueError, match='begin = 3'):
        lr_config(cycle | {'begin': 3})
    with pytest.raises(ValueError, match=r'lr_config\.warmup'):
        lr_config(LINEAR, cycle)
    values = source.read(OWN / 'v2_r50.py')
    values['lr_config'] = {'policy': 'OneCycle', 'max_lr': 0.02, 'pct_start': 0.4}
    fields = translate(values).fields['lr_config']
    assert {name: fields[name] for name in expected} == expected


def test_constant_rates_and_warm_ups():
    constant = {'type': 'ConstantLR', 'by_epoch': False, 'factor': 0.2, 'end': 7}
    steps = {'type': 'MultiStepLR', 'milestones': [8, 11]}
    warm_up = {'warmup': 'constant', 'warmup_iters': 7, 'warmup_ratio': 0.2}
    assert lr_config(constant) == {'policy': 'fixed', **warm_up}
    assert lr_config(constant, steps).items() >= warm_up.items()
    assert lr_config({'type': 'ConstantLR', 'factor': 1.0})['warmup'] is None
    for wrong, expected in [
        ([constant, LINEAR], 'a second warm-up'),
        ([constant | {'by_epoch': True}], 'by_epoch = True'),
        ([constant | {'begin': 2}], 'begin = 2'),
    ]:
        with pytest.raises(ValueError, match=expected):
            lr_config(*wrong)


@pytest.mark.parametrize('kind', ['linear', 'constant', 'exp'])
def test_2x_schedules(kind):
    values = source.read(OWN / 'v2_r50.py')
    warm_up = {'warmup': kind, 'warmup_iters': 7, 'warmup_ratio': 0.2}
    values['lr_config'] = {'policy': 'fixed', **warm_up}
    assert translate(values).fields['lr_config'] == {'policy': 'fixed', **warm_up}
    values['lr_config'] = {'policy': 'poly', 'power': 0.9, 'min_lr': 1e-4, **warm_up}
    fields = translate(values).fields
    assert fields['lr_config'].items() >= warm_up.items()
    # mmcv: (1 - epoch/12) ** 0.9 of what is above min_lr, after the warm-up.
    lr_config = build_experiment(load_config(str(R50), fields)).lr_config
    rates = learning_rates(0.01, lr_config, 20, 12)[19::20]
    epochs = np.arange(12)
    expected = 1e-4 + (0.01 - 1e-4) * (1 - epochs / 12) ** 0.9
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    values['lr_config']['by_epoch'] = False
    fields = translate(values).fields['lr_config']
    assert fields['by_epoch'] is False and 'end' not in fields


def test_2x_configs_with_settings_inside_the_model_and_total_epochs():
    values = source.read(OWN / 'v2_r50.py')
    expected = translate(values).fields
    moved = copy.deepcopy(values)
    for name in ('train_cfg', 'test_cfg'):
        moved['model'][name] = moved.pop(name)
    del moved['runner']
    moved['total_epochs'] = 12
    assert translate(moved).fields == expected


@pytest.mark.parametrize(('interval', 'milestones'), [(4, (4, 8)), (5, (5, 10))])
def test_rates_that_change_every_few_epochs(interval, milestones):
    fields = translate(changed('v2_r50', 'lr_config.step', interval)).fields
    assert fields['lr_config']['step'] == milestones
    steps = {'type': 'StepLR', 'step_size': interval, 'gamma': 0.5}
    lr_config = translate(changed('v3_r50', 'param_scheduler', [steps])).fields[
        'lr_config'
    ]
    assert (lr_config['step'], lr_config['gamma']) == (milestones, 0.5)


def test_a_rate_that_would_change_after_the_end():
    fields = translate(changed('v2_r50', 'lr_config.step', 100)).fields
    config = load_config(str(R50), fields)
    build_experiment(config)
    assert config.lr_config.step == (100,)


def test_other_spellings():
    """Early 3.x has names in capitals, 2.x the loader's settings in two places."""
    old = {'CLASSES': ('a', 'b'), 'PALETTE': [(1, 2, 3)]}
    values = changed('v3_r50', f'{V3_TRAIN}.metainfo', old)
    values['train_dataloader']['dataset']['file_client_args'] = {'backend': 'disk'}
    values['val_evaluator']['file_client_args'] = {'backend': 'disk'}
    translation = translate(values)
    assert translation.fields['data.train.classes'] == ('a', 'b')
    assert f'{V3_TRAIN}.metainfo.PALETTE' in translation.unused

    expected = translate(source.read(OWN / 'v2_r50.py')).fields
    values = source.read(OWN / 'v2_r50.py')
    names = ('samples_per_gpu', 'workers_per_gpu')
    sizes = {name: values['data'].pop(name) for name in names}
    values['data'] |= {'train_dataloader': sizes, 'test_dataloader': sizes}
    assert translate(values).fields == expected
    values = source.read(OWN / 'v2_r50.py')
    values['data']['imgs_per_gpu'] = values['data'].pop('samples_per_gpu')
    assert translate(values).fields == expected


# What a config computes --------------------------------------------------------------

DUMPED = """
gpu_ids = range(0, 1)
work_dir = osp.join('work_dirs', 'x')
dist_params = dict(backend=choose())
log_config = dict(interval=50, hooks=[dict(type='NeptuneLoggerHook', name=now())])
checkpoint_config = dict(interval=1, meta=dict(time=now(), text='{{ other }}'))
mine = [x for x in (1, 2)]
"""


def test_values_without_effect_are_not_evaluated(tmp_path):
    """As in the dumps of 2.x, which end in `gpu_ids = range(0, 1)`."""
    dump = tmp_path / 'dump.py'
    base = f"_base_ = '{OWN / 'v2_r50.py'}'\n"
    dump.write_text(f'import os.path as osp\n{base}{DUMPED}')
    config, translation = read_config(dump)
    assert to_json(config) == to_json(read_config(OWN / 'v2_r50.py')[0])
    assert translation.unused['gpu_ids'] == [0]
    assert repr(translation.unused['work_dir']) == "osp.join('work_dirs', 'x')"
    assert 'choose()' in str(translation.unused['dist_params'])
    assert 'mine' in translation.variables


@pytest.mark.parametrize(
    'line',
    [
        'optimizer = dict(lr=rate())',
        'optimizer = dict(type=osp.name)',
        'model = dict(backbone=dict(out_indices=[0, 1, which(), 3]))',
        'model = dict(backbone=dict(norm_cfg=dict(type=norm())))',
        'evaluation = dict(metric=[metric()])',
        "fp16 = half()\nuse = 'fp16'",
        'custom_imports = mine()',
        'data = dict(train=dict(_delete_=choose()))',
        'data = dict(train=one())',
        'custom_hooks = [hook()]',
    ],
)
def test_values_with_effect_are_refused_with_their_line(tmp_path, line):
    file = tmp_path / 'c.py'
    base = f"_base_ = '{OWN / 'v2_r50.py'}'"
    file.write_text(f'{base}\nimport os.path as osp\n{line}\n')
    with pytest.raises(ValueError, match=r'c\.py, line [23]: .* supported'):
        read_config(file)


# Classes ------------------------------------------------------------------------------


def test_labels_are_in_the_order_of_the_annotation_file(tmp_path):
    """As mmdet numbers them, whatever the order of the names in its config."""
    file = tmp_path / 'a.json'
    names = ['cat', 'dog', 'eel']
    content = {
        'images': [{'id': 1, 'file_name': 'a.png', 'height': 9, 'width': 9}],
        'annotations': [],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(names)],
    }
    file.write_text(json.dumps(content))

    def order(classes, ann_file=file):
        fields = {'data.train.classes': classes, 'data.train.ann_file': str(ann_file)}
        return label_order(load_config(str(R50), fields), classes)

    assert order(('eel', 'cat')) == ('cat', 'eel')
    assert order(('eel', 'cat'), 'none.json') == ('eel', 'cat')
    assert order(None) is None
    assert order(None, 'none.json') == COCO_CLASSES  # as mmdet's CocoDataset has it
    three = load_config(str(R50), {'model.bbox_head.num_classes': 3})
    assert label_order(three, None) is None
    with pytest.raises(ValueError, match=r"no categories \['fox'\]"):
        order(('cat', 'fox'))


# mmdetection's own configs ------------------------------------------------------------


@pytest.mark.mmdet
@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ('atss_r50_fpn_1x_coco', 'atss_r50_1x'),
        ('atss_r101_fpn_1x_coco', 'atss_r101_1x'),
        ('atss_r18_fpn_8xb8-amp-lsj-200e_coco', 'atss_r18_lsj_200e'),
        ('atss_r50_fpn_8xb8-amp-lsj-200e_coco', 'atss_r50_lsj_200e'),
        ('atss_r101_fpn_8xb8-amp-lsj-200e_coco', 'atss_r101_lsj_200e'),
        ('../dyhead/atss_r50_fpn_dyhead_1x_coco', 'atss_r50_dyhead_1x'),
        ('../dyhead/atss_r50-caffe_fpn_dyhead_1x_coco', 'atss_r50_caffe_dyhead_1x'),
        (
            '../dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco',
            'atss_swin_l_dyhead_2x_ms',
        ),
    ],
)
def test_configs_of_mmdetection_equal_ours_field_by_field(theirs, ours):
    if not MMDET.is_dir():
        pytest.fail(f'no {MMDET}: run make test-mmdet')
    file = ROOT / 'configs' / f'{ours}.py'
    found = flatten(translate(source.read(MMDET / 'atss' / f'{theirs}.py')).fields)
    expected = flatten(as_dict(load_config(str(file))))
    assert {path: plain(expected.get(path, 'none')) for path in found} == found
    config, _ = read_config(MMDET / 'atss' / f'{theirs}.py')
    free = {'data.canvases', 'data.max_boxes', 'checkpoint_config.max_keep_ckpts'}
    ours, translated = expected, flatten(as_dict(config))
    assert {p: plain(v) for p, v in ours.items() if p not in free} == {
        p: plain(v) for p, v in translated.items() if p not in free
    }
