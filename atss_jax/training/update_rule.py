"""The optimizer of an experiment, with the settings of the model's parameters."""

from collections.abc import Mapping

import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from atss_jax.config.experiment import Experiment
from atss_jax.models.detector import ATSS
from atss_jax.optim.adamw import make_optimizer
from atss_jax.optim.paramwise import (
    Multipliers,
    ParamwiseConfig,
    PerParameter,
    multipliers,
)
from atss_jax.optim.schedule import learning_rates, schedule
from atss_jax.training.state import is_trained
from atss_jax.weights import mmdet


def rates_by_mult(
    experiment: Experiment, batch_size: int, steps_per_epoch: int
) -> dict[float, np.ndarray]:
    """Learning rate of every step, by factor on the learning rate; 1 is the first.

    Args:
        experiment: what the config describes.
        batch_size: number of images in one step, over all devices.
        steps_per_epoch: number of steps of an epoch.
    """
    scale, optimizer = experiment.auto_scale_lr, experiment.optimizer
    lr = optimizer.lr * (batch_size / scale.base if scale.enable else 1)
    config = optimizer.paramwise or ParamwiseConfig()
    others = sorted(config.lr_mults - {1.0})
    return {
        # Not by one table times the factor: a policy's lowest rate may be absolute.
        mult: learning_rates(
            lr * mult, experiment.lr_config, steps_per_epoch, experiment.total_epochs
        )
        for mult in (1.0, *others)
    }


def optimizer_of(
    experiment: Experiment, rates: Mapping[float, np.ndarray]
) -> optax.GradientTransformation:
    """The optimizer that the config describes.

    Args:
        experiment: what the config describes.
        rates: learning rate of every step, by factor on the learning rate.
    """
    schedules = {mult: schedule(table) for mult, table in rates.items()}
    config, settings = experiment.optimizer, None
    if config.paramwise is not None:
        factors = multipliers_of(experiment.model, config.paramwise)
        settings = PerParameter(unflatten_dict(factors), schedules)
    return make_optimizer(config, schedules[1.0], settings)


def structure_of_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """An optimizer whose state has the structure of the config's, with other rates."""
    return make_optimizer(experiment.optimizer, lambda step: experiment.optimizer.lr)


def multipliers_of(
    model: ATSS, config: ParamwiseConfig
) -> dict[tuple[str, ...], Multipliers]:
    """The factors on learning rate and decay of each trained parameter, by its path."""
    shapes = _parameter_shapes(model)
    axes = {mmdet.torch_name(path): len(shape) for path, shape in shapes.items()}
    factors = multipliers(axes, config)
    return {
        path[1:]: factors[mmdet.torch_name(path)]
        for path in shapes
        if is_trained(path[1:], model)
    }


def trained_names(model: ATSS) -> list[str]:
    """The names in mmdetection of all parameters that are trained."""
    paths = _parameter_shapes(model)
    return [mmdet.torch_name(path) for path in paths if is_trained(path[1:], model)]


def _parameter_shapes(model):
    shapes = mmdet.variable_shapes(model)
    return {path: shape for path, shape in shapes.items() if path[0] == 'params'}
