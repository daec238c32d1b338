"""LARS and LAMB: steps worked by hand, optax's own, and parameters without a ratio."""

import jax
import numpy as np
import optax
import pytest

from atss_jax.optim.adamw import lamb, make_optimizer
from atss_jax.optim.lars import lars
from atss_jax.optim.optimizer import OptimizerConfig
from tests.optim.test_adamw import trajectory

RATES = np.array([0.5, 0.25, 0.125], np.float32)


def rate(step):
    return jax.numpy.asarray(RATES)[step]


def test_two_steps_of_lars_by_hand():
    """|w| = 5 and |g| = 10: ratio 0.1 * 5 / 10, then the momentum of the update."""
    config = OptimizerConfig('LARS', momentum=0.5, eta=0.1, eps=1e-9, weight_decay=0.0)
    start = np.float32([[3.0], [4.0]])
    grads = [np.float32([[6.0], [8.0]]), np.float32([[0.0], [-2.0]])]
    first, second = trajectory(lars(config, rate), start, grads)
    # 0.5 * 0.05 * (6, 8) = (0.15, 0.2) is subtracted.
    np.testing.assert_allclose(first, [[2.85], [3.8]], rtol=1e-6)
    # |w| = 4.75, |g| = 2: 0.25 * 0.2375 * (0, -2) = (0, -0.11875), and half of before.
    np.testing.assert_allclose(second, [[2.775], [3.81875]], rtol=1e-6)


def test_the_decay_of_lars_counts_in_the_norm():
    """`d = (0, 2) + 0.5 * (4, 0) = (2, 2)`; `eps` is added to its norm."""
    config = OptimizerConfig('LARS', eta=1.0, eps=2.0, weight_decay=0.5)
    start, grad = np.float32([[4.0, 0.0]]), np.float32([[0.0, 2.0]])
    (moved,) = trajectory(lars(config, rate), start, [grad])
    step = 0.5 * 4 / (np.sqrt(8) + 2) * 2
    np.testing.assert_allclose(moved, [[4 - step, -step]], rtol=1e-6)


def lamb_in_numpy(config, weights, grads):
    """Weights after each step of LAMB, in float64."""
    (beta1, beta2), weights = config.betas, weights.astype(np.float64)
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for count, (grad, lr) in enumerate(zip(grads, RATES, strict=True), start=1):
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * np.square(grad, dtype=np.float64)
        unbiased = mean / (1 - beta1**count), square / (1 - beta2**count)
        step = unbiased[0] / (np.sqrt(unbiased[1]) + config.eps)
        step += config.weight_decay * weights
        ratio = np.linalg.norm(weights) / np.linalg.norm(step)
        weights = weights - lr * ratio * step
        yield weights


def test_lamb_by_a_plain_loop():
    random = np.random.default_rng(0)
    config = OptimizerConfig('LAMB', betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    start = random.normal(size=(3, 5)).astype(np.float32)
    grads = random.normal(size=(3, 3, 5)).astype(np.float32)
    ours = [*trajectory(lamb(config, rate), start, grads)]
    np.testing.assert_allclose(ours, [*lamb_in_numpy(config, start, grads)], rtol=1e-5)
    # The first step is `rate` times as long as the weights.
    moved = np.linalg.norm(ours[0] - start) / np.linalg.norm(start)
    assert moved == pytest.approx(RATES[0], rel=1e-5)


def test_on_parameters_with_several_axes_they_are_those_of_optax():
    random = np.random.default_rng(1)
    shapes = {'a': (2, 3), 'b': (3, 1, 2, 2)}
    params = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    grads = [jax.tree.map(lambda x, k=k: k * x + 1, params) for k in (1.0, -2.0, 0.1)]
    pairs = {
        'LARS': optax.lars(rate, 0.1, momentum=0.9, eps=1e-8),
        'LAMB': optax.lamb(rate, eps=1e-8, weight_decay=0.1),
    }
    for kind, theirs in pairs.items():
        ours = make_optimizer(OptimizerConfig(kind, weight_decay=0.1), rate)
        *_, found = trajectory(ours, params, grads)
        *_, expected = trajectory(theirs, params, grads)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4), found, expected
        )


@pytest.mark.parametrize('kind', ['LARS', 'LAMB'])
def test_one_axis_or_none_has_no_ratio(kind):
    """Biases move as with momentum of the update, or as with Adam: twice, by hand."""
    config = OptimizerConfig(kind, momentum=0.5, betas=(0.5, 0.5), weight_decay=0.0)
    params = {'bias': np.float32([100.0, 0.0]), 'scale': np.float32(1000.0)}
    grad = jax.tree.map(lambda x: np.full_like(x, 2.0), params)
    optimizer = make_optimizer(config, lambda step: 0.25)
    moved = [*trajectory(optimizer, params, [grad, grad])][-1]
    # LARS: 0.25 * 2, then that and half of it. LAMB: twice the sign of the gradient.
    far = {'LARS': 0.5 + 0.75, 'LAMB': 0.25 + 0.25}[kind]
    np.testing.assert_allclose(moved['bias'], [100 - far, -far], rtol=1e-5)
    np.testing.assert_allclose(moved['scale'], 1000 - far, rtol=1e-6)


@pytest.mark.parametrize('kind', ['LARS', 'LAMB'])
def test_a_kernel_of_zeros_can_leave_zero(kind):
    optimizer = make_optimizer(OptimizerConfig(kind, weight_decay=0.0), rate)
    (moved,) = trajectory(optimizer, np.zeros((2, 2), np.float32), [np.eye(2)])
    assert np.isfinite(moved).all() and moved[0, 0] < 0
