"""Writers, the best checkpoint and early stopping of mmdet's configs."""

import pytest

from atss_jax.commands.import_mmdet import DEFAULTS
from atss_jax.config import build_experiment, load_config
from atss_jax.config.monitoring import EarlyStopping, HookConfig
from atss_jax.mmdet_config.translate import translate
from tests.mmdet_config.test_translate import changed

ALWAYS = ({'type': 'TextLoggerHook'}, {'type': 'TensorboardLoggerHook'})
WANDB = {'project': 'cells', 'tags': ('a', 'b')}


def fields_of(name, path, value):
    return translate(changed(name, path, value)).fields


@pytest.mark.parametrize(
    ('hook', 'expected'),
    [
        ({'type': 'TextLoggerHook', 'by_epoch': False}, None),
        ({'type': 'TensorboardLoggerHook', 'log_dir': 'x'}, None),
        ({'type': 'NeptuneLoggerHook'}, None),  # there is none here
        ({'type': 'WandbLoggerHook', 'interval': 5}, {'type': 'WandbLoggerHook'}),
        (
            {'type': 'MlflowLoggerHook', 'exp_name': 'e', 'log_model': True},
            {'type': 'MlflowLoggerHook', 'exp_name': 'e'},
        ),
    ],
)
def test_writers_of_2x(hook, expected):
    hooks = [{'type': 'TextLoggerHook'}, hook]
    fields = fields_of('v2_r50', 'log_config.hooks', hooks)
    ours = (*ALWAYS, expected) if expected else None
    assert fields.get('log_config.hooks') == ours


def test_the_hook_of_mmdet_for_wandb():
    hook = {'type': 'MMDetWandbHook', 'init_kwargs': WANDB, 'num_eval_images': 9}
    fields = fields_of('v2_r50', 'log_config.hooks', [hook])
    assert fields['log_config.hooks'][-1] == {
        'type': 'WandbLoggerHook',
        'init_kwargs': WANDB,
    }
    config = load_config(DEFAULTS, fields)
    assert build_experiment(config).num_eval_images == 9
    hook = HookConfig('log_config.hooks.2', 'WandbLoggerHook', init_kwargs=WANDB)
    assert build_experiment(config).hooks[-1] == hook


def test_writers_of_3x():
    backends = [
        {'type': 'LocalVisBackend'},
        {'type': 'mmdet.WandbVisBackend', 'init_kwargs': WANDB, 'commit': True},
        {'type': 'MLflowVisBackend', 'exp_name': 'e', 'run_name': 'r', 'params': {}},
        {'type': 'AimVisBackend'},
    ]
    visualizer = {'type': 'DetLocalVisualizer', 'vis_backends': backends}
    fields = fields_of('v3_r50', 'visualizer', visualizer)
    assert fields['log_config.hooks'] == (
        *ALWAYS,
        {'type': 'WandbLoggerHook', 'init_kwargs': WANDB},
        {'type': 'MlflowLoggerHook', 'exp_name': 'e', 'run_name': 'r'},
    )


@pytest.mark.parametrize('value', ['coco/bbox_mAP_50', ['coco/bbox_mAP_50']])
@pytest.mark.parametrize('name', ['v2_r50', 'v3_r50'])
def test_the_best_checkpoint(name, value):
    section = 'evaluation' if name == 'v2_r50' else 'default_hooks.checkpoint'
    fields = fields_of(name, f'{section}.save_best', value)
    experiment = build_experiment(load_config(DEFAULTS, fields))
    assert experiment.save_best == 'AP50'


def test_what_it_cannot_be():
    section = 'default_hooks.checkpoint'
    with pytest.raises(ValueError, match=r"save_best = \('a', 'b'\).*one metric"):
        fields_of('v3_r50', f'{section}.save_best', ['a', 'b'])
    with pytest.raises(ValueError, match=r"rule = 'less'.*expected 'greater'"):
        fields_of('v3_r50', f'{section}.rule', 'less')
    fields = fields_of('v3_r50', f'{section}.save_best', 'coco/segm_mAP')
    with pytest.raises(
        ValueError, match="save_best = 'coco/segm_mAP' is not supported"
    ):
        load_config(DEFAULTS, fields)


def test_early_stopping():
    hook = {'type': 'EarlyStoppingHook', 'monitor': 'coco/bbox_mAP', 'patience': 7}
    fields = fields_of('v3_r50', 'custom_hooks', [hook | {'strict': True}])
    experiment = build_experiment(load_config(DEFAULTS, fields))
    assert experiment.early_stopping == EarlyStopping('AP', 0.1, 7)
    for field, value in {'rule': 'less', 'stopping_threshold': 0.5}.items():
        with pytest.raises(ValueError, match=f'custom_hooks.*{field}'):
            fields_of('v3_r50', 'custom_hooks', [hook | {field: value}])
