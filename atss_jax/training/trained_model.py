"""A trained model from a workdir, a file or the zoo: config, weights, classes."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from atss_jax.config import build_experiment, check_section, load_config
from atss_jax.config.experiment import Experiment
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.distributed import hosts
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes
from atss_jax.weights import address, mmdet, mmdet_checkpoint


class TrainedModel(NamedTuple):
    """The config as objects, variables as NumPy arrays, and the name of each label."""

    experiment: Experiment
    variables: Any
    classes: tuple[str, ...]


class LoadedWeights(NamedTuple):
    """Weights and the config of their model.

    Attributes:
        experiment: the config as objects.
        variables: NumPy arrays.
        classes: the name of each label; None: the weights do not say.
        step: step of the checkpoint of a workdir; None: from a file.
    """

    experiment: Experiment
    variables: Any
    classes: tuple[str, ...] | None
    step: int | None


def load_trained(
    source: str | os.PathLike,
    config: str | os.PathLike | None = None,
    step: int | None = None,
    classes: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """Loads a trained model; for the arguments and errors see `Detector.load`."""
    check_section(overrides, 'test', 'says how images are prepared')
    loaded = load_weights(source, config, step, overrides)
    named = classes or (overrides or {}).get('data.test.classes')
    names = _choose_classes(loaded.classes, named, loaded.experiment, source)
    return TrainedModel(loaded.experiment, loaded.variables, names)


def load_weights(
    source: str | os.PathLike,
    config: str | os.PathLike | None = None,
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> LoadedWeights:
    """Loads weights that need not name their classes.

    Args:
        source: a workdir, a file of weights, the name of a model of the zoo, or an
            address.
        config: config of a file of weights; None: that of the model of the zoo.
        step: step of the checkpoint of a workdir; None: the one with the best AP.
        overrides: config fields to change, as for `load_config`.

    Raises:
        ValueError: weights or config are missing or do not fit.
        ConnectionError: the weights cannot be downloaded.
    """
    weights = address.locate(source)
    hosts.progress('reading weights')
    if weights.is_file:
        return _load_file(weights, config, step, overrides)
    return _load_workdir(weights.source, config, step, overrides)


def _load_file(weights, config, step, overrides):
    source = weights.source
    weights.check()
    if config is None and weights.config is None:
        raise ValueError(
            f'{source} is a file of weights: give the config of its model with '
            '--model_config=CONFIG (in Python, config=)'
        )
    if step is not None:
        raise ValueError(
            f'{source} is a file of weights: --step (in Python, step=) chooses a '
            'checkpoint of a workdir; leave it out'
        )
    config = weights.config if config is None else os.fspath(config)
    # Before a download, which may take minutes.
    experiment = build_experiment(load_config(config, overrides))
    file = weights.fetch()
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f'no file of weights at {file}')
    checkpoint = mmdet_checkpoint.load(file)
    variables = mmdet.to_variables(checkpoint.weights, experiment.model)
    classes = checkpoint.classes or weights.classes
    return LoadedWeights(experiment, variables, classes, None)


def _load_workdir(workdir, config, step, overrides):
    if config is not None:
        raise ValueError(
            f'{workdir} is a workdir, which has a config: leave out --model_config (in '
            'Python, config=); fields of it are changed with --config.FIELD=VALUE '
            '(overrides=)'
        )
    if workdir and not os.path.exists(workdir):
        raise ValueError(
            f'{workdir} is not the workdir of a run: there is no such folder, and no '
            'model of this name (`atss models` lists them)'
            f'{address.similar_model(workdir)}'
        )
    experiment = build_experiment(load_config(config_path(workdir), overrides))
    checkpoints = Checkpoints.open(workdir)
    step = checkpoints.best_step() if step is None else step
    if step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {workdir}: {checkpoints.steps()}')
    variables = checkpoints.restore_variables(experiment.model, step)
    return LoadedWeights(experiment, variables, trained_classes(workdir), step)


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
