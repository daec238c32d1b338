"""The training loop end to end, on small images: what it writes, resumes, refuses."""

import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.config.fields import ADDED
from atss_jax.data.plan import TrainPlan
from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.evaluate import evaluate
from atss_jax.training import initial
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import initial_variables
from atss_jax.training.journal import NonFiniteLoss
from atss_jax.training.log import Length, RunLog
from atss_jax.training.metrics_file import MetricsFile
from atss_jax.training.state import init_variables, is_trained
from atss_jax.weights import mmdet
from atss_jax.weights.torch_file import pth
from tests.conftest import ROOT
from tests.support.small_run import (
    CATEGORY_IDS,
    CLASSES,
    assert_equal,
    count_traces,
    first_state,
    metrics_of,
    saved_steps,
    small_config,
    train,
    train_until,
    tree_of,
)

STEPS = 6  # two epochs of three batches of eight


# What a run writes --------------------------------------------------------------------


def test_the_workdir_holds_the_config(small_run):
    text = (small_run.workdir / 'config.json').read_text()
    assert text == to_json(small_run.config) + '\n'
    stream = json.loads((small_run.workdir / 'stream.json').read_text())
    source = build_experiment(small_run.config).data['train'].open()
    assert stream == {
        'global_batch_size': 8,
        'records': 21,
        'records_digest': source.records.digest(),
        'occurrences_digest': hashlib.sha256(np.ones(21, np.int64)).hexdigest(),
        'classes': list(CLASSES),
    }


def test_metrics_are_complete_and_bear_no_times(small_run):
    training = metrics_of(small_run.workdir, 'train')
    # Every second step, and at the end of each epoch.
    assert [(r['step'], r['epoch']) for r in training] == [
        (2, 1),
        (3, 1),
        (4, 2),
        (6, 2),
    ]
    names = {'loss', 'loss_cls', 'loss_bbox', 'loss_centerness', 'grad_norm'}
    for record in training:
        assert set(record) == {'kind', 'step', 'epoch', 'lr', *names}
        assert all(math.isfinite(record[name]) for name in names)
        parts = record['loss_cls'] + record['loss_bbox'] + record['loss_centerness']
        assert record['loss'] == pytest.approx(parts, rel=1e-5)
    assert [r['lr'] for r in training] == pytest.approx([0.02, 0.02, 0.002, 0.002])
    evaluations = metrics_of(small_run.workdir, 'eval')
    assert [(r['step'], r['epoch']) for r in evaluations] == [(3, 1), (6, 2)]
    for record in evaluations:
        assert set(record) == {
            *('kind', 'step', 'epoch', 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'),
            *('AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl', 'per_class'),
        }
        assert set(record['per_class']) == set(CLASSES)
        assert record['APl'] is None  # no object is large


def test_the_loss_falls(small_run):
    losses = [record['loss'] for record in metrics_of(small_run.workdir, 'train')]
    assert losses[-1] < losses[0]


def test_tensorboard_files(small_run):
    (file,) = (small_run.workdir / 'tensorboard').iterdir()
    content = file.read_bytes()
    for name in (b'train/loss_cls', b'train/lr', b'eval/AP50', b'speed/images_per_s'):
        assert name in content


def test_newest_and_best_checkpoint_are_kept(small_run):
    scores = {r['step']: r['AP'] for r in metrics_of(small_run.workdir, 'eval')}
    best = max(scores, key=lambda step: (scores[step], step))
    # The last was saved before it was evaluated, when the one before was the best.
    assert saved_steps(small_run.workdir) == [3, STEPS]
    checkpoints = Checkpoints.open(str(small_run.workdir))
    assert checkpoints.best_step() == best
    model = build_experiment(small_run.config).model
    newest = checkpoints.restore_variables(model, STEPS)
    assert_equal(newest, small_run.state.variables)
    assert_equal(checkpoints.restore(STEPS, small_run.state), small_run.state)


def test_one_program_a_canvas(small_run):
    """Two canvases, two epochs, two evaluations: two programs each, no more."""
    assert (small_run.train_traces, small_run.eval_traces) == (2, 2)


def test_frozen_parts_keep_their_bits_and_others_train(small_run):
    model = build_experiment(small_run.config).model  # frozen_stages 0: the stem
    before = init_variables(model, small_run.config.seed)['params']
    frozen = 0
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before),
        jax.tree.leaves(small_run.state.params),
        strict=True,
    ):
        names = tuple(key.key for key in path)
        if is_trained(names, model):
            assert not np.array_equal(old, new), names
        else:
            np.testing.assert_array_equal(old, new, err_msg=str(names))
            frozen += 1
    assert frozen == 3  # kernel, scale and bias of the stem


