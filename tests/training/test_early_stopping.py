"""Early stopping and the best checkpoint: by any metric, however often it is killed."""

import shlex
import shutil

import jax
import numpy as np
import pytest

from atss_jax.commands import train as train_command
from atss_jax.config.monitoring import EarlyStopping
from atss_jax.data.bad_images import BadImages
from atss_jax.training.checkpoint import Checkpoints, best_checkpoint
from atss_jax.training.journal import since_improvement
from atss_jax.training.log import METRICS
from tests.support.small_run import (
    assert_equal,
    metrics_of,
    saved_steps,
    small_config,
    train,
    train_until,
)


@pytest.mark.parametrize(
    ('scores', 'min_delta', 'waited'),
    [
        ([], 0, 0),
        ([0.5], 0.1, 0),
        ([0.0], 0.1, 0),  # the first is always an improvement
        ([0.1, 0.3, 0.2], 0, 1),
        ([0.1, 0.3, 0.2, 0.3], 0, 0),  # equal to the best: enough where it is 0
        ([0.1, 0.3, 0.2, 0.3], 0.01, 2),
        ([0.10, 0.11, 0.13], 0.02, 0),  # 0.11 is too little, 0.13 is not
        ([0.3, 0.1, 0.2, 0.25], 0, 3),  # better than before, not than the best
    ],
)
def test_how_long_a_metric_has_not_improved(scores, min_delta, waited):
    by_step = {3 * index: score for index, score in enumerate(scores, start=1)}
    steps = [*by_step]
    last = steps[len(steps) - 1 - waited] if steps else None
    rule = EarlyStopping('AP', min_delta, 2)
    assert since_improvement(by_step, rule) == (waited, last)


# Runs ---------------------------------------------------------------------------------

AP50 = {3: 0.1, 6: 0.3, 9: 0.3, 12: 0.305, 15: 0.9}
AP_OF_RED = {3: 0.5, 6: 0.2, 9: 0.4, 12: 0.1, 15: 0.0}


class Scripted:
    """Scores a state by its step, of which a counter of the model tells."""

    def __init__(self, experiment, source, split):
        self.bad_images = BadImages(source, 0)

    def evaluate(self, variables, stop):
        statistics = variables['batch_stats']['backbone']['layer2_0']['bn1']
        step = int(np.asarray(jax.device_get(statistics['num_batches_tracked'])))
        numbers = {'AP': 0.0, 'AP50': AP50[step], 'APl': None}
        return {**numbers, 'per_class': {'red': AP_OF_RED[step]}}, f'AP50 {AP50[step]}'

    def examples(self, count):
        return []


def counting(mapped):
    """A step that counts itself and learns nothing: what stops a run is tested here."""

    class Step:
        def __call__(self, state, inputs):
            statistics = jax.tree.map(
                lambda x: x + 1 if x.dtype == np.int32 else x, state.batch_stats
            )
            state = state.replace(step=state.step + 1, batch_stats=statistics)
            return state, dict.fromkeys(METRICS, np.float32(state.step))

        def lower(self, state, inputs):
            return self

        def compile(self):
            return self

    return Step()


SCRIPTED = {'make_evaluator': Scripted, 'wrap_step': counting}


@pytest.fixture(scope='module')
def config(small_data):
    return small_config(
        small_data,
        {
            'total_epochs': 5,
            'checkpoint_config.interval': 2,
            'evaluation.save_best': 'per_class/red',
            'early_stopping': {'metric': 'AP50', 'min_delta': 0.01, 'patience': 2},
        },
    )


@pytest.fixture(scope='module')
def stopped_run(config, tmp_path_factory):
    """Workdir and last state of a run that stops early by itself."""
    workdir = tmp_path_factory.mktemp('early') / 'workdir'
    return workdir, jax.device_get(train(config, workdir, **SCRIPTED))


