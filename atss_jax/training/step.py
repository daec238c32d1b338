"""One training step, as one device does it."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from atss_jax.detection.losses import LossConfig, atss_loss
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig, accumulate, average
from atss_jax.optim.sgd import choose, clip_by_norm, global_norm
from atss_jax.structures import BATCH_AXIS
from atss_jax.training.state import TrainState, merge, split, updates_statistics


def _mean(tree):
    """Mean over devices; counters are the same on all of them."""
    if jax.lax.axis_size(BATCH_AXIS) == 1:
        return tree  # XLA on CPU would copy all of it

    def mean(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.lax.pmean(x, BATCH_AXIS) if is_float else x

    return jax.tree.map(mean, tree)


def _update(tx, optimizer, state, params, grads, norm, is_update, healthy):
    """Parameters, momentum and kept gradients behind a step, as fields of the state."""
    trained, frozen = params
    clipped = grads
    if optimizer.max_norm is not None:
        clipped = clip_by_norm(grads, norm, optimizer.max_norm)
    moves = is_update & healthy
    # The schedule's counter goes on without an update: rates are by iteration.
    updates, momentum = tx.update(clipped, state.momentum, trained, moves=moves)
    moved = choose(moves, optax.apply_updates(trained, updates), trained)
    left = None
    if state.accumulated is not None:
        left = jax.tree.map(lambda g: jnp.where(is_update, 0, g), grads)
    return {
        'params': merge(moved, frozen),
        'momentum': momentum,
        'accumulated': left,
    }


def _keep(healthy, new, state):
    """The new state, or the old one but for `healthy`."""

    def counter(now, before):
        # Sums are chosen already, in `sgd`; once more would copy them.
        is_counter = jnp.issubdtype(now.dtype, jnp.integer)
        return jnp.where(healthy, now, before) if is_counter else now

    momentum = jax.tree.map(counter, new.momentum, state.momentum)
    kept = choose(healthy, new, state)
    return kept.replace(healthy=healthy, momentum=momentum)


def _make_gradients(model, normalizer, loss_config):
    """Gradients of one device, its losses, and statistics that the model updated."""
    mutable = ['batch_stats'] if updates_statistics(model) else []

    def gradients(trained, frozen, state, batch):
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

        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (parts, stats)), grads = differentiate(trained)
        return grads, {'loss': loss, **parts}, stats

    return gradients


def make_train_step(
    model: nn.Module,
    normalizer: Normalizer,
    loss_config: LossConfig,
    optimizer: OptimizerConfig,
    tx: optax.GradientTransformation,
    total_steps: int | None = None,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """The step of one device; map it with `parallel.map_over_devices`.

    It takes the state and this device's rows of the batch, and gives the next state and
    metrics (`loss`, its parts, `grad_norm`), the same on all devices. A step whose loss
    or gradient is not finite changes nothing and leaves `healthy` False.

    With `optimizer.cumulative_iters` > 1 the gradients of so many batches make one
    update; `grad_norm` is that of their sum, each divided by their number. A run that
    ends in between updates with what there is; `total_steps` says where (None: never).
    """
    gradients = _make_gradients(model, normalizer, loss_config)

    def train_step(state, batch):
        trained, frozen = split(state.params, model)
        grads, metrics, stats = _mean(gradients(trained, frozen, state, batch))
        grads, is_update = accumulate(
            optimizer.cumulative_iters,
            state.step,
            total_steps,
            state.accumulated,
            grads,
        )
        metrics['grad_norm'] = norm = global_norm(grads)
        healthy = state.healthy & jnp.isfinite(metrics['loss']) & jnp.isfinite(norm)
        new = state.replace(
            step=state.step + 1,
            batch_stats=stats.get('batch_stats', state.batch_stats),
            **_update(
                tx,
                optimizer,
                state,
                (trained, frozen),
                grads,
                norm,
                is_update,
                healthy,
            ),
        )
        new = new.replace(
            ema=average(optimizer.ema_momentum, state.step, state.ema, new.params)
        )
        return _keep(healthy, new, state), metrics

    return train_step