def test_statistics_of_the_frozen_stem_do_not_move(small_run):
    stem = small_run.state.batch_stats['backbone']['bn1']
    np.testing.assert_array_equal(stem['mean'], 0)
    np.testing.assert_array_equal(stem['var'], 1)
    moved = small_run.state.batch_stats['backbone']['layer2_0']['bn1']
    assert moved['num_batches_tracked'] == STEPS
    assert np.abs(moved['mean']).min() > 0


def test_images_without_objects_take_part(small_run):
    experiment = build_experiment(small_run.config)
    source = experiment.data['train'].open()
    assert (source.records.counts == 0).sum() == 4
    assert source.records.ignored.sum() == 1


def test_a_finished_run_started_again_changes_nothing(small_run, tmp_path, capsys):
    workdir = tmp_path / 'workdir'
    shutil.copytree(small_run.workdir, workdir)
    before = tree_of(workdir)
    state = train(small_run.config, str(workdir))
    assert_equal(jax.device_get(state), small_run.state)
    after = tree_of(workdir)
    new = {name for name in after if name not in before}
    assert all(name.startswith('tensorboard') for name in new)
    assert {name: after[name] for name in before} == before
    assert f'resuming after step {STEPS}' in capsys.readouterr().out


# Evaluation ---------------------------------------------------------------------------


def test_evaluating_a_workdir(small_run, tmp_path):
    """The score is that of the JSON it writes, and that of training's log."""
    workdir = tmp_path / 'workdir'
    shutil.copytree(small_run.workdir, workdir)
    before = tree_of(workdir)
    evaluation = evaluate(str(workdir), step=STEPS)
    scores, out = evaluation.scores, evaluation.text()
    assert 'AP50' in out and str(workdir / 'evaluation') in out

    record = metrics_of(workdir, 'eval')[-1]
    written = json.loads((workdir / f'evaluation/val_{STEPS}_scores.json').read_text())
    assert written.pop('bad_pictures') == []
    assert {k: v for k, v in record.items() if k in written} == written
    assert 0 < scores.summary['AP'] < 1

    results = workdir / f'evaluation/val_{STEPS}_detections.json'
    results = json.loads(results.read_text())
    ground_truth = json.loads(
        pathlib.Path(small_run.config.data.val.ann_file).read_text()
    )
    again = coco_metric.evaluate(ground_truth, results, CLASSES, CATEGORY_IDS)
    assert again.summary == pytest.approx(scores.summary, nan_ok=True)
    assert again.per_class == pytest.approx(scores.per_class, nan_ok=True)
    assert {r['image_id'] for r in results} <= {i['id'] for i in ground_truth['images']}

    after = tree_of(workdir)  # nothing but results is new, all else as it was
    assert {n: x for n, x in after.items() if not n.startswith('evaluation')} == before


def test_evaluation_falls_back_on_nothing(small_run, tmp_path):
    with pytest.raises(ValueError, match='is not the workdir of a run'):
        evaluate(str(tmp_path))
    assert not tree_of(tmp_path)
    with pytest.raises(ValueError, match=r'no checkpoint 4 in .*6\]'):
        evaluate(str(small_run.workdir), step=4)


# Resuming ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def stopped_run(small_run, tmp_path_factory):
    """Workdir of the same run, stopped in the middle of the second epoch."""
    workdir = tmp_path_factory.mktemp('stopped') / 'workdir'
    train_until(small_run.config, workdir, step=5)
    return workdir


def test_resuming_equals_running_through(small_run, stopped_run, tmp_path):
    workdir = tmp_path / 'workdir'
    shutil.copytree(stopped_run, workdir)
    assert saved_steps(workdir) == [3]
    assert metrics_of(workdir, 'train')[-1]['step'] == 4  # beyond the checkpoint
    with (workdir / 'metrics.jsonl').open('a') as file:
        file.write('{"kind": "train", "st')  # killed while it wrote
    state = train(small_run.config, str(workdir))
    assert_equal(jax.device_get(state), small_run.state)
    for name in ('metrics.jsonl', 'config.json', 'stream.json'):
        assert (workdir / name).read_bytes() == (small_run.workdir / name).read_bytes()
    assert saved_steps(workdir) == saved_steps(small_run.workdir)


