"""Augmentation in mmdetection's configs: what becomes of it, and what is refused."""

import copy

import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.data.augment.affine import RandomAffine, RandomFlip
from atss_jax.data.augment.color import PhotoMetricDistortion, YOLOXHSVRandomAug
from atss_jax.data.augment.mixing import MixUp, Mosaic
from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.translate import translate
from tests.conftest import ROOT

OWN = ROOT / 'tests' / 'mmdet_configs'
LOAD = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True}]
RESIZE = {'type': 'Resize', 'scale': (640, 640), 'keep_ratio': True}
FLIP = {'type': 'RandomFlip', 'prob': 0.5}
PACK = {'type': 'PackDetInputs'}
COLOR = {'type': 'PhotoMetricDistortion', 'hue_delta': 9}
CROP = {'type': 'RandomCrop', 'crop_size': (64, 64)}
FILTER = {'type': 'FilterAnnotations', 'keep_empty': False}
MOSAIC = {'type': 'Mosaic', 'img_scale': (640, 640), 'pad_val': 114.0}
AFFINE = {'type': 'RandomAffine', 'scaling_ratio_range': (0.1, 2), 'border': (-320, -9)}
MIXUP = {'type': 'mmdet.MixUp', 'img_scale': [640, 640], 'ratio_range': (0.8, 1.6)}
HSV = {'type': 'YOLOXHSVRandomAug'}


def values_with(train):
    """The 3.x config with this training data set."""
    values = copy.deepcopy(source.read(OWN / 'v3_r50.py'))
    old = values['train_dataloader']['dataset']
    values['train_dataloader']['dataset'] = train(old)
    return values


def with_pipeline(*steps):
    return values_with(lambda old: old | {'pipeline': [*LOAD, *steps, PACK]})


def mixed(*steps, inside=(), **fields):
    """A MultiImageMixDataset, as YOLOX's configs have it."""

    def wrap(old):
        inner = old | {'pipeline': [*LOAD, *inside]}
        outer = {'dataset': inner, 'pipeline': [*steps, PACK], **fields}
        return {'type': 'MultiImageMixDataset', **outer}

    return values_with(wrap)


def pipeline_of(values):
    """What our config makes of it."""
    fields = translate(values).fields
    config = load_config(ROOT / 'configs' / 'atss_r50_1x.py', fields)
    return build_experiment(config).data['train'].pipeline


def test_photometric_distortion_as_in_ssd_and_yolov3():
    pipeline = pipeline_of(with_pipeline(RESIZE, FLIP, COLOR))
    assert pipeline.after_flip == (PhotoMetricDistortion(hue_delta=9),)
    assert pipeline.before_resize == () and pipeline.flip_ratio == 0.5
    # Of single pixels: it may as well come before the crop and the flip.
    assert pipeline_of(with_pipeline(RESIZE, COLOR, CROP, FLIP)).after_flip
    before = pipeline_of(with_pipeline(COLOR, RESIZE, FLIP))
    assert before.before_resize == (PhotoMetricDistortion(hue_delta=9),)
    assert before.after_flip == ()


def test_the_pipeline_of_yolox():
    steps = MOSAIC, AFFINE, MIXUP, HSV, FLIP, RESIZE, FILTER
    pipeline = pipeline_of(mixed(*steps, max_refetch=15))
    assert pipeline.before_resize == (
        Mosaic(img_scale=(640, 640)),
        RandomAffine(scaling_ratio_range=(0.1, 2.0), border=(-320, -9)),
        MixUp(img_scale=(640, 640), ratio_range=(0.8, 1.6)),
        YOLOXHSVRandomAug(),
        RandomFlip(prob=0.5),
    )
    assert pipeline.after_flip == () and pipeline.flip_ratio == 0.0
    assert not pipeline.jitter.keep_empty


