"""Over several steps: gradients summed up for one update, and averaged parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from atss_jax.optim.optimizer import Params, update_if


def accumulate(
    cumulative_iters: int,
    step: Int[Array, ''],
    total_steps: int | None,
    accumulated: Params | None,
    grads: Params,
) -> tuple[Params, Bool[Array, ''] | bool]:
    """Sum of the gradients since the last update, and whether an update is due.

    Each gradient is divided by the number of batches of its update: `cumulative_iters`,
    or the remainder at the end of the run, where an update is always due.

    Args:
        cumulative_iters: number of batches of an update.
        step: number of finished steps.
        total_steps: number of steps of the run; None: a run without end.
        accumulated: sum before this step; None if every step updates.
        grads: gradients of this step.

    Source: mmcv 1.x `GradientCumulativeOptimizerHook`.
    Differs from mmdet: a run that is stopped and resumed keeps the sum.
    """
    if accumulated is None:
        return grads, True
    count = cumulative_iters
    batches, is_due = jnp.array(count), (step + 1) % count == 0
    if total_steps is not None:
        remainder = total_steps % count
        batches = jnp.where(step < total_steps - remainder, count, max(remainder, 1))
        is_due |= step + 1 == total_steps
    total = jax.tree.map(lambda old, new: old + new / batches, accumulated, grads)
    return total, is_due


def clear_if_due(is_due: Bool[Array, ''] | bool, total: Params) -> Params | None:
    """Sum that the next step adds to: zeros after an update; None without any sum."""
    if is_due is True:
        return None
    return jax.tree.map(lambda g: jnp.where(is_due, 0, g), total)


def apply_if_due(
    is_due: Bool[Array, ''] | bool,
    update: Callable[[Params, optax.OptState], tuple[Params, optax.OptState]],
    params: Params,
    optimizer_state: optax.OptState,
) -> tuple[Params, optax.OptState]:
    """Returns `update(params, optimizer_state)` if an update is due, else the same two.

    The schedule's counter advances in any case: learning rates are by step.
    """
    if is_due is True:
        return update(params, optimizer_state)

    def skip(params, optimizer_state):
        return params, jax.tree.map(_advance, optimizer_state, is_leaf=_is_schedule)

    return update_if(is_due, update, skip, params, optimizer_state)


def _is_schedule(state):
    return isinstance(state, optax.ScaleByScheduleState)


def _advance(state):
    return state._replace(count=state.count + 1) if _is_schedule(state) else state


def average(
    ema_momentum: float | None,
    step: Int[Array, ''],
    averaged: Params | None,
    params: Params,
) -> Params | None:
    """Exponential moving average of the parameters; None without averaging.

    It starts with the parameters after the first step; from then on it is
    `average + momentum*(new - average)` after every step.

    Args:
        ema_momentum: weight of the new parameters; None: no averaging.
        step: number of steps finished before this one.
        averaged: average before this step.
        params: parameters after this step.

    Source: mmengine `EMAHook`, `ExponentialMovingAverage`; running statistics are not
    averaged, which is the default there too.
    """
    if ema_momentum is None:
        return None
    is_first = step == 0
    return jax.tree.map(
        lambda old, new: jnp.where(is_first, new, old + ema_momentum * (new - old)),
        averaged,
        params,
    )
