"""Operations on each number of a map, with the gradients that need least memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def relu(x: Float[Array, '*n']) -> Float[Array, '*n']:
    """max(x, 0); the gradient at 0 is 0.

    The output says where the gradient passes, so that the input need not be kept; and a
    GPU computes the output with the convolution before it.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, dy):
    # XLA would make x > 0 of y > 0, and keep the input after all.
    return (jnp.where(y != 0, dy, 0),)


relu.defvjp(_relu_forward, _relu_backward)


@jax.custom_vjp
def add_to_channels(
    x: Float[Array, 'B H W C'], summand: Float[Array, ' C']
) -> Float[Array, 'B H W C']:
    """Adds in the type of `x`; the gradient of the summand is summed in float32.

    In bfloat16 such a sum over all cells would lose most of them.
    """
    return x + summand.astype(x.dtype)


def _add_forward(x, summand):
    return add_to_channels(x, summand), None


def _add_backward(_, dy):
    return dy, dy.astype(jnp.float32).sum((0, 1, 2))


add_to_channels.defvjp(_add_forward, _add_backward)
