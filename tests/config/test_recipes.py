"""The recipes: what they say at full size, and a short run of each at a reduced one.

The runs share shapes, so that recipes that compute alike share compiled programs.
"""

import json
import math
import os
import sys

import jax
import numpy as np
import pytest

from atss_jax.commands.main import main
from atss_jax.config import build_experiment, load_config
from atss_jax.data.batch import variants
from atss_jax.data.transforms import Jitter
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.models.detector import parameter_count
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.training.update_rule import multipliers_of
from atss_jax.weights import mmdet, torchvision
from tests.conftest import GOLDEN, ROOT
from tests.support.small_run import train

# Trained and frozen parameters with 80 classes; R50's is mmdetection's own count.
R50_CAFFE = 'open-mmlab://detectron2/resnet50_caffe'
X101_32X8D = 'open-mmlab://detectron2/resnext101_32x8d'
X101_64X4D = 'open-mmlab://resnext101_64x4d'
PARAMETERS = {18: 19_275_674, 50: 32_295_322, 101: 51_287_450}
DEPTHS = {
    'atss_r50_1x': 50,
    'atss_r101_1x': 101,
    'atss_r50_2x_ms': 50,
    'atss_r101_2x_ms': 101,
    'atss_r50_caffe_1x': 50,
    'atss_r18_lsj_200e': 18,
    'atss_r50_lsj_200e': 50,
    'atss_r101_lsj_200e': 101,
}
# Type of the backbone, its stages with DCNv2, parameters.
FAMILY = {
    'atss_r50_dcn_1x': ('torchvision://resnet50', '.xxx', 33_291_055),
    'atss_r101_dcn_2x_ms': ('torchvision://resnet101', '.xxx', 53_341_178),
    'atss_x101_32x8d_2x_ms': (X101_32X8D, '....', 95_529_626),
    'atss_x101_64x4d_2x_ms': (X101_64X4D, '....', 90_193_562),
    'atss_x101_32x8d_dcn_2x_ms': (X101_32X8D, '..xx', 102_870_926),
    'atss_x101_64x4d_dcn_2x_ms': (X101_64X4D, '..xx', 97_534_862),
    'atss_r50_dyhead_1x': ('torchvision://resnet50', '....', 39_071_682),
    'atss_r50_caffe_dyhead_1x': (R50_CAFFE, '....', 38_897_602),
}
SWIN_L = 'atss_swin_l_dyhead_2x_ms'
# By default: the recipe of the paper, and the one of large-scale jitter in bfloat16.
# DCNv2, DyHead, Caffe's layout and Swin have tests of their own in tests/models;
# `make test-slow` trains every recipe.
SLOW = [
    SWIN_L,
    'atss_r50_caffe_1x',
    'atss_r50_dyhead_1x',
    'atss_r50_caffe_dyhead_1x',
    'atss_r50_dcn_1x',
    'atss_r101_dcn_2x_ms',
    'atss_x101_32x8d_2x_ms',
    'atss_x101_32x8d_dcn_2x_ms',
    'atss_x101_64x4d_2x_ms',
    'atss_x101_64x4d_dcn_2x_ms',
]
RUNS = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in (*DEPTHS, *FAMILY, SWIN_L)
]
LSJ = [name for name in DEPTHS if 'lsj' in name]
MS = [name for name in (*DEPTHS, *FAMILY) if name.endswith('ms')]


def path_of(name):
    return str(ROOT / 'configs' / f'{name}.py')


def experiment_of(name):
    return build_experiment(load_config(path_of(name)))


# At full size ------------------------------------------------------------------------


@pytest.mark.parametrize('name', DEPTHS)
def test_parameters(name):
    experiment = experiment_of(name)
    depth = DEPTHS[name]
    assert experiment.model.backbone.depth == depth
    assert parameter_count(experiment.model) == PARAMETERS[depth]
    wanted = R50_CAFFE if 'caffe' in name else f'torchvision://resnet{depth}'
    assert experiment.pretrained == wanted


