"""Layer-wise rates for large batches: LARS, and the ratio that it shares with LAMB."""

from collections.abc import Callable

import jax
import optax

from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.paramwise import (
    PerParameter,
    add_decayed_weights,
    scale_by_learning_rate,
)


def lars(
    config: OptimizerConfig, rate: Callable, settings: PerParameter | None = None
) -> optax.GradientTransformation:
    """LARS: `d = g + decay*w; buffer = momentum*buffer + rate*ratio*d; w -= buffer`.

    `ratio = eta*|w| / (|d| + eps)` with the L2 norms of the whole parameter; see
    `scale_by_trust_ratio` for the parameters without one. Unlike with SGD, the rate is
    part of the momentum: a lower rate does not shrink what was gathered before.

    Args:
        config: momentum, eta, eps and weight decay.
        rate: optax schedule, from the number of finished steps to the learning rate.
        settings: factors and rates of single parameters; None: all are alike.

    Source: arXiv 1708.03888, as `optax.lars` has it. The paper, and mmpretrain's
    `LARS`, divide by `|g| + decay*|w|`, which is at least as large as `|d|`.
    """
    return optax.chain(
        add_decayed_weights(config.weight_decay, settings),
        scale_by_trust_ratio(config.eta, config.eps),
        scale_by_learning_rate(rate, settings),
        optax.trace(config.momentum),
    )


def scale_by_trust_ratio(
    coefficient: float = 1.0, eps: float = 0.0
) -> optax.GradientTransformation:
    """Multiplies each update by `coefficient * |parameter| / (|update| + eps)`.

    Parameters with at most one axis (scales and biases of norms, other biases, the
    scalars of the levels) keep their update: their length says nothing about the step
    that suits them, and all published recipes exclude them. So does a parameter whose
    own norm, or that of its update, is 0.
    """
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient, eps=eps)
    return optax.masked(ratio, lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))
