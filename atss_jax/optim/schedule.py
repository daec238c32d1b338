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
        policy: 'step', 'CosineAnnealing', 'poly', 'OneCycle' or 'fixed'.
        step: epochs after which the rate is multiplied by gamma (policy 'step').
        gamma: factor on the rate after each of these epochs (policy 'step').
        min_lr_ratio: final over initial rate (policy 'CosineAnnealing').
        power: power of the remaining share of the run (policy 'poly').
        min_lr: rate of the last epoch or step (policy 'poly').
        begin: first epoch or step of the decay (policy 'poly').
        end: one more than the epoch or step that has `min_lr`; None: the end of the run
            (policy 'poly').
        by_epoch: whether the rate changes after each epoch instead of each step
            (policies 'poly' and 'OneCycle').
        max_lr: highest rate, in place of `optimizer.lr` (policy 'OneCycle').
        pct_start: share of the run in which the rate rises (policy 'OneCycle').
        anneal_strategy: 'cos' or 'linear': how it rises and falls (policy 'OneCycle').
        div_factor: highest over initial rate (policy 'OneCycle').
        final_div_factor: initial over final rate (policy 'OneCycle').
        three_phase: whether the rate first falls as it rose, then to the final rate,
            instead of falling to the final rate at once (policy 'OneCycle').
        warmup: 'linear', 'constant', 'exp', or None for no warm-up.
        warmup_iters: number of iterations of the warm-up.
        warmup_ratio: factor on the rate at the start of the warm-up.
    """

    policy: str = 'step'
    step: tuple[int, ...] = (8, 11)
    gamma: float = 0.1
    min_lr_ratio: float = 0.0
    power: float = 1.0
    min_lr: float = 0.0
    begin: int = 0
    end: int | None = None
    by_epoch: bool = True
    max_lr: float = 0.01
    pct_start: float = 0.3
    anneal_strategy: str = 'cos'
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    warmup: str | None = 'linear'
    warmup_iters: int = 500
    warmup_ratio: float = 0.001


def learning_rates(
    lr: float, config: LrConfig, steps_per_epoch: int, total_epochs: int
) -> np.ndarray:
    """Learning rate of every step of the run: (steps,) float64.

    Policies 'step' and 'CosineAnnealing' decide by epoch; their rate is multiplied by
    that of the warm-up.

    Source: mmengine `MultiStepLR`, `CosineAnnealingLR`, `PolyLR`, `OneCycleLR`.
    """
    steps = np.arange(steps_per_epoch * total_epochs)
    epochs = steps // steps_per_epoch
    if config.policy in ('poly', 'OneCycle'):
        time, count = steps, len(steps)
        if config.by_epoch:
            time, count = epochs, total_epochs
        if config.policy == 'OneCycle':
            return _one_cycle(config, count)[time]
        return _polynomial(lr, config, time, count)
    if config.policy == 'step':
        passed = np.searchsorted(np.sort(config.step), epochs, side='right')
        factor = config.gamma**passed
    elif config.policy == 'CosineAnnealing':
        cosine = (1 + np.cos(math.pi * epochs / total_epochs)) / 2
        factor = config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine
    else:
        factor = np.ones(len(steps))
    if config.warmup is not None:
        factor = factor * warm_up_factors(config, steps)
    return lr * factor


def warm_up_factors(config: LrConfig, steps: np.ndarray) -> np.ndarray:
    """Factor of the warm-up on the rate of each step.

    With `progress = min(i / (warmup_iters - 1), 1)` at step i it is 'linear':
    `ratio + (1 - ratio) * progress`, 'exp': `ratio ** (1 - progress)`, 'constant': the
    ratio until the progress is 1.

    Source: mmengine `LinearLR`, `ConstantLR`; mmcv 1.x for 'exp', which mmengine lacks.
    Differs from mmdet: 'exp' reaches the full rate one iteration earlier than in mmcv,
    when the other two do in mmengine.
    """
    ratio = config.warmup_ratio
    progress = np.minimum(steps / max(config.warmup_iters - 1, 1), 1)
    if config.warmup == 'linear':
        return ratio + (1 - ratio) * progress
    if config.warmup == 'exp':
        return ratio ** (1 - progress)
    return np.where(progress < 1, ratio, 1.0)


def _polynomial(lr, config, time, count):
    """Rates of 'poly': each change shrinks the difference between the rate and min_lr.

    Without warm-up that is `min_lr + (lr - min_lr) * (1 - t / (count - 1)) ** power` at
    time t. A warm-up multiplies the rate in between, as in mmengine, where each
    scheduler starts from the rate that the others left.

    Args:
        lr: rate before the first change.
        config: the schedule.
        time: epoch or number of each step.
        count: number of epochs or steps of the run.
    """
    end = count if config.end is None else config.end
    warm_up = np.ones(len(time))
    if config.warmup is not None:
        # A rate of 0 could not be multiplied up again.
        warm_up = np.maximum(warm_up_factors(config, np.arange(len(time))), 1e-30)
    rates = np.empty(len(time))
    rate = lr * warm_up[0] if len(time) else lr
    for step in range(len(time)):
        if step > 0:
            rate *= warm_up[step] / warm_up[step - 1]
            changes = time[step] != time[step - 1]
            if changes and config.begin < time[step] < end:
                shrink = 1 - 1 / (end - time[step])
                rate = (rate - config.min_lr) * shrink**config.power + config.min_lr
        rates[step] = rate
    return rates


def _one_cycle(config, count):
    """Rates of 'OneCycle' at each time: (count,).

    The rate is interpolated between the ends of phases, which need not be whole steps.
    """
    top = config.max_lr
    first = top / config.div_factor
    last = first / config.final_div_factor
    peak, end = config.pct_start * count - 1, count - 1
    phases = [(0, peak, first, top), (peak, end, top, last)]
    if config.three_phase:
        fall = 2 * config.pct_start * count - 2
        phases[1:] = [(peak, fall, top, first), (fall, end, first, last)]

    def rate(time):
        phase = next((x for x in phases if time <= x[1]), phases[-1])
        begin, end, start, stop = phase
        share = (time - begin) / (end - begin) if end > begin else 1.0
        if config.anneal_strategy == 'linear':
            return start + (stop - start) * share
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))

    return np.array([rate(time) for time in range(count)])


def schedule(rates: np.ndarray) -> Callable:
    """The rates as an optax schedule; steps after the last keep the last rate."""
    table = np.asarray(rates, np.float32)
    return lambda step: jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]
