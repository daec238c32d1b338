"""Translates loops, schedules and run-time fields of an mmdet config, 2.x and 3.x."""

from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config import observation
from atss_jax.mmdet_config.section import Section, plain

_NO_WARMUP = {'warmup': None, 'warmup_iters': 1, 'warmup_ratio': 0.001}


def loop_3x(top: Section) -> dict[str, Any]:
    """Translates loops and schedulers to `total_epochs`, `evaluation`, `lr_config`."""
    section = top.section('train_cfg')
    by_epoch = section.take('by_epoch', False)
    if not by_epoch or 'type' in section:
        section.take_kind('EpochBasedTrainLoop')
    epochs = section.take_number('max_epochs')
    fields = {
        'total_epochs': epochs,
        'evaluation.interval': section.take('val_interval', 1),
    }
    section.expect(val_begin=1, dynamic_intervals=None)
    for split, kind in (('val', 'ValLoop'), ('test', 'TestLoop')):
        loop = top.section(f'{split}_cfg', {})
        if 'type' in loop:
            loop.take_kind(kind)
        loop.expect(fp16=False)
    wrapper = top.peek('optim_wrapper')
    settings = wrapper.get('optimizer') if isinstance(wrapper, Mapping) else None
    return fields | {'lr_config': _lr_config_3x(top, epochs, _rate(settings))}


def _rate(settings):
    """The learning rate, without marking it as read."""
    rate = settings.get('lr') if isinstance(settings, Mapping) else None
    rate = plain(rate)
    if not isinstance(rate, int | float) or rate <= 0:
        raise ValueError(
            f'the mmdet config has the learning rate {rate!r}, expected one above 0'
        )
    return rate


def _lr_config_3x(top, epochs, rate):
    policy, warmup = None, dict(_NO_WARMUP)
    if top.peek('param_scheduler') is None:
        raise ValueError(
            f'the mmdet config has no {", ".join(_POLICIES)} in param_scheduler, and '
            'no param_scheduler at all; expected one of them, or a ConstantLR with '
            'factor=1.0 for a constant rate'
        )
    for section in top.sections('param_scheduler', ()):
        kind = section.take_kind('LinearLR', 'ConstantLR', *_POLICIES)
        section.skip('verbose')
        if kind == 'ConstantLR' and section.peek('factor') == 1:
            section.skip_rest('the rate times 1')
        elif kind in ('LinearLR', 'ConstantLR'):
            if warmup['warmup'] is not None:
                raise ValueError(f'{section.path}: a second warm-up is not supported')
            warmup = _warmup_3x(section, kind)
        elif policy is None:
            policy = _POLICIES[kind](section, epochs, rate)
        else:
            raise ValueError(f'{section.path}: a second {kind} is not supported')
    return {**(policy or {'policy': 'fixed'}), **warmup}


def _warmup_3x(section, kind):
    section.expect(by_epoch=False, begin=0)
    name = 'factor'
    if kind == 'LinearLR':
        section.expect(end_factor=1.0)
        name = 'start_factor'
    return {
        'warmup': 'linear' if kind == 'LinearLR' else 'constant',
        'warmup_iters': section.take('end'),
        'warmup_ratio': section.take(name, 1 / 3),
    }


def _step_3x(section, epochs, rate):
    milestones = section.take_tuple('milestones')
    if not all(isinstance(epoch, int) for epoch in milestones):
        raise section.refuse('milestones', milestones, 'epochs as integers')
    end = section.take_number('end', epochs)
    if end < epochs and not all(epoch < end for epoch in milestones):
        raise section.refuse('end', end, f'at least {epochs}')
    section.expect(by_epoch=True, begin=0)
    gamma = section.take('gamma', 0.1)
    return {'policy': 'step', 'step': milestones, 'gamma': gamma}


def _every_3x(section, epochs, rate):
    step = _every(section, 'step_size', section.take('step_size'), epochs)
    section.expect(by_epoch=True, begin=0)
    end = section.take_number('end', epochs)
    if end < epochs:
        raise section.refuse('end', end, f'at least {epochs}')
    return {'policy': 'step', 'step': step, 'gamma': section.take('gamma', 0.1)}


