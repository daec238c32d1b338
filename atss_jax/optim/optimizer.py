"""Settings of the optimizer, and updates that take place only under a condition."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Bool

from atss_jax.optim.paramwise import ParamwiseConfig

Params = Mapping[str, Any]
"""A pytree of parameters, or of anything in their structure."""

Tree = TypeVar('Tree')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """mmdet's `optimizer`, `optimizer_config` and `ema`.

    Attributes:
        type: 'SGD', 'AdamW', 'LARS' or 'LAMB'.
        lr: learning rate after warm-up.
        momentum: factor on the running sum of gradients (SGD) or of updates (LARS).
        betas: factors on the running means of gradients and of their squares (AdamW,
            LAMB).
        eps: added to the root of the mean of squares (AdamW, LAMB), or to the norm of
            the gradient (LARS).
        eta: norm of the update of a parameter over its own norm, at a learning rate of
            1 (LARS).
        weight_decay: times the weight, added to each gradient (SGD, LARS) or to each
            update (AdamW, LAMB); biases and norms too.
        paramwise: settings of single parameters; None: all are trained alike.
        max_norm: global L2 norm to which larger gradients are scaled down; None: never.
        cumulative_iters: number of batches whose gradients make one update.
        ema_momentum: weight of the new parameters in the averaged ones; None: no
            averaging.
    """

    type: str = 'SGD'
    lr: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eta: float = 0.001
    weight_decay: float = 1e-4
    paramwise: ParamwiseConfig | None = None
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
