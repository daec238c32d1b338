"""Weights between files and workdirs, and mmdet's runs as ours, by command line."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from atss_jax.commands import main as commands
from atss_jax.config import as_dict, build_experiment, load_config, to_json
from atss_jax.config.tree import flatten
from atss_jax.evaluation.evaluate import evaluate
from atss_jax.mmdet_config.section import plain
from atss_jax.optim.sgd import sgd
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.state import create_state
from atss_jax.training.workdir import trained_classes
from atss_jax.weights import mmdet_checkpoint, mmdet_momentum, safetensors
from atss_jax.weights.torch_file import pth
from tests.support.small_run import CLASSES, small_config, train


@pytest.fixture
def call(capsys):
    """`call('convert', 'a', 'b')` runs the command; gives its output or its error."""

    def run(*arguments):
        status = commands.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (status == 0) == (captured.err == ''), captured.err
        assert len(captured.err.splitlines()) < 2
        return captured.err or captured.out

    return run


def variables_of(workdir, step=None):
    config = load_config(str(workdir / 'config.json'))
    checkpoints = Checkpoints.open(str(workdir))
    model = build_experiment(config).model
    return checkpoints.restore_variables(model, step)


def assert_same_bits(ours, others):
    ours, others = jax.tree.map(np.asarray, (ours, others))
    assert jax.tree.structure(ours) == jax.tree.structure(others)
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), ours, others)
    assert all(jax.tree.leaves(same))


# convert -----------------------------------------------------------------------------


def test_once_around(call, small_run, tmp_path):
    """Workdir to .pth to .safetensors to .pth to workdir: the same weights, classes."""
    start = small_run.workdir
    names = ['a.pth', 'b.safetensors', 'c.pth', 'run']
    paths = [start, *(tmp_path / name for name in names)]
    config = start / 'config.json'
    for source, target in itertools.pairwise(paths):
        more = ('--config', config) if target.name == 'run' else ()
        said = call('convert', source, target, *more)
        assert f'wrote {target}' in said and 'arrays' in said
    assert_same_bits(variables_of(paths[-1]), variables_of(start))
    assert trained_classes(str(paths[-1])) == CLASSES
    assert load_config(str(paths[-1] / 'config.json')) == load_config(str(config))
    meta = pth.load(tmp_path / 'c.pth')['meta']
    assert meta['CLASSES'] == meta['dataset_meta']['classes'] == CLASSES
    assert json.loads(safetensors.load(tmp_path / 'b.safetensors')[1]['classes']) == [
        *CLASSES
    ]


def test_files_need_no_config_and_keep_their_types(call, tmp_path):
    half = {'a.b': np.arange(3, dtype=np.float16), 'n': np.array(5, np.int64)}
    pth.save(tmp_path / 'a.pth', {'state_dict': half, 'meta': {'CLASSES': ('x',)}})
    call('convert', tmp_path / 'a.pth', tmp_path / 'b.safetensors')
    call('convert', tmp_path / 'b.safetensors', tmp_path / 'c.pth')
    found = mmdet_checkpoint.load(tmp_path / 'c.pth')
    assert found.classes == ('x',)
    for name, value in half.items():
        assert found.weights[name].dtype == value.dtype
        assert found.weights[name].tobytes() == value.tobytes()


def test_a_workdir_of_one_checkpoint(call, small_run, tmp_path):
    """Workdir to workdir: the chosen step alone, as a start for another run."""
    steps = Checkpoints.open(str(small_run.workdir)).steps()
    call('convert', small_run.workdir, tmp_path / 'run', '--step', steps[-1])
    assert Checkpoints.open(str(tmp_path / 'run')).steps() == [0]
    expected = variables_of(small_run.workdir, steps[-1])
    assert_same_bits(variables_of(tmp_path / 'run'), expected)


def state_of(workdir, step):
    config = load_config(str(workdir / 'config.json'))
    experiment = build_experiment(config)
    variables = variables_of(workdir, step)
    like = create_state(
        variables,
        experiment.model,
        sgd(experiment.optimizer, lambda count: 0.1),
        averages=experiment.optimizer.ema_momentum is not None,
    )
    return Checkpoints.open(str(workdir)).restore(step, like)


def test_momentum_through_a_mmdet_checkpoint(call, small_run, tmp_path):
    """The whole state comes back: training continues as if nothing had happened."""
    step = Checkpoints.open(str(small_run.workdir)).steps()[-1]
    flags = ('--momentum', '--step', step)
    said = call('convert', small_run.workdir, tmp_path / 'a.pth', *flags)
    assert 'momentum' in said
    content = pth.load(tmp_path / 'a.pth')
    assert content['meta']['iter'] == step
    assert content['optimizer']['param_groups'][0]['lr'] == 0.02
    config = small_run.workdir / 'config.json'
    more = ('--config', config, '--momentum')
    call('convert', tmp_path / 'a.pth', tmp_path / 'run', *more)
    assert Checkpoints.open(str(tmp_path / 'run')).steps() == [step]
    expected = state_of(small_run.workdir, step)
    assert_same_bits(state_of(tmp_path / 'run', step), expected)


ADAMW = {'type': 'AdamW', 'lr': 1e-4, 'weight_decay': 0.05}


@pytest.mark.parametrize('paramwise', [None, {'norm_decay_mult': 0.0}])
def test_adamw_through_a_mmdet_checkpoint(call, small_run, tmp_path, paramwise):
    """mmdet's file to a workdir and back: the same means, number of updates, groups."""
    call('convert', small_run.workdir, tmp_path / 'sgd.pth', '--momentum')
    content = pth.load(tmp_path / 'sgd.pth')
    weights, rng = content['state_dict'], np.random.default_rng(0)
    trained = mmdet_checkpoint.load(tmp_path / 'sgd.pth', True).momentum
    means, squares = (
        {name: rng.random(x.shape, np.float32) for name, x in trained.items()}
        for _ in range(2)
    )
    saved = mmdet_momentum.OptimizerState(means, squares, updates=17)
    pth.save(
        tmp_path / 'a.pth',
        content | {'optimizer': mmdet_momentum.write(saved, weights)},
    )
    config = as_dict(load_config(str(small_run.workdir / 'config.json')))
    config['optimizer'] = ADAMW | ({'paramwise_cfg': paramwise} if paramwise else {})
    file = tmp_path / 'adamw.json'
    file.write_text(json.dumps(config))
    flags = ('--config', file, '--momentum')
    call('convert', tmp_path / 'a.pth', tmp_path / 'run', *flags)
    call('convert', tmp_path / 'run', tmp_path / 'b.pth', '--momentum')
    found = mmdet_checkpoint.load(tmp_path / 'b.pth', True, trained)
    assert (found.updates, found.step) == (17, content['meta']['iter'])
    assert_same_bits(dict(found.momentum), means)
    assert_same_bits(dict(found.squares), squares)
    assert found.group['betas'] == (0.9, 0.999) and found.group['eps'] == 1e-8
    if paramwise is None:
        assert found.settings is None and found.group['weight_decay'] == 0.05
    else:
        decays = {name: x['weight_decay'] for name, x in found.settings.items()}
        assert decays.keys() == trained.keys()
        assert decays['bbox_head.cls_convs.0.gn.bias'] == 0
        assert decays['bbox_head.atss_cls.bias'] == 0.05
        assert {x['lr'] for x in found.settings.values()} == {1e-4}
    said = call('convert', tmp_path / 'sgd.pth', tmp_path / 'other', *flags)
    assert "the state of SGD, but optimizer.type = 'AdamW'" in said
    flags = ('--config', small_run.workdir / 'config.json', '--momentum')
    said = call('convert', tmp_path / 'a.pth', tmp_path / 'other', *flags)
    assert "the state of AdamW, but optimizer.type = 'SGD'" in said
    assert not (tmp_path / 'other').exists()


