"""Accumulated gradients and averaged weights, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atss_jax.optim.accumulation import (
    accumulate,
    apply_if_due,
    average,
    clear_if_due,
)
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.sgd import sgd


def sums(count, total_steps, grads):
    """Sum at each step where an update is due, None at the others."""
    accumulated, out = {'w': jnp.zeros(())}, []
    for step, grad in enumerate(grads):
        total, is_due = accumulate(
            count, jnp.array(step), total_steps, accumulated, {'w': jnp.array(grad)}
        )
        accumulated = clear_if_due(is_due, total)
        out.append(float(total['w']) if is_due else None)
        assert accumulated['w'] == (0 if is_due else total['w'])
    return out


def test_gradients_are_averaged_over_the_batches_of_an_update():
    assert sums(2, 4, [1.0, 2.0, 3.0, 5.0]) == [None, 1.5, None, 4.0]
    assert sums(4, 8, [4.0, 8.0, 0.0, 4.0]) == [None, None, None, 4.0]


def test_the_remainder_at_the_end_is_averaged_over_its_own_number():
    """mmcv: the last 2 of 5 batches are divided by 2, and the run's end updates."""
    assert sums(3, 5, [3.0, 3.0, 6.0, 1.0, 2.0]) == [None, None, 4.0, None, 1.5]
    assert sums(3, 4, [3.0, 3.0, 6.0, 7.0]) == [None, None, 4.0, 7.0]
    assert sums(3, 2, [1.0, 2.0]) == [None, 1.5]


def test_without_an_end_every_third_step_updates():
    assert sums(3, None, [3.0] * 4) == [None, None, 3.0, None]


def test_without_accumulation_every_step_updates_with_its_own_gradients():
    grads = {'w': jnp.ones(())}
    assert accumulate(1, jnp.array(0), 5, None, grads) == (grads, True)
    assert clear_if_due(True, grads) is None


@pytest.mark.parametrize('is_due', [True, False])
def test_only_an_update_changes_weights_and_momentum_by_hand(is_due):
    """Weight 2, gradient 3, decay 0.5, momentum 1 * 0.9: buffer 4.9, rate 0.1."""
    tx = sgd(OptimizerConfig(weight_decay=0.5), lambda step: 0.1 * (step + 1))
    decay, _, schedule = tx.init({'w': jnp.array(2.0)})
    before = decay, optax.TraceState({'w': jnp.array(1.0)}), schedule

    def update(params, state):
        updates, state = tx.update({'w': jnp.array(3.0)}, state, params)
        return optax.apply_updates(params, updates), state

    params, (_, momentum, schedule) = jax.jit(
        lambda is_due: apply_if_due(is_due, update, {'w': jnp.array(2.0)}, before)
    )(is_due)
    assert schedule.count == 1  # rates are by step
    expected = (2 - 0.1 * 4.9, 4.9) if is_due else (2, 1)
    np.testing.assert_allclose((params['w'], momentum.trace['w']), expected, 1e-6)


def averages(momentum, weights):
    averaged, out = {'w': jnp.nan}, []
    for step, weight in enumerate(weights):
        averaged = average(momentum, jnp.array(step), averaged, {'w': weight})
        out.append(float(averaged['w']))
    return out


def test_averages_follow_the_weights_from_the_first_on():
    """mmengine: 8; then 0.75*8 + 0.25*4 = 7; then 0.75*7 + 0.25*11 = 8."""
    assert averages(0.25, [8.0, 4.0, 11.0]) == [8.0, 7.0, 8.0]


def test_averages_of_what_does_not_change_keep_its_bits():
    assert len(set(averages(0.0002, [0.1] * 50))) == 1


def test_without_momentum_there_are_no_averages():
    assert average(None, jnp.array(0), None, {'w': 1.0}) is None
