"""AdamW in training: accumulation, averages, unhealthy steps, resume, paramwise_cfg."""

import functools

import jax
import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.distributed import devices
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.adamw import make_optimizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.paramwise import Multipliers, ParamwiseConfig
from atss_jax.training.optimizer_state import with_optimizer
from atss_jax.training.state import create_state
from atss_jax.training.step import make_train_step
from atss_jax.training.update_rule import multipliers_of, rates_by_mult
from atss_jax.weights.mmdet_checkpoint import Checkpoint
from tests.support.configs import R50
from tests.support.small import LOSS, random_batch, random_variables, small_model
from tests.support.small_run import (
    assert_equal,
    first_state,
    small_config,
    train,
    train_until,
)

MODEL = small_model({'num_stages': 1, 'out_indices': (0,)})
SIZES = [(32, 32), (25, 32), (32, 17), (10, 30), (32, 20), (16, 16), (7, 9), (32, 32)]
CONFIG = OptimizerConfig(
    'AdamW', weight_decay=0.05, max_norm=5.0, cumulative_iters=2, ema_momentum=0.25
)
RATE = 0.01


@functools.cache
def step():
    made = make_train_step(MODEL, Normalizer(), LOSS, CONFIG, optimizer(), 3)
    return devices.map_over_devices(made, 'pmap')


def optimizer():
    return make_optimizer(CONFIG, lambda count: RATE * (1 + count))


@functools.cache
def new_state():
    return create_state(random_variables(MODEL), MODEL, optimizer(), True, True)


def after(state, seed):
    batch = random_batch(seed, SIZES, (32, 32))
    state, metrics = step()(devices.replicate(state), devices.shard_rows(batch, 'pmap'))
    return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope='module')
def states():
    """After each of three steps: an update after the second, and at the run's end."""
    history = [new_state()]
    for seed in range(3):
        history.append(after(history[-1], seed)[0])
    return history


def test_updates_and_steps_are_counted_apart(states):
    assert [int(state.momentum[0].count) for state in states] == [0, 0, 1, 2]
    assert [int(state.momentum[1].count) for state in states] == [0, 1, 2, 3]
    assert_equal(states[1].params, states[0].params)


def test_the_first_update_by_a_plain_loop(states):
    """The clipped mean of two gradients: its sign times the rate, and the decay."""
    adam = states[2].momentum[0]
    norm = np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in leaves(adam.mu)))
    assert norm <= 0.5 * (1 + 1e-5)  # a tenth of max_norm: beta is 0.9
    before, moved = leaves(states[1].params), leaves(states[2].params)
    for old, new, mean, square in zip(
        before, moved, leaves(adam.mu), leaves(adam.nu), strict=True
    ):
        np.testing.assert_allclose(square, mean**2 * 0.1, rtol=1e-4, atol=1e-12)
        rate = 2 * RATE  # of the second step
        unit = mean / 0.1 / (np.sqrt(square / 0.001) + 1e-8)
        expected = old * (1 - rate * 0.05) - rate * unit
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)


def leaves(tree):
    return jax.tree.leaves(tree)


def test_averages_follow_the_weights(states):
    for average, old, new in zip(
        leaves(states[2].ema), leaves(states[1].ema), leaves(states[2].params),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, atol=1e-6)


def test_an_unhealthy_step_changes_nothing(states):
    bad = states[1]
    params = jax.tree.map(np.array, bad.params)
    params['bbox_head']['atss_cls']['bias'][:] = np.nan
    found, metrics = after(bad.replace(params=params), 1)
    assert not found.healthy and not np.isfinite(metrics['loss'])
    assert_equal(found.momentum, bad.momentum)
    assert found.step == bad.step


def test_a_state_holds_all_that_decides(states):
    again = after(after(states[1], 1)[0], 2)[0]
    assert_equal(again, states[3])


# paramwise_cfg ------------------------------------------------------------------------

RULES = ParamwiseConfig((('backbone', Multipliers(0.1)),), norm_decay_mult=0.0)


def test_factors_by_the_paths_of_the_model():
    """Norms are found by the axes of their weight; frozen ones have no factors."""
    factors = multipliers_of(small_model({'frozen_stages': 0}), RULES)
    assert factors['backbone', 'layer1_0', 'bn1', 'scale'] == (0.1, 1)
    assert factors['bbox_head', 'cls_convs_0', 'gn', 'bias'] == (1, 0)
    assert factors['bbox_head', 'atss_cls', 'bias'] == (1, 1)
    assert factors['bbox_head', 'scales_0', 'scale'] == (1, 1)
    assert not any(path[:2] == ('backbone', 'conv1') for path in factors)