@pytest.mark.parametrize('name', FAMILY)
def test_family(name):
    """As the authors' configs/atss/*.yaml and their README's note 4; mmdet's DyHead."""
    pretrained, stages, parameters = FAMILY[name]
    experiment = experiment_of(name)
    backbone, neck, head = (
        getattr(experiment.model, part) for part in ('backbone', 'neck', 'bbox_head')
    )
    assert experiment.pretrained == pretrained
    scheme, _, file = pretrained.partition('://')
    known = {'torchvision': torchvision.TORCHVISION_FILES}
    assert file in known.get(scheme, torchvision.OPENMMLAB_FILES)
    deformable = backbone.stage_with_dcn if backbone.dcn else (False,) * 4
    assert ''.join('.x'[int(on)] for on in deformable) == stages
    assert head.dcn_on_last_conv == ('x' in stages)
    width = {X101_32X8D: (32, 8), X101_64X4D: (64, 4)}.get(pretrained, (1, 4))
    assert (backbone.groups, backbone.base_width) == width
    assert backbone.depth == (50 if 'r50' in name else 101)
    assert isinstance(neck, tuple) == ('dyhead' in name)
    assert head.stacked_convs == (0 if isinstance(neck, tuple) else 4)
    assert parameter_count(experiment.model) == parameters
    normalizers = {data.normalizer for data in experiment.data.values()}
    (normalizer,) = normalizers
    assert normalizer.to_rgb == (pretrained not in (X101_32X8D, R50_CAFFE))
    assert backbone.norm_cfg['requires_grad'] == normalizer.to_rgb


@pytest.mark.parametrize('name', [x for x in FAMILY if 'x101' in x and 'dcn' in x])
def test_multi_scale_testing_at_the_authors_scales(name):
    """TEST.BBOX_AUG of atss_dcnv2_X_101_64x4d_FPN_2x.yaml, and the plain scale."""
    experiment = experiment_of(name)
    views = variants(experiment.data['test'].pipeline, experiment.tta)
    sides = (400, 500, 600, 640, 700, 800, 900, 1000, 1100, 1200, 1300, 1400, 1800)
    expected = {
        ((1333 if side <= 800 else 3000, side), f) for side in sides for f in (0, 1)
    }
    assert {(view.pipeline.img_scale, view.flip) for view in views} == expected
    assert len(views) == 26


@pytest.mark.parametrize('name', LSJ)
def test_large_scale_jitter_as_in_mmdetection(name):
    """configs/atss/atss_r50_fpn_8xb8-amp-lsj-200e_coco.py and its bases, 3.3.0."""
    experiment = experiment_of(name)
    data = experiment.data['train'].pipeline
    assert data.jitter == Jitter(
        ratio_range=(0.1, 2.0),
        crop_size=(1024, 1024),
        allow_negative_crop=True,
        min_gt_bbox_wh=(0.01, 0.01),
        keep_empty=True,
    )
    assert (data.img_scale, data.flip_ratio) == ((1024, 1024), 0.5)
    assert data.all_canvases() == ((1024, 1024),)
    assert experiment.data['val'].pipeline.img_scale == (1333, 800)
    assert experiment.times * experiment.total_epochs == 200
    assert experiment.samples_per_gpu * 8 == 64
    optimizer, rates = experiment.optimizer, experiment.lr_config
    assert (optimizer.lr, optimizer.weight_decay) == (0.04, 4e-5)
    assert (rates.warmup_iters, rates.warmup_ratio) == (1000, 0.067)
    assert rates.step == (22, 24)
    assert experiment.training_model.dtype == 'bfloat16'
    assert experiment.model.dtype == 'float32'  # evaluation, as in mmdetection 3.x


@pytest.mark.parametrize('name', MS)
def test_multi_scale(name):
    experiment = experiment_of(name)
    data = experiment.data['train'].pipeline
    assert data.jitter == Jitter(img_scales=((1333, 640), (1333, 800)))
    assert data.all_canvases() == ((800, 1344), (1344, 800))
    assert (experiment.total_epochs, experiment.lr_config.step) == (24, (16, 22))


def test_caffe():
    experiment = experiment_of('atss_r50_caffe_1x')
    backbone = experiment.model.backbone
    assert backbone.style == 'caffe' and not backbone.norm_cfg['requires_grad']
    normalizers = {data.normalizer for data in experiment.data.values()}
    (normalizer,) = normalizers
    assert not normalizer.to_rgb and normalizer.std == (1, 1, 1)
    assert normalizer.mean == (103.53, 116.28, 123.675)  # blue first


