"""How parameters start; drawn by NumPy on request, which compiles nothing.

A program of JAX that draws every parameter of a detector takes longer to compile than
its drawing takes by a hundred times. Within `drawn_by` the same distributions come from
a NumPy generator instead, as NumPy arrays, even where JAX only traces.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_generator: contextvars.ContextVar[np.random.Generator | None] = contextvars.ContextVar(
    'generator', default=None
)


@contextlib.contextmanager
def drawn_by(generator: np.random.Generator) -> Iterator[None]:
    """Within, parameters come from this generator, one after the other."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


@dataclasses.dataclass(frozen=True)
class Constant:
    """All equal."""

    value: float

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = np.float32):
        """The key is not looked at."""
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Of mean 0 and this standard deviation."""

    std: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32):
        """By the key, or the generator of `drawn_by`."""
        generator = _generator.get()
        if generator is None:
            return _by_key(self, key, tuple(shape), dtype)
        return generator.standard_normal(shape, np.float32) * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Of mean 0 and variance scale / fan.

    Attributes:
        scale: numerator.
        mode: 'fan_in', 'fan_out' or 'fan_avg': inputs or outputs of a kernel, times its
            positions, or the mean of both.
        distribution: 'normal' or 'uniform'.
    """

    scale: float
    mode: str
    distribution: str

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32):
        """By the key, or the generator of `drawn_by`."""
        generator = _generator.get()
        if generator is None:
            return _by_key(self, key, tuple(shape), dtype)
        positions = np.prod(shape[:-2])
        fans = {'fan_in': shape[-2] * positions, 'fan_out': shape[-1] * positions}
        fans['fan_avg'] = (fans['fan_in'] + fans['fan_out']) / 2
        std = np.float32(np.sqrt(self.scale / fans[self.mode]))
        if self.distribution == 'normal':
            return generator.standard_normal(shape, np.float32) * std
        limit = std * np.float32(np.sqrt(3))
        return (2 * generator.random(shape, np.float32) - 1) * limit


# Flax traces the drawing wherever a parameter is used, to compare shapes: each one is
# traced once, so.
@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _by_key(how, key, shape, dtype):
    if isinstance(how, Normal):
        return nn.initializers.normal(how.std)(key, shape, dtype)
    draw = nn.initializers.variance_scaling(*dataclasses.astuple(how))
    return draw(key, shape, dtype)


ZEROS, ONES = Constant(0.0), Constant(1.0)
KAIMING = VarianceScaling(2.0, 'fan_out', 'normal')
XAVIER = VarianceScaling(1.0, 'fan_avg', 'uniform')
