"""Weights from one form to another: `.pth`, `.safetensors`, the workdir of a run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.config.experiment import Experiment
from atss_jax.optim.sgd import sgd
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.state import TrainState, create_state, is_trained, zero_variables
from atss_jax.weights import mmdet, mmdet_checkpoint
from atss_jax.weights.mmdet_checkpoint import Checkpoint, is_weights_file


@dataclasses.dataclass(frozen=True)
class Options:
    """What to convert beside the plain weights.

    Attributes:
        step: checkpoint of a workdir; None: the one with the best AP.
        momentum: all that training needs to go on: momentum, number of the step, and
            the weights under training beside their moving average.
        unaveraged: the weights under training instead of their moving average.
    """

    step: int | None = None
    momentum: bool = False
    unaveraged: bool = False


def convert(
    source: str,
    target: str,
    config_file: str | None = None,
    options: Options | None = None,
) -> str:
    """Writes the weights of `source` in the form that the name of `target` says.

    Args:
        source: a `.pth` or `.safetensors` file, or a workdir.
        target: likewise; what does not end as a file of weights does is a workdir.
        config_file: of the model; needed for a workdir that is made of a file.
        options: what else.

    Returns:
        What was done, in a line.

    Raises:
        ValueError: `source` cannot be read, does not fit the config, or `target` is
            there and must not be replaced.
    """
    options = options or Options()
    _check_name(target)
    config = _config(source, target, config_file)
    experiment = None if config is None else build_experiment(config)
    checkpoint = read(source, experiment, options)
    if is_weights_file(target):
        _check_new_file(target, source)
        mmdet_checkpoint.save(target, checkpoint)
    else:
        write_workdir(target, config, checkpoint)
    momentum = '' if checkpoint.momentum is None else ', momentum'
    count = sum(np.size(array) for array in checkpoint.weights.values())
    return (
        f'wrote {target}: {len(checkpoint.weights)} arrays, {count:,} numbers{momentum}'
    )


def _check_name(target):
    """A folder may have any name, but a new one `x.onnx` is a mistake."""
    suffix = pathlib.Path(target).suffix
    if suffix and not is_weights_file(target) and not pathlib.Path(target).is_dir():
        raise ValueError(
            f'{target}: cannot write {suffix}; expected .pth, .safetensors, or a name '
            'without a suffix for a workdir'
        )


def _config(source, target, config_file):
    """The config of the model; None where none is given and none is needed."""
    if config_file is not None:
        return load_config(config_file)
    if not is_weights_file(source):
        return load_config(workdirs.config_path(source))
    if is_weights_file(target):
        return None
    raise ValueError(
        f'{source} does not say of which model it is: a workdir needs --config too'
    )


def _check_new_file(target, source):
    if pathlib.Path(target).resolve() == pathlib.Path(source).resolve():
        raise ValueError(f'{target} is what is to be converted; give another name')
    folder = pathlib.Path(target).absolute().parent
    if not folder.is_dir():
        raise ValueError(f'no folder {folder} to write {target} to')


# Reading -----------------------------------------------------------------------------


def read(source: str, experiment: Experiment | None, options: Options) -> Checkpoint:
    """The weights of a file or workdir, chosen as the options say.

    Raises:
        ValueError: they are not there, or do not fit the model of `experiment`.
    """
    if is_weights_file(source):
        found = _read_file(source, experiment, options)
    else:
        found = _read_workdir(source, experiment, options)
    if experiment is not None:
        _check_classes(found.classes, experiment, source)
        mmdet.to_variables(found.weights, experiment.model)
    return found


def _check_classes(classes, experiment, owner):
    count = experiment.model.bbox_head.num_classes
    if classes is not None and len(classes) != count:
        raise ValueError(
            f'{owner} has {len(classes)} classes {classes[:10]}, but '
            f'model.bbox_head.num_classes = {count}'
        )


def _read_file(source, experiment, options):
    if not pathlib.Path(source).is_file():
        raise FileNotFoundError(f'no file of weights at {source}')
    if options.step is not None:
        raise ValueError(f'--step is of a workdir; {source} is a file')
    trained = None if experiment is None else _trained_names(experiment.model)
    found = mmdet_checkpoint.load(source, options.momentum, trained)
    if options.unaveraged and found.unaveraged is None:
        raise ValueError(f'{source} has no moving average, so nothing besides it')
    return _chosen(found, options)


def _chosen(found, options):
    """Without momentum one set of weights is enough."""
    if options.unaveraged:
        return dataclasses.replace(found, weights=found.unaveraged, unaveraged=None)
    return found if options.momentum else dataclasses.replace(found, unaveraged=None)


def _trained_names(model):
    return [
        mmdet.torch_name(path)
        for path in mmdet.variable_shapes(model)
        if path[0] == 'params' and is_trained(path[1:], model)
    ]


def _read_workdir(source, experiment, options):
    checkpoints = Checkpoints.open(source)
    step = checkpoints.best_step() if options.step is None else options.step
    if step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {source}: {checkpoints.steps()}')
    classes = workdirs.trained_classes(source)
    model = experiment.model
    if not (options.momentum or options.unaveraged):
        variables = checkpoints.restore_variables(model, step)
        weights = mmdet.to_state_dict(variables)
        return Checkpoint(weights, classes=classes, step=step)
    like = _first_state(experiment, zero_variables(model))
    state = checkpoints.restore(step, like)
    if options.unaveraged and state.ema is None:
        raise ValueError(f'{source} has no moving average, so nothing besides it')
    return _chosen(_whole(experiment, state, classes, options.momentum), options)


def _whole(experiment, state, classes, with_momentum) -> Checkpoint:
    """All that a state has and a mmdet checkpoint has a place for."""
    weights = mmdet.to_state_dict(state.evaluated_variables)
    raw = None if state.ema is None else mmdet.to_state_dict(state.variables)
    found = Checkpoint(weights, raw, classes=classes, step=int(state.step))
    if not with_momentum:
        return found
    optimizer = experiment.optimizer
    group = {
        'lr': optimizer.lr,
        'momentum': optimizer.momentum,
        'weight_decay': optimizer.weight_decay,
        'initial_lr': optimizer.lr,
    }
    trace = optax.tree_utils.tree_get(state.momentum, 'trace')
    momentum = mmdet.to_state_dict({'params': trace})
    return dataclasses.replace(found, momentum=momentum, group=group)


def _first_state(experiment, variables):
    """The state before the first step, as training makes it."""
    optimizer = experiment.optimizer
    return create_state(
        variables,
        experiment.model,
        sgd(optimizer, lambda step: optimizer.lr),
        accumulates=optimizer.cumulative_iters > 1,
        averages=optimizer.ema_momentum is not None,
    )


# Writing -----------------------------------------------------------------------------


def write_workdir(
    folder: str, config: ConfigDict | Mapping[str, Any], checkpoint: Checkpoint
) -> None:
    """A workdir with one checkpoint: of its step with momentum, of step 0 without.

    Raises:
        ValueError: the folder is a workdir already, or the weights do not fit.
    """
    experiment = build_experiment(config)
    if any(pathlib.Path(folder).glob('checkpoints/*')):
        raise ValueError(f'{folder} has checkpoints already; give another folder')
    state = _state(experiment, checkpoint)
    stream = {}
    if checkpoint.classes is not None:
        stream['classes'] = list(checkpoint.classes)
    workdirs.claim(folder, to_json(config), stream)
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(state, {})
    finally:
        checkpoints.close()


def _state(experiment, checkpoint) -> TrainState:
    model = experiment.model
    variables = mmdet.to_variables(checkpoint.weights, model)
    if checkpoint.momentum is None:
        return _first_state(experiment, variables)
    if checkpoint.step is None:
        raise ValueError(
            'the checkpoint does not say after which iteration it was saved '
            "(meta['iter']), so training cannot go on with its momentum"
        )
    raw = variables
    if checkpoint.unaveraged is not None:
        if experiment.optimizer.ema_momentum is None:
            raise ValueError(
                'the checkpoint has a moving average of its weights, but config.ema is '
                'None; set it, or take the weights under training with --unaveraged'
            )
        raw = mmdet.to_variables(checkpoint.unaveraged, model)
    state = _first_state(experiment, raw)
    if state.ema is not None:
        state = state.replace(ema=variables['params'])
    step = np.int32(checkpoint.step)
    trace = _trace(checkpoint.momentum, variables['params'], model)
    momentum = optax.tree_utils.tree_set(state.momentum, trace=trace, count=step)
    return state.replace(step=step, momentum=momentum)


def _trace(momentum, params, model):
    """Momentum in the places of the trained parameters."""
    shapes = {
        ('params', *path): np.shape(value)
        for path, value in flatten_dict(params).items()
        if is_trained(path, model)
    }
    return mmdet.fit(momentum, shapes, 'momentum')['params']
