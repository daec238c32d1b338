"""AdamW, `paramwise_cfg` and every policy: what is built, and what is refused."""

import json

import numpy as np
import pytest

from atss_jax.config import (
    as_dict,
    build_experiment,
    load_config,
    parse_overrides,
    to_json,
)
from atss_jax.optim.paramwise import Multipliers, ParamwiseConfig
from atss_jax.optim.schedule import learning_rates
from tests.support.configs import BASE, R50, changed, error

ADAMW = {
    'type': 'AdamW',
    'lr': 5e-5,
    'betas': (0.9, 0.98),
    'eps': 1e-7,
    'weight_decay': 0.05,
}
PARAMWISE = 'optimizer.paramwise_cfg'


def optimizer(values):
    return build_experiment(changed(values)).optimizer


def test_adamw():
    built = optimizer({'optimizer': ADAMW})
    assert built.type == 'AdamW' and built.betas == (0.9, 0.98) and built.eps == 1e-7
    assert (built.lr, built.weight_decay, built.paramwise) == (5e-5, 0.05, None)


def test_betas_and_eps_have_the_defaults_of_torch():
    section = {name: ADAMW[name] for name in ('type', 'lr', 'weight_decay')}
    built = optimizer({'optimizer': section})
    assert built.betas == (0.9, 0.999) and built.eps == 1e-8


@pytest.mark.parametrize(
    ('field', 'value'),
    [('betas', (0.9, 1.0)), ('betas', (0.9,)), ('betas', 0.9), ('eps', 0), ('eps', -1)],
)
def test_values_of_adamw_out_of_range(field, value):
    message = error({'optimizer': ADAMW | {field: value}})
    assert f'config.optimizer.{field} = {value!r} is not supported; expected' in message


LARS = {'type': 'LARS', 'lr': 2.0, 'momentum': 0.9, 'weight_decay': 5e-5}


def test_lars():
    built = optimizer({'optimizer': LARS | {'eta': 0.01, 'eps': 1e-6}})
    assert (built.type, built.lr, built.momentum) == ('LARS', 2.0, 0.9)
    assert (built.eta, built.eps, built.weight_decay) == (0.01, 1e-6, 5e-5)
    built = optimizer({'optimizer': LARS})
    assert (built.eta, built.eps) == (0.001, 1e-8)


def test_lamb():
    built = optimizer({'optimizer': ADAMW | {'type': 'LAMB'}})
    assert (built.type, built.betas, built.eps) == ('LAMB', (0.9, 0.98), 1e-7)
    section = {name: ADAMW[name] for name in ('lr', 'weight_decay')}
    built = optimizer({'optimizer': {'type': 'LAMB', **section}})
    assert (built.betas, built.eps) == ((0.9, 0.999), 1e-6)


@pytest.mark.parametrize(
    ('field', 'value'), [('eta', 0), ('eta', -1), ('eps', 0), ('momentum', 2)]
)
def test_values_of_lars_out_of_range(field, value):
    message = error({'optimizer': LARS | {field: value}})
    assert f'config.optimizer.{field} = {value!r} is not supported; expected' in message


def test_lars_needs_its_momentum():
    section = {name: LARS[name] for name in ('type', 'lr', 'weight_decay')}
    assert "no field 'optimizer.momentum'" in error({'optimizer': section})


def test_an_unknown_optimizer_and_fields_of_another():
    message = error({'optimizer.type': 'Lamb'})
    assert "'SGD' or 'AdamW' or 'LARS' or 'LAMB'" in message
    assert "'optimizer.eta'" in error({'optimizer.eta': 0.001})
    assert "'optimizer.betas'" in error({'optimizer': LARS | {'betas': (0.9, 0.99)}})
    lamb = ADAMW | {'type': 'LAMB', 'momentum': 0.9}
    assert "'optimizer.momentum'" in error({'optimizer': lamb})


def test_fields_of_the_other_optimizer_are_refused():
    assert "'optimizer.momentum'" in error({'optimizer': ADAMW | {'momentum': 0.9}})
    assert "'optimizer.betas'" in error({'optimizer.betas': (0.9, 0.999)})


KEYS = {'norm': {'decay_mult': 0.0}, 'backbone': {'lr_mult': 0.1, 'decay_mult': 2}}


def test_paramwise_cfg():
    rules = {'custom_keys': KEYS, 'norm_decay_mult': 0, 'bias_lr_mult': None}
    assert optimizer({PARAMWISE: rules}).paramwise == ParamwiseConfig(
        (('backbone', Multipliers(0.1, 2.0)), ('norm', Multipliers(1.0, 0.0))),
        norm_decay_mult=0.0,
    )
    assert optimizer({PARAMWISE: None}).paramwise is None
    for name in ('norm_decay_mult', 'bias_decay_mult', 'bias_lr_mult',
                 'flat_decay_mult', 'dcn_offset_lr_mult'):  # fmt: skip
        built = optimizer({PARAMWISE: {name: 0.5}}).paramwise
        assert built == ParamwiseConfig(**{name: 0.5})


def test_keys_with_dots_and_without_factors(tmp_path):
    """The same from a dict, a command line, and JSON."""
    keys = {'backbone': {'lr_mult': 0.5}, 'backbone.norm.': {'decay_mult': 0}, 'x': {}}
    config = load_config(R50, {PARAMWISE: {'custom_keys': keys}})
    expected = (
        ('backbone', Multipliers(0.5)),
        ('backbone.norm.', Multipliers(1.0, 0.0)),
        ('x', Multipliers()),
    )
    assert build_experiment(config).optimizer.paramwise.custom_keys == expected
    argument = f'--config.{PARAMWISE}={ {"custom_keys": keys}!r}'
    assert to_json(load_config(R50, parse_overrides([argument]))) == to_json(config)
    file = tmp_path / 'a.json'
    for text in (
        to_json(config),
        json.dumps(changed({PARAMWISE: {'custom_keys': keys}})),
    ):
        file.write_text(text)
        assert to_json(load_config(file)) == to_json(config)
    off = load_config(file, {PARAMWISE: None})
    assert build_experiment(off).optimizer == build_experiment(BASE).optimizer


