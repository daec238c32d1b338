"""Reads `optimizer`, `optimizer_config`, `ema` and `lr_config`."""

import math
from collections.abc import Mapping
from typing import Any

from atss_jax.config.fields import (
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    Check,
    Reader,
    boolean,
    integer,
    number,
    one_of,
    optional,
    tuple_of,
)
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.paramwise import Multipliers, ParamwiseConfig
from atss_jax.optim.schedule import LrConfig

_BETWEEN_0_AND_1 = Check(
    'a number between 0 and 1, both excluded',
    number(above=0, maximum=math.nextafter(1, 0)).convert,
)
_BETAS = Check(
    'a tuple of 2, each a number from 0 to 1, 1 excluded',
    tuple_of(number(minimum=0, maximum=math.nextafter(1, 0)), 2).convert,
)
_OPTIMIZERS = {
    'SGD': ('momentum',),
    'AdamW': ('betas', 'eps'),
    'LARS': ('momentum', 'eta', 'eps'),
    'LAMB': ('betas', 'eps'),
}
_OPTIONAL = {'betas': _BETAS, 'eps': POSITIVE, 'eta': POSITIVE}
_EPS_OF_LAMB = 1e-6  # of the paper and of all implementations
_PARAMWISE = 'optimizer.paramwise_cfg'
_UNSUPPORTED = ('dwconv_decay_mult', 'bypass_duplicate')


# The optimizer ------------------------------------------------------------------------


def read_optimizer(read: Reader) -> OptimizerConfig:
    """Reads how parameters are updated.

    `betas`, `eps`, `eta` and `paramwise_cfg` may be absent: torch, mmengine and
    mmpretrain have defaults.
    """
    kind = read.kind('optimizer.type', _OPTIMIZERS)
    by_kind = {'eps': _EPS_OF_LAMB} if kind == 'LAMB' else {}
    for name in _OPTIMIZERS[kind]:
        if name == 'momentum':
            by_kind[name] = read('optimizer.momentum', FRACTION)
        elif read.has(f'optimizer.{name}'):
            by_kind[name] = read(f'optimizer.{name}', _OPTIONAL[name])
    max_norm = None
    example = "{'max_norm': ..., 'norm_type': 2}"
    if read.has_optional_section('optimizer_config.grad_clip', example):
        max_norm = read('optimizer_config.grad_clip.max_norm', POSITIVE)
        read('optimizer_config.grad_clip.norm_type', one_of(2))
    return OptimizerConfig(
        type=kind,
        lr=read('optimizer.lr', POSITIVE),
        weight_decay=read('optimizer.weight_decay', NON_NEGATIVE),
        paramwise=_paramwise(read),
        max_norm=max_norm,
        cumulative_iters=read('optimizer_config.cumulative_iters', integer(1)),
        ema_momentum=_ema_momentum(read),
        **by_kind,
    )


def _ema_momentum(read):
    if read.has_optional_section('ema', "{'momentum': 0.0002}"):
        return read('ema.momentum', _BETWEEN_0_AND_1)
    return None


def _paramwise(read):
    """Reads the settings of single parameters, if the config has any."""
    example = "{'norm_decay_mult': 0.0}"
    if not read.has(_PARAMWISE):
        return None
    if not read.has_optional_section(_PARAMWISE, example):
        return None
    for name in _UNSUPPORTED:
        if read.has(f'{_PARAMWISE}.{name}'):
            raise ValueError(f'config.{_PARAMWISE}.{name} is not supported; remove it')
    fields = {}
    if read.has(f'{_PARAMWISE}.custom_keys'):
        path = f'{_PARAMWISE}.custom_keys'
        fields['custom_keys'] = read.section(path, _CUSTOM_KEYS)
    for name in (
        'norm_decay_mult',
        'bias_decay_mult',
        'bias_lr_mult',
        'flat_decay_mult',
        'dcn_offset_lr_mult',
    ):
        if read.has(f'{_PARAMWISE}.{name}'):
            fields[name] = read(f'{_PARAMWISE}.{name}', optional(NON_NEGATIVE))
    return ParamwiseConfig(**fields)


