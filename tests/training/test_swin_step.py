"""Training of a Swin Transformer: what it drops, what it trains, how it starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from atss_jax.distributed import devices
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.sgd import sgd
from atss_jax.structures import BATCH_AXIS
from atss_jax.training.state import create_state, init_variables, is_trained
from atss_jax.training.step import make_train_step, row_keys
from tests.support.small import LOSS, random_batch, random_variables
from tests.support.swin import tiny_swin

SIZES = [(32, 32), (25, 32), (32, 17), (10, 30), (32, 20), (16, 16), (7, 9), (32, 32)]
MODEL = tiny_swin(depths=(2, 1), drop_path_rate=0.5)
OPTIMIZER = OptimizerConfig(lr=0.01, max_norm=5.0)
TX = sgd(OPTIMIZER, lambda step: 0.01)


# Keys --------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 8])
def test_keys_depend_on_seed_step_and_global_row(count):
    mesh = devices.device_mesh(jax.devices()[:count])
    keys = jax.jit(
        jax.shard_map(
            lambda step: jax.random.key_data(row_keys(7, step, 8 // count)),
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(BATCH_AXIS),
        )
    )
    key = jax.random.fold_in(jax.random.key(7), 3)
    expected = [jax.random.fold_in(key, row) for row in range(8)]
    np.testing.assert_array_equal(
        keys(jnp.int32(3)), [jax.random.key_data(key) for key in expected]
    )


def test_the_largest_seed_of_a_config_is_a_key():
    assert jax.random.key(2**32 - 1).shape == ()


# Steps -------------------------------------------------------------------------------


@functools.cache
def step_of(mode):
    step = make_train_step(MODEL, Normalizer(), LOSS, OPTIMIZER, TX, seed=1)
    if mode == 'one device':
        return jax.pmap(
            step,
            axis_name=BATCH_AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.devices()[:1],
        )
    return devices.map_over_devices(step, mode)


def after(mode, step):
    """State and metrics after one step, of which `step` were finished before."""
    state = create_state(random_variables(MODEL), MODEL, TX)
    state = state.replace(step=np.array(step, np.int32))
    batch = random_batch(0, SIZES, (32, 32))
    if mode == 'one device':
        inputs = {name: x[None] for name, x in batch.items()}
    else:
        state, inputs = devices.replicate(state), devices.shard_rows(batch, mode)
    return devices.to_host(step_of(mode)(state, inputs))


@pytest.mark.slow
def test_eight_devices_drop_what_one_drops():
    (state, metrics), (expected, losses) = after('pmap', 0), after('one device', 0)
    assert metrics['loss'] == pytest.approx(losses['loss'], rel=1e-5)
    for x, y in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(abs(y).max(), 1e-3))


@pytest.mark.slow
def test_another_step_drops_other_images():
    first, again, later = (after('pmap', step) for step in (0, 0, 1))
    assert first[1]['loss'] == again[1]['loss'] != later[1]['loss']
    start = random_variables(MODEL)['params']
    moved = jax.tree.map(lambda x, y: abs(x - y).max(), first[0].params, start)
    assert min(jax.tree.leaves(moved['backbone'])) > 0


# What is trained, and how it starts --------------------------------------------------


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
def test_frozen_stages(frozen):
    model = tiny_swin(frozen_stages=frozen, use_abs_pos_embed=True)
    params = flatten_dict(init_variables(model, 0)['params'])
    fixed = {path[1] for path in params if not is_trained(path, model)}
    expected = {'patch_embed', 'absolute_pos_embed'} if frozen >= 0 else set()
    expected |= {f'stages_{stage}' for stage in range(frozen)}
    expected |= {f'norm{stage}' for stage in range(frozen)}
    assert fixed == expected
    trained = {path[1] for path in params if is_trained(path, model)}
    assert not trained & fixed


def test_initial_weights_are_mmdets():
    model = tiny_swin(embed_dims=64, num_heads=(1, 2), use_abs_pos_embed=True)
    params = init_variables(model, 0)['params']['backbone']
    block = params['stages_1']['blocks_0']
    assert block['attn']['w_msa']['qkv']['kernel'].std() == pytest.approx(0.02, rel=0.1)
    assert not block['attn']['w_msa']['relative_position_bias_table'].any()
    assert not block['ffn']['layers_1']['bias'].any()
    assert (params['norm0']['scale'] == 1).all()
    assert params['absolute_pos_embed'].std() == pytest.approx(0.02, rel=0.1)
    # A convolution keeps PyTorch's values.
    patch = params['patch_embed']['projection']
    for x in (patch['kernel'], patch['bias']):
        assert 0.8 * 48**-0.5 < abs(x).max() <= 48**-0.5