def test_it_stops_after_so_many_evaluations(stopped_run, config, capsys):
    workdir, state = stopped_run
    assert state.step == 12
    evaluations = metrics_of(workdir, 'eval')
    assert [record['step'] for record in evaluations] == [3, 6, 9, 12]
    again = train(config, workdir, **SCRIPTED)
    assert_equal(jax.device_get(again), state)
    assert (
        'the run ends after step 12 of 15: early stopping: AP50 did not improve by '
        '0.01 in 2 evaluations; it did last at step 6, to 0.300'
    ) in capsys.readouterr().out


def kill_while_evaluating(config, workdir, epoch):
    """The checkpoint of the epoch is saved, its evaluation is not done."""

    class Dying(Scripted):
        def evaluate(self, variables, stop):
            numbers = super().evaluate(variables, stop)
            if numbers[0]['AP50'] == AP50[3 * epoch]:
                raise KeyboardInterrupt
            return numbers

    with pytest.raises(KeyboardInterrupt):
        train(config, workdir, **SCRIPTED | {'make_evaluator': Dying})


@pytest.mark.parametrize('kill', [5, 8, 11, 'while evaluating', 'twice'])
def test_killed_and_resumed_it_stops_at_the_same_step(
    stopped_run, config, tmp_path, kill
):
    if kill == 'while evaluating':
        kill_while_evaluating(config, tmp_path, 4)
    else:
        for step in (8, 10) if kill == 'twice' else (kill,):
            train_until(config, tmp_path, step, **SCRIPTED)
    workdir, state = stopped_run
    resumed = train(config, tmp_path, **SCRIPTED)
    assert_equal(jax.device_get(resumed), state)
    whole = (workdir / 'metrics.jsonl').read_bytes()
    assert (tmp_path / 'metrics.jsonl').read_bytes() == whole
    assert saved_steps(tmp_path) == saved_steps(workdir)


def test_a_run_that_was_stopped_early_goes_on_without(stopped_run, config, tmp_path):
    """The field changes no step: the run may be resumed with another one."""
    workdir = shutil.copytree(stopped_run[0], tmp_path / 'workdir')
    other = config.copy_and_resolve_references()
    other.early_stopping = None
    state = train(other, workdir, **SCRIPTED)
    assert int(state.step) == 15


def test_the_best_checkpoint_is_that_of_the_metric(stopped_run):
    """By AP of the class red, of the two that were saved: steps 6 and 12."""
    workdir, _ = stopped_run
    assert saved_steps(workdir) == [6, 12]
    assert Checkpoints.open(str(workdir)).best_step() == 6
    assert best_checkpoint(str(workdir)) == ('per_class/red', 0.2, 6)


def test_the_last_line_says_what_was_best_and_how_to_use_it(
    stopped_run, monkeypatch, tmp_path
):
    monkeypatch.setattr('sys.argv', ['/usr/bin/atss'])
    workdir, _ = stopped_run
    assert train_command.last_line(str(workdir)) == (
        f'done; best per_class/red 0.200 at step 6; to evaluate: atss eval '
        f'--workdir={workdir}; to predict: atss predict --workdir={workdir} IMAGE'
    )
    (tmp_path / 'my run').symlink_to(workdir)
    words = shlex.split(train_command.last_line(str(tmp_path / 'my run')))
    assert words[-2:] == [f'--workdir={tmp_path}/my run', 'IMAGE']


def test_the_metric_of_a_class_that_there_is_not(small_data, tmp_path):
    for field, value in {
        'evaluation.save_best': 'per_class/violet',
        'early_stopping': {
            'metric': 'coco/violet_precision',
            'min_delta': 0,
            'patience': 1,
        },
    }.items():
        config = small_config(small_data, {field: value})
        with pytest.raises(ValueError) as caught:
            train(config, tmp_path / 'workdir')
        assert f'config.{field}' in str(caught.value)
        assert "no class 'violet'; expected one of AP, AP50" in str(caught.value)
        assert 'with one of red, green, blue' in str(caught.value)
