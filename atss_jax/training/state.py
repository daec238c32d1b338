"""The state that training carries from step to step, and which parameters it trains."""

from dataclasses import fields
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Int

from atss_jax.models.initializers import sampled_by
from atss_jax.models.swin import SwinTransformer
from atss_jax.optim.optimizer import Params


class TrainState(struct.PyTreeNode):
    """Everything that decides how training continues.

    Attributes:
        step: number of finished steps.
        params: all parameters, frozen ones too.
        batch_stats: running statistics of batch norms.
        momentum: state of the optimizer, for trained parameters only.
        healthy: False from the first step on whose loss or gradient was not finite;
            no later step changes anything.
        accumulated: sum of gradients since the last update; None if every step
            updates.
        ema: averaged parameters; None without averaging.
    """

    step: Int[Array, '']
    params: Params
    batch_stats: Params
    momentum: optax.OptState
    healthy: Bool[Array, '']
    accumulated: Params | None = None
    ema: Params | None = None

    @property
    def variables(self) -> dict[str, Params]:
        """Variables for `model.apply`, with the parameters as trained."""
        return {'params': self.params, 'batch_stats': self.batch_stats}

    @property
    def evaluated_variables(self) -> dict[str, Params]:
        """Variables for evaluation: with the averaged parameters, if there are any."""
        params = self.params if self.ema is None else self.ema
        return {'params': params, 'batch_stats': self.batch_stats}

    def asdict(self) -> dict[str, Any]:
        """The fields by name, without those that are None in this run."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def is_trained(path: tuple[str, ...], model: nn.Module) -> bool:
    """Whether the parameter at `path` of the detector is trained.

    Frozen are the stem and the first stages of the backbone, by `frozen_stages`, and
    norms whose `norm_cfg` has `requires_grad=False`.
    """
    part, module, parent, leaf = path[0], path[1], path[-2], path[-1]
    if part == 'backbone' and model.backbone.is_frozen(module):
        return False
    is_norm = (
        parent == 'downsample_1'
        or (leaf == 'scale' and not module.startswith('scales_'))
        or (leaf == 'bias' and parent[:2] in ('bn', 'gn'))
    )
    norm_cfg = None if part.startswith('neck') else _norm_cfg(getattr(model, part))
    return not is_norm or norm_cfg is None or norm_cfg['requires_grad']


def _norm_cfg(module):
    """`norm_cfg` of a part of the detector; None: its norms have no settings."""
    return None if isinstance(module, SwinTransformer) else module.norm_cfg


def updates_statistics(model: nn.Module) -> bool:
    """Whether training changes the running statistics of any batch norm."""
    backbone, head = model.backbone, model.bbox_head
    norm_cfg = _norm_cfg(backbone)
    has_statistics = norm_cfg is not None and norm_cfg['type'] != 'GN'
    in_backbone = has_statistics and not backbone.norm_eval
    return in_backbone or head.norm_cfg['type'] != 'GN'


def split(params: Params, model: nn.Module) -> tuple[Params, Params]:
    """Trained and frozen parameters, as two trees."""
    flat = flatten_dict(params)
    trained = {path: x for path, x in flat.items() if is_trained(path, model)}
    frozen = {path: x for path, x in flat.items() if path not in trained}
    return unflatten_dict(trained), unflatten_dict(frozen)


def merge(trained: Params, frozen: Params) -> Params:
    """All parameters as one tree: the inverse of `split`."""
    return unflatten_dict({**flatten_dict(trained), **flatten_dict(frozen)})


def init_variables(model: nn.Module, seed: int) -> dict[str, Params]:
    """Initial parameters and statistics, as mmdet initializes them, in NumPy arrays.

    The same on every machine and device. Compiles nothing.
    """
    variables = {}

    def init(*inputs):
        variables.update(model.init(jax.random.key(0), *inputs))

    with sampled_by(np.random.default_rng(seed)):
        jax.eval_shape(init, *_inputs())
    return variables


def zero_variables(model: nn.Module) -> dict[str, Params]:
    """Zeros in the structure of the model's variables. Compiles nothing."""
    return _zeros_like(jax.eval_shape(model.init, jax.random.key(0), *_inputs()))


def _zeros_like(tree):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


def _inputs():
    return np.zeros((1, 128, 128, 3), np.float32), np.full((1, 2), 128, np.int32)


def create_state(
    variables: dict[str, Params],
    model: nn.Module,
    tx: optax.GradientTransformation,
    accumulates: bool = False,
    averages: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
        variables: parameters and statistics.
        model: the detector.
        tx: the optimizer.
        accumulates: whether several batches make one update.
        averages: whether averaged parameters are kept.
    """
    params = variables['params']
    trained, _ = split(params, model)
    return TrainState(
        step=np.zeros((), np.int32),
        params=params,
        batch_stats=variables.get('batch_stats', {}),
        # Optimizers start from zeros; `tx.init` would compile a program for each shape.
        momentum=_zeros_like(jax.eval_shape(tx.init, trained)),
        healthy=np.array(True),
        accumulated=_zeros_like(trained) if accumulates else None,
        # A copy: a step reuses the memory of each array of its state.
        ema=jax.tree.map(np.array, params) if averages else None,
    )
