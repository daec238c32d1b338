"""SGD, clipping and conditional updates, by hand."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atss_jax.optim.optimizer import OptimizerConfig, update_if
from atss_jax.optim.sgd import clip_by_norm, global_norm, sgd


def test_two_steps_of_sgd_by_hand():
    """The decay is part of the momentum; the rate is not."""
    tx = sgd(
        OptimizerConfig(momentum=0.5, weight_decay=0.1), lambda step: 0.2 / 2**step
    )
    params = {'w': jnp.array(10.0)}
    state = tx.init(params)
    # d = 3 + 0.1*10 = 4; buffer 4; w = 10 - 0.2*4 = 9.2.
    # d = 1 + 0.1*9.2 = 1.92; buffer 0.5*4 + 1.92 = 3.92; w = 9.2 - 0.1*3.92 = 8.808.
    for grad, buffer, weight in [(3.0, 4.0, 9.2), (1.0, 3.92, 8.808)]:
        updates, state = tx.update({'w': jnp.array(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state[1].trace['w'], buffer, 1e-6)
        np.testing.assert_allclose(params['w'], weight, 1e-6)


def test_norm_and_clipping_by_hand():
    grads = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([[4.0]])}
    norm = global_norm(grads)
    assert norm == 5
    half = clip_by_norm(grads, norm, 2.5)
    np.testing.assert_allclose(half['a'], [1.5, 0], 1e-6)
    np.testing.assert_allclose(half['b'], [[2.0]], 1e-6)
    for max_norm in (None, 6.0):
        assert clip_by_norm(grads, norm, max_norm)['b'] == 4


def _update(condition, x):
    return update_if(condition, lambda x: jnp.sqrt(x), lambda x: x + 1, x)


@pytest.mark.parametrize('condition, expected', [(True, 3), (False, 10)])
def test_update_if_takes_one_of_two(condition, expected):
    assert jax.jit(_update)(condition, 9.0) == expected
    assert jax.jit(_update)(condition, np.float32(9)) == expected


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_update_if_selects_except_on_the_cpu(platform):
    """The platform counts that the program is for, not the one that traces it."""
    exported = jax.export.export(jax.jit(_update), platforms=[platform])(True, 9.0)
    program = exported.mlir_module()
    assert ('stablehlo.select' in program) == (platform != 'cpu')