def test_directions_of_the_flip():
    flips = {'prob': [0.3, 0.2], 'direction': ['vertical', 'diagonal']}
    pipeline = pipeline_of(with_pipeline(RESIZE, {'type': 'RandomFlip', **flips}))
    assert pipeline.flip_ratio == (0.3, 0.2)
    assert pipeline.flip_direction == ('vertical', 'diagonal')
    one = {'type': 'RandomFlip', 'prob': 0.4, 'direction': 'vertical'}
    pipeline = pipeline_of(with_pipeline(RESIZE, one))
    assert (pipeline.flip_ratio, pipeline.flip_direction) == (0.4, 'vertical')


def test_directions_of_2x():
    values = copy.deepcopy(source.read(OWN / 'v2_r50.py'))
    (flip,) = [
        x for x in values['data']['train']['pipeline'] if x['type'] == 'RandomFlip'
    ]
    flip |= {'flip_ratio': [0.1, 0.2], 'direction': ['horizontal', 'vertical']}
    pipeline = pipeline_of(values)
    assert pipeline.flip_ratio == (0.1, 0.2)
    assert pipeline.flip_direction == ('horizontal', 'vertical')


def test_small_boxes_are_filtered_after_the_flip_too():
    pipeline = pipeline_of(with_pipeline(RESIZE, FLIP, FILTER))
    assert pipeline.jitter.min_gt_bbox_wh == (1, 1)


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        (
            with_pipeline({'type': 'CachedMosaic'}, RESIZE),
            ['CachedMosaic is not supported', 'Mosaic in a MultiImageMixDataset'],
        ),
        (
            with_pipeline(RESIZE, {'type': 'Albu', 'transforms': []}),
            ['albumentations', 'UserFunction', 'after_flip'],
        ),
        (with_pipeline(RESIZE, {'type': 'CopyPaste'}), ['CopyPaste', 'masks']),
        (with_pipeline({'type': 'Expand'}, RESIZE), ["type = 'Expand'", 'expected']),
        (with_pipeline(RESIZE, AFFINE, FLIP), ['RandomFlip after RandomAffine']),
        (with_pipeline(RESIZE, AFFINE, CROP), ['RandomCrop after RandomAffine']),
        (
            with_pipeline(RESIZE, {'type': 'Pad', 'size_divisor': 32}, COLOR),
            ['PhotoMetricDistortion after Pad'],
        ),
        (
            with_pipeline(MOSAIC | {'bbox_clip_border': False}, RESIZE),
            ['bbox_clip_border = False', 'True'],
        ),
        (with_pipeline(COLOR | {'gamma': 2}, RESIZE), ['gamma = 2', 'no equivalent']),
        (mixed(MOSAIC, RESIZE, inside=[RESIZE]), ['Resize', 'only the loading']),
        (
            mixed(MOSAIC, RESIZE, skip_type_keys=['Mosaic']),
            ['skip_type_keys', 'expected None'],
        ),
    ],
)
def test_what_is_refused_says_why(values, words):
    with pytest.raises(ValueError) as caught:
        translate(values)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_2x_has_other_rules_for_several_images():
    values = copy.deepcopy(source.read(OWN / 'v2_r50.py'))
    values['data']['train']['pipeline'].insert(2, dict(MOSAIC))
    with pytest.raises(ValueError, match=r'Mosaic of mmdetection 2\.x.*before_resize'):
        translate(values)


def test_several_data_sets_are_not_mixed():
    def wrap(old):
        several = {'type': 'ConcatDataset', 'datasets': [old, old]}
        return {'type': 'MultiImageMixDataset', 'dataset': several, 'pipeline': [PACK]}

    with pytest.raises(ValueError, match='around a single CocoDataset'):
        translate(values_with(wrap))


def test_evaluation_is_not_augmented():
    values = copy.deepcopy(source.read(OWN / 'v3_r50.py'))
    values['val_dataloader']['dataset']['pipeline'].insert(2, dict(COLOR))
    with pytest.raises(ValueError, match='PhotoMetricDistortion is for training only'):
        translate(values)
