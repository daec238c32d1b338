"""The optimizer's state between training states and mmdetection's checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from flax.traverse_util import flatten_dict

from atss_jax.config.experiment import Experiment
from atss_jax.training.state import is_trained
from atss_jax.training.update_rule import multipliers_of
from atss_jax.weights import mmdet
from atss_jax.weights.mmdet_checkpoint import Checkpoint


def with_optimizer(
    checkpoint: Checkpoint, momentum: optax.OptState, experiment: Experiment
) -> Checkpoint:
    """The checkpoint with the state and the settings of the optimizer.

    Args:
        checkpoint: of the same step.
        momentum: state of the optimizer, from the training state.
        experiment: what the config describes.

    Raises:
        ValueError: mmdetection has no such optimizer.
    """
    config = experiment.optimizer
    if config.type not in ('SGD', 'AdamW'):
        raise ValueError(
            f'mmdetection has no optimizer.type = {config.type!r}, so its state cannot '
            'be converted: convert without --momentum'
        )
    group = {
        'lr': config.lr,
        'weight_decay': config.weight_decay,
        'initial_lr': config.lr,
    }
    if config.type == 'SGD':
        trace = optax.tree_utils.tree_get(momentum, 'trace')
        state = {'momentum': _by_name(trace)}
        group['momentum'] = config.momentum
    else:
        adam = _adam(momentum)
        state = {
            'momentum': _by_name(adam.mu),
            'squares': _by_name(adam.nu),
            'updates': int(adam.count),
        }
        group |= {'betas': config.betas, 'eps': config.eps}
    settings = _settings(experiment)
    return dataclasses.replace(checkpoint, group=group, settings=settings, **state)


def _by_name(tree):
    return mmdet.to_state_dict({'params': tree})


def _adam(momentum):
    """The part of AdamW's state that has the means."""
    (adam,) = [x for x in momentum if isinstance(x, optax.ScaleByAdamState)]
    return adam


def _settings(experiment):
    """Learning rate and decay of each trained parameter, where they have their own."""
    config = experiment.optimizer
    if config.paramwise is None:
        return None
    factors = multipliers_of(experiment.model, config.paramwise)
    return {
        mmdet.torch_name(('params', *path)): {
            'lr': config.lr * each.lr_mult,
            'weight_decay': config.weight_decay * each.decay_mult,
            'initial_lr': config.lr * each.lr_mult,
        }
        for path, each in factors.items()
    }


def from_checkpoint(
    checkpoint: Checkpoint,
    like: optax.OptState,
    params: Mapping[str, Any],
    experiment: Experiment,
) -> optax.OptState:
    """State of the config's optimizer, as a checkpoint has it.

    Args:
        checkpoint: it has momentum and a step.
        like: a state of the same structure.
        params: all parameters of the model.
        experiment: what the config describes.

    Raises:
        ValueError: it is the state of another optimizer or model.
    """
    kind = 'SGD' if checkpoint.squares is None else 'AdamW'
    if kind != experiment.optimizer.type:
        raise ValueError(
            f'the checkpoint has the state of {kind}, but optimizer.type = '
            f'{experiment.optimizer.type!r}: convert without --momentum, or set the '
            'optimizer that it was trained with'
        )
    shapes = {
        ('params', *path): np.shape(value)
        for path, value in flatten_dict(params).items()
        if is_trained(path, experiment.model)
    }

    def fit(arrays):
        return mmdet.fit(arrays, shapes, 'momentum')['params']

    step = np.int32(checkpoint.step)

    def convert(state):
        if isinstance(state, optax.TraceState):
            return state._replace(trace=fit(checkpoint.momentum))
        if isinstance(state, optax.ScaleByAdamState):
            mean, square = fit(checkpoint.momentum), fit(checkpoint.squares)
            return optax.ScaleByAdamState(np.int32(checkpoint.updates), mean, square)
        if isinstance(state, optax.ScaleByScheduleState):
            return state._replace(count=step)
        return state

    return tuple(convert(state) for state in like)
