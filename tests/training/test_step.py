"""Training steps with accumulated gradients, averaged weights, and in bfloat16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.distributed import devices
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.layers import Conv
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.sgd import sgd
from atss_jax.training.state import create_state
from atss_jax.training.step import make_train_step
from tests.support.small import GN, LOSS, random_batch, random_variables, small_model

MODEL = small_model({'num_stages': 1, 'out_indices': (0,)})
SIZES = [(32, 32), (25, 32), (32, 17), (10, 30), (32, 20), (16, 16), (7, 9), (32, 32)]

RATES = np.array([0.02, 0.01, 0.03, 0.005])


def rate(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def state_of(optimizer):
    return create_state(
        random_variables(MODEL),
        MODEL,
        sgd(optimizer, rate),
        optimizer.cumulative_iters > 1,
        optimizer.ema_momentum is not None,
    )


@functools.cache
def step_of(optimizer, dtype='float32', total_steps=None):
    model = MODEL.clone(dtype=dtype)
    step = make_train_step(
        model, Normalizer(), LOSS, optimizer, sgd(optimizer, rate), total_steps
    )
    return devices.map_over_devices(step, 'pmap')


@functools.cache
def batch(seed):
    return random_batch(seed, SIZES, (32, 32))


def run(optimizer, seeds, dtype='float32', total_steps=None):
    """States and metrics after each step, with batches of `seeds`."""
    state = devices.replicate(state_of(optimizer))
    history = []
    for seed in seeds:
        inputs = devices.shard_rows(batch(seed), 'pmap')
        state, metrics = step_of(optimizer, dtype, total_steps)(state, inputs)
        history.append((jax.device_get(state), jax.device_get(metrics)))
    return history


def assert_close(one, other, rtol):
    """Largest difference within `rtol` of the largest value, leaf by leaf."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max() + 1e-9)


def trace(state):
    """The running sum of gradients in the optimizer's state."""
    return state.momentum[1].trace


def at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


def test_a_state_has_only_what_its_run_needs():
    plain = state_of(OptimizerConfig())
    assert plain.accumulated is None and plain.ema is None
    assert set(plain.asdict()) == {
        *('step', 'params', 'batch_stats', 'momentum', 'healthy')
    }
    full = state_of(OptimizerConfig(cumulative_iters=2, ema_momentum=0.5))
    assert {*full.asdict()} - {*plain.asdict()} == {'accumulated', 'ema'}
    assert not any(np.any(x) for x in jax.tree.leaves(full.accumulated))


def test_evaluation_takes_the_averages():
    state = state_of(OptimizerConfig(ema_momentum=0.5)).replace(ema={'w': 1})
    assert state.evaluated_variables['params'] == {'w': 1}
    assert state.variables['params'] is state.params
    plain = state_of(OptimizerConfig())
    assert plain.evaluated_variables == plain.variables


PLAIN = OptimizerConfig(max_norm=5.0)
TWICE = OptimizerConfig(max_norm=5.0, cumulative_iters=2, ema_momentum=0.25)


@pytest.fixture(scope='module')
def accumulated():
    """Three batches in a run of three: an update after the second, and at its end."""
    return run(TWICE, [0, 0, 1], total_steps=3)


def test_two_equal_batches_make_the_update_of_one(accumulated):
    """The mean of a gradient with itself; clipped after the sum, at the second rate."""
    (state, metrics), *_ = run(PLAIN, [0])
    assert metrics['grad_norm'] > 5  # so that it is clipped
    start = state_of(PLAIN).params
    half, whole = accumulated[0][0], accumulated[1][0]
    for path, x in jax.tree_util.tree_leaves_with_path(half.params):
        np.testing.assert_array_equal(x, at(start, path))  # nothing moved yet
    assert not any(np.any(x) for x in jax.tree.leaves(trace(half)))
    moved = jax.tree.map(np.subtract, state.params, start)
    expected = jax.tree.map(
        lambda x, d: x + d * np.float32(RATES[1] / RATES[0]), start, moved
    )
    assert_close(whole.params, expected, 1e-6)
    assert_close(trace(whole), trace(state), 1e-5)
    assert_close(accumulated[1][1]['grad_norm'], metrics['grad_norm'], 1e-5)
    assert_close(accumulated[0][1]['grad_norm'], metrics['grad_norm'] / 2, 1e-5)


def test_the_last_step_updates_with_what_is_left(accumulated):
    state = devices.replicate(accumulated[1][0].replace(accumulated=None, ema=None))
    inputs = devices.shard_rows(batch(1), 'pmap')
    expected, metrics = step_of(PLAIN)(state, inputs)
    last = accumulated[2]
    assert_close(last[0].params, jax.device_get(expected.params), 1e-6)
    assert_close(last[1]['grad_norm'], jax.device_get(metrics['grad_norm']), 1e-5)


