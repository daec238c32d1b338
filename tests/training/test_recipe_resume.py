"""A run with everything at once, stopped between two updates, ends at the same bits.

Jittered images, bfloat16, averaged weights, and updates of three batches in a run of
four: the checkpoint of the first epoch, after two, holds half a sum.
"""

import shutil

import jax
import numpy as np
import pytest

from atss_jax.config import build_model
from atss_jax.evaluation.evaluate import evaluate
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import initial_variables
from tests.config.test_recipes import reduced
from tests.support.small_run import train, train_until

CHANGES = {
    'total_epochs': 2,
    'evaluation.interval': 2,
    'optimizer_config.cumulative_iters': 3,
    'ema': {'momentum': 0.25},
    'log_config.interval': 1,
}


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope='module')
def config():
    return reduced('atss_r50_lsj_200e', CHANGES)


@pytest.fixture(scope='module')
def whole_run(config, tmp_path_factory):
    """Workdir and last state of the run from start to end."""
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, jax.device_get(train(config, str(workdir)))


@pytest.mark.slow
def test_going_on_between_updates_ends_at_the_same_bits(config, whole_run, tmp_path):
    train_until(config, tmp_path, step=3)
    assert Checkpoints.open(str(tmp_path)).steps() == [2]
    saved = Checkpoints.open(str(tmp_path)).restore(2, whole_run[1])
    assert max(np.abs(x).max() for x in jax.tree.leaves(saved.accumulated)) > 0
    state = jax.device_get(train(config, str(tmp_path)))
    assert_equal(state, whole_run[1])
    name = 'metrics.jsonl'
    assert (tmp_path / name).read_bytes() == (whole_run[0] / name).read_bytes()


@pytest.mark.slow
def test_averaged_weights_are_evaluated_and_loaded(config, whole_run, tmp_path):
    workdir, state = whole_run
    differ = jax.tree.map(lambda a, b: np.any(a != b), state.ema, state.params)
    assert any(jax.tree.leaves(differ))
    model = build_model(config)
    saved = Checkpoints.open(str(workdir)).restore_variables(model, 4)
    assert_equal(saved['params'], state.ema)
    assert_equal(initial_variables(model, 0, None, str(workdir))['params'], state.ema)
    copy = tmp_path / 'copy'
    shutil.copytree(workdir, copy)
    scores = evaluate(str(copy), step=4).scores
    logged = (workdir / 'metrics.jsonl').read_text().splitlines()[-1]
    assert f'"AP": {scores.summary["AP"]}' in logged


@pytest.mark.slow
def test_training_images_are_evaluated_whole(config, whole_run, tmp_path):
    """eval.py --split=train of a jittered recipe: nothing is random."""
    copy = tmp_path / 'copy'
    shutil.copytree(whole_run[0], copy)
    evaluation = evaluate(str(copy), 'train', step=4)
    assert 'data.train, 2 images' in evaluation.text()


@pytest.mark.slow
def test_a_run_without_averages_does_not_resume_one_with(config, whole_run, tmp_path):
    plain = reduced(
        'atss_r50_lsj_200e',
        {'total_epochs': 4, 'resume_from': str(whole_run[0])},
    )
    with pytest.raises(ValueError, match='is of another model'):
        train(plain, str(tmp_path))
