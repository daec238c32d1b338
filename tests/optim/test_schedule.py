"""Learning rate of every step: mmengine's numbers, and by hand."""

import dataclasses
import math

import numpy as np
import pytest

from atss_jax.optim.schedule import LrConfig, learning_rates, schedule


def test_equals_mmengine(golden):
    stored = golden('schedule')
    ours = learning_rates(0.01, LrConfig(), int(stored['iters_per_epoch']), 12)
    assert ours.shape == (720,)
    np.testing.assert_allclose(ours, stored['lr'], rtol=0, atol=1e-9)


def test_warm_up_of_the_golden_trajectory(golden):
    config = LrConfig(warmup_iters=4, warmup_ratio=0.1)
    ours = learning_rates(0.01, config, 5, 1)
    np.testing.assert_allclose(ours, golden('loss')['trajectory_lr'], atol=1e-12)


def test_without_warm_up_by_hand():
    config = LrConfig(step=(1, 3), gamma=0.5, warmup=None)
    np.testing.assert_allclose(
        learning_rates(0.8, config, 2, 4), [0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.2, 0.2]
    )


def test_warm_up_reaches_the_rate_at_its_last_iteration_by_hand():
    config = LrConfig(step=(9,), warmup_iters=5, warmup_ratio=0.2)
    np.testing.assert_allclose(
        learning_rates(1.0, config, 7, 1), [0.2, 0.4, 0.6, 0.8, 1, 1, 1]
    )


def test_warm_up_of_one_iteration_changes_the_first_step_only():
    config = LrConfig(step=(9,), warmup_iters=1, warmup_ratio=0.5)
    np.testing.assert_allclose(learning_rates(1.0, config, 3, 1), [0.5, 1, 1])


def test_warm_up_multiplies_the_decayed_rate():
    """A warm-up that is still going when the first milestone comes."""
    config = LrConfig(step=(1,), gamma=0.1, warmup_iters=5, warmup_ratio=0.0)
    got = learning_rates(1.0, config, 2, 2)
    np.testing.assert_allclose(got, [0, 0.25, 0.05, 0.075])


def test_cosine_by_hand():
    config = LrConfig(policy='CosineAnnealing', min_lr_ratio=0.1, warmup=None)
    got = learning_rates(1.0, config, 2, 4)
    half = 1 / math.sqrt(2)
    by_epoch = [1, 0.1 + 0.9 * (1 + half) / 2, 0.55, 0.1 + 0.9 * (1 - half) / 2]
    np.testing.assert_allclose(got, np.repeat(by_epoch, 2))


def test_milestones_beyond_the_end_never_come():
    config = LrConfig(step=(100,), warmup=None)
    assert set(learning_rates(0.3, config, 3, 5)) == {0.3}


@pytest.mark.parametrize('field', ['step', 'gamma', 'warmup_iters', 'warmup_ratio'])
def test_each_field_changes_the_rates(field):
    other = {'step': (2, 3), 'gamma': 0.5, 'warmup_iters': 5, 'warmup_ratio': 0.3}
    config = LrConfig(step=(1, 2), warmup_iters=3)
    changed = dataclasses.replace(config, **{field: other[field]})
    plain, new = (learning_rates(1.0, c, 4, 4) for c in (config, changed))
    assert not np.allclose(plain, new)


def test_schedule_is_the_table_and_keeps_its_last_rate():
    rates = learning_rates(0.01, LrConfig(warmup_iters=3), 2, 2)
    rate = schedule(rates)
    got = [float(rate(step)) for step in range(6)]
    np.testing.assert_allclose(got, [*rates, rates[-1], rates[-1]], rtol=1e-6)


def test_the_order_of_steps_does_not_matter():
    config = LrConfig(step=(3, 1), warmup=None)
    rates = learning_rates(1.0, config, steps_per_epoch=1, total_epochs=5)
    np.testing.assert_allclose(rates, [1, 0.1, 0.1, 0.01, 0.01])
