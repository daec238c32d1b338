"""PyTorch's SGD as an optax transformation, and its clipping by the global norm."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from atss_jax.optim.optimizer import OptimizerConfig, Params


def sgd(config: OptimizerConfig, rate: Callable) -> optax.GradientTransformation:
    """PyTorch's SGD: `d = g + decay*w; buffer = momentum*buffer + d; w -= rate*buffer`.

    Unlike in `optax.sgd`, the decay is part of the momentum, and the rate is not.

    Args:
        config: momentum and weight decay.
        rate: optax schedule, from the number of finished steps to the learning rate.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(rate),
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
