"""The file that `atss init` writes: valid, readable, and what the setup says."""

import ast
import dataclasses
import itertools
import os
import re

import numpy as np
import pytest

from atss_jax.config import load_config
from atss_jax.tuning import from_data, recipe, tables
from atss_jax.tuning.choose import Chosen
from atss_jax.tuning.config_file import config_text, cost_text, stage_channels
from tests.support.tuning import USUAL, fit_of, setup_of

COMMAND = ['atss', 'init', 'data/bccd', '--out=bccd.py']


def written(tmp_path, plan, command=COMMAND, name='bccd.py'):
    """The text for a setup, and the config that it gives."""
    text = config_text(plan, command, name)
    file = tmp_path / 'written.py'
    file.write_text(text, encoding='utf-8')
    return text, load_config(file)


def with_anchors(**changes):
    """A setup with anchors other than mmdetection's."""
    plan = setup_of()
    anchors = dataclasses.replace(USUAL, **changes)
    fit = fit_of({0: [0.6] * 5, 1: [0.6] * 5, 2: [0.5] * 5}, anchors)
    usual = plan.chosen.usual
    chosen = Chosen(fit, usual, (usual, fit), plan.chosen.smallest_sides)
    return dataclasses.replace(plan, chosen=chosen, costs=(12.1, 12.2))


def plain(value):
    """Sections as dicts, to be compared."""
    return value.to_dict() if hasattr(value, 'to_dict') else value


# Fields -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('start', 'depth'),
    [
        (start, depth)
        for start, depth in itertools.product(recipe.STARTS, from_data.DEPTHS)
        if start != 'zoo' or depth in from_data.ZOO
    ],
)
def test_every_start_and_depth(tmp_path, start, depth):
    plan = setup_of(start=start, depth=depth, model=from_data.ZOO.get(depth, ''))
    text, config = written(tmp_path, plan)
    assert max(map(len, text.splitlines())) <= 88
    assert config.model.backbone.depth == depth
    assert config.model.neck.in_channels == stage_channels(depth)
    assert config.model.bbox_head.num_classes == 3
    trained = f'torchvision://resnet{depth}'
    assert config.model.pretrained == (None if start == 'scratch' else trained)
    zoo = f'mmdet://atss_r{depth}_fpn_1x_coco'
    assert config.load_from == (zoo if start == 'zoo' else None)
    backbone = config.model.backbone
    frozen = (-1, False) if start == 'scratch' else (1, True)
    assert (backbone.frozen_stages, backbone.norm_eval) == frozen
    optimizer = {'scratch': ('AdamW', 0.0005)}.get(start, ('SGD', 0.005))
    assert (config.optimizer.type, config.optimizer.lr) == optimizer


def test_fields_of_the_setup(tmp_path):
    plan = setup_of(splits={'train': 'train', 'val': 'val', 'test': 'test'})
    text, config = written(tmp_path, plan)
    for split in ('train', 'val', 'test'):
        section = config.data[split]
        assert (section.type, section.path) == ('auto', 'data/bccd')
        assert section.split == split
        assert section.pipeline.img_scale == (320, 240)
    assert config.data.canvases == ((256, 320),)
    assert config.data.max_boxes == 32
    assert config.data.samples_per_gpu == config.auto_scale_lr.base_batch_size == 8
    assert config.total_epochs == 8
    assert config.lr_config.step == (5, 7)
    assert config.lr_config.warmup_iters == 20
    assert config.log_config.interval == 26
    assert config.optimizer_config.grad_clip.max_norm == 10
    assert '205 training images' in text
    assert '8 epochs are 208 steps, and show 1640 images' in text
    assert 'of at least 17 pixels' in text.replace('\n    # ', ' ')
    # What the file does not say is as in the main recipe.
    base = load_config('atss_r50_1x')
    assert plain(config.test_cfg) == plain(base.test_cfg)
    assert config.data.train.pipeline.flip_ratio == base.data.train.pipeline.flip_ratio


