"""Callbacks of users: when they are called, how they stop a run, and how they fail."""

import math
import pathlib

import jax
import numpy as np
import pytest

from atss_jax.training.callbacks import CallbackError, Callbacks
from tests.support.small_run import (
    assert_equal,
    metrics_of,
    saved_steps,
    train,
)


class Recorder:
    """Notes every call; `answers` says what a call returns or raises."""

    def __init__(self, answers=None):
        self.calls, self._answers = [], answers or {}

    def _called(self, method, step, value):
        self.calls.append((method, step, value))
        answer = self._answers.get((method, step))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def after_step(self, step, metrics):
        return self._called('after_step', step, metrics)

    def after_evaluation(self, step, numbers):
        return self._called('after_evaluation', step, numbers)

    def after_checkpoint(self, step, folder):
        return self._called('after_checkpoint', step, folder)

    def steps_of(self, method):
        return [step for name, step, _ in self.calls if name == method]


def log_of(workdir):
    return (workdir / 'metrics.jsonl').read_bytes()


def assert_resumes(workdir, small_run):
    """Checks that the run goes on to where it would have come without callbacks."""
    state = train(small_run.config, workdir)
    assert_equal(jax.device_get(state), small_run.state)
    assert log_of(workdir) == log_of(small_run.workdir)


def test_what_they_get_and_when(small_run, tmp_path):
    complete = []

    class Looks:
        """Has only one method."""

        def after_checkpoint(self, step, folder):
            assert folder == f'{tmp_path}/w/checkpoints/{step}'
            complete.append(pathlib.Path(folder, 'commit_success.txt').exists())

    recorder = Recorder()
    train(small_run.config, tmp_path / 'w', callbacks=[recorder, Looks()])
    assert recorder.steps_of('after_step') == [1, 2, 3, 4, 5, 6]
    order = [(method, step) for method, step, _ in recorder.calls]
    end_of_epoch = [('after_step', 3), ('after_checkpoint', 3), ('after_evaluation', 3)]
    assert order[2:5] == end_of_epoch
    assert complete == [True, True]
    losses = {s: x['loss'] for m, s, x in recorder.calls if m == 'after_step'}
    assert all(math.isfinite(loss) for loss in losses.values())
    logged = {r['step']: r['loss'] for r in metrics_of(tmp_path / 'w', 'train')}
    assert logged[2] == pytest.approx((losses[1] + losses[2]) / 2)
    assert logged[3] == losses[3]
    scores = {s: x for m, s, x in recorder.calls if m == 'after_evaluation'}
    for record in metrics_of(tmp_path / 'w', 'eval'):
        assert scores[record['step']]['AP'] == record['AP']
        assert scores[record['step']]['per_class'] == record['per_class']
    assert log_of(tmp_path / 'w') == log_of(small_run.workdir)  # they change nothing


@pytest.mark.parametrize(
    ('method', 'step', 'saved_at'),
    [
        # Steps 2 and 3 are on their way when the metrics of step 1 have arrived...
        ('after_step', 2, 3),
        # ...except at an end of an epoch and at the first step.
        ('after_step', 1, 1),
        ('after_evaluation', 3, 3),
        ('after_checkpoint', 3, 3),
    ],
)
def test_one_that_stops(small_run, tmp_path, capsys, method, step, saved_at):
    recorder = Recorder({(method, step): True})
    state = train(small_run.config, tmp_path, callbacks=[recorder])
    assert int(state.step) == saved_at and saved_steps(tmp_path) == [saved_at]
    assert recorder.steps_of('after_step') == list(range(1, saved_at + 1))
    assert (
        f'the run ends after step {saved_at} of 6: callback Recorder.{method} asked to '
        f'stop at step {step}'
    ) in capsys.readouterr().out
    assert_resumes(tmp_path, small_run)


