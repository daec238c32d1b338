"""One training step, as each device runs it."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from atss_jax.detection.losses import LossConfig, atss_loss
from atss_jax.models.detector import needs_keys
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.accumulation import (
    accumulate,
    apply_if_due,
    average,
    clear_if_due,
)
from atss_jax.optim.optimizer import OptimizerConfig, update_if
from atss_jax.optim.sgd import clip_by_norm, global_norm
from atss_jax.structures import BATCH_AXIS
from atss_jax.training.state import TrainState, merge, split, updates_statistics


def make_train_step(
    model: nn.Module,
    normalizer: Normalizer,
    loss_config: LossConfig,
    optimizer: OptimizerConfig,
    tx: optax.GradientTransformation,
    total_steps: int | None = None,
    seed: int = 0,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]]:
    """Makes the step of one device; map it with `devices.map_over_devices`.

    The step takes the state and this device's rows of the batch. It returns the next
    state and the metrics `loss`, its three parts and `grad_norm`, the same on all
    devices. A step whose loss or gradient is not finite leaves the state as it was,
    except for `healthy`, which becomes False; then no later step changes anything.

    With `optimizer.cumulative_iters` > 1 the gradients of several batches make one
    update, and `grad_norm` is the norm of their sum so far.

    Args:
        model: the detector.
        normalizer: makes the model's input from uint8 images.
        loss_config: settings of the losses.
        optimizer: settings of the optimizer.
        tx: the optimizer itself.
        total_steps: of the run, the last of which always updates; None: without end.
        seed: seed of what training drops at random.
    """
    gradients = _make_gradients(model, normalizer, loss_config, seed)
    next_state = _make_next_state(model, optimizer, tx)
    iters = optimizer.cumulative_iters

    def train_step(state, batch):
        grads, metrics, updated = _mean_over_devices(gradients(state, batch))
        grads, is_due = accumulate(
            iters, state.step, total_steps, state.accumulated, grads
        )
        norm = global_norm(grads)
        healthy = state.healthy & jnp.isfinite(metrics['loss']) & jnp.isfinite(norm)
        # The only place that decides whether this step has an effect.
        state = update_if(
            healthy,
            lambda state: next_state(state, grads, norm, is_due, updated),
            lambda state: state,
            state,
        )
        return state.replace(healthy=healthy), {**metrics, 'grad_norm': norm}

    return train_step


def _make_gradients(model, normalizer, loss_config, seed):
    """Makes the function of one device's gradients, losses and updated statistics."""
    mutable = ['batch_stats'] if updates_statistics(model) else []

    def gradients(state, batch):
        images = normalizer(batch['image'], batch['image_size'])
        trained, frozen = split(state.params, model)
        keys = None
        if needs_keys(model):
            keys = row_keys(seed, state.step, len(images))

        def loss_of(trained):
            params = merge(trained, frozen)
            outputs, updated = model.apply(
                {'params': params, 'batch_stats': state.batch_stats},
                images,
                batch['image_size'],
                train=True,
                keys=keys,
                mutable=mutable,
            )
            loss, losses = atss_loss(outputs, batch, loss_config, BATCH_AXIS)
            return loss, ({'loss': loss, **losses}, updated)

        grads, (metrics, updated) = jax.grad(loss_of, has_aux=True)(trained)
        return grads, metrics, updated

    return gradients


def _make_next_state(model, optimizer, tx):
    """Makes the function of the state after a healthy step."""

    def next_state(state, grads, norm, is_due, updated):
        def update_trained(trained, momentum):
            clipped = clip_by_norm(grads, norm, optimizer.max_norm)
            updates, momentum = tx.update(clipped, momentum, trained)
            return optax.apply_updates(trained, updates), momentum

        trained, frozen = split(state.params, model)
        trained, momentum = apply_if_due(
            is_due, update_trained, trained, state.momentum
        )
        params = merge(trained, frozen)
        return state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=updated.get('batch_stats', state.batch_stats),
            momentum=momentum,
            accumulated=clear_if_due(is_due, grads),
            ema=average(optimizer.ema_momentum, state.step, state.ema, params),
        )

    return next_state


def row_keys(seed: int, step: Int[Array, ''], rows: int) -> Key[Array, ' B']:
    """A key for each row of this device: a function of seed, step and global row.

    Args:
        seed: of the run.
        step: number of finished steps.
        rows: number of rows of this device.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    row = jax.lax.axis_index(BATCH_AXIS) * rows + jnp.arange(rows)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row)


def _mean_over_devices(tree):
    """Mean of all floating-point arrays; counters are the same on all devices."""
    if jax.lax.axis_size(BATCH_AXIS) == 1:
        return tree  # XLA on CPU would copy every array

    def mean(x):
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.lax.pmean(x, BATCH_AXIS) if is_float else x

    return jax.tree.map(mean, tree)
