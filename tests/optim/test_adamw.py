"""AdamW: torch's numbers, and a plain loop in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atss_jax.optim.adamw import adamw, make_optimizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.paramwise import Multipliers, PerParameter


def trajectory(tx, params, grads):
    """Parameters after each step, as training computes them: compiled."""
    state, update = tx.init(params), jax.jit(tx.update)
    for each in grads:
        updates, state = update(each, state, params)
        params = optax.apply_updates(params, updates)
        yield params


@pytest.mark.parametrize('case', range(3))
def test_equals_torch_step_by_step(golden, case):
    stored = golden('swin/adamw')
    settings = json.loads(str(stored[f'{case}/kw']))
    settings['betas'] = tuple(settings.get('betas', (0.9, 0.999)))
    tx = adamw(OptimizerConfig('AdamW', **settings), lambda step: settings['lr'])
    start = jnp.asarray(stored[f'{case}/start'])
    ours = np.stack([*trajectory(tx, start, stored[f'{case}/grads'])])
    np.testing.assert_allclose(ours, stored[f'{case}/params'], rtol=0, atol=3e-7)


def test_two_steps_by_hand():
    """The first update is the sign of the gradient, the decay is times the rate."""
    config = OptimizerConfig('AdamW', betas=(0.5, 0.75), eps=1e-9, weight_decay=0.1)
    rates = jnp.array([0.2, 0.1])
    tx = adamw(config, lambda step: rates[step])
    first, second = trajectory(tx, jnp.array(10.0), [jnp.array(3.0), jnp.array(-1.0)])
    # mean 1.5/0.5 = 3, square 2.25/0.25 = 9: 10*(1 - 0.02) - 0.2*3/3 = 9.6.
    np.testing.assert_allclose(first, 9.6, rtol=1e-6)
    # mean (0.75 - 0.5)/0.75 = 1/3, square (1.6875 + 0.25)/0.4375 = 4.42857.
    expected = 9.6 * 0.99 - 0.1 / 3 / np.sqrt(4.428571)
    np.testing.assert_allclose(second, expected, rtol=1e-6)


@pytest.mark.parametrize('kind', ['SGD', 'AdamW', 'LARS', 'LAMB'])
def test_each_parameter_has_its_own_rate_and_decay(kind):
    """As if it were trained alone, with the settings times its factors."""
    random = np.random.default_rng(0)
    params = {'a': random.normal(size=4), 'b': {'c': random.normal(size=3)}}
    params = jax.tree.map(jnp.float32, params)
    grads = [jax.tree.map(lambda x, k=k: x * k, params) for k in (1.0, -0.5, 0.3)]
    factors = {'a': Multipliers(0.1, 2.0), 'b': {'c': Multipliers(1.0, 0.0)}}
    config = OptimizerConfig(kind, weight_decay=0.05)
    schedules = {mult: lambda step, mult=mult: 0.1 * mult for mult in (1.0, 0.1)}
    tx = make_optimizer(config, schedules[1.0], PerParameter(factors, schedules))
    alike = make_optimizer(config, schedules[1.0])
    structures = [jax.tree.structure(x.init(params)) for x in (tx, alike)]
    assert structures[0] == structures[1]
    *_, last = trajectory(tx, params, grads)
    for decay, rate, pick in [
        (0.1, 0.01, lambda tree: tree['a']),
        (0.0, 0.1, lambda tree: tree['b']['c']),
    ]:
        alone = make_optimizer(
            OptimizerConfig(kind, weight_decay=decay), lambda step, rate=rate: rate
        )
        *_, expected = trajectory(alone, pick(params), map(pick, grads))
        np.testing.assert_allclose(pick(last), expected, rtol=1e-6)
