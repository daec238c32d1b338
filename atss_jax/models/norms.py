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

from atss_jax.models.initializers import ONES, ZEROS
from atss_jax.models.region import inside


# JAX's own gradient goes through the variance back to the mean, where nothing comes of
# it, and sums over the map six times instead of two.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def group_norm(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    scale: Float[Array, 'C'],
    bias: Float[Array, 'C'],
    num_groups: int,
    epsilon: float,
) -> Float[Array, 'B H W C']:
    """All cells are normalized, by mean and variance of the valid ones, in float32.

    Args:
        x: features.
        size: valid rows and columns of each image.
        scale: of each channel, behind the normalization.
        bias: of each channel.
        num_groups: groups of channels that share statistics.
        epsilon: added to the variance.
    """
    return _forward(x, size, scale, bias, num_groups, epsilon)[0]


def _forward(x, size, scale, bias, num_groups, epsilon):
    cells, count = _valid(x, size, num_groups)
    valid = jnp.where(cells, x, 0).astype(jnp.float32)
    mean = _over_group(valid.sum((1, 2)), num_groups) / count
    # Not E[x^2] - mean^2, which loses all digits where the mean is large.
    centered = jnp.where(cells, _centered(x, mean), 0)
    var = _over_group((centered * centered).sum((1, 2)), num_groups) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _centered(x, mean) * (scale * inverse)[:, None, None] + bias
    return y.astype(x.dtype), (x, size, scale, mean, inverse)


def _backward(num_groups, epsilon, saved, dy):
    x, size, scale, mean, inverse = saved
    cells, count = _valid(x, size, num_groups)
    wide, centered = dy.astype(jnp.float32), _centered(x, mean)
    total, product = wide.sum((1, 2)), (wide * centered).sum((1, 2))
    factor = scale * inverse
    # What mean and variance, which are of the valid cells, give back to each of these.
    by_mean = _over_group(total * factor, num_groups) / count
    by_var = _over_group(product * factor, num_groups) * inverse**2 / count
    shared = by_mean[:, None, None] + centered * by_var[:, None, None]
    dx = wide * factor[:, None, None] - jnp.where(cells, shared, 0)
    return dx.astype(x.dtype), None, (product * inverse).sum(0), total.sum(0)


group_norm.defvjp(_forward, _backward)
group_norm = jax.jit(group_norm, static_argnums=(4, 5))


def _centered(x, mean):
    return x.astype(jnp.float32) - mean[:, None, None]


def _valid(x, size, num_groups):
    """Cells that count, and how many numbers of each image and group do."""
    height, width, channels = x.shape[1:]
    count = jnp.clip(size, max=jnp.array([height, width])).prod(-1)
    count = (count * (channels // num_groups)).astype(jnp.float32)
    return inside(size, height, width), count[:, None]


def _over_group(x, num_groups):
    """(B,C) sums over the group of each channel."""
    per_group = x.shape[-1] // num_groups
    total = x.reshape(x.shape[0], num_groups, per_group).sum(-1)
    return jnp.repeat(total, per_group, axis=-1)


Affine = tuple[Float[Array, ' D'], Float[Array, ' D']]
"""Factor and summand of each channel."""


class BatchNorm(nn.Module):
    """Batch normalization over valid cells, with PyTorch's running statistics.

    Differs from mmdet: padding never counts; and after a training step on several
    devices the running statistics are the mean over devices, so that all hold the same
    (mmdet saves those of rank 0).

    Attributes:
        features: channels.
        synced: statistics over all devices (SyncBN) rather than one.
        scale_init: initializer of the scale.
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
        """Normalizes by batch statistics if `train`, else by the stored ones."""
        if self.is_initializing():
            return x
        mean, var = self.mean.value, self.var.value
        if train:
            axis_name = BATCH_AXIS if self.synced else None
            mean, var, count = _statistics(x, size, axis_name)
            self._update(mean, var, count)
        return _normalized(x, mean, var, self.scale, self.bias, self.epsilon)

    def _update(self, mean, var, count):
        m = self.momentum
        unbiased = var * count / jnp.maximum(count - 1, 1)
        self.mean.value = (1 - m) * self.mean.value + m * mean
        self.var.value = (1 - m) * self.var.value + m * unbiased
        self.num_batches_tracked.value = self.num_batches_tracked.value + 1

    def affine(self) -> Affine:
        """What normalizing by the stored statistics does to each channel."""
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
def _normalized(x, mean, var, scale, bias, epsilon):
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return ((x - mean) * factor + bias).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalization over the valid cells of each image.

    Attributes:
        num_groups: groups of channels that share statistics.
        scale_init: initializer of the scale.
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
