"""Translates what mmdet's configs say of writers, the best checkpoint, early stopping.

Writers that mmdet has and we have not are left out: they change no number.
"""

from typing import Any

from atss_jax.mmdet_config.section import Section, plain

# The writers that a run has by default, and keeps next to the trackers of its config.
_ALWAYS = ({'type': 'TextLoggerHook'}, {'type': 'TensorboardLoggerHook'})
# By the name in 2.x or 3.x: our name, and the fields that are taken over.
_MLFLOW = ('exp_name', 'run_name', 'tags', 'tracking_uri')
_TRACKERS = {
    'WandbLoggerHook': ('WandbLoggerHook', ('init_kwargs',)),
    'MMDetWandbHook': ('WandbLoggerHook', ('init_kwargs',)),
    'WandbVisBackend': ('WandbLoggerHook', ('init_kwargs',)),
    'MlflowLoggerHook': ('MlflowLoggerHook', ('exp_name', 'tags')),
    'MLflowVisBackend': ('MlflowLoggerHook', _MLFLOW),
}


def writers_2x(logger: Section) -> dict[str, Any]:
    """Translates `log_config.hooks` of 2.x."""
    return _writers(logger.sections('hooks', ()))


def writers_3x(top: Section) -> dict[str, Any]:
    """Translates `visualizer.vis_backends` of 3.x, and skips the rest of both."""
    visualizer = top.section('visualizer', {})
    fields = _writers(visualizer.sections('vis_backends', ()))
    visualizer.skip_rest('drawing')
    top.skip('vis_backends')  # a variable, which configs give to the visualizer
    return fields


def _writers(sections):
    hooks, fields = {}, {}
    for section in sections:
        kind = section.peek('type')
        short = kind.rsplit('.', 1)[-1] if isinstance(kind, str) else ''
        if short in _TRACKERS:
            section.take('type')
            ours, names = _TRACKERS[short]
            values = {name: section.take(name, None) for name in names}
            given = {name: plain(x) for name, x in values.items() if x is not None}
            hooks[ours] = {'type': ours, **given}
            if short == 'MMDetWandbHook' and 'num_eval_images' in section:
                count = section.take_number('num_eval_images')
                fields['evaluation.num_eval_images'] = count
        section.skip_rest('logging')
    if hooks:
        fields['log_config.hooks'] = (*_ALWAYS, *hooks.values())
    return fields


def save_best(section: Section) -> dict[str, Any]:
    """Translates `save_best` of 2.x's `evaluation` or 3.x's CheckpointHook.

    Raises:
        ValueError: several metrics, or the lowest value is the best.
    """
    metric = plain(section.take('save_best', None))
    if isinstance(metric, tuple) and len(metric) == 1:
        (metric,) = metric
    if metric is None:
        section.skip('rule')
        return {}
    if not isinstance(metric, str):
        raise section.refuse('save_best', metric, 'the name of one metric')
    rule = plain(section.take('rule', None))
    if rule not in (None, 'greater', ('greater',)):
        raise section.refuse('rule', rule, "'greater'")
    return {'evaluation.save_best': metric}


def early_stopping(hook: Section) -> dict[str, Any]:
    """Translates the EarlyStoppingHook of 3.x, whose `type` has been read.

    Raises:
        ValueError: it stops at a threshold, or the lowest value is the best.
    """
    rule = hook.take('rule', None)
    if rule not in (None, 'greater'):
        raise hook.refuse('rule', rule, "'greater'")
    hook.expect(stopping_threshold=None)
    hook.skip('strict', 'check_finite', 'priority')
    settings = {
        'metric': hook.take_text('monitor'),
        'min_delta': hook.take_number('min_delta', 0.1),
        'patience': hook.take_number('patience', 5),
    }
    return {'early_stopping': settings}
