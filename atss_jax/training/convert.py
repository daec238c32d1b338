"""Conversion of weights between `.pth` files, `.safetensors` files and workdirs."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from atss_jax.config import build_experiment, load_config, to_json
from atss_jax.config.experiment import Experiment
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import new_state
from atss_jax.training.optimizer_state import from_checkpoint, with_optimizer
from atss_jax.training.state import TrainState, is_trained, zero_variables
from atss_jax.training.update_rule import structure_of_optimizer
from atss_jax.weights import address, mmdet, mmdet_checkpoint
from atss_jax.weights.mmdet_checkpoint import Checkpoint, is_weights_file


@dataclasses.dataclass(frozen=True)
class Options:
    """What to convert.

    Attributes:
        step: checkpoint of a workdir; None: the one with the best AP.
        momentum: whether to convert everything that training needs to be resumed, in
            addition to the weights: the momentum, the step, and the weights under
            training if the others are their moving average.
        unaveraged: whether to take the weights under training instead of their moving
            average.
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
    """Writes the weights of `source` in the format that the name of `target` implies.

    Args:
        source: a `.pth` or `.safetensors` file, or a workdir; or a name or address, as
            `weights.address` takes it.
        target: a `.pth` or `.safetensors` file; any name without one of these suffixes
            is a workdir.
        config_file: config of the model; needed to make a workdir from a file.
        options: what to convert.

    Returns:
        A line that says what was written.

    Raises:
        ValueError: `source` cannot be read or does not fit the config, or `target`
            exists and must not be replaced.
    """
    options = options or Options()
    _check_suffix(target)
    weights = address.locate(source)
    weights.check()
    config = _load_config(weights, target, config_file)
    experiment = None if config is None else build_experiment(config)
    checkpoint = read(source, experiment, options)
    if is_weights_file(target):
        _check_target_file(target, source)
        mmdet_checkpoint.save(target, checkpoint)
    else:
        write_workdir(target, config, checkpoint)
    momentum = '' if checkpoint.momentum is None else ', momentum'
    count = sum(np.size(array) for array in checkpoint.weights.values())
    return (
        f'wrote {target}: {len(checkpoint.weights)} arrays, {count:,} numbers{momentum}'
    )


def _check_suffix(target):
    """A workdir may have any name, but a new one called `x.onnx` is a mistake."""
    suffix = pathlib.Path(target).suffix
    if suffix and not is_weights_file(target) and not pathlib.Path(target).is_dir():
        raise ValueError(
            f'{target}: cannot write {suffix}; expected .pth, .safetensors, or a name '
            'without a suffix for a workdir'
        )


def _load_config(weights, target, config_file):
    """The config of the model; None from file to file, where none is needed."""
    if config_file is not None or weights.config is not None:
        return load_config(config_file or weights.config)
    if not weights.is_file:
        return load_config(workdirs.config_path(weights.source))
    if is_weights_file(target):
        return None
    raise ValueError(
        f'{weights.source} does not say which model it belongs to, and a workdir needs '
        'a config: give one with --config'
    )


def _check_target_file(target, source):
    if pathlib.Path(target).resolve() == pathlib.Path(source).resolve():
        raise ValueError(f'{target} is the file to convert; choose another name')
    folder = pathlib.Path(target).absolute().parent
    if not folder.is_dir():
        raise ValueError(f'no folder {folder} to write {target} to')


# Reading -----------------------------------------------------------------------------


def read(source: str, experiment: Experiment | None, options: Options) -> Checkpoint:
    """The weights of a file or workdir that the options ask for.

    Raises:
        ValueError: it does not have them, or they do not fit the model of `experiment`.
        ConnectionError: the file cannot be downloaded.
    """
    weights = address.locate(source)
    source = weights.fetch()
    if weights.is_file:
        checkpoint = _read_file(source, experiment, options)
        classes = checkpoint.classes or weights.classes
        checkpoint = dataclasses.replace(checkpoint, classes=classes)
    else:
        checkpoint = _read_workdir(source, experiment, options)
    if options.unaveraged:
        if checkpoint.unaveraged is None:
            raise ValueError(f'{source} has no moving average: omit --unaveraged')
        checkpoint = dataclasses.replace(checkpoint, weights=checkpoint.unaveraged)
    if options.unaveraged or not options.momentum:
        checkpoint = dataclasses.replace(checkpoint, unaveraged=None)
    if experiment is not None:
        count, classes = experiment.model.bbox_head.num_classes, checkpoint.classes
        if classes is not None and len(classes) != count:
            raise ValueError(
                f'{source} has {len(classes)} classes {classes[:10]}, but '
                f'model.bbox_head.num_classes = {count}'
            )
        mmdet.to_variables(checkpoint.weights, experiment.model)  # checks their shapes
    return checkpoint


def _read_file(source, experiment, options):
    if not pathlib.Path(source).is_file():
        raise FileNotFoundError(f'no weights file at {source}')
    if options.step is not None:
        raise ValueError(
            f'--step chooses a checkpoint of a workdir; {source} is a file'
        )
    trained = None if experiment is None else _trained_names(experiment.model)
    return mmdet_checkpoint.load(source, options.momentum, trained)


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
    state = checkpoints.restore(step, _first_state(experiment, zero_variables(model)))
    weights = mmdet.to_state_dict(state.evaluated_variables)
    unaveraged = None if state.ema is None else mmdet.to_state_dict(state.variables)
    checkpoint = Checkpoint(weights, unaveraged, classes=classes, step=step)
    if not options.momentum:
        return checkpoint
    return with_optimizer(checkpoint, state.momentum, experiment)


def _first_state(experiment, variables):
    """The state before the first step; its structure does not depend on the rates."""
    return new_state(experiment, variables, structure_of_optimizer(experiment))


# Writing -----------------------------------------------------------------------------


def write_workdir(
    folder: str, config: ConfigDict | Mapping[str, Any], checkpoint: Checkpoint
) -> None:
    """Makes a workdir with one checkpoint: at its step with momentum, at 0 without.

    Raises:
        ValueError: the folder has checkpoints already, or the weights do not fit.
    """
    experiment = build_experiment(config)
    if any(pathlib.Path(folder).glob('checkpoints/*')):
        raise ValueError(f'{folder} has checkpoints already; choose another folder')
    state = _to_state(experiment, checkpoint)
    stream = {}
    if checkpoint.classes is not None:
        stream['classes'] = list(checkpoint.classes)
    workdirs.claim(folder, to_json(config), stream)
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(state, {})
    finally:
        checkpoints.close()


def _to_state(experiment, checkpoint) -> TrainState:
    model = experiment.model
    variables = mmdet.to_variables(checkpoint.weights, model)
    if checkpoint.momentum is None:
        return _first_state(experiment, variables)
    if checkpoint.step is None:
        raise ValueError(
            'the checkpoint does not say after which iteration it was saved '
            "(meta['iter']), so training cannot be resumed with its momentum"
        )
    under_training = variables
    if checkpoint.unaveraged is not None:
        if experiment.optimizer.ema_momentum is None:
            raise ValueError(
                'the checkpoint has a moving average of its weights, but config.ema is '
                'None; set it, or take the weights under training with --unaveraged'
            )
        under_training = mmdet.to_variables(checkpoint.unaveraged, model)
    state = _first_state(experiment, under_training)
    if state.ema is not None:
        state = state.replace(ema=variables['params'])
    step = np.int32(checkpoint.step)
    momentum = from_checkpoint(
        checkpoint, state.momentum, variables['params'], experiment
    )
    return state.replace(step=step, momentum=momentum)