def _every(section, name, interval, epochs):
    """The epochs at which a rate changes that changes every `interval` epochs."""
    if type(interval) is not int or interval < 1:
        raise section.refuse(name, interval, 'a number of epochs')
    return tuple(range(interval, int(epochs), interval)) or (interval,)


def _cosine_3x(section, epochs, rate):
    for name in ('T_max', 'end'):
        value = section.take(name, epochs)
        if value not in (None, epochs):
            raise section.refuse(name, value, f'{epochs}, the same as max_epochs')
    section.expect(by_epoch=True, begin=0, convert_to_iter_based=False)
    ratio = section.take('eta_min_ratio', None)
    if ratio is None:
        ratio = section.take_number('eta_min', 0) / rate
    return {'policy': 'CosineAnnealing', 'min_lr_ratio': ratio}


def _poly_3x(section, epochs, rate):
    by_epoch, begin, end = _range_3x(section, epochs)
    limits = {'begin': begin, 'end': end}
    return {
        'policy': 'poly',
        'power': section.take_number('power', 1.0),
        'min_lr': section.take_number('eta_min', 0),
        'by_epoch': by_epoch,
        **({} if _is_whole_run(begin, end) else limits),
    }


def _one_cycle_3x(section, epochs, rate):
    total, is_in_epochs = section.take('total_steps', None), section.peek('by_epoch')
    if total is not None and (is_in_epochs is False or total != epochs):
        expected = f'no total_steps or {epochs} epochs, the same as max_epochs'
        raise section.refuse('total_steps', total, expected)
    by_epoch, begin, end = _range_3x(section, epochs)
    if not _is_whole_run(begin, end):
        path = section.name_of('begin')
        raise section.refuse(path, begin, 'a cycle of the whole run: no begin and end')
    return {
        'policy': 'OneCycle',
        'max_lr': section.take_number('eta_max'),
        'by_epoch': by_epoch,
        **_cycle(section),
    }


def _cycle(section):
    """The shape of the cycle; the same names and defaults in 2.x and 3.x."""
    return {
        'pct_start': section.take_number('pct_start', 0.3),
        'anneal_strategy': section.take_text('anneal_strategy', 'cos'),
        'div_factor': section.take_number('div_factor', 25.0),
        'final_div_factor': section.take_number('final_div_factor', 1e4),
        'three_phase': section.take('three_phase', False),
    }


def _range_3x(section, epochs):
    """Whether a scheduler counts epochs, and its `begin` and `end` in what it counts.

    An `end` of None is that of the run. How many iterations an epoch has is not known
    here, so a scheduler by iteration cannot be written in epochs, except for the run.
    """
    by_epoch = section.take('by_epoch', True)
    begin, end = section.take('begin', 0), section.take('end', None)
    if by_epoch and end == epochs:
        end = None
    if section.take('convert_to_iter_based', False):
        if not by_epoch or not _is_whole_run(begin, end):
            expected = f'False, or begin=0, end={epochs} and by_epoch=True'
            raise section.refuse('convert_to_iter_based', True, expected)
        by_epoch = False
    return by_epoch, begin, end


def _is_whole_run(begin, end):
    return begin == 0 and end is None


_POLICIES = {
    'MultiStepLR': _step_3x,
    'StepLR': _every_3x,
    'CosineAnnealingLR': _cosine_3x,
    'PolyLR': _poly_3x,
    'OneCycleLR': _one_cycle_3x,
}


