"""Reads and writes the optimizer's state in mmdetection's checkpoints, by name.

It is SGD's momentum, or AdamW's means of gradients (`exp_avg`) and of their squares.

PyTorch saves the state of the i-th of `model.parameters()` under i. With mmcv, and with
mmengine without `paramwise_cfg`, frozen parameters are counted too but have no state;
with `paramwise_cfg` mmengine gives the optimizer only trained parameters.

Source: mmengine.optim.DefaultOptimWrapperConstructor.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_BUFFERS = (
    *('running_mean', 'running_var', 'num_batches_tracked'),
    'relative_position_index',
)
# Modules and leaves in the order in which mmdet registers them.
_ORDER = (
    *('backbone', 'neck', 'bbox_head'),
    *('absolute_pos_embed', 'patch_embed', 'projection', 'stages', 'blocks'),
    *('norm0', 'norm1', 'attn', 'norm2', 'norm3', 'w_msa', 'ffn', 'layers'),
    *('relative_position_bias_table', 'qkv', 'proj'),
    *('conv1', 'bn1', 'gn1', 'conv2', 'bn2', 'gn2', 'conv3', 'bn3', 'gn3'),
    *('downsample', 'layer1', 'layer2', 'layer3', 'layer4'),
    *('lateral_convs', 'fpn_convs', 'cls_convs', 'reg_convs', 'dyhead_blocks'),
    *('spatial_conv_high', 'spatial_conv_mid', 'spatial_conv_low'),
    *('spatial_conv_offset', 'scale_attn_module', 'task_attn_module'),
    *('atss_cls', 'atss_reg', 'atss_centerness', 'scales'),
    *('conv', 'bn', 'gn', 'norm', 'reduction', 'weight', 'bias', *_BUFFERS, 'scale'),
    'conv_offset',  # a module, but registered after the weights of its parent
)
_RANK = {token: rank for rank, token in enumerate(_ORDER)}

StateDict = dict[str, np.ndarray]


def registration_order(names: Iterable[str]) -> list[str]:
    """Sorts names of a state dict in the order in which mmdet registers its modules.

    Raises:
        ValueError: the order of a module is not known.
    """

    def position(name):
        tokens = name.split('.')
        unknown = [x for x in tokens if x not in _RANK and not x.isdigit()]
        if unknown:
            raise ValueError(
                f'{name}: the position of {unknown[0]!r} among the parameters is not '
                'known, and momentum is saved by position'
            )
        return [int(x) if x.isdigit() else _RANK[x] for x in tokens]

    return sorted(names, key=position)


def parameter_names(state_dict: Iterable[str]) -> list[str]:
    """The names that are parameters, not buffers, in the order of torch's."""
    names = [name for name in state_dict if name.rsplit('.', 1)[-1] not in _BUFFERS]
    return registration_order(names)


@dataclasses.dataclass(frozen=True)
class OptimizerState:
    """The state of a torch optimizer; arrays are by mmdet's names.

    Attributes:
        momentum: SGD's buffer of every parameter that has one, or AdamW's running mean
            of gradients.
        squares: AdamW's running mean of squared gradients; None: it is SGD's state.
        updates: number of updates that AdamW made.
        group: hyper-parameters, of the first group if there are several.
        settings: hyper-parameters of each trained parameter, if each is in a group of
            its own; None: all parameters are in one group.
    """

    momentum: Mapping[str, np.ndarray]
    squares: Mapping[str, np.ndarray] | None = None
    updates: int | None = None
    group: Mapping[str, Any] | None = None
    settings: Mapping[str, Mapping[str, Any]] | None = None


def read(
    optimizer: object,
    weights: Mapping[str, np.ndarray],
    trained: Iterable[str] | None = None,
) -> OptimizerState:
    """Reads the state of SGD or AdamW by parameter name.

    Args:
        optimizer: `checkpoint['optimizer']`.
        weights: the state dict in the same checkpoint.
        trained: names of trained parameters; None: unknown.

    Raises:
        ValueError: there is no optimizer, it is not one of these, or its parameters are
            not those of the weights.
    """
    groups, state = _groups_and_state(optimizer)
    indices = [index for group in groups for index in group['params']]
    names = parameter_names(weights)
    if len(indices) != len(names) and trained is not None:
        trained = set(trained)
        names = [name for name in names if name in trained]
    if len(indices) != len(names):
        raise ValueError(
            f'the optimizer has {len(indices)} parameters, the weights have '
            f'{len(names)}'
            + ('' if trained else '; give the config to tell which are trained')
        )
    shapes = {name: weights[name].shape for name in names}
    by_name = dict(zip(names, indices, strict=True))
    entries = {name: state.get(index, {}) for name, index in by_name.items()}
    hyper = [{k: v for k, v in x.items() if k != 'params'} for x in groups]
    common = {'group': hyper[0], 'settings': None}
    if len(groups) > 1 and len(groups) == len(names):
        common['settings'] = dict(zip(names, hyper, strict=True))
    momentum = _arrays('momentum_buffer', entries, shapes, by_name)
    if momentum:
        return OptimizerState(momentum, **common)
    means, squares, updates = _adamw_state(entries, shapes, by_name)
    return OptimizerState(means, squares, updates, **common)


