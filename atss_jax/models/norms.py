"""Norms whose statistics count an image's valid cells only.

Besides the features (B,H,W,C) they take `size` (B,2): the valid rows and columns of
each image at this resolution. LayerNorm, which knows single cells only, does not.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from atss_jax.models import norm_sums_gpu
from atss_jax.models.initializers import ONES, ZEROS
from atss_jax.models.platforms import by_platform
from atss_jax.models.region import inside, zero_outside
from atss_jax.structures import BATCH_AXIS


def make_norm(
    norm_cfg: Mapping[str, Any],
    name: str,
    features: int,
    scale_init: Callable[..., Any] = ONES,
) -> nn.Module:
    """Builds the norm of `features` channels that mmdet's `norm_cfg` names.

    Types: BN, SyncBN, GN.
    """
    if norm_cfg['type'] == 'GN':
        return GroupNorm(norm_cfg['num_groups'], scale_init, name=name)
    synced = norm_cfg['type'] == 'SyncBN'
    return BatchNorm(features, synced, scale_init, name=name)


def norm_prefix(norm_cfg: Mapping[str, Any]) -> str:
    """Prefix of this norm's parameter names in mmdet: 'bn' or 'gn'."""
    return 'gn' if norm_cfg['type'] == 'GN' else 'bn'


# Batch norm --------------------------------------------------------------------------


