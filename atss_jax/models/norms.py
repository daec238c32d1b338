"""Norms over an image's valid region only.

They take, beside the features (B,H,W,C), `size` (B,2): the valid rows and columns of
each image at this resolution. Cells outside are left out of all statistics.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atss_jax.models.group_norm import group_norm
from atss_jax.models.initializers import ONES, ZEROS
from atss_jax.models.region import inside

Affine = tuple[Float[Array, ' D'], Float[Array, ' D']]
"""Factor and summand of each channel."""

BATCH_AXIS = 'batch'
"""Name of the mapped device axis; SyncBN reduces over it."""


class BatchNorm(nn.Module):
    """Batch normalisation over valid cells, with PyTorch's running statistics.

    Differs from mmdet: padding never counts; and after a training step on several
    devices the running statistics are the mean over devices, so that all hold the same
    (mmdet saves those of rank 0).

    Attributes:
        features: channels.
        synced: statistics over all devices (SyncBN) rather than one.
        scale_init: initialiser of the scale.
        momentum: share of the new statistics in the running ones.
        epsilon: added to the variance.
    """

    features: int
    synced: bool = False
    scale_init: Callable[..., Any] = ONES
    momentum: float = 0.1
    epsilon: float = 1e-5

    def setup(self) -> None:
        """Several methods read these."""
        channels = (self.features,)
        self.scale = self.param('scale', self.scale_init, channels)
        self.bias = self.param('bias', ZEROS, channels)
        self.mean = self.variable('batch_stats', 'mean', ZEROS, None, channels)
        self.var = self.variable('batch_stats', 'var', ONES, None, channels)
        # Read by nothing here; kept because PyTorch's checkpoints carry it.
        self.num_batches_tracked = self.variable(
            'batch_stats', 'num_batches_tracked', ZEROS, None, (), np.int32
        )

    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool
    ) -> Float[Array, 'B H W C']:
        """Normalises by batch statistics if `train`, else by the stored ones."""
        if self.is_initializing():
            return x
        mean, var = self.mean.value, self.var.value
        if train:
            axis_name = BATCH_AXIS if self.synced else None
            mean, var, count = _statistics(x, size, axis_name)
            self._update(mean, var, count)
        return _normalised(x, mean, var, self.scale, self.bias, self.epsilon)

    def _update(self, mean, var, count):
        m = self.momentum
        unbiased = var * count / jnp.maximum(count - 1, 1)
        self.mean.value = (1 - m) * self.mean.value + m * mean
        self.var.value = (1 - m) * self.var.value + m * unbiased
        self.num_batches_tracked.value = self.num_batches_tracked.value + 1

    def affine(self) -> Affine:
        """What normalising by the stored statistics does to each channel."""
        factor = self.scale * jax.lax.rsqrt(self.var.value + self.epsilon)
        return factor, self.bias - self.mean.value * factor


@functools.partial(jax.jit, static_argnames='axis_name')
def _statistics(x, size, axis_name):
    """Mean, biased variance and count over valid cells, in float32."""
    valid = inside(size, *x.shape[1:3])
    x = jnp.where(valid, x, 0).astype(jnp.float32)
    total, count = jnp.sum(x, (0, 1, 2)), jnp.sum(valid).astype(jnp.float32)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    mean = total / count
    squares = jnp.sum(jnp.where(valid, x - mean, 0) ** 2, (0, 1, 2))
    if axis_name is not None:
        squares = jax.lax.psum(squares, axis_name)
    return mean, squares / count, count


@functools.partial(jax.jit, static_argnames='epsilon')
def _normalised(x, mean, var, scale, bias, epsilon):
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return ((x - mean) * factor + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation over the valid cells of each image.

    Attributes:
        num_groups: groups of channels that share statistics.
        scale_init: initialiser of the scale.
        epsilon: added to the variance.
    """

    num_groups: int = 32
    scale_init: Callable[..., Any] = ONES
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool = False
    ) -> Float[Array, 'B H W C']:
        """The same in training and evaluation; statistics in float32."""
        scale = self.param('scale', self.scale_init, x.shape[-1:])
        bias = self.param('bias', ZEROS, x.shape[-1:])
        if self.is_initializing():
            return x
        return group_norm(x, size, scale, bias, self.num_groups, self.epsilon)


def norm_prefix(norm_cfg: Mapping[str, Any]) -> str:
    """How mmdet names this norm's parameters: 'bn' or 'gn'."""
    return 'gn' if norm_cfg['type'] == 'GN' else 'bn'


def make_norm(
    norm_cfg: Mapping[str, Any],
    name: str,
    features: int,
    scale_init: Callable[..., Any] = ONES,
) -> nn.Module:
    """Builds the norm of so many channels that an mmdet `norm_cfg` names.

    Types: BN, SyncBN, GN.
    """
    if norm_cfg['type'] == 'GN':
        return GroupNorm(norm_cfg['num_groups'], scale_init, name=name)
    synced = norm_cfg['type'] == 'SyncBN'
    return BatchNorm(features, synced, scale_init, name=name)