def _custom_keys(leaves: Mapping[str, Any]):
    """Multipliers by key; a key with dots may be written as sections in sections."""
    settings: dict[str, dict[str, float]] = {}
    for path, value in leaves.items():
        key, _, field = path.rpartition('.')
        if value == {}:
            settings.setdefault(path, {})
        elif key and field in ('lr_mult', 'decay_mult'):
            value = NON_NEGATIVE.convert(value)
            settings.setdefault(key, {})[field] = value
        else:
            raise ValueError
    return tuple((key, Multipliers(**each)) for key, each in sorted(settings.items()))


_CUSTOM_KEYS = Check(
    "a section of parts of parameters' names, each with lr_mult or decay_mult of at "
    "least 0, {'norm': {'decay_mult': 0.0}}",
    _custom_keys,
)


# The learning rate --------------------------------------------------------------------


def read_lr_config(read: Reader) -> LrConfig:
    """Reads the learning rate over the steps.

    Raises:
        ValueError: a field is wrong, or changes nothing with this policy.
    """
    fields = {**_BY_POLICY, 'poly': (*_BY_POLICY['poly'], *_POLY_RANGE)}
    policy = read.kind('lr_config.policy', fields)
    return LrConfig(
        policy=policy,
        **_warm_up(read, policy),
        **{
            name: read(f'lr_config.{name}', check)
            for name, check in _BY_POLICY[policy].items()
        },
        **_poly_range(read, policy),
    )


def _warm_up(read, policy):
    """Reads the warm-up; without one its length and ratio may be absent."""
    kinds = (None,) if policy == 'OneCycle' else ('linear', 'constant', 'exp', None)
    fields = {'warmup': read('lr_config.warmup', one_of(*kinds))}
    for name, check in (('warmup_iters', integer(1)), ('warmup_ratio', FRACTION)):
        if fields['warmup'] is not None or read.has(f'lr_config.{name}'):
            fields[name] = read(f'lr_config.{name}', check)
    return fields


def _poly_range(read, policy):
    """Reads where the decay of 'poly' begins and ends, if the config says so."""
    names = [name for name in _POLY_RANGE if read.has(f'lr_config.{name}')]
    if policy != 'poly' or not names:
        return {}
    limits = {name: read(f'lr_config.{name}', _POLY_RANGE[name]) for name in names}
    if limits.get('end') is not None and limits['end'] <= limits.get('begin', 0):
        begin = limits.get('begin', 0)
        raise read.refuse('lr_config.end', f'lr_config.begin is {begin}')
    return limits


_BY_POLICY: dict[str, dict[str, Check]] = {
    'step': {'step': tuple_of(integer(1)), 'gamma': POSITIVE},
    'CosineAnnealing': {'min_lr_ratio': FRACTION},
    'poly': {'power': POSITIVE, 'min_lr': NON_NEGATIVE, 'by_epoch': boolean},
    'OneCycle': {
        'max_lr': POSITIVE,
        'by_epoch': boolean,
        'pct_start': FRACTION,
        'anneal_strategy': one_of('cos', 'linear'),
        'div_factor': POSITIVE,
        'final_div_factor': POSITIVE,
        'three_phase': boolean,
    },
    'fixed': {},
}
# These may be absent.
_POLY_RANGE = {'begin': integer(0), 'end': optional(integer(1))}


def check_one_cycle(read: Reader, config: LrConfig, optimizer: OptimizerConfig) -> None:
    """Raises ValueError if a factor on the rate has no effect, as with OneCycle."""
    if config.policy != 'OneCycle':
        return
    reason = "has no effect with lr_config.policy = 'OneCycle', whose max_lr is the "
    if read.leaves['auto_scale_lr.enable']:
        raise read.refuse('auto_scale_lr.enable', f'{reason}rate for any batch size')
    if optimizer.paramwise and optimizer.paramwise.lr_mults != {1.0}:
        raise ValueError(
            f'config.{_PARAMWISE}: a factor on the learning rate {reason}rate of all '
            'parameters'
        )
