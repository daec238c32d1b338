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


# Other policies and warm-ups ----------------------------------------------------------

NO_WARMUP = {'warmup': None}


def test_constant_and_exponential_warm_up_by_hand():
    constant = LrConfig('fixed', warmup='constant', warmup_iters=4, warmup_ratio=0.1)
    got = learning_rates(2.0, constant, 6, 1)
    np.testing.assert_allclose(got, [0.2, 0.2, 0.2, 2, 2, 2])
    exponential = dataclasses.replace(constant, warmup='exp', warmup_ratio=0.001)
    got = learning_rates(1.0, exponential, 6, 1)
    np.testing.assert_allclose(got, [0.001, 0.01, 0.1, 1, 1, 1])


def test_fixed_by_hand():
    assert set(learning_rates(0.3, LrConfig('fixed', **NO_WARMUP), 3, 2)) == {0.3}


@pytest.mark.parametrize(
    ('by_epoch', 'expected'),
    [
        (True, [1, 1, 1, 0.325, 0.325, 0.325, 0.1, 0.1, 0.1]),
        (False, [0.1 + 0.9 * (1 - t / 8) ** 2 for t in range(9)]),
    ],
)
def test_poly_by_hand(by_epoch, expected):
    """By epoch: from 1 to 0.1, and half-way `0.1 + 0.9/4`."""
    config = LrConfig('poly', power=2.0, min_lr=0.1, by_epoch=by_epoch, **NO_WARMUP)
    np.testing.assert_allclose(learning_rates(1.0, config, 3, 3), expected)


def test_poly_that_begins_and_ends_within_the_run_by_hand():
    """From step 2 on in 4 equal parts to 0 at step 6, which it keeps."""
    config = LrConfig('poly', begin=2, end=7, by_epoch=False, **NO_WARMUP)
    got = learning_rates(4.0, config, 10, 1)
    np.testing.assert_allclose(got, [4, 4, 4, 3, 2, 1, 0, 0, 0, 0], atol=1e-12)


def chained(lr, config, steps_per_epoch, epochs):
    """mmengine's schedulers as a plain loop: each changes what the others left."""
    rate, rates = lr, []
    last = config.warmup_iters - 1
    total = epochs if config.by_epoch else epochs * steps_per_epoch
    for step in range(steps_per_epoch * epochs):
        if step == 0:
            rate *= config.warmup_ratio
        elif config.warmup == 'linear' and step <= last:
            slope = (1 - config.warmup_ratio) / last
            before = config.warmup_ratio + slope * (step - 1)
            rate *= (before + slope) / before
        elif config.warmup == 'constant' and step == last:
            rate /= config.warmup_ratio
        time = step // steps_per_epoch if config.by_epoch else step
        if step > 0 and not (config.by_epoch and step % steps_per_epoch):
            left = (1 - 1 / (total - 1 - time + 1)) ** config.power
            rate = (rate - config.min_lr) * left + config.min_lr
        rates.append(rate)
    return rates


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('warmup', ['linear', 'constant'])
@pytest.mark.parametrize('warmup_iters', [3, 9])
def test_poly_with_warm_up_is_chained_as_in_mmengine(by_epoch, warmup, warmup_iters):
    config = LrConfig(
        'poly',
        power=0.9,
        min_lr=0.002,
        by_epoch=by_epoch,
        warmup=warmup,
        warmup_iters=warmup_iters,
        warmup_ratio=0.1,
    )
    expected = chained(0.01, config, 4, 5)
    np.testing.assert_allclose(learning_rates(0.01, config, 4, 5), expected, rtol=1e-9)


def test_one_cycle_by_hand():
    """Up from 1/10 to 1 in steps 0..4, down to 1/1000 at step 9; lr does not count."""
    config = LrConfig(
        'OneCycle',
        max_lr=1.0,
        by_epoch=False,
        pct_start=0.5,
        anneal_strategy='linear',
        div_factor=10.0,
        final_div_factor=100.0,
        **NO_WARMUP,
    )
    up = [0.1, 0.325, 0.55, 0.775, 1]
    down = [1 - 0.999 * step / 5 for step in range(1, 6)]
    for lr in (0.1, 7.0):
        np.testing.assert_allclose(learning_rates(lr, config, 5, 2), up + down)
    cosine = dataclasses.replace(config, anneal_strategy='cos')
    got = learning_rates(0.1, cosine, 5, 2)
    np.testing.assert_allclose(got[[0, 2, 4, 9]], [0.1, 0.55, 1, 0.001])
    assert got[1] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.5)) / 2)
    by_epoch = dataclasses.replace(config, by_epoch=True)
    got = learning_rates(0.1, by_epoch, 3, 10)
    np.testing.assert_allclose(got, np.repeat(up + down, 3))


def test_one_cycle_of_three_phases_by_hand():
    """Up in steps 0..3, down again in 3..6, then to the last rate in 6..9."""
    config = LrConfig(
        'OneCycle',
        max_lr=1.0,
        by_epoch=False,
        pct_start=0.4,
        anneal_strategy='linear',
        div_factor=4.0,
        final_div_factor=10.0,
        three_phase=True,
        **NO_WARMUP,
    )
    expected = [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0.175, 0.1, 0.025]
    np.testing.assert_allclose(learning_rates(9.0, config, 10, 1), expected)


@pytest.mark.parametrize('pct_start', [0.0, 0.1, 1.0])
def test_one_cycle_whose_phases_are_empty_is_finite(pct_start):
    config = LrConfig('OneCycle', pct_start=pct_start, by_epoch=False, **NO_WARMUP)
    rates = learning_rates(0.1, config, 10, 1)
    assert np.isfinite(rates).all() and rates.max() <= 0.01
