"""PyTorch's SGD as an optax transformation, and its clipping by the global norm."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from atss_jax.optim.optimizer import OptimizerConfig, Params
from atss_jax.optim.paramwise import (
    PerParameter,
    add_decayed_weights,
    scale_by_learning_rate,
)


def sgd(
    config: OptimizerConfig, rate: Callable, settings: PerParameter | None = None
) -> optax.GradientTransformation:
    """PyTorch's SGD: `d = g + decay*w; buffer = momentum*buffer + d; w -= rate*buffer`.

    Unlike in `optax.sgd`, the decay is part of the momentum, and the rate is not.

    Args:
        config: momentum and weight decay.
        rate: optax schedule, from the number of finished steps to the learning rate.
        settings: factors and rates of single parameters; None: all are alike.
    """
    return optax.chain(
        add_decayed_weights(config.weight_decay, settings),
        optax.trace(config.momentum),
        scale_by_learning_rate(rate, settings),
    )


def global_norm(grads: Params) -> Float[Array, '']:
    """L2 norm of all gradients as one vector."""
    # Inner products compile much faster than as many sums of squares.
    squares = [jnp.vdot(g, g, precision='highest') for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares))


def clip_by_norm(
    grads: Params, norm: Float[Array, ''], max_norm: float | None
) -> Params:
    """Scales gradients of global norm `norm` down to at most `max_norm`.

    Source: torch `clip_grad_norm_`.
    """
    if max_norm is None:
        return grads
    factor = jnp.minimum(max_norm / (norm + 1e-6), 1)
    return jax.tree.map(lambda g: g * factor, grads)
