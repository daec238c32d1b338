"""Translates the optimizer of an mmdet config, 2.x and 3.x."""

from typing import Any

from atss_jax.mmdet_config.section import Section


def _optimizer(section, paramwise):
    """Translates the optimizer; `paramwise` is the result of `_paramwise`."""
    kind = section.take_kind('SGD', 'AdamW')
    section.skip('foreach', 'fused', 'capturable', 'differentiable')
    section.expect(maximize=False)
    if kind == 'AdamW':
        section.expect(amsgrad=False)
        fields = {
            'type': 'AdamW',
            'lr': section.take('lr', 1e-3),
            'betas': section.take_tuple('betas', (0.9, 0.999)),
            'eps': section.take('eps', 1e-8),
            'weight_decay': section.take('weight_decay', 0.01),
        }
        # The whole section: the fields of SGD would be left in it.
        return {'optimizer': fields | paramwise}
    fields = {
        'lr': section.take('lr'),
        'momentum': section.take('momentum', 0),
        'weight_decay': section.take('weight_decay', 0),
    }
    section.expect(nesterov=False, dampening=0)
    return {f'optimizer.{name}': value for name, value in (fields | paramwise).items()}


_MULTIPLIERS = (
    *('norm_decay_mult', 'bias_decay_mult', 'bias_lr_mult'),
    *('flat_decay_mult', 'dcn_offset_lr_mult'),
)


def _paramwise(owner, has_norm_default=False):
    """Translates `paramwise_cfg`; an empty one has no effect.

    Args:
        owner: the section it is in.
        has_norm_default: whether biases of norms are never among the biases, as in 2.x.
    """
    if owner.peek('paramwise_cfg') in (None, {}):
        owner.take('paramwise_cfg', None)
        return {}
    section = owner.section('paramwise_cfg')
    fields = {}
    if 'custom_keys' in section:
        keys = section.section('custom_keys')
        fields['custom_keys'] = {
            key: _custom_key(keys.section(key)) for key in keys.unread()
        }
    for name in _MULTIPLIERS:
        if section.peek(name) is not None:
            fields[name] = section.take_number(name)
        section.expect(**{name: None})
    if has_norm_default and 'bias_decay_mult' in fields:
        fields.setdefault('norm_decay_mult', 1.0)
    section.expect(bypass_duplicate=False, dwconv_decay_mult=None)
    return {'paramwise_cfg': fields} if fields else {}


def _custom_key(section):
    names = [name for name in ('lr_mult', 'decay_mult') if name in section]
    return {name: section.take_number(name) for name in names}


def _grad_clip(owner, name):
    if owner.peek(name) is None:
        owner.take(name, None)
        return {'optimizer_config.grad_clip': None}
    section = owner.section(name)
    max_norm, norm_type = section.take('max_norm'), section.take('norm_type', 2)
    clip = {'max_norm': max_norm, 'norm_type': norm_type}
    return {'optimizer_config.grad_clip': clip}


def _auto_scale(top):
    """Translates `auto_scale_lr`, if there is one."""
    if 'auto_scale_lr' not in top:
        return {}
    section = top.section('auto_scale_lr')
    return {
        'auto_scale_lr.enable': section.take('enable', False),
        'auto_scale_lr.base_batch_size': section.take('base_batch_size'),
    }


def _cumulative_iters(value):
    """The field for the number of batches per update, if it is not 1."""
    return {} if value == 1 else {'optimizer_config.cumulative_iters': value}


def optimizer_3x(top: Section) -> dict[str, Any]:
    """Translates `optim_wrapper` to `optimizer`, `optimizer_config` and `fp16`."""
    section = top.section('optim_wrapper')
    kind = 'OptimWrapper'
    if 'type' in section:
        kind = section.take_kind('OptimWrapper', 'AmpOptimWrapper')
    inner = section.section('optimizer')
    inner.expect(paramwise_cfg=None)
    fields = _optimizer(inner, _paramwise(section))
    fields |= _grad_clip(section, 'clip_grad')
    fields |= _cumulative_iters(section.take('accumulative_counts', 1))
    if kind == 'AmpOptimWrapper':
        fields['fp16'] = {'loss_scale': section.take('loss_scale', 'dynamic')}
        section.skip('dtype')
    section.expect(constructor='DefaultOptimWrapperConstructor')
    return fields | _auto_scale(top)


def optimizer_2x(top: Section) -> dict[str, Any]:
    """Translates `optimizer`, `optimizer_config` and `fp16` of 2.x."""
    inner = top.section('optimizer')
    fields = _optimizer(inner, _paramwise(inner, has_norm_default=True))
    inner.expect(constructor='DefaultOptimizerConstructor')
    section = top.section('optimizer_config', {})
    fields |= _grad_clip(section, 'grad_clip')
    if 'type' in section:
        kind = section.take_kind(
            'OptimizerHook', 'GradientCumulativeOptimizerHook', 'Fp16OptimizerHook'
        )
        if kind == 'Fp16OptimizerHook':
            fields['fp16'] = {'loss_scale': section.take('loss_scale', 512.0)}
    fields |= _cumulative_iters(section.take('cumulative_iters', 1))
    section.skip('detect_anomalous_params')
    if top.peek('fp16') is not None:
        half = top.section('fp16')
        fields['fp16'] = {'loss_scale': half.take('loss_scale', 512.0)}
    top.skip('fp16')
    return fields | _auto_scale(top)
