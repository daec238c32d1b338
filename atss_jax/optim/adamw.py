"""PyTorch's AdamW as an optax transformation, LAMB, and the choice of optimizer."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from atss_jax.optim.lars import lars, scale_by_trust_ratio
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.paramwise import (
    PerParameter,
    add_decayed_weights,
    map_parameters,
    scale_by_learning_rate,
)
from atss_jax.optim.sgd import sgd


def make_optimizer(
    config: OptimizerConfig, rate: Callable, settings: PerParameter | None = None
) -> optax.GradientTransformation:
    """The optimizer that a config names.

    Args:
        config: its settings, except `paramwise_cfg`.
        rate: optax schedule, from the number of finished steps to the learning rate.
        settings: what `paramwise_cfg` makes of them; None: all parameters are alike.
    """
    optimizers = {'SGD': sgd, 'AdamW': adamw, 'LARS': lars, 'LAMB': lamb}
    return optimizers[config.type](config, rate, settings)


def adamw(
    config: OptimizerConfig, rate: Callable, settings: PerParameter | None = None
) -> optax.GradientTransformation:
    """PyTorch's AdamW: `w = (1 - rate*decay)*w - rate*mean/(sqrt(square) + eps)`.

    `mean` and `square` are running means of gradients and of their squares, without the
    bias of their start from 0. Only steps that update count for it.

    Args:
        config: betas, eps and weight decay.
        rate: optax schedule, from the number of finished steps to the learning rate.
        settings: factors and rates of single parameters; None: all are alike.
    """
    return optax.chain(
        scale_by_adam(*config.betas, config.eps),
        _scale_and_decay(config.weight_decay, rate, settings),
    )


def lamb(
    config: OptimizerConfig, rate: Callable, settings: PerParameter | None = None
) -> optax.GradientTransformation:
    """LAMB: `d = mean/(sqrt(square) + eps) + decay*w; w -= rate * |w|/|d| * d`.

    `mean` and `square` are those of `adamw`, the norms are those of the whole
    parameter; see `scale_by_trust_ratio` for the parameters without a ratio.

    Args:
        config: betas, eps and weight decay.
        rate: optax schedule, from the number of finished steps to the learning rate.
        settings: factors and rates of single parameters; None: all are alike.

    Source: arXiv 1904.00962, as `optax.lamb` has it.
    """
    return optax.chain(
        scale_by_adam(*config.betas, config.eps),
        add_decayed_weights(config.weight_decay, settings),
        scale_by_trust_ratio(),
        scale_by_learning_rate(rate, settings),
    )


def scale_by_adam(
    beta1: float, beta2: float, eps: float
) -> optax.GradientTransformation:
    """As `optax.scale_by_adam`, with `1 - beta**count` in full precision.

    In float32 the difference would lose four of seven digits in the first steps: 0.999
    is rounded before it is subtracted from 1. PyTorch computes it in float64.
    """

    def update(grads, state, params=None):
        mean = optax.tree.update_moment(grads, state.mu, beta1, 1)
        square = optax.tree.update_moment(grads, state.nu, beta2, 2)
        count = optax.safe_increment(state.count)
        rest1, rest2 = (_one_minus_power(beta, count) for beta in (beta1, beta2))
        updates = jax.tree.map(
            lambda m, s: m / rest1 / (jnp.sqrt(s) / jnp.sqrt(rest2) + eps),
            mean,
            square,
        )
        return updates, optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _one_minus_power(beta, count):
    """`1 - beta**count`."""
    return -jnp.expm1(count * math.log(beta)) if beta else jnp.ones(())


def _scale_and_decay(weight_decay, rate, settings):
    """Multiplies updates by minus the learning rate, and shrinks the weights."""
    schedules = {1.0: rate} if settings is None else settings.rates

    def init(params):
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates, state, params):
        rates = {mult: jnp.float32(s(state.count)) for mult, s in schedules.items()}
        # PyTorch rounds the factor and the product with the weight. While a weight
        # hardly moves both are rounded to the same side in every step, which adds up.
        # With this sum, of a zero unknown to the compiler, it cannot leave out the
        # rounding by merging the product with the next sum (FMA).
        zero = (state.count < 0).astype(jnp.float32)

        def step(factors, update, param):
            rate, decay = rates[factors.lr_mult], weight_decay * factors.decay_mult
            if not decay:
                return -rate * update
            kept = (1 - rate * decay) * param + zero
            return (kept - rate * update) - param

        updates = map_parameters(step, settings, updates, params)
        count = optax.safe_increment(state.count)
        return updates, optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(init, update)
