"""How gradients become updates: settings, accumulation, averaged weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

Params = Mapping[str, Any]
"""A pytree of parameters, or of anything in their structure."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """mmdet's `optimizer`, `optimizer_config` and `ema`.

    Attributes:
        lr: learning rate after warm-up.
        momentum: factor on the running sum of gradients.
        weight_decay: added to each gradient, times the weight; biases and norms too.
        max_norm: gradients are scaled down to this global L2 norm; None: never.
        cumulative_iters: batches whose gradients make one update.
        ema_momentum: share of the new weights in the averaged ones; None: no average.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_norm: float | None = None
    cumulative_iters: int = 1
    ema_momentum: float | None = None


def accumulate(
    count: int,
    step: Int[Array, ''],
    total_steps: int | None,
    accumulated: Params | None,
    grads: Params,
) -> tuple[Params, Bool[Array, '']]:
    """The sum of gradients since the last update, and whether one is due.

    Each gradient is divided by the number of batches of its update: `count`, or what is
    left at the end of the run. Source: mmcv 1.x `GradientCumulativeOptimizerHook`; a
    run that goes on in between loses nothing here, there the sum.

    Args:
        count: batches an update.
        step: finished steps.
        total_steps: of the run; None: without an end.
        accumulated: the sum so far; None with a `count` of 1.
        grads: of this batch.
    """
    if accumulated is None:
        return grads, jnp.array(True)
    batches, is_update = jnp.array(count), (step + 1) % count == 0
    if total_steps is not None:
        left = total_steps % count
        batches = jnp.where(step < total_steps - left, count, max(left, 1))
        is_update |= step + 1 == total_steps
    total = jax.tree.map(lambda old, new: old + new / batches, accumulated, grads)
    return total, is_update


def average(
    momentum: float | None,
    step: Int[Array, ''],
    averaged: Params | None,
    params: Params,
) -> Params | None:
    """Averaged weights after a step; None without averaging.

    The first step's weights as they are, then `average + momentum*(new - average)` at
    every step. Source: mmengine `EMAHook`, `ExponentialMovingAverage`; running
    statistics are not averaged, as by default there.

    Args:
        momentum: share of the new weights.
        step: finished steps before this one.
        averaged: averaged weights before the step.
        params: weights after it.
    """
    if momentum is None:
        return None
    is_first = step == 0
    return jax.tree.map(
        lambda old, new: jnp.where(is_first, new, old + momentum * (new - old)),
        averaged,
        params,
    )