def test_rates_are_those_of_each_factor():
    """A lowest rate is absolute: it is the same for all."""
    overrides = {
        'optimizer.paramwise_cfg': {'bias_lr_mult': 2.0},
        'lr_config': {
            'policy': 'poly', 'power': 1.0, 'min_lr': 0.001, 'by_epoch': True,
            'warmup': None, 'warmup_iters': 1, 'warmup_ratio': 1.0,
        },
        'total_epochs': 3,
        'auto_scale_lr.enable': True,
    }  # fmt: skip
    experiment = build_experiment(load_config(R50, overrides))
    rates = rates_by_mult(experiment, 32, 1)
    np.testing.assert_allclose(rates[1.0], [0.02, 0.0105, 0.001])
    np.testing.assert_allclose(rates[2.0], [0.04, 0.0205, 0.001])


def small_adamw(data, optimizer=None, **more):
    keys = {'backbone.layer2': {'lr_mult': 0.0}, 'bbox_head': {'decay_mult': 2.0}}
    section = {
        **(optimizer or {'type': 'AdamW', 'betas': (0.9, 0.99)}),
        'lr': 0.001,
        'weight_decay': 0.05,
        'paramwise_cfg': {'custom_keys': keys, 'norm_decay_mult': 0.0},
    }
    return small_config(data, {'optimizer': section, **more})


LARS = {'type': 'LARS', 'momentum': 0.9, 'eta': 0.01}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['LARS', 'LAMB'])
def test_a_killed_run_with_layer_wise_rates_resumes_to_the_same_bits(
    small_data, tmp_path, kind
):
    """With accumulation and averages: the run stops between two updates."""
    section = LARS if kind == 'LARS' else {'type': 'LAMB'}
    more = {'optimizer_config.cumulative_iters': 2, 'ema': {'momentum': 0.1}}
    config = small_adamw(small_data, section, **more)
    expected = jax.device_get(train(config, tmp_path / 'whole'))
    steps = int(expected.step)
    stop = steps // 2 + 1 if (steps // 2) % 2 == 0 else steps // 2
    train_until(config, tmp_path / 'killed', stop)
    assert_equal(jax.device_get(train(config, tmp_path / 'killed')), expected)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(small_data, tmp_path):
    config = small_adamw(small_data)
    expected = jax.device_get(train(config, tmp_path / 'whole'))
    steps = int(expected.step)
    train_until(config, tmp_path / 'killed', steps // 2 + 2)
    found = jax.device_get(train(config, tmp_path / 'killed'))
    assert_equal(found, expected)
    assert int(found.momentum[0].count) == steps
    start = jax.device_get(train(small_adamw(small_data, total_epochs=1), tmp_path))
    frozen = start.params['backbone']['layer2_0'], found.params['backbone']['layer2_0']
    assert_equal(*frozen)  # lr_mult = 0
    assert np.any(
        start.params['bbox_head']['atss_cls']['bias']
        != found.params['bbox_head']['atss_cls']['bias']
    )


@pytest.mark.parametrize(
    ('rules', 'listed'),
    [
        ({'custom_keys': {'nek': {'lr_mult': 2.0}}}, 'custom_keys.nek'),
        ({'custom_keys': {'conv1': {}, 'backbone.conv1': {}}}, None),
        ({'custom_keys': {'absolute_pos_embed': {'decay_mult': 0.0}}}, None),
        (
            {'custom_keys': {'backbone.stem': {}}, 'dcn_offset_lr_mult': 0.1},
            'custom_keys.backbone.stem, optimizer.paramwise_cfg.dcn_offset_lr_mult',
        ),
    ],
)
def test_settings_without_effect_are_named(rules, listed, small_data, tmp_path, capsys):
    overrides = {'model.backbone.frozen_stages': -1, 'optimizer.paramwise_cfg': rules}
    first_state(small_config(small_data, overrides), tmp_path)
    warned = capsys.readouterr().err
    lines = [line for line in warned.splitlines() if 'paramwise_cfg' in line]
    assert len(lines) == (listed is not None)
    for line in lines:
        expected = f'no trained parameter matches optimizer.paramwise_cfg.{listed}, wh'
        assert expected in line and 'such as backbone.bn1.bias' in line


def test_keys_of_frozen_parameters_are_named(small_data, tmp_path, capsys):
    rules = {'custom_keys': {'backbone.conv1': {'lr_mult': 2.0}}}
    overrides = {'model.backbone.frozen_stages': 0, 'optimizer.paramwise_cfg': rules}
    first_state(small_config(small_data, overrides), tmp_path)
    assert 'custom_keys.backbone.conv1, which' in capsys.readouterr().err


def test_configs_of_runs_with_sgd_have_no_new_fields():
    """A workdir of an earlier version has the same config, and can be resumed."""
    text = to_json(load_config(R50))
    assert 'paramwise_cfg' not in text and 'betas' not in text


@pytest.mark.parametrize('kind', ['LARS', 'LAMB'])
def test_mmdetection_has_no_such_state(kind):
    section = {'lr': 0.1, 'weight_decay': 0.0, **(LARS if kind == 'LARS' else {})}
    config = load_config(R50, {'optimizer': section | {'type': kind}})
    with pytest.raises(ValueError, match=f"'{kind}', so its state cannot be converted"):
        with_optimizer(Checkpoint({}), (), build_experiment(config))
