"""Fields that contradict each other, and optional sections, give clear errors."""

import copy
import dataclasses
import json

import pytest

from atss_jax.config import build_experiment, build_model, load_config, to_json
from tests.support.configs import (
    BASE,
    DCN,
    DEFORMABLE,
    DYHEAD,
    R50,
    RESNEXT,
    changed,
    error,
)

# Optional sections --------------------------------------------------------------------


def with_sections(changes=None):
    """Changes that make every optional section of the model, then `changes`."""
    values = {
        **RESNEXT,
        **DEFORMABLE,
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
        load_config(R50, overrides)


# Soft NMS -----------------------------------------------------------------------------


def test_soft_nms_has_the_values_of_mmcv_where_fields_lack():
    nms = {'type': 'soft_nms', 'iou_threshold': 0.5}
    detect = build_experiment(load_config(R50, {'test_cfg.nms': nms})).detect
    assert detect.iou_threshold == 0.5
    assert dataclasses.asdict(detect.soft_nms) == {
        'method': 'linear',
        'sigma': 0.5,
        'min_score': 1e-3,
    }
    assert build_experiment(load_config(R50, {})).detect.soft_nms is None


def test_fields_of_soft_nms_belong_to_it():
    with pytest.raises(ValueError, match="belongs to type 'soft_nms'"):
        nms = {'type': 'nms', 'iou_threshold': 0.5, 'sigma': 0.5}
        build_experiment(load_config(R50, {'test_cfg.nms': nms}))


def test_unknown_method_of_soft_nms():
    nms = {'type': 'soft_nms', 'iou_threshold': 0.5, 'method': 'hard'}
    with pytest.raises(ValueError, match="expected 'linear' or 'gaussian' or 'naive'"):
        build_experiment(load_config(R50, {'test_cfg.nms': nms}))