def test_an_unfinished_checkpoint_is_no_checkpoint(small_run, stopped_run, tmp_path):
    """For orbax any folder with a number for a name is a step, even an empty one."""
    workdir = tmp_path / 'workdir'
    shutil.copytree(stopped_run, workdir)
    (workdir / 'checkpoints' / '5').mkdir()
    half = workdir / 'checkpoints' / '4'
    shutil.copytree(workdir / 'checkpoints' / '3', half)
    (half / 'commit_success.txt').unlink()
    assert Checkpoints.open(str(workdir)).steps() == [3]
    state = first_state(small_run.config, workdir)
    assert state.step == 3
    names = {
        path.name.partition('_')[0] for path in (workdir / 'checkpoints').iterdir()
    }
    assert names == {'3', '4', '5'}  # set aside, not deleted


def test_another_config_is_refused_and_nothing_changes(small_run, small_data, tmp_path):
    workdir = tmp_path / 'workdir'
    shutil.copytree(small_run.workdir, workdir)
    before = tree_of(workdir)
    overrides = {'optimizer.lr': 0.5, 'data.train.pipeline.flip_ratio': 0.25}
    with pytest.raises(ValueError) as caught:
        train(small_config(small_data, overrides), str(workdir))
    assert str(caught.value).splitlines() == [
        f'{workdir} belongs to a run with other config:',
        '  data.train.pipeline.flip_ratio: 0.5 there, 0.25 now',
        '  optimizer.lr: 0.02 there, 0.5 now',
        'To resume this run, set these fields as they were. To train with the new '
        f'values, use another --workdir; there, --config.load_from={workdir} starts '
        'from the weights of this run.',
    ]
    assert tree_of(workdir) == before


def test_a_workdir_of_an_earlier_version_is_resumed(tmp_path):
    """Its config lacks fields that were added since; they count as what it did."""
    config = json.loads(to_json(load_config('atss_r50_1x')))
    stream = {'global_batch_size': 8}
    old = json.loads(to_json(config))
    for path in ADDED:
        *parents, name = path.split('.')
        section = old
        for parent in parents:
            section = section[parent]
        del section[name]
    (tmp_path / 'config.json').write_text(json.dumps(old))
    workdirs.claim(str(tmp_path), json.dumps(config), stream)
    assert json.loads((tmp_path / 'config.json').read_text()) == config
    (tmp_path / 'config.json').write_text(json.dumps(old))
    config['data']['train']['pipeline']['backend'] = 'pillow'
    with pytest.raises(ValueError, match="backend: 'cv2' there, 'pillow' now"):
        workdirs.claim(str(tmp_path), json.dumps(config), stream)


def test_another_global_batch_is_refused(small_run, small_data, tmp_path):
    workdir = tmp_path / 'workdir'
    shutil.copytree(small_run.workdir, workdir)
    before = tree_of(workdir)
    with pytest.raises(ValueError, match='images per step: 8 there, 16 now'):
        train(small_config(small_data, {'data.samples_per_gpu': 2}), str(workdir))
    assert tree_of(workdir) == before


def test_what_changes_no_number_may_differ(tmp_path):
    here, there = str(tmp_path / 'a'), {'global_batch_size': 8}
    workdirs.claim(here, '{"parallel": "pmap", "data": {"workers_per_gpu": 0}}', there)
    other = '{"parallel": "shard_map", "data": {"workers_per_gpu": 2}}'
    workdirs.claim(here, other, there)
    with pytest.raises(ValueError, match='more: absent there, 1 now'):
        workdirs.check(here, '{"more": 1}', there)


def test_resume_from_takes_over_everything(small_data, stopped_run, tmp_path):
    config = small_config(small_data, {'resume_from': str(stopped_run)})
    state = first_state(config, tmp_path / 'workdir')
    assert state.step == 3
    assert_equal(Checkpoints.open(str(stopped_run)).restore(3, state), state)
    assert max(np.abs(x).max() for x in jax.tree.leaves(state.momentum)) > 0