def _adamw_state(entries, shapes, by_name):
    """Means of the gradients and of their squares by name, and number of updates."""
    means = _arrays('exp_avg', entries, shapes, by_name)
    squares = _arrays('exp_avg_sq', entries, shapes, by_name)
    if not means:
        raise ValueError(
            'the optimizer has no momentum: it is neither SGD nor AdamW, or took no '
            'step'
        )
    if means.keys() != squares.keys():
        raise ValueError('some parameters have exp_avg or exp_avg_sq, but not both')
    if any('max_exp_avg_sq' in entry for entry in entries.values()):
        raise ValueError('the optimizer is AdamW with amsgrad, which is not supported')
    updates = {_updates(entries[name]) for name in means}
    if len(updates) > 1 or min(updates) < 0:
        raise ValueError(
            f'AdamW made {sorted(updates)} updates of its parameters, expected the '
            'same number for all of them'
        )
    return means, squares, updates.pop()


def _updates(entry):
    """AdamW's number of updates of a parameter; -1 if it is not known."""
    step = np.asarray(entry.get('step'))
    is_number = step.size == 1 and step.dtype.kind in 'iuf' and np.isfinite(step).all()
    return int(step.item()) if is_number else -1


def _arrays(key, entries, shapes, by_name):
    """One array of each parameter's state; frozen parameters have none."""
    arrays = {}
    for name, entry in entries.items():
        array = entry.get(key)
        if array is None:
            continue
        if np.shape(array) != shapes[name]:
            raise ValueError(
                f'momentum {by_name[name]} has the shape {np.shape(array)}, but {name} '
                f'has {shapes[name]}: the optimizer belongs to another model'
            )
        arrays[name] = array
    return arrays


def _groups_and_state(optimizer):
    optimizer = optimizer if isinstance(optimizer, dict) else {}
    groups, state = optimizer.get('param_groups'), optimizer.get('state')
    if not groups or not isinstance(state, dict):
        raise ValueError(
            'no optimizer in the checkpoint, so no momentum: it was published, or '
            'saved with save_optimizer=False'
        )
    if not all(isinstance(entry, dict) for entry in [*groups, *state.values()]):
        raise ValueError('the optimizer is not the state_dict() of a torch optimizer')
    return groups, state


def write(state: OptimizerState, weights: Iterable[str]) -> dict[str, Any]:
    """Converts a state to what torch's `SGD` or `AdamW` accepts in `load_state_dict`.

    With settings of single parameters each trained one is in a group of its own, as
    mmengine has it with `paramwise_cfg`; otherwise all parameters are in one.

    Args:
        state: the state.
        weights: names of the state dict.

    Raises:
        ValueError: there is momentum for something that is not a parameter.
    """
    names = parameter_names(weights)
    unknown = sorted(set(state.momentum) - set(names))
    if unknown:
        raise ValueError(f'momentum for unknown parameters: {unknown[:10]}')
    if state.settings is not None:
        names = [name for name in names if name in state.settings]
    group = {**(_SGD if state.squares is None else _ADAMW), **(state.group or {})}
    groups = [{**group, 'params': list(range(len(names)))}]
    if state.settings is not None:
        groups = [
            {**group, **state.settings[name], 'params': [index]}
            for index, name in enumerate(names)
        ]
    entries = {
        index: _entry(state, name)
        for index, name in enumerate(names)
        if name in state.momentum
    }
    return {'state': entries, 'param_groups': groups}


# What torch needs in a group besides the settings that a config has.
_SGD = {'dampening': 0, 'nesterov': False, 'maximize': False}
_ADAMW = {
    'amsgrad': False,
    'maximize': False,
    'foreach': None,
    'capturable': False,
    'differentiable': False,
    'fused': None,
}


def _entry(state, name):
    if state.squares is None:
        return {'momentum_buffer': state.momentum[name]}
    return {
        'step': np.array(state.updates, np.float32),
        'exp_avg': state.momentum[name],
        'exp_avg_sq': state.squares[name],
    }
