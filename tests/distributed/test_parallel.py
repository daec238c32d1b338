"""One step on one device and on eight: the same numbers, in both ways of mapping.

`conftest.py` makes eight virtual devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.distributed import devices
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.sgd import sgd
from atss_jax.structures import BATCH_AXIS
from atss_jax.training.state import create_state
from atss_jax.training.step import make_train_step
from tests.support.small import (
    LOSS,
    SYNC_BN,
    random_batch,
    random_variables,
    small_model,
)

# Small images: among few activations none is so close to a kink of ReLU that rounding
# decides its side, which would change a gradient by a percent.
SIZES = [(32, 32), (25, 32), (32, 17), (10, 30), (32, 20), (16, 16), (7, 9), (32, 32)]
MODEL = small_model(
    {'norm_cfg': SYNC_BN, 'norm_eval': False, 'num_stages': 1, 'out_indices': (0,)}
)
OPTIMIZER = OptimizerConfig(lr=0.02, max_norm=5.0)


def batches(canvas=(32, 32)):
    return [random_batch(seed, SIZES, canvas) for seed in range(3)]


@functools.cache
def initial_variables():
    return random_variables(MODEL)


def initial_state():
    tx = sgd(OPTIMIZER, lambda step: 0.02 / (1 + step))
    return create_state(initial_variables(), MODEL, tx)


class Step:
    """The training step mapped over devices; counts how often it was traced."""

    def __init__(self, mode):
        tx = sgd(OPTIMIZER, lambda step: 0.02 / (1 + step))

        def normalize(images, sizes):
            # An image that starts with 255, 0, 255 has a broken pixel.
            broken = (images[:, 0, 0] == jnp.array([255, 0, 255])).all()
            return Normalizer()(images, sizes) + jnp.where(broken, jnp.nan, 0)

        step = make_train_step(MODEL, normalize, LOSS, OPTIMIZER, tx)
        self.mode, self.traces = mode, 0

        def counted(state, batch):
            self.traces += 1
            return step(state, batch)

        if mode == 'one device':
            self.mapped = jax.pmap(
                counted,
                axis_name=BATCH_AXIS,
                in_axes=(None, 0),
                out_axes=None,
                devices=jax.devices()[:1],
            )
        else:
            self.mapped = devices.map_over_devices(counted, mode)

    def __call__(self, state, batch):
        if self.mode == 'one device':
            return self.mapped(state, jax.tree.map(lambda x: x[None], batch))
        return self.mapped(state, devices.shard_rows(batch, self.mode))


@functools.cache
def compiled(mode):
    return Step(mode)


@functools.cache
def three_steps(mode):
    """State and metrics after each of three steps."""
    state, history = initial_state(), []
    if mode != 'one device':
        state = devices.replicate(state)
    for batch in batches():
        state, metrics = compiled(mode)(state, batch)
        history.append((state, metrics))
    return history


def assert_close(ours, reference, rtol):
    """Largest difference relative to the largest entry, of each array."""

    def close(path, x, y):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error = np.abs(x - y).max() / max(np.abs(y).max(), 1e-3)
        assert error <= rtol, f'{jax.tree_util.keystr(path)}: {error}'

    jax.tree_util.tree_map_with_path(close, ours, reference)


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize('mode', devices.MODES)
def test_eight_devices_equal_one(mode):
    for (state, metrics), (expected, expected_metrics) in zip(
        three_steps(mode), three_steps('one device'), strict=True
    ):
        assert_close(metrics, expected_metrics, 1e-5)
        ours, reference = (devices.to_host(s) for s in (state, expected))
        assert_close(ours.params, reference.params, 1e-5)
        assert_close(ours.batch_stats, reference.batch_stats, 1e-5)
        # Sums of gradients over three steps.
        assert_close(ours.momentum, reference.momentum, 1e-4)
        assert int(ours.step) == int(reference.step) and bool(ours.healthy)


def test_the_step_does_something():
    start = initial_variables()
    end = devices.to_host(three_steps('pmap')[-1][0])
    assert int(end.step) == 3
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), start, end.variables)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize('mode', devices.MODES)
def test_all_devices_hold_the_same_after_three_steps(mode):
    state, _ = three_steps(mode)[-1]
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 8
        for shard in shards:
            np.testing.assert_array_equal(shard, shards[0])


@pytest.mark.parametrize('mode', devices.MODES)
def test_one_program_a_canvas(mode):
    step, (state, _) = compiled(mode), three_steps(mode)[-1]
    before = step.traces
    for batch in batches() + batches():
        state, _ = step(state, batch)
    assert step.traces == before
    if mode == 'shard_map':
        return  # a canvas takes half a minute to compile; once is enough
    for batch in batches((32, 64)) + batches() + batches((32, 64)):
        state, _ = step(state, batch)
    # The new canvas, and no other; a trace or two each (jax may trace twice).
    assert before < step.traces <= 2 * before


@pytest.mark.parametrize('mode', devices.MODES)
def test_a_broken_batch_stops_all_change_for_good(mode):
    step, (state, _) = compiled(mode), three_steps(mode)[-1]
    broken = random_batch(9, SIZES, (32, 32))
    broken['image'][3, 0, 0] = (255, 0, 255)
    after, metrics = step(state, broken)
    assert not np.isfinite(metrics['loss'])
    assert not bool(after.healthy)
    again, metrics = step(after, batches()[0])
    assert np.isfinite(metrics['loss'])
    for later in (after, again):
        for a, b in zip(
            jax.tree.leaves((state.step, state.variables, state.momentum)),
            jax.tree.leaves((later.step, later.variables, later.momentum)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
        assert not bool(later.healthy)


@pytest.mark.parametrize('mode', devices.MODES)
def test_rows_keep_their_order(mode):
    """And every device sees its own rows only."""
    rows = np.arange(24, dtype=np.float32)
    mapped = devices.map_rows(
        lambda factor, batch: {
            'rows': batch['rows'] * factor,
            'first': jnp.broadcast_to(batch['rows'][0], batch['rows'].shape),
        },
        mode,
    )
    got = mapped(jnp.float32(2), devices.shard_rows({'rows': rows}, mode))
    np.testing.assert_array_equal(got['rows'], rows * 2)
    np.testing.assert_array_equal(got['first'], rows // 3 * 3)


@pytest.mark.parametrize('mode', devices.MODES)
def test_donated_state_may_not_be_used_again(mode):
    add = devices.map_over_devices(
        lambda total, batch: total + jax.lax.psum(batch.sum(), BATCH_AXIS),
        mode,
        donate_first=True,
    )
    total = devices.replicate(jnp.zeros(()))
    rows = devices.shard_rows({'x': np.arange(16.0, dtype=np.float32)}, mode)['x']
    for expected in (120, 240):
        total = add(total, rows)
        assert float(total) == expected


@pytest.mark.parametrize('mode', devices.MODES)
def test_a_program_compiled_ahead_is_the_one_that_runs(mode, caplog):
    add = devices.map_over_devices(
        lambda total, batch: total + jax.lax.psum(batch['x'].sum(), BATCH_AXIS),
        mode,
        donate_first=True,
    )
    total = devices.replicate(np.zeros((), np.float32))
    blank, rows = np.zeros(16, np.float32), np.arange(16, dtype=np.float32)
    add.lower(total, devices.shard_rows({'x': blank}, mode)).compile()
    rows = devices.shard_rows({'x': rows}, mode)
    with jax.log_compiles():
        total = add(total, rows)
    assert float(total) == 120
    assert 'Finished XLA compilation' not in caplog.text


def test_replicate_puts_a_copy_on_every_device_and_to_host_reads_it():
    tree = {'a': np.arange(3), 'b': np.float32(2)}
    there = devices.replicate(tree)
    assert len(there['a'].addressable_shards) == 8
    back = devices.to_host(there)
    assert isinstance(back['a'], np.ndarray)
    np.testing.assert_array_equal(back['a'], tree['a'])
