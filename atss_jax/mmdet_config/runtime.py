"""Translates the hooks and run-time fields of an mmdet config."""

from typing import Any

from atss_jax.mmdet_config.section import Section

# Hooks that only observe the run, write files or free memory.
_OBSERVERS = (
    *('NumClassCheckHook', 'CheckInvalidLossHook', 'MemoryProfilerHook'),
    *('DetVisualizationHook', 'EmptyCacheHook', 'TensorboardLoggerHook'),
)
_SAVING = (
    *('save_best', 'rule', 'save_optimizer', 'save_last', 'save_param_scheduler'),
    *('out_dir', 'filename_tmpl', 'published_keys', 'create_symlink', 'meta'),
)
_UNUSED_3X = (
    *('env_cfg', 'vis_backends', 'visualizer', 'log_processor', 'log_level'),
    *('default_scope', 'work_dir', 'launcher', 'experiment_name', 'resume'),
    *('tta_model', 'tta_pipeline'),
)
_UNUSED_2X = (
    *('dist_params', 'log_level', 'opencv_num_threads', 'mp_start_method'),
    *('work_dir', 'gpu_ids', 'device', 'find_unused_parameters', 'resume_from'),
    *('auto_resume', 'cudnn_benchmark', 'launcher'),
)


def _saving(section):
    """Translates the settings of checkpoints, except mmdet's default to keep all."""
    fields = {}
    interval = section.take_number('interval', 1)
    if section.take('by_epoch', True) and interval > 0:
        fields['checkpoint_config.interval'] = interval
    max_keep_ckpts = section.take_number('max_keep_ckpts', -1)
    if max_keep_ckpts > 0:
        fields['checkpoint_config.max_keep_ckpts'] = max_keep_ckpts
    section.skip('type', *_SAVING)
    return fields


def _refuse_code(top):
    for name in ('custom_imports', 'plugin', 'plugin_dir'):
        if top.peek(name):
            raise top.refuse(name, top.peek(name), 'a config without custom code')
        top.skip(name)


def runtime_3x(top: Section) -> dict[str, Any]:
    """Translates intervals, seed, EMA and `load_from` of 3.x; skips the rest.

    Raises:
        ValueError: a hook may change numbers.
    """
    _refuse_code(top)
    hooks = top.section('default_hooks', {})
    # mmengine has default hooks if the config has none.
    logger = hooks.section('logger', {'interval': 10})
    fields = {'log_config.interval': logger.take('interval', 10)}
    logger.skip_rest('logging')
    fields |= _saving(hooks.section('checkpoint', {}))
    names = ('timer', 'param_scheduler', 'sampler_seed', 'visualization')
    for name in (*names, 'runtime_info'):
        hooks.skip(name)
    for hook in top.sections('custom_hooks', ()):
        fields |= _custom_hook(hook)
    random = top.section('randomness', {})
    if random.peek('seed') is not None:
        fields['seed'] = random.take('seed')
    random.skip_rest('random numbers are generated in another way here')
    fields['load_from'] = top.take('load_from', None)
    top.skip(*_UNUSED_3X)
    return fields


def _custom_hook(hook):
    if hook.take_kind('EMAHook', *_OBSERVERS) != 'EMAHook':
        hook.skip_rest('a hook that changes no numbers')
        return {}
    hook.expect(ema_type='ExponentialMovingAverage', update_buffers=False)
    hook.expect(begin_iter=0, begin_epoch=0, interval=1)
    hook.skip('strict_load', 'priority', 'device')
    fields = {'ema': {'momentum': hook.take('momentum', 0.0002)}}
    return fields


def runtime_2x(top: Section) -> dict[str, Any]:
    """As `runtime_3x`, for 2.x. Its EMA has a warm-up, which is not supported."""
    _refuse_code(top)
    logger = top.section('log_config', {})
    fields = {'log_config.interval': logger.take('interval', 50)}
    logger.skip_rest('logging')
    fields |= _saving(top.section('checkpoint_config', {}))
    for hook in top.sections('custom_hooks', ()):
        hook.take_kind(*_OBSERVERS)
        hook.skip_rest('a hook that changes no numbers')
    if top.peek('seed') is not None:
        fields['seed'] = top.take('seed')
    top.skip('seed')
    fields['load_from'] = top.take('load_from', None)
    top.skip(*_UNUSED_2X)
    return fields
