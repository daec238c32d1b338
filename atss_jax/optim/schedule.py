"""The learning rate of each step, as mmengine computes it."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LrConfig:
    """mmdet's `lr_config`.

    Attributes:
        policy: 'step' or 'CosineAnnealing'.
        step: epochs after which the rate is multiplied by gamma (policy 'step').
        gamma: factor on the rate after each of these epochs (policy 'step').
        min_lr_ratio: final over initial rate (policy 'CosineAnnealing').
        warmup: 'linear', or None for no warm-up.
        warmup_iters: number of iterations of the warm-up.
        warmup_ratio: factor on the rate at the start of the warm-up.
    """

    policy: str = 'step'
    step: tuple[int, ...] = (8, 11)
    gamma: float = 0.1
    min_lr_ratio: float = 0.0
    warmup: str | None = 'linear'
    warmup_iters: int = 500
    warmup_ratio: float = 0.001


def learning_rates(
    lr: float, config: LrConfig, steps_per_epoch: int, total_epochs: int
) -> np.ndarray:
    """Learning rate of every step of the run: (steps,) float64.

    The policy decides by epoch. At step i the warm-up multiplies its rate by
    `warmup_ratio + (1 - warmup_ratio) * min(i / (warmup_iters - 1), 1)`.

    Source: mmengine `LinearLR`, `MultiStepLR`, `CosineAnnealingLR`.
    """
    steps = np.arange(steps_per_epoch * total_epochs)
    epochs = steps // steps_per_epoch
    if config.policy == 'step':
        passed = np.searchsorted(np.sort(config.step), epochs, side='right')
        factor = config.gamma**passed
    else:
        cosine = (1 + np.cos(math.pi * epochs / total_epochs)) / 2
        factor = config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine
    if config.warmup is not None:
        progress = np.minimum(steps / max(config.warmup_iters - 1, 1), 1)
        factor = factor * (config.warmup_ratio + (1 - config.warmup_ratio) * progress)
    return lr * factor


def schedule(rates: np.ndarray) -> Callable:
    """The rates as an optax schedule; steps after the last keep the last rate."""
    table = np.asarray(rates, np.float32)
    return lambda step: jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]