@pytest.mark.parametrize(
    ('rules', 'parts'),
    [
        ({'dwconv_decay_mult': 0}, ['dwconv_decay_mult is not supported']),
        ({'bypass_duplicate': True}, ['bypass_duplicate is not supported']),
        ({'norm_decay_mul': 0}, ["'optimizer.paramwise_cfg.norm_decay_mul'"]),
        ({'norm_decay_mult': -1}, ['norm_decay_mult = -1 is not supported']),
        ({'custom_keys': 3}, ['custom_keys = 3 is not supported']),
        ({'custom_keys': {'a': 3}}, ['custom_keys.a = 3 is not supported']),
        ({'custom_keys': {'a': {'lr': 1}}}, ['custom_keys.a.lr = 1', 'lr_mult']),
        ({'custom_keys': {'a': {'lr_mult': 'x'}}}, ["custom_keys.a.lr_mult = 'x'"]),
        ({}, ['paramwise_cfg = {} is not supported', 'None or a section']),
    ],
    ids=str,
)
def test_what_paramwise_cfg_refuses(rules, parts):
    message = error({PARAMWISE: rules})
    assert all(part in message for part in parts), message


def test_a_name_both_as_a_value_and_as_a_section():
    with pytest.raises(ValueError, match="'a' both as a value and as a section"):
        as_dict({'a': 1, 'a.b': 2})


# Learning rates -----------------------------------------------------------------------

WARMUP = {'warmup': None, 'warmup_iters': 1, 'warmup_ratio': 0.1}
POLY = {'policy': 'poly', 'power': 0.9, 'min_lr': 1e-5, 'by_epoch': False, **WARMUP}
ONE_CYCLE = {
    'policy': 'OneCycle',
    'max_lr': 0.02,
    'by_epoch': False,
    'pct_start': 0.4,
    'anneal_strategy': 'linear',
    'div_factor': 10,
    'final_div_factor': 100,
    'three_phase': True,
    **WARMUP,
}


@pytest.mark.parametrize(
    'section',
    [POLY, POLY | {'begin': 3, 'end': 9}, ONE_CYCLE, {'policy': 'fixed', **WARMUP}],
    ids=lambda section: section['policy'],
)
def test_every_field_of_a_policy_is_read(section):
    built = build_experiment(changed({'lr_config': section})).lr_config
    assert {name: getattr(built, name) for name in section} == section


@pytest.mark.parametrize('warmup', ['linear', 'constant', 'exp'])
def test_warm_ups(warmup):
    built = build_experiment(changed({'lr_config.warmup': warmup})).lr_config
    assert built.warmup == warmup


STEP = {'policy': 'step', 'step': (8, 11), 'gamma': 0.1, **WARMUP}
COSINE = {'policy': 'CosineAnnealing', 'min_lr_ratio': 0.01, **WARMUP}
FIXED = {'policy': 'fixed', **WARMUP}


@pytest.mark.parametrize(
    'section',
    [STEP, COSINE, POLY, ONE_CYCLE, FIXED],
    ids=lambda section: section['policy'],
)
def test_without_a_warm_up_its_length_and_ratio_may_be_absent(section):
    shorter = {k: x for k, x in section.items() if not k.startswith('warmup_')}
    rates = [
        learning_rates(0.1, build_experiment(changed({'lr_config': x})).lr_config, 5, 3)
        for x in (section, shorter)
    ]
    np.testing.assert_array_equal(*rates)
    wrong = section | {'warmup_iters': 0}
    assert 'config.lr_config.warmup_iters = 0' in error({'lr_config': wrong})


@pytest.mark.parametrize('missing', ['warmup_iters', 'warmup_ratio'])
def test_a_warm_up_needs_its_length_and_ratio(missing):
    assert f"no field 'lr_config.{missing}'" in error({}, [f'lr_config.{missing}'])


@pytest.mark.parametrize(
    ('values', 'parts'),
    [
        ({'lr_config': POLY | {'power': 0}}, ['power = 0 is not']),
        ({'lr_config': POLY | {'gamma': 1}}, ["'lr_config.gamma'"]),
        (
            {'lr_config': POLY | {'begin': 5, 'end': 5}},
            ['lr_config.end = 5: lr_config.begin is 5'],
        ),
        ({'lr_config': ONE_CYCLE | {'begin': 5}}, ["'lr_config.begin'"]),
        ({'lr_config': ONE_CYCLE | {'warmup': 'linear'}}, ['expected None']),
        (
            {'lr_config': ONE_CYCLE, 'auto_scale_lr.enable': True},
            ['auto_scale_lr.enable = True', 'OneCycle', 'max_lr'],
        ),
        (
            {'lr_config': ONE_CYCLE, PARAMWISE: {'bias_lr_mult': 2}},
            ['paramwise_cfg', 'OneCycle', 'max_lr'],
        ),
        ({'lr_config.policy': 'cyclic'}, ["'poly' or 'OneCycle' or 'fixed'"]),
    ],
    ids=lambda value: str(value)[:50],
)
def test_contradictions_in_learning_rates(values, parts):
    message = error(values)
    assert all(part in message for part in parts), message
