"""Group normalisation over the valid cells of each image, with its gradient."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    """All cells are normalised, by mean and variance of the valid ones, in float32.

    Args:
        x: features.
        size: valid rows and columns of each image.
        scale: of each channel, behind the normalisation.
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
    centred = jnp.where(cells, _centred(x, mean), 0)
    var = _over_group((centred * centred).sum((1, 2)), num_groups) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    y = _centred(x, mean) * (scale * inverse)[:, None, None] + bias
    return y.astype(x.dtype), (x, size, scale, mean, inverse)


def _backward(num_groups, epsilon, saved, dy):
    x, size, scale, mean, inverse = saved
    cells, count = _valid(x, size, num_groups)
    wide, centred = dy.astype(jnp.float32), _centred(x, mean)
    total, product = wide.sum((1, 2)), (wide * centred).sum((1, 2))
    factor = scale * inverse
    # What mean and variance, which are of the valid cells, give back to each of these.
    by_mean = _over_group(total * factor, num_groups) / count
    by_var = _over_group(product * factor, num_groups) * inverse**2 / count
    shared = by_mean[:, None, None] + centred * by_var[:, None, None]
    dx = wide * factor[:, None, None] - jnp.where(cells, shared, 0)
    return dx.astype(x.dtype), None, (product * inverse).sum(0), total.sum(0)


group_norm.defvjp(_forward, _backward)
group_norm = jax.jit(group_norm, static_argnums=(4, 5))


def _centred(x, mean):
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