class BatchNorm(nn.Module):
    """Batch normalization over valid cells, with PyTorch's running statistics.

    Differs from mmdet: padding never counts; and after a training step on several
    devices the running statistics are the mean over devices, so that all have the same
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
        """Creates the parameters and statistics, which several methods read."""
        channels = (self.features,)
        self.scale = self.param('scale', self.scale_init, channels)
        self.bias = self.param('bias', ZEROS, channels)
        self.mean = self.variable('batch_stats', 'mean', ZEROS, None, channels)
        self.var = self.variable('batch_stats', 'var', ONES, None, channels)
        # Not read here; kept because PyTorch's checkpoints contain it.
        self.num_batches_tracked = self.variable(
            'batch_stats', 'num_batches_tracked', ZEROS, None, (), np.int32
        )

    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], train: bool
    ) -> Float[Array, 'B H W C']:
        """Normalizes by batch statistics if `train`, else by the stored ones."""
        if not train:
            return normalize(x, *self.stored())
        axis_name = BATCH_AXIS if self.synced else None
        mean, var, count = _statistics(x, size, axis_name)
        self._update(mean, var, count)
        return normalize(x, mean, self._factor(var), self.bias)

    def stored(self) -> tuple[Array, Array, Array]:
        """Mean, factor and bias of each channel, as `normalize` takes them."""
        return (
            jnp.asarray(self.mean.value),
            self._factor(self.var.value),
            jnp.asarray(self.bias),
        )

    def _factor(self, var):
        return self.scale * jax.lax.rsqrt(var + self.epsilon)

    def _update(self, mean, var, count):
        m = self.momentum
        unbiased = var * count / jnp.maximum(count - 1, 1)
        self.mean.value = (1 - m) * self.mean.value + m * mean
        self.var.value = (1 - m) * self.var.value + m * unbiased
        self.num_batches_tracked.value = self.num_batches_tracked.value + 1


# Jitted functions are traced once for all layers of the same shapes.
@functools.partial(jax.jit, static_argnames='axis_name')
def _statistics(x, size, axis_name):
    """Mean, biased variance and count of valid cells, in float32."""
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


@jax.jit
def normalize(
    x: Float[Array, 'B H W C'],
    mean: Float[Array, ' C'],
    factor: Float[Array, ' C'],
    bias: Float[Array, ' C'],
) -> Float[Array, 'B H W C']:
    """Returns `(x - mean) * factor + bias`: computed in float32, in the type of `x`."""
    return ((x - mean) * factor + bias).astype(x.dtype)


# Group norm --------------------------------------------------------------------------


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
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        train: bool = False,
        with_relu: bool = False,
    ) -> Float[Array, 'B H W C']:
        """The same in training and evaluation; statistics in float32.

        `with_relu`: a ReLU follows, and cells outside are zeros.
        """
        scale = self.param('scale', self.scale_init, x.shape[-1:])
        bias = self.param('bias', ZEROS, x.shape[-1:])
        return group_norm(
            x, size, scale, bias, self.num_groups, self.epsilon, with_relu
        )


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def group_norm(
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    scale: Float[Array, 'C'],
    bias: Float[Array, 'C'],
    num_groups: int,
    epsilon: float,
    with_relu: bool = False,
) -> Float[Array, 'B H W C']:
    """Normalizes all cells, by mean and variance of the valid ones, in float32.

    Args:
        x: features.
        size: valid rows and columns of each image.
        scale: factor of each channel after the normalization.
        bias: added to each channel then.
        num_groups: groups of channels that share statistics.
        epsilon: added to the variance.
        with_relu: a ReLU follows, and cells outside are zeros. One function with the
            norm, since their gradients read the same maps.
    """
    return _group_norm(x, size, scale, bias, num_groups, epsilon, with_relu)


# JAX's own gradient goes through the variance back to the mean, which contributes
# nothing, and sums over the map six times instead of two.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _group_norm(x, size, scale, bias, num_groups, epsilon, with_relu):
    y, _ = _forward(
        x, size, scale, bias, num_groups, epsilon, with_relu, moments_at_once
    )
    return y


def _forward_for_gradient(x, size, scale, bias, num_groups, epsilon, with_relu):
    # Not without a gradient: exported detectors contain what XLA knows, and no more.
    on_gpu = _moments_on_gpu if norm_sums_gpu.suits(x) else moments_at_once
    return _forward(x, size, scale, bias, num_groups, epsilon, with_relu, on_gpu)


def _forward(x, size, scale, bias, num_groups, epsilon, with_relu, on_gpu):
    mean, var = by_platform(
        x,
        size,
        cpu=functools.partial(_moments, num_groups=num_groups),
        accelerator=functools.partial(moments_at_once, num_groups=num_groups),
        gpu=functools.partial(on_gpu, num_groups=num_groups),
    )
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _normalized(_centered(x, mean), scale * inverse, bias)
    if with_relu:
        # On TPUs the next convolution writes the zeros again: with both XLA plans the
        # least traffic. On a v5e training with 2 images moves 6.2 GB so, and 7.6 with
        # those of the convolution alone; detection of 8 moves 8.7, and 9.0 with these.
        y = zero_outside(jnp.maximum(y, 0), size)
    y = y.astype(x.dtype)
    return y, (x, y if with_relu else None, size, scale, bias, mean, inverse)


def _normalized(centered, factor, bias):
    return centered * factor[:, None, None] + bias


def _moments(x, size, num_groups):
    """(2,B,C) mean and biased variance of the group of each channel, in float32."""
    valid, count = _valid(x, size, num_groups)
    values = jnp.where(valid, x, 0).astype(jnp.float32)
    mean = _over_group(values.sum((1, 2)), num_groups) / count
    # Not E[x^2] - mean^2, which loses all digits where the mean is large.
    centered = jnp.where(valid, _centered(x, mean), 0)
    var = _over_group((centered * centered).sum((1, 2)), num_groups) / count
    return jnp.stack([mean, var])


def moments_at_once(
    x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], num_groups: int
) -> Float[Array, '2 B C']:
    """`_moments`; of bfloat16 by one pass, together with the convolution before it.

    E[x^2] - mean^2 in float32 loses digits, but fewer than `x` has lost already: with a
    mean of m times the deviation the variance is wrong by about m^2 / 2^24 of itself,
    and by m^2 / 2^18 from the rounding of `x`.
    """
    if x.dtype != jnp.bfloat16:
        return _moments(x, size, num_groups)
    valid, count = _valid(x, size, num_groups)
    values = jnp.where(valid, x, 0).astype(jnp.float32)
    totals = values.sum((1, 2)), (values * values).sum((1, 2))
    return _moments_by_sums(*totals, count, num_groups)


def _moments_by_sums(total, squares, count, num_groups):
    mean = _over_group(total, num_groups) / count
    square = _over_group(squares, num_groups) / count
    return jnp.stack([mean, jnp.maximum(square - mean * mean, 0)])


def _moments_on_gpu(x, size, num_groups):
    """`moments_at_once` of what `norm_sums_gpu` suits."""
    _, count = _valid(x, size, num_groups)
    return _moments_by_sums(*norm_sums_gpu.sums(x, size), count, num_groups)


def _backward(num_groups, epsilon, with_relu, saved, dy):
    x, y, size, scale, bias, mean, inverse = saved
    valid, count = _valid(x, size, num_groups)
    factor = scale * inverse
    if with_relu:
        dy, sums = _through_relu(dy, x, y, size, mean, factor, bias)
    else:
        sums = _gradient_sums(dy, x, mean)
    total, product = sums
    # The gradients of mean and variance, shared by the valid cells.
    by_mean = _over_group(total * factor, num_groups) / count
    by_var = _over_group(product * factor, num_groups) * inverse**2 / count
    shared = by_mean[:, None, None] + _centered(x, mean) * by_var[:, None, None]
    dx = dy.astype(jnp.float32) * factor[:, None, None] - jnp.where(valid, shared, 0)
    return dx.astype(x.dtype), None, (product * inverse).sum(0), total.sum(0)


_group_norm.defvjp(_forward_for_gradient, _backward)


def _through_relu(*operands):
    """The gradient before the ReLU, and its `_gradient_sums`.

    Whether a cell was positive is said by the output, which is kept anyway as the next
    convolution reads it. A GPU finds it faster from the features, which it reads too.
    """
    ways = {'cpu': _by_output, 'accelerator': _by_output, 'gpu': _by_input}
    gradient = by_platform(*operands, **ways)
    _, x, _, _, mean, _, _ = operands
    if not norm_sums_gpu.suits(x):
        return gradient, _gradient_sums(gradient, x, mean)
    ways = {'cpu': _sums_by_output, 'accelerator': _sums_by_output}
    return gradient, by_platform(*operands, **ways, gpu=_sums_on_gpu)


def _by_output(dy, x, y, size, mean, factor, bias):
    # XLA would turn y > 0 into a comparison of what is before, and keep that as well.
    return jnp.where(y != 0, dy, 0)


def _by_input(dy, x, y, size, mean, factor, bias):
    is_positive = _normalized(_centered(x, mean), factor, bias) > 0
    return jnp.where(is_positive & inside(size, *x.shape[1:3]), dy, 0)


def _sums_by_output(dy, x, y, size, mean, factor, bias):
    return _gradient_sums(_by_output(dy, x, y, size, mean, factor, bias), x, mean)


def _sums_on_gpu(dy, x, y, size, mean, factor, bias):
    return norm_sums_gpu.gradient_sums(dy, x, size, mean, factor, bias)


def _gradient_sums(dy, x, mean):
    """(2,B,C) sum of the gradient of the norm, and of its product with the features."""
    dy = dy.astype(jnp.float32)
    return jnp.stack([dy.sum((1, 2)), (dy * _centered(x, mean)).sum((1, 2))])


def _centered(x, mean):
    return x.astype(jnp.float32) - mean[:, None, None]


def _valid(x, size, num_groups):
    """Validity mask of the cells; count of valid numbers in a group of each image."""
    height, width, channels = x.shape[1:]
    count = jnp.clip(size, max=jnp.array([height, width])).prod(-1)
    count = (count * (channels // num_groups)).astype(jnp.float32)
    return inside(size, height, width), count[:, None]


def _over_group(x, num_groups):
    """(B,C) sums over the group of each channel."""
    per_group = x.shape[-1] // num_groups
    total = x.reshape(x.shape[0], num_groups, per_group).sum(-1)
    return jnp.repeat(total, per_group, axis=-1)


# Layer norm --------------------------------------------------------------------------


class LayerNorm(nn.Module):
    """Normalization over the channels of each cell; padding has no influence on it.

    Attributes:
        epsilon: added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, '*n C']) -> Float[Array, '*n C']:
        """Statistics in float32; the result has the type of `x`."""
        scale = self.param('scale', ONES, x.shape[-1:])
        bias = self.param('bias', ZEROS, x.shape[-1:])
        return layer_norm(x, jnp.asarray(scale), jnp.asarray(bias), self.epsilon)


# JAX's own gradient would keep several arrays of the size of `x`, in float32.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, '*n C'],
    scale: Float[Array, ' C'],
    bias: Float[Array, ' C'],
    epsilon: float,
) -> Float[Array, '*n C']:
    """Brings the channels of each cell to mean 0 and variance 1, then scales them."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centered = wide - mean
    inverse = jax.lax.rsqrt((centered * centered).mean(-1, keepdims=True) + epsilon)
    y = centered * inverse * scale + bias
    return y.astype(x.dtype), (x, scale, mean, inverse)


def _layer_norm_backward(epsilon, saved, dy):
    x, scale, mean, inverse = saved
    dy = dy.astype(jnp.float32)
    normalized = (x.astype(jnp.float32) - mean) * inverse
    scaled = dy * scale
    by_mean = scaled.mean(-1, keepdims=True)
    by_variance = (scaled * normalized).mean(-1, keepdims=True)
    dx = inverse * (scaled - by_mean - normalized * by_variance)
    cells = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (dy * normalized).sum(cells), dy.sum(cells)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)
