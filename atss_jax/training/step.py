"""One training step, as one device does it."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from atss_jax.detection.losses import LossConfig, atss_loss
from atss_jax.models.layers import BATCH_AXIS
from atss_jax.models.preprocess import Normalizer
from atss_jax.training.state import (
    Params,
    TrainState,
    merge,
    split,
    updates_statistics,
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """mmdet's `optimizer` and `optimizer_config`.

    Attributes:
        lr: learning rate after warm-up.
        momentum: factor on the running sum of gradients.
        weight_decay: added to each gradient, times the weight; biases and norms too.
        max_norm: gradients are scaled down to this global L2 norm; None: never.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_norm: float | None = None


def sgd(config: OptimizerConfig, rate: Callable) -> optax.GradientTransformation:
    """PyTorch's SGD: decay joins the gradient, momentum sums, the rate multiplies last.

    `d = g + decay*w; buffer = momentum*buffer + d; w -= rate*buffer`.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(rate),
    )


def global_norm(grads: Params) -> Float[Array, '']:
    """L2 norm of all gradients as one vector."""
    return jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))


def clip_by_norm(grads: Params, norm: Float[Array, ''], max_norm: float) -> Params:
    """Scales gradients of global norm `norm` down to `max_norm`, as PyTorch does."""
    factor = jnp.minimum(max_norm / (norm + 1e-6), 1)
    return jax.tree.map(lambda g: g * factor, grads)


def _mean(tree):
    """Mean over devices; counters are the same on all of them."""

    def mean(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.lax.pmean(x, BATCH_AXIS) if is_float else x

    return jax.tree.map(mean, tree)


def make_train_step(
    model: nn.Module,
    normalizer: Normalizer,
    loss_config: LossConfig,
    optimizer: OptimizerConfig,
    tx: optax.GradientTransformation,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step of one device; map it with `parallel.map_over_devices`.

    It takes the state and this device's rows of the batch, and gives the next state and
    metrics (`loss`, its parts, `grad_norm`), the same on all devices. A step whose loss
    or gradient is not finite changes nothing and leaves `healthy` False.
    """

    mutable = ['batch_stats'] if updates_statistics(model) else []

    def train_step(state, batch):
        trained, frozen = split(state.params, model)
        images = normalizer(batch['image'], batch['image_size'])

        def loss_of(trained):
            variables = {
                'params': merge(trained, frozen),
                'batch_stats': state.batch_stats,
            }
            outputs, updates = model.apply(
                variables, images, batch['image_size'], train=True, mutable=mutable
            )
            loss, parts = atss_loss(outputs, batch, loss_config, BATCH_AXIS)
            return loss, (parts, updates)

        (loss, (parts, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            trained
        )
        grads, metrics, stats = _mean((grads, {'loss': loss, **parts}, stats))
        metrics['grad_norm'] = norm = global_norm(grads)
        if optimizer.max_norm is not None:
            grads = clip_by_norm(grads, norm, optimizer.max_norm)
        updates, momentum = tx.update(grads, state.momentum, trained)
        healthy = state.healthy & jnp.isfinite(metrics['loss']) & jnp.isfinite(norm)
        new = state.replace(
            step=state.step + 1,
            params=merge(optax.apply_updates(trained, updates), frozen),
            batch_stats=stats.get('batch_stats', state.batch_stats),
            momentum=momentum,
        )
        keep = jax.tree.map(lambda old, now: jnp.where(healthy, now, old), state, new)
        return keep.replace(healthy=healthy), metrics

    return train_step