@pytest.mark.slow
def test_training_goes_on_from_a_mmdet_checkpoint(
    call, small_run, small_data, tmp_path
):
    """An epoch more, through mmdet's form and by `resume_from`: the same weights."""
    longer = {'total_epochs': 3}
    start = str(small_run.workdir)
    resumed = small_config(small_data, longer | {'resume_from': start})
    expected = train(resumed, str(tmp_path / 'resumed'))
    step = Checkpoints.open(start).steps()[-1]
    call('convert', start, tmp_path / 'a.pth', '--momentum', '--step', step)
    config, run = tmp_path / 'longer.json', tmp_path / 'run'
    config.write_text(to_json(small_config(small_data, longer)))
    call('convert', tmp_path / 'a.pth', run, '--config', config, '--momentum')
    found = train(load_config(str(config)), str(run))
    assert int(found.step) == int(expected.step) == 9
    assert_same_bits(jax.device_get(found), jax.device_get(expected))


def averaging_run(small_run, tmp_path):
    """A workdir of the small config with a moving average, from a made checkpoint."""
    config = as_dict(load_config(str(small_run.workdir / 'config.json')))
    config['ema'] = {'momentum': 0.01}
    path = tmp_path / 'ema.json'
    path.write_text(json.dumps(config))
    return path