def test_resume_from_falls_back_on_an_older_checkpoint(
    small_data, stopped_run, tmp_path, capsys
):
    """The other run's workdir stays as it is, the damaged checkpoint too."""
    other = tmp_path / 'other'
    shutil.copytree(stopped_run, other)
    newer = other / 'checkpoints' / '4'
    shutil.copytree(other / 'checkpoints' / '3', newer)
    for file in (newer / 'notes').iterdir():
        file.write_bytes(b'')
    before = tree_of(other)
    config = small_config(small_data, {'resume_from': str(other)})
    state = first_state(config, tmp_path / 'workdir')
    assert state.step == 3
    assert f'checkpoint {newer} is damaged' in capsys.readouterr().err
    assert tree_of(other) == before


@pytest.mark.parametrize('name', ['load_from', 'resume_from'])
@pytest.mark.parametrize(
    ('overrides', 'path', 'message'),
    [
        ({}, 'nowhere', 'nowhere'),
        ({'model.bbox_head.stacked_convs': 2}, 'run', 'is of another model than the'),
        ({'model.bbox_head.feat_channels': 64}, 'run', 'is of another model than the'),
    ],
)
def test_weights_that_cannot_be_taken_over(
    small_data, small_run, tmp_path, name, overrides, path, message
):
    path = str(small_run.workdir if path == 'run' else tmp_path / path)
    config = small_config(small_data, {**overrides, name: path})
    with pytest.raises(ValueError, match=message) as caught:
        train(config, str(tmp_path / 'workdir'))
    assert len(str(caught.value).replace(path, '')) < 300
    assert not (tmp_path / 'workdir' / 'config.json').exists()  # it may be corrected


def test_resume_from_a_finished_run_is_refused(small_data, small_run, tmp_path):
    config = small_config(small_data, {'resume_from': str(small_run.workdir)})
    with pytest.raises(ValueError, match='step 6 of 6 is done there'):
        train(config, str(tmp_path / 'workdir'))


# Weights to start from ----------------------------------------------------------------


def test_load_from_a_workdir_takes_weights_only(small_data, small_run, tmp_path):
    config = small_config(small_data, {'load_from': str(small_run.workdir)})
    state = first_state(config, tmp_path / 'workdir')
    best = Checkpoints.open(str(small_run.workdir)).restore_variables(
        build_experiment(config).model
    )
    assert_equal(state.variables, best)
    assert state.step == 0
    assert not any(x.any() for x in jax.tree.leaves(state.momentum))


def test_load_from_a_pth_file(small_run, tmp_path):
    file = tmp_path / 'detector.pth'
    pth.save(file, {'state_dict': mmdet.to_state_dict(small_run.state.variables)})
    model = build_experiment(small_run.config).model
    assert_equal(
        initial_variables(model, 0, None, str(file)), small_run.state.variables
    )


def test_a_pretrained_backbone(small_run, tmp_path):
    model, prefix = build_experiment(small_run.config).model, 'backbone.'
    ours = init_variables(model, seed=0)
    theirs = mmdet.to_state_dict(small_run.state.variables)
    file = tmp_path / 'backbone.pth'
    backbone = {
        name.removeprefix(prefix): value
        for name, value in theirs.items()
        if name.startswith(prefix)
    }
    pth.save(file, backbone)
    variables = initial_variables(model, 0, str(file), None)
    for part in ('backbone', 'neck', 'bbox_head'):
        expected = small_run.state.params if part == 'backbone' else ours['params']
        assert_equal(variables['params'][part], expected[part])
    assert_equal(variables['batch_stats'], small_run.state.batch_stats)


def test_a_pretrained_backbone_that_is_not_there(small_run, tmp_path, monkeypatch):
    """Said before anything is compiled, which takes half a minute for an R50."""
    model = build_experiment(small_run.config).model
    monkeypatch.setattr(initial, 'init_variables', None)
    with pytest.raises(FileNotFoundError, match=r'none\.pth: no such file'):
        initial_variables(model, 0, str(tmp_path / 'none.pth'), None)


