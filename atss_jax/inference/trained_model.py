"""A trained model from a workdir or a file of weights: config, weights, classes."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import Experiment
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes
from atss_jax.weights import mmdet, mmdet_checkpoint


class TrainedModel(NamedTuple):
    """The config as objects, variables as NumPy arrays, and the name of each label."""

    experiment: Experiment
    variables: Any
    classes: tuple[str, ...]


def load_trained(
    source: str | os.PathLike,
    config: str | os.PathLike | None = None,
    step: int | None = None,
    classes: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Loads a workdir or a file of weights; for the arguments see `Detector.load`.

    Raises:
        ValueError: weights, config or classes are missing or do not fit.
    """
    source = os.path.expanduser(source)
    if mmdet_checkpoint.is_weights_file(source):
        experiment, variables, known = _load_file(source, config, step, overrides)
    else:
        experiment, variables, known = _load_workdir(source, config, step, overrides)
    named = classes or (overrides or {}).get('data.test.classes')
    names = _choose_classes(known, named, experiment, source)
    return TrainedModel(experiment, variables, names)


def _load_file(file, config, step, overrides):
    """Experiment, variables, class names or None."""
    if config is None:
        raise ValueError(
            f'{file} is a file of weights: give the config of its model with '
            '--model_config=CONFIG (in Python, config=)'
        )
    if step is not None:
        raise ValueError(
            f'{file} is a file of weights: --step (in Python, step=) chooses a '
            'checkpoint of a workdir; leave it out'
        )
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f'no file of weights at {file}')
    experiment = build_experiment(load_config(os.fspath(config), overrides))
    checkpoint = mmdet_checkpoint.load(file)
    variables = mmdet.to_variables(checkpoint.weights, experiment.model)
    return experiment, variables, checkpoint.classes


def _load_workdir(workdir, config, step, overrides):
    """Experiment, variables, class names or None."""
    if config is not None:
        raise ValueError(
            f'{workdir} is a workdir, which has a config: leave out --model_config (in '
            'Python, config=); fields of it are changed with --config.FIELD=VALUE '
            '(overrides=)'
        )
    experiment = build_experiment(load_config(config_path(workdir), overrides))
    checkpoints = Checkpoints.open(workdir)
    if step is not None and step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {workdir}: {checkpoints.steps()}')
    variables = checkpoints.restore_variables(experiment.model, step)
    return experiment, variables, trained_classes(workdir)


def _choose_classes(known, given, experiment, source):
    if known is not None and given is not None and tuple(known) != tuple(given):
        raise ValueError(f'{source} was trained for {known}, not for {tuple(given)}')
    names = given or known or _classes_of_data(experiment.data['test'])
    if names is None:
        raise ValueError(
            f'{source} does not name its classes; name them in the order of the labels '
            'with --class_names=NAME,NAME (in Python, classes=), or in the config as '
            'data.test.classes'
        )
    count = experiment.model.bbox_head.num_classes
    if len(names) != count:
        raise ValueError(
            f'{len(names)} classes {tuple(names)[:10]}, but the model has {count}'
        )
    return tuple(names)


def _classes_of_data(data):
    """The class names that a section of data states without opening it, or None."""
    if data.source is ShapesDataset:
        return ShapesDataset.classes
    return data.arguments.get('classes')