def test_averages_both_ways(call, small_run, tmp_path):
    config = averaging_run(small_run, tmp_path)
    step = Checkpoints.open(str(small_run.workdir)).steps()[-1]
    flags = ('--momentum', '--step', step)
    call('convert', small_run.workdir, tmp_path / 'a.pth', *flags)
    content = pth.load(tmp_path / 'a.pth')
    raw = {f'module.{name}': x + 1 for name, x in content['state_dict'].items()}
    content['ema_state_dict'] = {'steps': np.array(step, np.int64), **raw}
    both = tmp_path / 'both.pth'
    pth.save(both, content)
    call('convert', both, tmp_path / 'run', '--config', config, '--momentum')
    state = state_of(tmp_path / 'run', step)
    name = ('backbone', 'conv1', 'kernel')
    average, trained = (tree['backbone']['conv1'] for tree in (state.ema, state.params))
    np.testing.assert_array_equal(average['kernel'] + 1, trained['kernel'], str(name))
    # What is evaluated is the average; and all comes out again.
    found = variables_of(tmp_path / 'run')['params']['backbone']['conv1']
    np.testing.assert_array_equal(found['kernel'], average['kernel'])
    again = tmp_path / 'again.pth'
    call('convert', tmp_path / 'run', again, '--momentum')
    back = pth.load(again)
    for name in ('backbone.conv1.weight', 'bbox_head.atss_cls.bias'):
        np.testing.assert_array_equal(
            back['state_dict'][name], content['state_dict'][name]
        )
        np.testing.assert_array_equal(
            back['ema_state_dict'][f'module.{name}'], raw[f'module.{name}']
        )
    call('convert', both, tmp_path / 'raw.safetensors', '--unaveraged')
    found = safetensors.state_dict(tmp_path / 'raw.safetensors')
    np.testing.assert_array_equal(
        found['backbone.conv1.weight'], raw['module.backbone.conv1.weight']
    )
    plain_config = small_run.workdir / 'config.json'
    flags = ('--config', plain_config, '--momentum')
    assert 'config.ema is None' in call('convert', both, tmp_path / 'other', *flags)
    assert not (tmp_path / 'other').exists()


