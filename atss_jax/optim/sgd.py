"""PyTorch's SGD as an optax transformation, and clipping by the global norm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from atss_jax.optim.optimizer import OptimizerConfig, Params


def sgd(config: OptimizerConfig, rate: Callable) -> optax.GradientTransformation:
    """PyTorch's SGD: decay joins the gradient, momentum sums, the rate multiplies last.

    `d = g + decay*w; buffer = momentum*buffer + d; w -= rate*buffer`.
    """
    summing = optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.trace(config.momentum)
    )
    scaling = optax.scale_by_learning_rate(rate)

    def init(params):
        return *summing.init(params), scaling.init(params)

    def update(grads, state, params, *, moves):
        *sums, count = state
        _, new_sums = summing.update(grads, tuple(sums), params)
        new_sums = choose(moves, new_sums, tuple(sums))
        # The parameters move by what was stored: computed from the old sums once more,
        # these would have to be copied before they are replaced.
        new_sums = jax.lax.optimization_barrier(new_sums)
        updates, count = scaling.update(new_sums[-1].trace, count, params)
        return updates, (*new_sums, count)

    return optax.GradientTransformationExtraArgs(init, update)


def choose(which: Bool[Array, ''], one: Any, other: Any) -> Any:
    """One tree or the other."""
    # 700 calls in a step; `jnp.where` takes ten times as long to trace.
    return jax.tree.map(lambda x, y: jax.lax.select_n(which, y, x), one, other)


def global_norm(grads: Params) -> Float[Array, '']:
    """L2 norm of all gradients as one vector."""
    # Products of vectors compile much faster than so many sums of squares.
    squares = [jnp.vdot(g, g, precision='highest') for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares))


def clip_by_norm(grads: Params, norm: Float[Array, ''], max_norm: float) -> Params:
    """Scales gradients of global norm `norm` down to `max_norm`, as PyTorch does."""
    factor = jnp.minimum(max_norm / (norm + 1e-6), 1)
    return jax.tree.map(lambda g: g * factor, grads)
