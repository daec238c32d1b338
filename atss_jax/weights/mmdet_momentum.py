"""The optimizer in mmdetection's checkpoints: SGD's momentum by parameter name.

PyTorch saves the state of parameter i of `model.parameters()` under i. Frozen ones are
among these, without state, for mmcv and for mmengine without `paramwise_cfg`; with it
mmengine hands the optimizer trained parameters alone.

Source: mmengine.optim.DefaultOptimWrapperConstructor.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_BUFFERS = ('running_mean', 'running_var', 'num_batches_tracked')
# Modules and leaves in the order in which mmdet registers them.
_ORDER = (
    *('backbone', 'neck', 'bbox_head'),
    *('conv1', 'bn1', 'gn1', 'conv2', 'bn2', 'gn2', 'conv3', 'bn3', 'gn3'),
    *('downsample', 'layer1', 'layer2', 'layer3', 'layer4'),
    *('lateral_convs', 'fpn_convs', 'cls_convs', 'reg_convs', 'dyhead_blocks'),
    *('spatial_conv_high', 'spatial_conv_mid', 'spatial_conv_low'),
    *('spatial_conv_offset', 'scale_attn_module', 'task_attn_module'),
    *('atss_cls', 'atss_reg', 'atss_centerness', 'scales'),
    *('conv', 'bn', 'gn', 'norm', 'weight', 'bias', *_BUFFERS, 'scale'),
    'conv_offset',  # a module, but behind the weights of the one that it is in
)
_RANK = {token: rank for rank, token in enumerate(_ORDER)}

StateDict = dict[str, np.ndarray]


def registration_order(names: Iterable[str]) -> list[str]:
    """Names of a state dict in the order in which mmdet's modules are made.

    Raises:
        ValueError: a name of a module whose place is not known.
    """

    def place(name):
        tokens = name.split('.')
        unknown = [x for x in tokens if x not in _RANK and not x.isdigit()]
        if unknown:
            raise ValueError(
                f'{name}: the place of {unknown[0]!r} among the parameters is not '
                'known, and momentum is saved by place'
            )
        return [int(x) if x.isdigit() else _RANK[x] for x in tokens]

    return sorted(names, key=place)


def parameter_names(state_dict: Iterable[str]) -> list[str]:
    """The names that are parameters, not buffers, as `model.parameters()` has them."""
    names = [name for name in state_dict if name.rsplit('.', 1)[-1] not in _BUFFERS]
    return registration_order(names)


def read(
    optimizer: object,
    weights: Mapping[str, np.ndarray],
    trained: Iterable[str] | None = None,
) -> tuple[StateDict, dict[str, Any]]:
    """SGD's buffers by parameter name, and its hyper-parameters (of the first group).

    Args:
        optimizer: `checkpoint['optimizer']`.
        weights: the state dict beside it.
        trained: names of trained parameters; None: unknown.

    Raises:
        ValueError: no optimizer, none with momentum, or one of other parameters.
    """
    groups, state = _parts(optimizer)
    indices = [index for group in groups for index in group['params']]
    names = parameter_names(weights)
    if len(indices) != len(names) and trained is not None:
        chosen = set(trained)
        names = [name for name in names if name in chosen]
    if len(indices) != len(names):
        raise ValueError(
            f'the optimizer has {len(indices)} parameters, the weights have '
            f'{len(names)}'
            + ('' if trained else '; with a config, trained ones can be told')
        )
    buffers = {}
    for index, name in zip(indices, names, strict=True):
        buffer = state.get(index, {}).get('momentum_buffer')
        if buffer is None:  # frozen
            continue
        if np.shape(buffer) != weights[name].shape:
            raise ValueError(
                f'momentum {index} has the shape {np.shape(buffer)}, but {name} has '
                f'{weights[name].shape}: the optimizer is of another model'
            )
        buffers[name] = buffer
    if not buffers:
        raise ValueError('the optimizer has no momentum: not SGD, or no step taken')
    return buffers, {k: v for k, v in groups[0].items() if k != 'params'}


def _parts(optimizer):
    found = optimizer if isinstance(optimizer, dict) else {}
    groups, state = found.get('param_groups'), found.get('state')
    if not groups or not isinstance(state, dict):
        raise ValueError(
            'no optimizer in it, so no momentum: it was saved with '
            'save_optimizer=False, or published'
        )
    if not all(isinstance(entry, dict) for entry in [*groups, *state.values()]):
        raise ValueError("its optimizer is not one that torch's state_dict() gives")
    return groups, state


def write(
    momentum: Mapping[str, np.ndarray],
    weights: Iterable[str],
    group: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `torch.optim.SGD.load_state_dict` takes: undoes `read`.

    Args:
        momentum: buffers by parameter name.
        weights: names of the state dict.
        group: hyper-parameters (`lr`, `momentum`, `weight_decay`).

    Raises:
        ValueError: momentum of what is no parameter.
    """
    names = parameter_names(weights)
    unknown = sorted(set(momentum) - set(names))
    if unknown:
        raise ValueError(f'momentum of what is no parameter: {unknown[:10]}')
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