@pytest.mark.parametrize(
    ('method', 'step', 'saved_at'),
    [
        ('after_step', 1, 1),
        ('after_step', 4, 6),
        ('after_evaluation', 3, 3),
        ('after_checkpoint', 3, 3),
    ],
)
def test_one_that_fails(small_run, tmp_path, method, step, saved_at):
    recorder = Recorder({(method, step): KeyError('who')})
    with pytest.raises(CallbackError) as caught:
        train(small_run.config, tmp_path, callbacks=[recorder, Recorder()])
    assert str(caught.value) == (
        f"callback Recorder.{method} failed at step {step}: KeyError: 'who'. The state "
        'of the run is saved: run again to resume'
    )
    assert isinstance(caught.value.__cause__, KeyError)  # with its own traceback
    assert recorder.calls[-1][:2] == (method, step)  # it is not called any more
    assert saved_at in saved_steps(tmp_path)
    assert_resumes(tmp_path, small_run)


@pytest.mark.parametrize(
    ('answer', 'problem'),
    [
        (
            np.array([1, 2]),
            r'it returned array\(\[1, 2\]\); expected True, False or None',
        ),
        (1, 'it returned 1; expected True, False or None'),
        ([0] * 1000, r'it returned \[[0, ]{199}\.\.\.; expected'),
        (SystemExit(4), 'SystemExit: 4. The state of the run is saved'),
        (SystemExit(), 'SystemExit. The state of the run is saved'),
    ],
)
def test_what_a_callback_may_not_do(answer, problem):
    callbacks = Callbacks([Recorder({('after_step', 1): answer})])
    callbacks.call('after_step', 1, {'loss': 1.0})
    assert 'Recorder.after_step failed at step 1: ' in callbacks.reason_to_stop()
    with pytest.raises(CallbackError, match=problem):
        callbacks.raise_failure()


@pytest.mark.parametrize('answer', [True, np.bool_(True), False, np.False_, None])
def test_answers(answer):
    callbacks = Callbacks([Recorder({('after_step', 1): answer})])
    callbacks.call('after_step', 1, {'loss': 1.0})
    callbacks.raise_failure()
    assert bool(callbacks.reason_to_stop()) == bool(answer)


def test_each_callback_gets_numbers_of_its_own():
    class Changes:
        def after_evaluation(self, step, numbers):
            numbers['per_class']['cat'] = 1.0
            numbers.pop('AP')

    recorder, numbers = Recorder(), {'AP': 0.5, 'per_class': {'cat': 0.5}}
    callbacks = Callbacks([Changes(), recorder])
    callbacks.call('after_evaluation', 1, numbers)
    callbacks.raise_failure()
    expected = {'AP': 0.5, 'per_class': {'cat': 0.5}}
    assert recorder.calls == [('after_evaluation', 1, expected)]
    assert numbers == expected


def test_an_answer_that_is_none(small_run, tmp_path):
    recorder = Recorder({('after_step', 1): 'stop'})
    with pytest.raises(CallbackError, match="returned 'stop'; expected True, False or"):
        train(small_run.config, tmp_path, callbacks=[recorder])


def test_callbacks_of_which_nothing_would_be_called():
    class Misspelled:
        def after_epoch(self, epoch):
            pass

        def after_step(self, step, metrics):
            pass

    with pytest.raises(
        ValueError, match='has after_epoch; expected an object with one'
    ):
        Callbacks([Misspelled()])
    with pytest.raises(ValueError, match='has none of them; expected an object'):
        Callbacks([lambda step: None])
    with pytest.raises(ValueError, match='Recorder is a class; expected an object'):
        Callbacks([Recorder])
    with pytest.raises(ValueError, match=r'callbacks = .*; expected a list'):
        Callbacks(Recorder())


def test_methods_that_cannot_be_called_are_refused_at_the_start():
    class Forgets:
        def after_checkpoint(self, step):
            pass

    with pytest.raises(ValueError, match=r'Forgets\.after_checkpoint\(step\) does not'):
        Callbacks([Recorder(), Forgets()])

    class Any:
        def after_step(self, *arguments, **others):
            return True

    callbacks = Callbacks([Any()])
    callbacks.call('after_step', 1, {})
    assert 'Any.after_step asked to stop' in callbacks.reason_to_stop()


def test_none_in_the_place_of_a_method():
    class Quiet(Recorder):
        after_step = None

    recorder = Quiet()
    callbacks = Callbacks([recorder])
    assert callbacks.has('after_checkpoint') and not callbacks.has('after_step')
    callbacks.call('after_step', 1, {})
    callbacks.call('after_evaluation', 1, {})
    callbacks.raise_failure()
    assert recorder.calls == [('after_evaluation', 1, {})]
