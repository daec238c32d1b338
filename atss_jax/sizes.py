"""How many cells an image has at a stride."""

import jax.numpy as jnp
from jaxtyping import Array, Int


def ceil_divide(size: Int[Array, '*n'], divisor: int) -> Int[Array, '*n']:
    """Rounds up. Sizes are not negative.

    XLA repeats the division in every kernel that masks by its result. Of unsigned
    numbers it is one shift; of signed ones, rounded down, it is ten operations.
    """
    size = jnp.asarray(size)
    cells = (size.astype(jnp.uint32) + (divisor - 1)) // divisor
    return cells.astype(size.dtype)


def round_up(size: Int[Array, '*n'], divisor: int) -> Int[Array, '*n']:
    """To a multiple. Sizes are not negative."""
    return ceil_divide(size, divisor) * divisor