def test_caffe_with_dyhead():
    """configs/dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py of mmdetection 3.3.0."""
    experiment = experiment_of('atss_r50_caffe_dyhead_1x')
    caffe = experiment_of('atss_r50_caffe_1x')
    assert experiment.model.backbone == caffe.model.backbone
    neck, head = experiment.model.neck, experiment.model.bbox_head
    assert neck == (FPN(), DyHead(zero_init_offset=False))
    assert (head.stacked_convs, head.pred_kernel_size) == (0, 1)
    assert experiment.detect.anchors == AnchorGenerator(center_offset=0.5)
    assert experiment.loss.anchors == experiment.detect.anchors
    assert experiment.loss.size_divisor == experiment.detect.size_divisor == 128
    for split, data in experiment.data.items():
        assert data.normalizer == caffe.data[split].normalizer
        assert (data.pipeline.backend, data.pipeline.size_divisor) == ('pillow', 128)
        assert data.pipeline.all_canvases() == ((896, 1408), (1408, 896))
    assert experiment.optimizer == caffe.optimizer


def test_swin_l_with_dyhead():
    """atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py of mmdetection 3.3.0."""
    experiment = experiment_of(SWIN_L)
    model, caffe = experiment.model, experiment_of('atss_r50_caffe_dyhead_1x')
    assert model.bbox_head == caffe.model.bbox_head
    assert model.neck[1] == caffe.model.neck[1]
    assert experiment.detect == caffe.detect and experiment.loss == caffe.loss
    assert experiment.pretrained.endswith('/swin_large_patch4_window12_384_22k.pth')
    data = experiment.data['train'].pipeline
    assert data.jitter == Jitter(img_scales=((2000, 480), (2000, 1200)))
    assert data.all_canvases() == ((1280, 2048), (2048, 1280))
    assert (data.backend, data.size_divisor) == ('pillow', 128)
    assert experiment.data['test'].pipeline.img_scale == (2000, 1200)
    assert (experiment.times, experiment.total_epochs) == (2, 12)
    assert experiment.lr_config.step == (8, 11)


def test_rates_and_decays_of_swin_l():
    """Every parameter has those by which mmengine groups mmdetection's config."""
    experiment = experiment_of(SWIN_L)
    case = json.loads((GOLDEN / 'swin' / 'swin_l_groups.json').read_text())
    optimizer, shapes = experiment.optimizer, mmdet.variable_shapes(experiment.model)
    assert optimizer.type == 'AdamW' and optimizer.betas == (0.9, 0.999)
    assert sum(map(math.prod, shapes.values())) == case['parameters']
    factors = multipliers_of(experiment.model, optimizer.paramwise)
    found = {
        mmdet.torch_name(('params', *path)): [
            optimizer.lr * factor.lr_mult,
            optimizer.weight_decay * factor.decay_mult,
        ]
        for path, factor in factors.items()
    }
    assert found == case['groups']


@pytest.mark.parametrize('flag', [['--config'], []])
def test_show_config(capsys, flag):
    arguments = ['--config.optimizer.lr=0.3', *flag, path_of('atss_r50_lsj_200e')]
    assert main(['show-config', *arguments]) == 0
    text, _, count = capsys.readouterr().out.rpartition('parameters: ')
    assert count == '32,295,322\n'
    shown = json.loads(text)
    assert shown['optimizer']['lr'] == 0.3 and shown['data']['train']['times'] == 8
    assert build_experiment(shown).optimizer.lr == 0.3


def test_show_config_refuses_what_it_does_not_know(capsys):
    arguments = ['show-config', '--config', path_of('atss_r50_1x')]
    assert main([*arguments, '--config.optimizer.rate=0.3']) == 1
    assert "'optimizer.rate'" in capsys.readouterr().err
    assert main([*arguments, '--rate=3']) == 1
    assert '--rate=3' in capsys.readouterr().err


def test_show_config_to_a_reader_that_leaves_early(monkeypatch):
    """As `head` does: no traceback, not at the end of Python either."""
    there, here = os.pipe()
    os.close(there)
    with os.fdopen(here, 'w') as stdout:
        monkeypatch.setattr(sys, 'stdout', stdout)
        assert main(['show-config', path_of('atss_r50_1x')]) == 0


# Short runs --------------------------------------------------------------------------


