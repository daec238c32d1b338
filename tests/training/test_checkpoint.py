"""Checkpoints: which are kept, and what damage to their files does."""

import json
import shutil

import numpy as np
import pytest

from atss_jax.training.checkpoint import Checkpoints, DamagedCheckpoint
from atss_jax.training.state import TrainState
from tests.support.small_run import assert_equal, saved_steps


def tiny_state(step):
    return TrainState(
        step=np.array(step, np.int32),
        params={'w': np.full(3, step, np.float32)},
        batch_stats={'m': np.zeros(2, np.float32)},
        momentum={'w': np.zeros(3, np.float32)},
        healthy=np.array(True),
    )


def write_score(workdir, step, score):
    record = {'kind': 'eval', 'step': step, 'epoch': step, 'AP': score}
    with (workdir / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps(record) + '\n')


@pytest.mark.parametrize(
    ('scores', 'newest', 'kept', 'best'),
    [
        ((0.5, 0.1, 0.2, 0.3), 1, [1, 4], 1),  # the best is the oldest
        ((0.1, 0.5, 0.2, 0.3), 1, [2, 4], 2),
        ((0.1, 0.2, 0.3, 0.4), 1, [4], 4),
        ((0.5, 0.1, 0.2, 0.3), 2, [1, 3, 4], 1),
        ((0.0, 0.0, 0.0, 0.0), 1, [4], 4),
        ((0.2, None, 0.1, None), 1, [1, 4], 1),  # not each is evaluated
        ((None, None, None, None), 2, [3, 4], 4),
    ],
)
def test_kept_checkpoints(tmp_path, scores, newest, kept, best):
    checkpoints = Checkpoints(str(tmp_path), newest)
    for step, score in enumerate(scores, 1):
        if score is not None:
            checkpoints.evaluated(step, score)
            write_score(tmp_path, step, score)
        checkpoints.save(tiny_state(step), {})
    checkpoints.close()
    checkpoints = Checkpoints.open(str(tmp_path))
    steps = checkpoints.steps()
    assert steps == saved_steps(tmp_path)
    assert set(kept) <= set(steps)
    assert len(steps) == len(kept) or not any(scores)  # of equal ones any may stay
    assert checkpoints.best_step() == best
    assert_equal(checkpoints.restore(best, tiny_state(0)), tiny_state(best))


def test_no_checkpoints_at_all(tmp_path):
    with pytest.raises(ValueError, match='no checkpoints in'):
        Checkpoints.open(str(tmp_path))
    (tmp_path / 'checkpoints' / '12').mkdir(parents=True)
    with pytest.raises(ValueError, match='no finished checkpoint in'):
        Checkpoints.open(str(tmp_path))


def test_a_state_of_another_shape_is_no_damage(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(tiny_state(1), {})
    checkpoints.close()
    other = tiny_state(0).replace(params={'w': np.zeros(4, np.float32)})
    message = r'of another model .* params/w: float32\[3\] in .*, float32\[4\] by'
    with pytest.raises(ValueError, match=message) as caught:
        Checkpoints.open(str(tmp_path)).restore_latest(other)
    assert not isinstance(caught.value, DamagedCheckpoint)
    assert saved_steps(tmp_path) == [1]


def test_notes_come_back(tmp_path):
    notes = {'log': [{'loss': 0.1 + 0.2, 'norm': 1e-300}], 'none': None}
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(tiny_state(3), notes)
    checkpoints.close()
    assert Checkpoints.open(str(tmp_path)).notes(3) == notes


def test_a_step_is_saved_once(tmp_path):
    checkpoints = Checkpoints(str(tmp_path))
    for _ in range(2):
        checkpoints.save(tiny_state(3), {})
    checkpoints.close()
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(tiny_state(3), {})
    checkpoints.close()
    assert saved_steps(tmp_path) == [3]


def test_saving_does_not_ask_for_sigterm(tmp_path, monkeypatch):
    """Its numbers are the steps, and JAX would stop the run at one more than these."""
    asked = []
    monkeypatch.setattr(
        'jax.experimental.multihost_utils.reached_preemption_sync_point', asked.append
    )
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(tiny_state(3), {})
    checkpoints.close()
    assert saved_steps(tmp_path) == [3]
    assert not asked


def test_what_an_interrupted_save_leaves_is_removed_by_the_run_alone(tmp_path):
    left = tmp_path / 'checkpoints' / '7.orbax-checkpoint-tmp'
    left.mkdir(parents=True)
    Checkpoints(str(tmp_path)).close()
    assert left.exists()  # eval.py must not disturb a run that is saving
    checkpoints = Checkpoints(str(tmp_path), clean=True)
    assert not left.exists()
    checkpoints.close()


@pytest.fixture(scope='module')
def two_saved(tmp_path_factory):
    """A workdir with checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp('two_saved')
    checkpoints = Checkpoints(str(workdir), 2)
    for step in (1, 2):
        checkpoints.save(tiny_state(step), {'log': [step]})
    checkpoints.close()
    return workdir


def emptied(content):
    return b''


def cut(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :]


def overwritten(content):
    return np.random.default_rng(0).bytes(len(content))


@pytest.mark.parametrize('change', [None, emptied, cut, flipped, overwritten])
def test_damage_to_any_file_is_noticed_or_harmless(two_saved, tmp_path, change):
    """Whatever happens to one file: a state that was saved comes back, bit for bit."""
    newest = two_saved / 'checkpoints' / '2'
    files = [path for path in newest.rglob('*') if path.is_file()]
    assert len(files) > 8
    noticed = 0
    for number, file in enumerate(files):
        if change is flipped and not file.stat().st_size:
            continue
        workdir = tmp_path / str(number)
        shutil.copytree(two_saved, workdir)
        target = workdir / file.relative_to(two_saved)
        if change is None:
            target.unlink()
        else:
            target.write_bytes(change(target.read_bytes()))
        checkpoints = Checkpoints(str(workdir), 2, clean=True)
        unfinished = checkpoints.set_aside_unfinished()
        state, problems = checkpoints.restore_latest(tiny_state(0))
        step = int(state.step)
        assert_equal(state, tiny_state(step))
        assert checkpoints.notes(step) == {'log': [step]}
        if step == 1:
            noticed += 1
            [problem] = problems or unfinished
            assert str(newest.relative_to(two_saved)) in problem
            # Out of the way, so that the step can be saved anew.
            assert saved_steps_that_count(workdir) == [1]
        checkpoints.close()
    assert noticed >= 4


def saved_steps_that_count(workdir):
    names = [path.name for path in (workdir / 'checkpoints').iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def test_all_are_damaged(two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / 'w')
    for step in (1, 2):
        (tmp_path / 'w' / 'checkpoints' / str(step) / 'notes' / 'metadata').unlink()
    checkpoints = Checkpoints(str(tmp_path / 'w'), 2)
    with pytest.raises(
        DamagedCheckpoint, match='all checkpoints are damaged'
    ) as caught:
        checkpoints.restore_latest(tiny_state(0))
    assert 'checkpoints/1 is damaged' in str(caught.value)
    assert 'checkpoints/2 is damaged' in str(caught.value)