# Breaking down ------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_training(small_run, stopped_run, tmp_path):
    """Momentum gone wild: the next step is finite, the one after it is not."""
    state = Checkpoints.open(str(stopped_run)).restore(3, small_run.state)
    wild = jax.tree.map(
        lambda x: x * np.float32(1e33) if x.dtype == np.float32 else x, state.momentum
    )
    workdir = tmp_path / 'workdir'
    checkpoints = Checkpoints(str(workdir))
    checkpoints.save(state.replace(momentum=wild), {})
    checkpoints.close()
    for name in ('config.json', 'stream.json'):
        shutil.copy(small_run.workdir / name, workdir)

    states = []

    def recorded(mapped):
        @functools.wraps(mapped)
        def step(state, batch):
            out = mapped(state, batch)
            # Copies: the next step reuses the memory of this state.
            states.append(jax.tree.map(np.array, jax.device_get(out[0])))
            return out

        return step

    with pytest.raises(NonFiniteLoss) as caught:
        train(small_run.config, workdir, wrap_step=recorded)
    message = str(caught.value)
    experiment = build_experiment(small_run.config)
    source = experiment.data['train'].open()
    plan = TrainPlan(
        experiment.data['train'].pipeline.canvas_index(source),
        experiment.data['train'].pipeline.all_canvases(),
        8,
        experiment.seed,
    )
    ids = source.records.image_ids[plan.records(4)].tolist()
    assert message.startswith('step 5: loss ')
    assert f'Image ids of the batch: {ids}' in message
    assert f'last good checkpoint: {workdir}/checkpoints/3.' in message

    # The last was on its way already; it changed nothing either.
    assert [bool(state.healthy) for state in states] == [True, False, False]
    assert states[0].step == 4
    for after in states[1:]:
        assert_equal(after.replace(healthy=states[0].healthy), states[0])
    assert saved_steps(workdir) == [3]
    for record in metrics_of(workdir, 'train'):
        assert math.isfinite(record['loss'])


@pytest.mark.slow
def test_shard_map_gives_the_numbers_of_pmap(small_run, small_data, tmp_path):
    config = small_config(small_data, {'parallel': 'shard_map'})
    with pytest.MonkeyPatch.context() as patch:
        traces = count_traces(patch, 'map_over_devices')
        state = jax.device_get(train(config, str(tmp_path)))
    assert len(traces) == 2
    for ours, theirs in zip(
        jax.tree.leaves(state), jax.tree.leaves(small_run.state), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


# Parts --------------------------------------------------------------------------------


def test_a_log_goes_on_after_its_last_good_step(tmp_path):
    numbers = dict.fromkeys(
        ('loss', 'loss_cls', 'loss_bbox', 'loss_centerness', 'grad_norm'), 1.0
    )

    def write(start, stop):
        log = RunLog(Length(start, 10, 5), interval=1)
        log.writers.append(MetricsFile(str(tmp_path), start))
        for step in range(start + 1, stop + 1):
            log.step(step, numbers, 0.1, 8)
        log.close()

    write(0, 10)
    whole = (tmp_path / 'metrics.jsonl').read_bytes()
    write(4, 7)
    write(7, 10)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == whole


def test_weights_of_many_devices_load_on_one(small_run):
    """In a process of its own: here there are eight devices."""
    program = (
        'import sys, jax, numpy as np\n'
        'from atss_jax.config.load import build_model, load_config\n'
        'from atss_jax.training.checkpoint import Checkpoints\n'
        'assert jax.device_count() == 1\n'
        'model = build_model(load_config(f"{sys.argv[1]}/config.json"))\n'
        'variables = Checkpoints.open(sys.argv[1]).restore_variables(model, 6)\n'
        'print(sum(float(np.abs(x).sum()) for x in jax.tree.leaves(variables)))\n'
    )
    environment = dict(os.environ, XLA_FLAGS='')
    command = [sys.executable, '-c', program, str(small_run.workdir)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    leaves = jax.tree.leaves(small_run.state.variables)
    expected = sum(float(np.abs(x).sum()) for x in leaves)
    assert float(done.stdout) == pytest.approx(expected, rel=1e-6)


def test_evaluation_on_classes_in_another_order_is_refused(small_run):
    other = {'data.val.classes': CLASSES[::-1]}
    with pytest.raises(ValueError, match='classes differ in name or order'):
        evaluate(str(small_run.workdir), 'val', overrides=other)


def test_resume_from_a_run_of_other_batches_is_refused(small_run, small_data, tmp_path):
    overrides = {'resume_from': str(small_run.workdir), 'data.samples_per_gpu': 2}
    with pytest.raises(ValueError, match='images per step: 8 there, 16 now'):
        train(small_config(small_data, overrides), str(tmp_path / 'workdir'))


def test_checkpoints_without_a_config_are_refused(tmp_path):
    (tmp_path / 'checkpoints' / '12').mkdir(parents=True)
    with pytest.raises(ValueError, match='checkpoints but no config'):
        workdirs.check(str(tmp_path), '{}', {})
