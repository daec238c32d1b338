"""Reads and writes SGD's momentum in mmdetection's checkpoints, by parameter name.

PyTorch saves the state of the i-th of `model.parameters()` under i. With mmcv, and with
mmengine without `paramwise_cfg`, frozen parameters are counted too but have no state;
with `paramwise_cfg` mmengine gives the optimizer only trained parameters.

Source: mmengine.optim.DefaultOptimWrapperConstructor.
"""

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


def read(
    optimizer: object,
    weights: Mapping[str, np.ndarray],
    trained: Iterable[str] | None = None,
) -> tuple[StateDict, dict[str, Any]]:
    """Reads SGD's buffers by parameter name, and the first group's hyper-parameters.

    Args:
        optimizer: `checkpoint['optimizer']`.
        weights: the state dict in the same checkpoint.
        trained: names of trained parameters; None: unknown.

    Raises:
        ValueError: there is no optimizer, it has no momentum, or its parameters are not
            those of the weights.
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
    buffers = {}
    for index, name in zip(indices, names, strict=True):
        buffer = state.get(index, {}).get('momentum_buffer')
        if buffer is None:  # frozen
            continue
        if np.shape(buffer) != weights[name].shape:
            raise ValueError(
                f'momentum {index} has the shape {np.shape(buffer)}, but {name} has '
                f'{weights[name].shape}: the optimizer belongs to another model'
            )
        buffers[name] = buffer
    if not buffers:
        raise ValueError('the optimizer has no momentum: it is not SGD or took no step')
    return buffers, {k: v for k, v in groups[0].items() if k != 'params'}


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


def write(
    momentum: Mapping[str, np.ndarray],
    weights: Iterable[str],
    group: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Converts buffers to what `torch.optim.SGD.load_state_dict` accepts.

    Args:
        momentum: buffers by parameter name.
        weights: names of the state dict.
        group: hyper-parameters (`lr`, `momentum`, `weight_decay`).

    Raises:
        ValueError: there is momentum for something that is not a parameter.
    """
    names = parameter_names(weights)
    unknown = sorted(set(momentum) - set(names))
    if unknown:
        raise ValueError(f'momentum for unknown parameters: {unknown[:10]}')
    defaults = {'dampening': 0, 'nesterov': False, 'maximize': False}
    state = {
        index: {'momentum_buffer': momentum[name]}
        for index, name in enumerate(names)
        if name in momentum
    }
    params = list(range(len(names)))
    return {
        'state': state,
        'param_groups': [{**defaults, **(group or {}), 'params': params}],
    }
