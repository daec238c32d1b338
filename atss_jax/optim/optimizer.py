"""Settings of the optimizer, and updates that take place only under a condition."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Bool

Params = Mapping[str, Any]
"""A pytree of parameters, or of anything in their structure."""

Tree = TypeVar('Tree')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """mmdet's `optimizer`, `optimizer_config` and `ema`.

    Attributes:
        lr: learning rate after warm-up.
        momentum: factor on the running sum of gradients.
        weight_decay: times the weight, added to each gradient; biases and norms too.
        max_norm: global L2 norm to which larger gradients are scaled down; None: never.
        cumulative_iters: number of batches whose gradients make one update.
        ema_momentum: weight of the new parameters in the averaged ones; None: no
            averaging.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_norm: float | None = None
    cumulative_iters: int = 1
    ema_momentum: float | None = None


def update_if(
    condition: Bool[Array, ''],
    update: Callable[..., Tree],
    otherwise: Callable[..., Tree],
    *state: Any,
) -> Tree:
    """Returns `update(*state)` if the condition holds, else `otherwise(*state)`."""

    def select(*state):
        return jax.tree.map(
            lambda new, old: jax.lax.select(condition, new, old),
            update(*state),
            otherwise(*state),
        )

    def branch(*state):
        return jax.lax.cond(condition, update, otherwise, *state)

    # To select, XLA on CPU copies parameters and momentum first, since each is computed
    # from the old values of both; a branch overwrites them in place. For a step of
    # ResNet-18 with two images of 128 x 128 that is 0.51 instead of 0.62 s of processor
    # time and 88 instead of 152 MiB of working memory. On GPU a branch would make the
    # host wait for the condition in every step.
    return jax.lax.platform_dependent(*state, cpu=branch, default=select)