def loop_2x(top: Section) -> dict[str, Any]:
    """Translates `total_epochs` or `runner`, `evaluation` and `lr_config` of 2.x."""
    if top.peek('runner') is not None:
        section = top.section('runner')
        section.take_kind('EpochBasedRunner')
        epochs = section.take_number('max_epochs')
        if top.take('total_epochs', epochs) != epochs:
            raise ValueError(
                f'the mmdet config has runner.max_epochs = {epochs}, but another '
                'total_epochs'
            )
    else:
        epochs = top.take_number('total_epochs')
    section = top.section('evaluation', {})
    metric = section.take('metric', 'bbox')
    if plain(metric) not in ('bbox', ('bbox',)):
        raise section.refuse('metric', metric, "'bbox'")
    fields = {
        'total_epochs': epochs,
        'evaluation.interval': section.take('interval', 1),
    }
    fields |= observation.save_best(section)
    section.skip('classwise', 'start', 'out_dir')
    section.skip('jsonfile_prefix', 'file_client_args')
    section.expect(by_epoch=True, dynamic_intervals=None)
    top.expect(momentum_config=None)
    top.expect(workflow=(('train', 1),))
    return fields | {'lr_config': _lr_config_2x(top, epochs)}


def _lr_config_2x(top, epochs):
    section = top.section('lr_config')
    policy = section.take('policy')
    rate = _rate(top.peek('optimizer'))
    if policy == 'step':
        step = plain(section.take('step'))
        if not isinstance(step, tuple):
            step = _every(section, 'step', step, epochs)
        fields = {'policy': policy, 'step': step, 'gamma': section.take('gamma', 0.1)}
        section.expect(min_lr=None)
    elif policy == 'CosineAnnealing':
        ratio = section.take('min_lr_ratio', None)
        if ratio is None:
            ratio = section.take_number('min_lr') / rate
        fields = {'policy': policy, 'min_lr_ratio': ratio}
    elif policy == 'OneCycle':
        fields = {'policy': policy, 'max_lr': section.take_number('max_lr')}
        fields |= {'by_epoch': False, **_cycle(section)}
        section.expect(by_epoch=False, total_steps=None)
    elif policy == 'fixed':
        fields = {'policy': policy}
    elif policy == 'poly':
        by_epoch = section.take('by_epoch', True)
        fields = {
            'policy': policy,
            'power': section.take_number('power', 1.0),
            'min_lr': section.take_number('min_lr', 0.0),
            'by_epoch': by_epoch,
        }
        if by_epoch:
            # mmcv divides by the number of epochs, mmengine by one less. The number of
            # iterations, much larger, is not known here: the last one has min_lr.
            fields['end'] = epochs + 1
    else:
        expected = "'step', 'CosineAnnealing', 'poly', 'OneCycle' or 'fixed'"
        raise section.refuse('policy', policy, expected)
    section.expect(by_epoch=True, warmup_by_epoch=False)
    warmup = section.take('warmup', None)
    if warmup not in ('linear', 'constant', 'exp', None):
        expected = "'linear', 'constant', 'exp' or None"
        raise section.refuse('warmup', warmup, expected)
    iterations = section.take('warmup_iters', 0)
    ratio = section.take('warmup_ratio', 0.1)
    if warmup is None:
        return fields | _NO_WARMUP
    return fields | {
        'warmup': warmup, 'warmup_iters': iterations, 'warmup_ratio': ratio
    }  # fmt: skip


# Hooks and run-time fields ------------------------------------------------------------

# Hooks that only observe the run, write files or free memory.
_OBSERVERS = (
    *('NumClassCheckHook', 'CheckInvalidLossHook', 'MemoryProfilerHook'),
    *('DetVisualizationHook', 'EmptyCacheHook', 'TensorboardLoggerHook'),
)
_SAVING = (
    *('save_optimizer', 'save_last', 'save_param_scheduler'),
    *('out_dir', 'filename_tmpl', 'published_keys', 'create_symlink', 'meta'),
    *('backend_args', 'file_client_args'),
)
_UNUSED_3X = (
    *('env_cfg', 'log_processor', 'log_level'),
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
    checkpoint = hooks.section('checkpoint', {})
    fields |= observation.save_best(checkpoint) | _saving(checkpoint)
    fields |= observation.writers_3x(top)
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
    kind = hook.take_kind('EMAHook', 'EarlyStoppingHook', *_OBSERVERS)
    if kind == 'EarlyStoppingHook':
        return observation.early_stopping(hook)
    if kind != 'EMAHook':
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
    fields |= observation.writers_2x(logger)
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