def test_what_convert_refuses(call, small_run, tmp_path):
    run, config = small_run.workdir, small_run.workdir / 'config.json'
    file = tmp_path / 'a.pth'
    call('convert', run, file)
    (tmp_path / 'no.pth').write_bytes(b'garbage')
    shapes = 'configs/atss_shapes.py'
    for arguments, said in [
        ((tmp_path / 'none.pth', 'x.pth'), 'no weights file'),
        ((tmp_path / 'none', 'x.pth'), 'not the workdir of a run'),
        ((tmp_path / 'no.pth', 'x.safetensors'), 'no.pth'),
        ((file, tmp_path / 'new'), 'give one with --config'),
        ((file, tmp_path / 'new', '--config', shapes), 'num_classes = 5'),
        ((file, run, '--config', config), 'has checkpoints already'),
        ((file, file), 'another name'),
        ((file, tmp_path / 'no folder' / 'x.pth'), 'no folder'),
        ((file, tmp_path / 'x.pth', '--momentum'), 'no optimizer'),
        ((file, tmp_path / 'x.pth', '--unaveraged'), 'no moving average'),
        (
            (file, tmp_path / 'x.pth', '--step', 3),
            '--step chooses a checkpoint of a workdir',
        ),
        ((run, tmp_path / 'x.pth', '--step', 99), 'no checkpoint 99'),
        ((run, tmp_path / 'x.pth', '--unaveraged'), 'no moving average'),
        ((run, tmp_path / 'x.safetensors', '--momentum'), 'only a .pth'),
    ]:
        message = call('convert', *arguments)
        assert said in message and message.startswith('atss convert: '), message
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ['a.pth', 'no.pth']


# import-mmdet ------------------------------------------------------------------------

CONFIG = """
data_root = {folder!r}
load = dict(type='LoadImageFromFile')
boxes = dict(type='LoadAnnotations', with_bbox=True)
resize = dict(type='Resize', scale=(64, 32), keep_ratio=True)
model = dict(
    type='ATSS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[110.0] * 3,
        std=[60.0] * 3,
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, num_stages=2, out_indices=(1, ), frozen_stages=0,
        norm_eval=False),
    neck=dict(
        type='FPN', in_channels=[128], out_channels=32, num_outs=2,
        start_level=0, add_extra_convs='on_output'),
    bbox_head=dict(
        type='ATSSHead', num_classes=3, in_channels=32, feat_channels=32,
        stacked_convs=1, norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=2,
            scales_per_octave=1, strides=[8, 16]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0],
            target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.6), max_per_img=20))
dataset = dict(type='CocoDataset', data_root=data_root{metainfo})
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        ann_file='train.json', data_prefix=dict(img='train'),
        filter_cfg=dict(filter_empty_gt=False, min_size=32),
        pipeline=[load, boxes, resize, dict(type='RandomFlip', prob=0.5),
                  dict(type='PackDetInputs')], **dataset))
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='val.json', data_prefix=dict(img='val'), test_mode=True,
        pipeline=[load, resize, boxes, dict(type='PackDetInputs')], **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
optim_wrapper = dict(
    type='OptimWrapper', clip_grad=dict(max_norm=10, norm_type=2),
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=2),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))
"""


@pytest.fixture
def theirs(call, small_run, small_data, tmp_path):
    """The small run as mmdet would have left it: a config and a checkpoint."""

    def write(metainfo=''):
        config = tmp_path / 'theirs.py'
        text = CONFIG.format(folder=f'{small_data}/', metainfo=metainfo)
        config.write_text(text)
        call('convert', small_run.workdir, tmp_path / 'epoch_2.pth', '--momentum')
        return config, tmp_path / 'epoch_2.pth'

    return write


def test_a_run_of_mmdet_becomes_ours(call, theirs, small_run, tmp_path):
    """The same config, weights and COCO numbers as the run that it was made from."""
    config, checkpoint = theirs()
    workdir = tmp_path / 'imported'
    said = call('import-mmdet', config, checkpoint, '--workdir', workdir)
    assert 'a config of mmdetection 3.x' in said
    assert 'model.backbone.depth = 18' in said
    assert 'val_dataloader.batch_size = 1' in said
    assert 'does not read: data_root, load, boxes, resize, dataset' in said
    found, expected = (
        flatten(as_dict(load_config(str(folder / 'config.json'))))
        for folder in (workdir, small_run.workdir)
    )
    differing = {p for p in expected if plain(found[p]) != plain(expected[p])}
    assert differing == {'data.max_boxes'}  # mmdet has no such field
    assert_same_bits(variables_of(workdir), variables_of(small_run.workdir))
    assert trained_classes(str(workdir)) == CLASSES
    step = Checkpoints.open(str(small_run.workdir)).best_step()
    ours = shutil.copytree(small_run.workdir, tmp_path / 'ours')
    numbers = [
        evaluate(str(folder), step=number).scores.summary
        for folder, number in ((workdir, 0), (ours, step))
    ]
    assert numbers[0] == numbers[1]


