"""The lists of transforms in a config: defaults, and what is refused with a reason."""

import json

import pytest

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.data.augment.affine import RandomAffine
from atss_jax.data.augment.mixing import Mosaic

PIPELINE = 'data.train.pipeline'
BEFORE, AFTER = f'{PIPELINE}.before_resize', f'{PIPELINE}.after_flip'


def pipeline(fields):
    return build_experiment(load_config('atss_r50_1x', fields)).data['train'].pipeline


def test_arguments_that_are_left_out_are_those_of_mmdetection():
    made = pipeline(
        {BEFORE: ({'type': 'Mosaic', 'prob': 0.5}, {'type': 'RandomAffine'})}
    )
    assert made.before_resize == (Mosaic(prob=0.5), RandomAffine())


def test_a_single_argument_can_be_set():
    fields = {BEFORE: ({'type': 'Mosaic', 'prob': 0.5},), f'{BEFORE}.0.prob': 0.25}
    assert pipeline(fields).before_resize == (Mosaic(prob=0.25),)


def test_a_list_survives_the_file_of_a_run(tmp_path):
    steps = ({'type': 'Mosaic', 'img_scale': (64, 32)}, {'type': 'YOLOXHSVRandomAug'})
    config = load_config('atss_r50_1x', {BEFORE: steps})
    (tmp_path / 'config.json').write_text(to_json(config))
    again = load_config(tmp_path / 'config.json')
    assert to_json(again) == to_json(config)
    assert json.loads(to_json(again))['data']['train']['pipeline']['after_flip'] is None
    made = build_experiment(again).data['train'].pipeline
    assert made == pipeline({BEFORE: steps})
    assert build_experiment(again).data['val'].pipeline.before_resize == ()


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({BEFORE: ({'type': 'Mosiac'},)}, ['before_resize.0.type', "'Mosaic' or"]),
        (
            {BEFORE: ({'type': 'Mosaic', 'img_size': (9, 9)},)},
            ['before_resize.0.img_size', 'img_scale'],
        ),
        ({AFTER: ({'type': 'Mosaic'},)}, ['another size', 'belongs in before_resize']),
        (
            {BEFORE: ({'type': 'UserFunction', 'function': 'a:b'},)},
            ['belongs in after_flip'],
        ),
        ({AFTER: ({'type': 'UserFunction'},)}, ["no field '", 'after_flip.0.function']),
        (
            {AFTER: ({'type': 'RandomAffine', 'border': (0, 4)},)},
            ['after_flip.0.border', 'expected (0, 0)'],
        ),
        (
            {AFTER: ({'type': 'MixUp', 'ratio_range': (1.5, 0.5)},)},
            ['ratio_range', 'the smaller one first'],
        ),
        ({BEFORE: {'type': 'Mosaic'}}, ['before_resize', 'tuple of sections']),
        ({BEFORE: 'Mosaic'}, ['before_resize', 'tuple of sections']),
        ({BEFORE: ({'type': 'RandomFlip'},)}, ["no field '", 'before_resize.0.prob']),
        (
            {f'{PIPELINE}.flip_ratio': (0.5, 0.5)},
            ['flip_ratio', '2 probabilities for 1 of flip_direction'],
        ),
        (
            {
                f'{PIPELINE}.flip_ratio': (0.5, 0.6),
                f'{PIPELINE}.flip_direction': ('horizontal', 'vertical'),
            },
            ['flip_ratio', 'sum is 1.1', 'at most 1'],
        ),
        ({f'{PIPELINE}.flip_direction': 'both'}, ["'horizontal' or 'vertical'"]),
        ({'data.val.pipeline.after_flip': None}, ['data.val.pipeline.after_flip']),
    ],
)
def test_what_is_refused(fields, words):
    with pytest.raises(ValueError) as caught:
        load_config('atss_r50_1x', fields)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
