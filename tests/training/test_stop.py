"""SIGTERM in the middle of whatever training does: nothing is lost."""

import os
import shutil
import signal

import jax
import pytest

from atss_jax.data.loader import TrainBatches
from atss_jax.distributed import devices, hosts
from atss_jax.training.checkpoint import Checkpoints
from tests.support.small_run import (
    Killed,
    assert_equal,
    metrics_of,
    saved_steps,
    small_config,
    train,
    train_until,
)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def stop_in_the_middle_of_an_epoch(patch):
    """While step 2 of 6 is prepared: batches go to the devices by `shard_rows`."""
    return stop_at_batch(patch, 2)


def stop_while_evaluating(patch):
    """In the first batch of the first evaluation; three steps come before."""
    return stop_at_batch(patch, 4)


def stop_at_batch(patch, number):
    real, calls = devices.shard_rows, []
    number += 1  # the first is blank, for the step to be compiled by

    def shard_rows(batch, mode):
        calls.append(1)
        if len(calls) == number:
            terminate()
        return real(batch, mode)

    patch.setattr(devices, 'shard_rows', shard_rows)


def stop_while_saving(patch):
    """When the first epoch's checkpoint is on its way to the disk."""
    real, calls = Checkpoints.save, []

    def save(self, state, notes):
        real(self, state, notes)
        if not calls:
            terminate()
        calls.append(1)

    patch.setattr(Checkpoints, 'save', save)


@pytest.mark.parametrize(
    ('stop', 'said', 'saved', 'evaluated'),
    [
        (stop_in_the_middle_of_an_epoch, 'after step 2 of 6', [2], []),
        (stop_while_saving, 'in evaluation batch 1 of', [3], []),
        (stop_while_evaluating, 'in evaluation batch', [3], []),
    ],
)
def test_sigterm_saves_and_the_run_goes_on_from_there(
    small_run, tmp_path, stop, said, saved, evaluated
):
    workdir = tmp_path / 'workdir'
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(hosts.Stopped, match=said) as stopped:
            train(small_run.config, str(workdir))
    (note,) = stopped.value.__notes__  # which a traceback shows
    assert note == 'The state of the run is saved: run again to resume'
    assert signal.getsignal(signal.SIGTERM) is before
    assert saved_steps(workdir) == saved
    assert [r['step'] for r in metrics_of(workdir, 'eval')] == evaluated
    state = train(small_run.config, str(workdir))
    assert_equal(jax.device_get(state), small_run.state)
    whole = (small_run.workdir / 'metrics.jsonl').read_bytes()
    assert (workdir / 'metrics.jsonl').read_bytes() == whole


class DiskError(OSError):
    pass


def fail_to_load(patch, number):
    """Makes the loading of a batch fail, as when a disk is gone."""
    real = TrainBatches.__call__

    def load(self, step, memory=None):
        if step == number:
            raise DiskError('the disk is gone')
        return real(self, step, memory)

    patch.setattr(TrainBatches, '__call__', load)


@pytest.mark.parametrize('step', [2, 4])
def test_steps_before_a_batch_that_cannot_be_loaded_are_saved(
    small_run, tmp_path, capsys, step
):
    workdir = tmp_path / 'workdir'
    with pytest.MonkeyPatch.context() as patch:
        fail_to_load(patch, step)
        with pytest.raises(DiskError):
            train(small_run.config, str(workdir))
    assert f'no batch for step {step + 1}; the steps' in capsys.readouterr().out
    assert saved_steps(workdir)[-1] == step
    state = train(small_run.config, str(workdir))
    assert_equal(jax.device_get(state), small_run.state)
    whole = (small_run.workdir / 'metrics.jsonl').read_bytes()
    assert (workdir / 'metrics.jsonl').read_bytes() == whole


def test_without_a_first_batch_nothing_is_saved(small_run, tmp_path):
    workdir = tmp_path / 'workdir'
    with pytest.MonkeyPatch.context() as patch:
        fail_to_load(patch, 0)
        with pytest.raises(DiskError):
            train(small_run.config, str(workdir))
    assert not (workdir / 'checkpoints').exists() or not saved_steps(workdir)


def test_a_second_sigterm_does_not_cut_off_the_save(small_run, tmp_path):
    """Launchers send several; the checkpoint is still on its way when training ends."""
    real, killed = Checkpoints.close, []

    def close(self):
        terminate()
        real(self)

    workdir = tmp_path / 'workdir'
    before = signal.signal(signal.SIGTERM, lambda *args: killed.append(args))
    try:
        with pytest.MonkeyPatch.context() as patch:
            stop_in_the_middle_of_an_epoch(patch)
            patch.setattr(Checkpoints, 'close', close)
            with pytest.raises(hosts.Stopped, match='after step 2 of 6'):
                train(small_run.config, str(workdir))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not killed
    assert saved_steps(workdir) == [2]


def test_a_kill_while_evaluating_does_not_lose_the_epoch(small_run, tmp_path):
    """The checkpoint comes first; what is missing is made up for at the next start."""

    class Dying:
        def __init__(self, experiment, source, split):
            pass

        def evaluate(self, variables, stop):
            raise Killed

    workdir = tmp_path / 'workdir'
    with pytest.raises(Killed):
        train(small_run.config, workdir, make_evaluator=Dying)
    assert saved_steps(workdir) == [3]
    assert metrics_of(workdir, 'eval') == []
    train(small_run.config, str(workdir))
    whole = (small_run.workdir / 'metrics.jsonl').read_bytes()
    assert (workdir / 'metrics.jsonl').read_bytes() == whole


def test_a_kill_after_an_epoch_that_is_not_saved(small_run, small_data, tmp_path):
    """It was evaluated, and is again: the log is that of a run left alone."""
    config = small_config(small_data, {'checkpoint_config.interval': 2})
    workdir = tmp_path / 'workdir'
    train_until(config, workdir, step=4)
    assert saved_steps(workdir) == []
    assert [r['step'] for r in metrics_of(workdir, 'eval')] == [3]
    train(config, str(workdir))
    whole = (small_run.workdir / 'metrics.jsonl').read_bytes()
    assert (workdir / 'metrics.jsonl').read_bytes() == whole


def test_nothing_to_do_when_all_was_done(small_run, tmp_path):
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'workdir')
    before, log = times_of(workdir), (workdir / 'metrics.jsonl').read_bytes()
    state = train(small_run.config, str(workdir))
    assert_equal(jax.device_get(state), small_run.state)
    assert (workdir / 'metrics.jsonl').read_bytes() == log
    assert times_of(workdir) == before


def times_of(workdir):
    """When each file of the checkpoints was written."""
    files = [path for path in (workdir / 'checkpoints').rglob('*') if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}