def reduced(name, changes=None):
    """The recipe on 16 generated images an epoch, with one stage and 32 channels."""
    config = load_config(path_of(name))
    overrides = {
        'model.bbox_head.num_classes': 5,
        'model.bbox_head.in_channels': 32,
        'model.bbox_head.feat_channels': 32,
        'model.bbox_head.stacked_convs': 1,
        'model.bbox_head.anchor_generator.strides': (4, 8),
        'total_epochs': 1,
        **reduced_backbone(name, config),
        **reduced_neck(name, config),
        **reduced_data(config),
        **(changes or {}),
    }
    if isinstance(config.model.neck, list):
        overrides['model.bbox_head.stacked_convs'] = 0
    if config.test_cfg.tta is not None:
        scales = config.test_cfg.tta.img_scales[:2]
        overrides['test_cfg.tta.img_scales'] = shrunk(scales)
    return load_config(path_of(name), overrides)


def reduced_backbone(name, config):
    """Changes that leave the first stage."""
    if name == SWIN_L:
        backbone = config.model.backbone.to_dict()
        backbone |= {'embed_dims': 32, 'depths': (2,), 'num_heads': (2,)}
        backbone |= {'out_indices': (0,)}
        return {'model.pretrained': None, 'model.backbone': backbone}
    overrides = {
        'model.pretrained': None,
        'model.backbone.depth': 50,
        'model.backbone.num_stages': 1,
        'model.backbone.out_indices': (0,),
    }
    if config.model.backbone.dcn is not None:
        overrides['model.backbone.stage_with_dcn'] = (True,)
        overrides['model.backbone.frozen_stages'] = 0
    return overrides


def reduced_neck(name, config):
    """Changes that leave two levels of 32 channels, and one block of a DyHead."""
    fpn = {
        'in_channels': (32,) if name == SWIN_L else (256,),
        'start_level': 0,
        'out_channels': 32,
        'num_outs': 2,
    }
    if not isinstance(config.model.neck, list):
        return {f'model.neck.{field}': value for field, value in fpn.items()}
    dyhead = {'in_channels': 32, 'out_channels': 32, 'num_blocks': 1}
    return {f'model.neck.0.{field}': value for field, value in fpn.items()} | {
        f'model.neck.1.{field}': value for field, value in dyhead.items()
    }


def reduced_data(config):
    """Changes to generated images, in the pipelines of the recipe on a small scale."""
    size_divisor = config.data.train.pipeline.pad.size_divisor
    overrides = {
        'data.samples_per_gpu': 1,
        'data.workers_per_gpu': 0,
        'data.max_boxes': 3,
        'data.canvases': ((128, 128) if size_divisor == 128 else (96, 96),),
    }
    for seed, split in enumerate(('train', 'val', 'test')):
        pipeline = config.data[split].pipeline.to_dict()
        for field in ('img_scale', 'img_scales'):
            if pipeline.get(field):
                pipeline[field] = shrunk(pipeline[field])
        if pipeline.get('random_crop'):
            crop = pipeline['random_crop']
            crop['crop_size'] = shrunk(crop['crop_size'])
        overrides[f'data.{split}'] = {
            'type': 'ShapesDataset',
            'num_images': 16 // config.data.train.times if split == 'train' else 4,
            'seed': seed,
            'min_size': 64,
            'max_size': 80,
            'max_objects': 3,
            'object_size': (0.3, 0.65),
            'min_visible': 0.6,
            'max_rotation': 180.0,
            'clutter': 1.0,
            'noise': 8.0,
            'pipeline': pipeline,
        }
    overrides['data.train']['times'] = config.data.train.times
    return overrides


def shrunk(scales):
    """Scales and sizes, of which 1333 becomes 96."""
    if isinstance(scales, int):
        return scales * 96 // 1333
    return tuple(shrunk(scale) for scale in scales)


@pytest.mark.parametrize('name', RUNS)
def test_two_steps_and_an_evaluation(name, tmp_path):
    config = reduced(name)
    full, small = experiment_of(name), build_experiment(config)
    assert small.optimizer == full.optimizer and small.lr_config == full.lr_config
    state = jax.device_get(train(config, str(tmp_path)))
    assert state.step == 2 and state.healthy
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    training, evaluation = (json.loads(line) for line in lines)
    assert (training['kind'], training['step']) == ('train', 2)
    assert all(math.isfinite(training[name]) for name in ('loss', 'grad_norm', 'lr'))
    assert evaluation['kind'] == 'eval' and evaluation['AP'] is not None
    assert (tmp_path / 'checkpoints' / '2').is_dir()
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
    assert dtypes == {np.dtype(np.float32)}