def test_gradients_are_kept_between_updates_only(accumulated):
    kept = [
        max(np.abs(x).max() for x in jax.tree.leaves(state.accumulated))
        for state, _ in accumulated
    ]
    assert kept[0] > 0 and kept[1:] == [0, 0]


def test_the_rate_is_that_of_the_iteration(accumulated):
    assert [int(state.momentum[2].count) for state, _ in accumulated] == [1, 2, 3]
    assert [int(state.step) for state, _ in accumulated] == [1, 2, 3]


def test_going_on_in_between_changes_nothing(accumulated):
    """A state holds everything that decides how training continues."""
    state = devices.replicate(accumulated[0][0])
    for seed in (0, 1):
        inputs = devices.shard_rows(batch(seed), 'pmap')
        state, _ = step_of(TWICE, total_steps=3)(state, inputs)
    for a, b in zip(
        jax.tree.leaves(jax.device_get(state)),
        jax.tree.leaves(accumulated[2][0]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_averages_move_at_every_step(accumulated):
    states = [state for state, _ in accumulated]
    expected = states[0].params
    assert_close(states[0].ema, expected, 0)
    for state in states[1:]:
        expected = jax.tree.map(
            lambda old, new: 0.75 * old + 0.25 * new, expected, state.params
        )
        assert_close(state.ema, expected, 1e-6)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), states[2].ema, states[2].params
    )
    assert max(jax.tree.leaves(moved)) > 0


def test_bfloat16_is_close_and_keeps_float32():
    exact, half = run(PLAIN, [0])[0], run(PLAIN, [0], 'bfloat16')[0]
    for name, value in exact[1].items():
        assert half[1][name].dtype == np.float32
        assert half[1][name] == pytest.approx(value, rel=0.05), name
        assert half[1][name] != value, name  # it did compute otherwise
    for leaf in jax.tree.leaves(half[0]):
        assert leaf.dtype in (np.float32, np.int32, np.bool_)
    before = state_of(PLAIN).params
    steps = [
        np.concatenate(
            [
                np.ravel(x)
                for x in jax.tree.leaves(jax.tree.map(np.subtract, s.params, before))
            ]
        )
        for s in (exact[0], half[0])
    ]
    cosine = steps[0] @ steps[1] / np.prod([np.linalg.norm(s) for s in steps])
    assert cosine > 0.98, cosine


def test_bfloat16_outputs_and_statistics_are_float32():
    """Norms in training mode: what they store is float32, near the exact numbers."""
    model = small_model({'num_stages': 1, 'out_indices': (0,), 'norm_eval': False})
    variables = random_variables(model)
    images, sizes = (jnp.asarray(batch(0)[k]) for k in ('image', 'image_size'))
    images = Normalizer()(images, sizes)
    found = {}
    for dtype in ('float32', 'bfloat16'):
        apply = functools.partial(
            model.clone(dtype=dtype).apply, train=True, mutable=['batch_stats']
        )
        outputs, updates = jax.jit(apply)(variables, images, sizes)
        assert all(x.dtype == np.float32 for x in jax.tree.leaves(outputs))
        found[dtype] = jax.device_get((outputs, updates))
    for leaf in jax.tree.leaves(found['bfloat16'][1]):
        assert leaf.dtype in (np.float32, np.int32)
    assert_close(found['bfloat16'], found['float32'], 0.05)


def test_gradients_of_biases_are_summed_in_float32():
    """18,432 cells of 1 + noise: a sum in bfloat16 would stop at 256."""
    layer = Conv(4, 1, float32_output=False)
    sizes = jnp.full((2, 2), 96)
    x = jnp.zeros((2, 96, 96, 3))
    up = 1 + jax.random.normal(jax.random.key(0), (2, 96, 96, 4))
    params = layer.init(jax.random.key(0), x, sizes)

    def loss(params, x):
        return (layer.apply(params, x, sizes).astype(jnp.float32) * up).sum()

    grad = jax.jit(jax.grad(loss))
    exact, half = (
        grad(params, x.astype(dtype))['params']['bias']
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    np.testing.assert_allclose(half, exact, rtol=1e-3)


def test_logits_are_finer_than_bfloat16_around_the_prior():
    head = ATSSHead(3, 8, stacked_convs=1, feat_channels=8, norm_cfg=GN)
    features = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    sizes = [jnp.full((1, 2), 8)]
    params = head.init(jax.random.key(1), (features,), sizes)
    exact, half = (
        head.apply(params, (features.astype(dtype),), sizes).cls_logits[0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.005  # steps of bfloat16 there: 0.03