def test_one_epoch_of_single_images(tmp_path):
    plan = setup_of(samples_per_gpu=1)
    short = dataclasses.replace(plan.schedule, epochs=1, milestones=())
    text, _ = written(tmp_path, dataclasses.replace(plan, schedule=short))
    assert '# 1 epoch is 26 steps, and shows 205 images.' in text
    assert '# 1 image per device and step, on ' in text


def test_without_a_canvas_of_their_own(tmp_path):
    text, config = written(tmp_path, setup_of(canvases=None))
    assert config.data.canvases is None
    assert 'orientation' not in text


def test_anchors_of_mmdetection(tmp_path):
    text, config = written(tmp_path, setup_of())
    base = load_config('atss_r50_1x')
    generator = config.model.bbox_head.anchor_generator
    assert plain(generator) == plain(base.model.bbox_head.anchor_generator)
    assert 'The anchors, those of mmdetection, overlap by 0.40' in text


def test_other_anchors(tmp_path):
    plan = with_anchors(octave_base_scale=4.0, scales_per_octave=3)
    text, config = written(tmp_path, plan)
    generator = config.model.bbox_head.anchor_generator
    assert generator.octave_base_scale == 4
    assert generator.scales_per_octave == 3
    assert generator.strides == (8, 16, 32, 64, 128)
    assert 'octave_base_scale=4,' in text
    comment = text.replace('\n    # ', ' ')
    assert 'Anchors of 32, 40, 51 pixels on the finest level overlap by 0.57' in comment
    assert "mmdetection's, of 64, by 0.40" in comment


def test_a_finer_level(tmp_path):
    plan = with_anchors(strides=(4, 8, 16, 32, 64), octave_base_scale=8.0)
    text, config = written(tmp_path, plan)
    assert config.model.neck.start_level == 0
    assert config.model.bbox_head.anchor_generator.strides == (4, 8, 16, 32, 64)
    assert 'finer than P3' in text
    assert max(map(len, text.splitlines())) <= 88