def test_fine_tuning_from_an_imported_workdir(call, theirs, small_data, tmp_path):
    config, checkpoint = theirs()
    workdir = tmp_path / 'imported'
    call('import-mmdet', config, checkpoint, '--workdir', workdir)
    tuned = small_config(small_data, {'load_from': str(workdir)})
    state = train(tuned, str(tmp_path / 'tuned'))
    assert int(state.step) == 6
    start, end = (variables_of(folder) for folder in (workdir, tmp_path / 'tuned'))
    frozen = start['params']['backbone']['conv1']['kernel']
    np.testing.assert_array_equal(end['params']['backbone']['conv1']['kernel'], frozen)
    before, after = (tree['params']['bbox_head']['atss_reg'] for tree in (start, end))
    assert 0 < np.abs(after['kernel'] - before['kernel']).max() < 0.1


def test_classes_of_config_and_checkpoint(call, theirs, tmp_path):
    """mmdet's labels follow the annotation file, whatever the order of the names."""
    shuffled = (CLASSES[2], CLASSES[0], CLASSES[1])
    metainfo = f', metainfo=dict(classes={shuffled!r}, palette=[(1, 2, 3)])'
    config, checkpoint = theirs(metainfo)
    workdir = tmp_path / 'imported'
    message = call('import-mmdet', config, checkpoint, '--workdir', workdir)
    assert 'is for the classes' in message and not workdir.exists()
    content = pth.load(checkpoint)
    content['meta'] = {'dataset_meta': {'classes': shuffled}}
    pth.save(checkpoint, content)
    call('import-mmdet', config, checkpoint, '--workdir', workdir)
    assert trained_classes(str(workdir)) == CLASSES
    found = load_config(str(workdir / 'config.json'))
    assert tuple(found.data.val.classes) == CLASSES
    content['meta'] = {'CLASSES': ('one', 'two')}
    pth.save(checkpoint, content)
    shutil.rmtree(workdir)
    message = call('import-mmdet', config, checkpoint, '--workdir', workdir)
    assert 'has 2 classes' in message and 'num_classes = 3' in message


def test_what_changes_nothing_need_not_be_evaluated(call, theirs, tmp_path):
    config, checkpoint = theirs()
    text = config.read_text().replace('num_classes=3', "num_classes=len('abc')")
    wasted = "work_dir = os.path.join('a', 'b')\nenv_cfg = dict(nccl=[choose()])\n"
    config.write_text(f'import os\n{text}{wasted}')
    workdir = tmp_path / 'imported'
    said = call('import-mmdet', config, checkpoint, '--workdir', workdir)
    assert f'wrote {workdir}' in said
    assert "work_dir = os.path.join('a', 'b')" in said and '[choose()]' in said


def test_what_import_refuses(call, theirs, tmp_path):
    config, checkpoint = theirs()
    text = config.read_text()
    flags = ('--workdir', tmp_path / 'imported')
    for old, new, said in [
        ('depth=18', 'depth=20', 'config.model.backbone.depth = 20'),
        ("'FocalLoss'", "'VarifocalLoss'", 'model.bbox_head.loss_cls.type'),
        ('stacked_convs=1', 'stacked_convs=2', 'missing from the weights'),
        ('load = dict(', 'load = build(', 'theirs.py, line 3'),
    ]:
        assert old in text
        config.write_text(text.replace(old, new))
        message = call('import-mmdet', config, checkpoint, *flags)
        assert said in message and message.startswith('atss import-mmdet: ')
    assert not (tmp_path / 'imported').exists()
