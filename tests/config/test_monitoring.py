"""Metrics, writers and early stopping in a config: what is accepted, and as what."""

import json

import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.config.monitoring import (
    COCO_METRICS,
    EarlyStopping,
    HookConfig,
    metric_name,
)
from atss_jax.config.reference import rows
from atss_jax.evaluation.coco_metric import Accumulated, scores_of
from tests.support.configs import R50

PATH = 'log_config.hooks'


def experiment_with(**overrides):
    fields = {name.replace('__', '.'): value for name, value in overrides.items()}
    config = load_config(R50, fields)
    # As it comes back from the workdir of a run.
    assert build_experiment(json.loads(to_json(config))) == build_experiment(config)
    return build_experiment(config)


def error_with(**overrides):
    with pytest.raises(ValueError) as caught:
        experiment_with(**overrides)
    return str(caught.value)


def test_one_field_of_early_stopping_switches_it_on():
    """As it does for the other optional sections, also where a config lacks it."""
    stopping = experiment_with(early_stopping__patience=3).early_stopping
    assert stopping == EarlyStopping('AP', 0.0, 3)


def test_the_metrics_are_those_of_an_evaluation():
    empty = Accumulated(-np.ones((10, 101, 1, 4, 5)), -np.ones((10, 1, 4, 5)))
    scores = scores_of(empty, ('cat',))
    assert tuple(scores.summary) == COCO_METRICS
    for name in scores.mmdet:  # mmdet's own names are known
        assert metric_name(name) in (*COCO_METRICS, 'per_class/cat')


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('auto', 'AP'),
        ('AP50', 'AP50'),
        ('ARl', 'ARl'),
        ('bbox_mAP', 'AP'),
        ('coco/bbox_mAP_75', 'AP75'),
        ('bbox_mAP_s', 'APs'),
        ('coco/hair drier_precision', 'per_class/hair drier'),
        ('per_class/hair drier', 'per_class/hair drier'),
    ],
)
def test_a_metric_by_its_names(name, expected):
    assert experiment_with(evaluation__save_best=name).save_best == expected
    rule = {'metric': name, 'min_delta': 0, 'patience': 1}
    stopping = experiment_with(early_stopping=rule).early_stopping
    assert stopping == EarlyStopping(expected, 0.0, 1)


@pytest.mark.parametrize('name', ['map', 'segm_mAP', 'per_class/', 'ap50', 5, None])
def test_what_is_no_metric(name):
    message = error_with(evaluation__save_best=name)
    assert f'config.evaluation.save_best = {name!r} is not supported' in message
    assert "'auto' (AP), AP, AP50, AP75" in message and 'per_class/NAME' in message


def test_early_stopping_has_all_its_fields():
    assert "no field 'early_stopping.patience'" in error_with(
        early_stopping={'metric': 'AP', 'min_delta': 0}
    )
    section = {'metric': 'AP', 'min_delta': 0, 'patience': 5, 'rule': 'greater'}
    assert "'early_stopping.rule' that nothing reads" in error_with(
        early_stopping=section
    )


def test_early_stopping_may_leave_fields_out():
    stopping = experiment_with(early_stopping={'patience': 3}).early_stopping
    assert stopping == EarlyStopping('AP', 0.0, 3)
    rule = {'patience': 3, 'metric': 'AP50'}
    assert experiment_with(early_stopping=rule).early_stopping.metric == 'AP50'
    assert "did you mean 'early_stopping.min_delta'" in error_with(
        early_stopping={'patience': 3, 'min_dleta': 0.1}
    )
    meanings = {row.path: row.meaning for row in rows(load_config(R50).to_dict())}
    assert "'AP' if it is left out" in meanings['early_stopping.metric']
    assert '0 if it is left out' in meanings['early_stopping.min_delta']


def test_writers():
    assert [hook.type for hook in experiment_with().hooks] == [
        'TextLoggerHook',
        'TensorboardLoggerHook',
    ]
    arguments = {'project': 'x', 'tags': ('a', 'b'), 'settings': {'silent': True}}
    tags = {'a.b': 'c'}
    hooks = (
        {'type': 'WandbLoggerHook', 'init_kwargs': arguments},
        {'type': 'MlflowLoggerHook', 'exp_name': None, 'tags': tags},
        {'type': 'TrackioLoggerHook', 'init_kwargs': None},
    )
    config = load_config(R50, {PATH: hooks})
    assert build_experiment(config).hooks == (
        HookConfig(f'{PATH}.0', 'WandbLoggerHook', init_kwargs=arguments),
        HookConfig(f'{PATH}.1', 'MlflowLoggerHook', tags=tags),
        HookConfig(f'{PATH}.2', 'TrackioLoggerHook'),
    )


@pytest.mark.parametrize(
    ('hooks', 'message'),
    [
        (
            'wandb',
            f"config.{PATH} = 'wandb' is not supported; expected None or a tuple",
        ),
        ((), f'config.{PATH} = () is not supported'),
        (({'type': 'NeptuneLoggerHook'},), "expected 'TextLoggerHook' or 'Tensorboard"),
        (
            ({'type': 'WandbLoggerHook', 'tags': {}},),
            f"'{PATH}.0.tags' that nothing re",
        ),
        (
            ({'type': 'WandbLoggerHook'}, {'type': 'WandbLoggerHook'}),
            f"config.{PATH}.0.type = 'WandbLoggerHook': each writer can be named once",
        ),
        (
            ({'type': 'WandbLoggerHook', 'init_kwargs': 'cells'},),
            f"config.{PATH}.0.init_kwargs = 'cells' is not supported",
        ),
    ],
)
def test_what_is_no_writer(hooks, message):
    assert message in error_with(log_config__hooks=hooks)