@pytest.mark.parametrize('epochs', [1, 2, 3, 100])
def test_few_and_many_epochs(tmp_path, epochs):
    plan = recipe.schedule(205, 26, 8, 'zoo', epochs)
    _, config = written(tmp_path, setup_of(start='zoo', schedule=plan))
    assert config.total_epochs == epochs
    assert config.lr_config.get('step', ()) == plan.milestones
    assert config.lr_config.warmup_iters == plan.warmup_steps
    assert config.evaluation.interval == max(1, epochs // 12)


# Names --------------------------------------------------------------------------------

PATHS = {
    'quotes': 'it\'s "mine"',
    'three quotes': 'a"""b\'\'\'c',
    'quote at the end': 'data"',
    'backslashes': r'C:\new\users\x00',
    'backslash at the end': 'data\\',
    'other letters': 'données/図/Ω',
    'spaces': 'my data: all of it',
    'line break': 'two\nlines',
    'surrogate': 'byte \udcff',
    'braces': 'a {b} %s',
    'address': 'hf://owner/name',
    'very long': 'folder/' * 30 + 'data',
}


@pytest.mark.parametrize('kind', PATHS)
def test_paths(tmp_path, kind):
    path = PATHS[kind]
    out = f'{path}.py'
    command = ['atss', 'init', path, f'--out={out}']
    text, config = written(tmp_path, setup_of(path=path), command, out)
    assert config.data.train.path == path
    assert isinstance(ast.get_docstring(ast.parse(text)), str)
    if kind != 'very long':
        assert max(map(len, text.splitlines())) <= 88


def test_the_command_can_be_copied(tmp_path):
    words = ['--start=scratch', '--depth=18', '--epochs=8', '--batch=8', '--images=100']
    command = ['atss', 'init', 'my data', *words, '--out=bccd.py']
    text, _ = written(tmp_path, setup_of(), command)
    lines = text.partition('Written by\n\n')[2].partition('\n\n')[0]
    assert lines == (
        "    atss init 'my data' --start=scratch --depth=18 --epochs=8 --batch=8 \\\n"
        '        --images=100 --out=bccd.py'
    )
    assert text.startswith('r"""ATSS for data/bccd: 3 classes, 205 training images.\n')


NAMES = ['two\nlines', "it's", '"""', 'back\\slash', '# hash', '図', '\udcff\x00', ' ']


def test_names_of_classes(tmp_path):
    sides = np.arange(len(NAMES), 0, -1.0)  # the last is the smallest
    plan = setup_of(classes=tuple(NAMES))
    chosen = dataclasses.replace(plan.chosen, smallest_sides=sides)
    for names in (NAMES, NAMES[::-1]):
        changed = dataclasses.replace(plan, chosen=chosen, classes=tuple(names))
        text, config = written(tmp_path, changed)
        assert config.model.bbox_head.num_classes == len(NAMES)
        assert max(map(len, text.splitlines())) <= 88
        assert '\x00' not in text


def test_very_many_classes(tmp_path):
    classes = tuple(f'class {index}' for index in range(1000))
    fit = fit_of({index: [0.5] * 5 for index in range(1000)})
    chosen = Chosen(fit, fit, (fit,), np.full(1000, 20.0))
    text, config = written(tmp_path, setup_of(classes=classes, chosen=chosen))
    assert config.model.bbox_head.num_classes == 1000
    assert 'class 19 and 980 more.' in text.replace('\n    # ', ' ')
    assert 'class 20' not in text
    assert len(text.splitlines()) < 80


def test_one_class_of_one_image(tmp_path):
    fit = fit_of({0: [0.5]})
    chosen = Chosen(fit, fit, (fit,), np.array([20.0]))
    plan = setup_of(classes=('x' * 500,), images=1, chosen=chosen)
    text, _ = written(tmp_path, plan)
    assert '1 class, 1 training image.' in text
    assert max(map(len, text.splitlines())) <= 88


# Tables -------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['Platelets', 'a name of many words', 'two\nlines'])
def test_tables_fit_the_terminal(name):
    plan = dataclasses.replace(
        with_anchors(octave_base_scale=8.0, scales_per_octave=3),
        classes=('RBC', 'WBC', name),
    )
    trials = tables.trials(plan).splitlines()
    assert len(trials) == 2 + len(plan.chosen.tried)
    assert [line[:2] for line in trials[2:]] == ['  ', '* ']
    costs = [re.search(r'P3 +([0-9.]+) ', line).group(1) for line in trials[2:]]
    assert costs == ['12.1', '12.2']
    sizes = tables.sizes(plan).splitlines()
    assert len(sizes) == 2
    assert re.fullmatch(r'32 to 64 +15 +0\.0% +9\.0 +100% .*', sizes[1])
    assert max(map(len, trials + sizes)) <= 80


def test_the_lowest_class_of_the_table_is_a_common_one():
    fit = fit_of({0: [0.5] * 300, 1: [0.4] * 300, 2: [0.1] * 4})
    chosen = Chosen(fit, fit, (fit,), np.array([30.0, 50.0, np.nan]))
    row = tables.trials(setup_of(chosen=chosen)).splitlines()[-1]
    assert row.endswith('0.45  0.40 WBC')


# The device ---------------------------------------------------------------------------


def test_this_device():
    device = from_data.this_device()
    assert (device.platform, device.count) == ('cpu', 8)
    physical = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert device.memory == physical // 8


def test_costs_are_called_the_same_if_they_are_when_rounded():
    assert cost_text(1.44, 1.36) == (
        'An image costs the same with both: 1.4 billion multiply-adds.'
    )
    assert cost_text(12.2, 12.1) == (
        'An image costs 12.2 billion multiply-adds with them, and 12.1 with those.'
    )
