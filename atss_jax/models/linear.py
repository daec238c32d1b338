"""What a transformer's block is made of: linear layers, GELU, dropout of two kinds."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from atss_jax.models.initializers import ZEROS, Normal


class Linear(nn.Module):
    """Matrix product over the channels, then a bias.

    Attributes:
        features: output channels.
        use_bias: adds a bias.
        kernel_init: initializer of the (in,out) kernel.
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., Any] = Normal(0.02)

    def __call__(self, x: Float[Array, '*n C']) -> Float[Array, '*n D']:
        """Computes in the type of `x`; the parameters stay float32."""
        kernel, bias = self.weights(x.shape[-1])
        return add_bias(x @ kernel.astype(x.dtype), bias)

    @nn.compact
    def weights(self, channels: int) -> tuple[Array, Array | None]:
        """Kernel (channels,features) and bias, in float32."""
        shape = channels, self.features
        kernel = jnp.asarray(self.param('kernel', self.kernel_init, shape))
        if not self.use_bias:
            return kernel, None
        return kernel, jnp.asarray(self.param('bias', ZEROS, (self.features,)))


def add_bias(x: Float[Array, '*n D'], bias: Float[Array, ' D'] | None) -> Array:
    """Adds in float32, since the gradient of the bias is a sum over all cells."""
    return x if bias is None else (x + bias).astype(x.dtype)


@jax.custom_vjp
def gelu(x: Float[Array, '*n']) -> Float[Array, '*n']:
    """x times the normal distribution function of x, exact, computed in float32.

    The gradient is computed from `x`, the only array that is kept for it.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, dy):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * jnp.pi) ** -0.5
    return ((dy * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_cdf(x):
    return 0.5 * (1 + jax.lax.erf(x * 2**-0.5))


# Dropout -----------------------------------------------------------------------------
#
# Every image has a key of its own, so that what is dropped depends on neither its batch
# mates nor the number of devices. Without keys nothing is dropped.


def fold(keys: Key[Array, ' B'] | None, number: int) -> Key[Array, ' B'] | None:
    """Keys for one of several uses, by its number."""
    if keys is None:
        return None
    return jax.vmap(functools.partial(jax.random.fold_in, data=number))(keys)


def drop_path(
    x: Float[Array, 'B *n'], rate: float, keys: Key[Array, ' B'] | None
) -> Float[Array, 'B *n']:
    """Zeros in place of a whole image at the given rate; the others are scaled up.

    Source: arXiv 1603.09382; mmcv `cnn/bricks/drop.py`.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(functools.partial(jax.random.bernoulli, p=1 - rate))(keys)
    factor = (kept / (1 - rate)).astype(x.dtype)
    return x * factor.reshape(-1, *[1] * (x.ndim - 1))


def dropout(
    x: Float[Array, 'B H *n'], rate: float, keys: Key[Array, ' B'] | None
) -> Float[Array, 'B H *n']:
    """Zeros in place of numbers at the given rate; the others are scaled up.

    Each of the H rows has a key, so that a larger canvas drops the same cells.
    """
    if keys is None or rate == 0:
        return x

    def of_row(key, row, x):
        kept = jax.random.bernoulli(jax.random.fold_in(key, row), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)

    of_image = jax.vmap(of_row, (None, 0, 0))
    rows = jnp.arange(x.shape[1])
    return jax.vmap(of_image, (0, None, 0))(keys, rows, x)
