"""Reads what a run tells and when it stops: writers, metrics, early stopping."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

from atss_jax.config.fields import (
    NON_NEGATIVE,
    Check,
    Reader,
    integer,
    one_of,
    optional,
    text,
)

COCO_METRICS = (
    *('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl'),
    *('AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl'),
)
"""The COCO numbers of an evaluation, as they stand in `metrics.jsonl`."""

CLASS_METRIC = 'per_class/'
"""The AP of one class is the metric of this name, followed by that of the class."""

_MMDET_METRICS = {
    'auto': 'AP',
    'bbox_mAP': 'AP',
    **{f'bbox_mAP_{suffix}': f'AP{suffix}' for suffix in ('50', '75', *'sml')},
    'bbox_AR@100': 'AR100',
}


# Metrics -----------------------------------------------------------------------------


def metric_name(name: Any) -> str:
    """A metric under the name that it has here; mmdet's names are accepted.

    Raises:
        ValueError: it is no metric. Whether a class exists is not known yet.
    """
    if not isinstance(name, str):
        raise ValueError
    plain = name.removeprefix('coco/')
    if plain in _MMDET_METRICS:
        return _MMDET_METRICS[plain]
    if of_class := re.fullmatch(r'coco/(.+)_precision', name):
        return f'{CLASS_METRIC}{of_class[1]}'
    is_of_class = name.startswith(CLASS_METRIC) and name != CLASS_METRIC
    if name in COCO_METRICS or is_of_class:
        return name
    raise ValueError


METRIC = Check(
    f"'auto' (AP), {', '.join(COCO_METRICS)}, {CLASS_METRIC}NAME with the name of a "
    "class, or one of mmdet's names such as coco/bbox_mAP_50",
    metric_name,
)


def check_class_of(metric: str, field: str, classes: Collection[str]) -> None:
    """Raises ValueError if a metric is that of a class that the data do not have."""
    name = metric.removeprefix(CLASS_METRIC)
    if name != metric and name not in classes:
        raise ValueError(
            f'config.{field} = {metric!r}: the data have no class {name!r}; expected '
            f'one of {", ".join(COCO_METRICS)}, or {CLASS_METRIC}NAME with one of '
            f'{", ".join(classes)}'
        )


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """When a run ends before its last epoch, by the rule of mmengine.

    An evaluation is an improvement if its metric reaches the best so far plus
    `min_delta`. With 0, a value that equals the best is one.

    Attributes:
        metric: the metric, one of those that `evaluation.save_best` accepts;
            'AP' if it is left out.
        min_delta: how much an improvement is at least, as a fraction of 1: 0.001 is 0.1
            points of AP. 0 if it is left out; 0.1 in mmengine, which is 10 points.
        patience: the run ends after this many evaluations in a row without improvement.

    Source: mmengine.hooks.EarlyStoppingHook.
    """

    metric: str
    min_delta: float
    patience: int


def read_early_stopping(read: Reader) -> EarlyStopping | None:
    """Reads the section `early_stopping`; None: the run trains all its epochs."""
    example = "{'metric': 'AP', 'min_delta': 0.001, 'patience': 5}"
    if not read.has_optional_section('early_stopping', example):
        return None
    return EarlyStopping(
        metric=read('early_stopping.metric', METRIC),
        min_delta=read('early_stopping.min_delta', NON_NEGATIVE),
        patience=read('early_stopping.patience', integer(1)),
    )


# Writers -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class HookConfig:
    """A writer of the numbers of a run, an element of mmdet's `log_config.hooks`.

    Each type has some of these settings; those that the config leaves out are None.

    Attributes:
        path: of its section, for messages.
        type: TextLoggerHook (lines and `metrics.jsonl`, which are written in any case),
            TensorboardLoggerHook, WandbLoggerHook, MlflowLoggerHook or
            TrackioLoggerHook.
        init_kwargs: arguments of `wandb.init` or `trackio.init`, such as `project`.
        exp_name: name of the experiment of MLflow.
        run_name: name of the run of MLflow; by default that of the workdir.
        tags: tags of the run of MLflow.
        tracking_uri: server or database of MLflow; by default the one that MLflow
            finds, by MLFLOW_TRACKING_URI.
    """

    path: str
    type: str
    init_kwargs: Mapping[str, Any] | None = None
    exp_name: str | None = None
    run_name: str | None = None
    tags: Mapping[str, str] | None = None
    tracking_uri: str | None = None


def _plain(fields):
    """The fields of a section of any names; a value may be a number, text or a list."""
    for value in fields.values():
        if not isinstance(value, str | int | float | list | tuple | None):
            raise ValueError
    return dict(fields)


def _arguments(fields):
    """As `_plain`, with sections in it as dicts again."""
    arguments = {}
    for path, value in _plain(fields).items():
        *parents, name = path.split('.')
        section = arguments
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return arguments


_TAGS = Check('a section of names and plain values', _plain)
_ARGUMENTS = Check('a section of arguments with plain values', _arguments)
_NAME = optional(text)
HOOKS: dict[str, Mapping[str, Check]] = {
    'TextLoggerHook': {},
    'TensorboardLoggerHook': {},
    'WandbLoggerHook': {'init_kwargs': _ARGUMENTS},
    'MlflowLoggerHook': {
        'exp_name': _NAME,
        'run_name': _NAME,
        'tags': _TAGS,
        'tracking_uri': _NAME,
    },
    'TrackioLoggerHook': {'init_kwargs': _ARGUMENTS},
}


_DEFAULT_HOOKS = tuple(
    HookConfig('log_config.hooks', kind)
    for kind in ('TextLoggerHook', 'TensorboardLoggerHook')
)


def read_hooks(read: Reader) -> tuple[HookConfig, ...]:
    """Reads `log_config.hooks`, a list of sections of different types.

    Raises:
        ValueError: it is none, or names a writer twice.
    """
    example = "({'type': 'TensorboardLoggerHook'}, {'type': 'WandbLoggerHook'})"
    hooks = []
    while read.has_section(path := f'log_config.hooks.{len(hooks)}'):
        hooks.append(_read_hook(read, path))
    if not hooks:
        expected = f'None or a tuple of one or more sections such as {example}'
        read('log_config.hooks', Check(expected, one_of(None).convert))
        return _DEFAULT_HOOKS
    types = [hook.type for hook in hooks]
    for hook in hooks:
        if types.count(hook.type) > 1:
            raise read.refuse(f'{hook.path}.type', 'each writer can be named once')
    return tuple(hooks)


def _read_hook(read, path):
    kind = read.kind(f'{path}.type', HOOKS)
    settings = {}
    for name, check in HOOKS[kind].items():
        field = f'{path}.{name}'
        if not read.has(field):
            read.checks[field] = check
        elif check not in (_TAGS, _ARGUMENTS):
            settings[name] = read(field, check)
        elif read.leaves.get(field, {}) is not None:
            settings[name] = read.section(field, check)
        else:
            read(field, optional(check))
    return HookConfig(path, kind, **settings)
