"""Initial values of parameters, sampled by JAX, or by NumPy without compiling.

A JAX program that samples every parameter of a detector takes a hundred times as long
to compile as to run. Within `sampled_by`, a NumPy generator samples from the same
distributions instead. It returns NumPy arrays, even while JAX only traces.
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
def sampled_by(generator: np.random.Generator) -> Iterator[None]:
    """Within the context, this generator samples the parameters one after another."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = np.float32):
        """An array of the value; the key is not used."""
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Normal distribution of mean 0 and standard deviation `std`."""

    std: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32):
        """Samples by the key, or by the generator of `sampled_by`."""
        generator = _generator.get()
        if generator is None:
            return _sample_by_key(self, key, tuple(shape), dtype)
        return generator.standard_normal(shape, np.float32) * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform distribution from -limit to limit."""

    limit: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32):
        """Samples by the key, or by the generator of `sampled_by`."""
        generator = _generator.get()
        if generator is None:
            return _sample_by_key(self, key, tuple(shape), dtype)
        return (2 * generator.random(shape, np.float32) - 1) * np.float32(self.limit)


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Distribution of mean 0 and variance scale / fan.

    Attributes:
        scale: numerator of the variance.
        mode: 'fan_in', 'fan_out' or 'fan_avg': input or output channels of a kernel
            times its positions, or the mean of both.
        distribution: 'normal' or 'uniform'.
    """

    scale: float
    mode: str
    distribution: str

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32):
        """Samples by the key, or by the generator of `sampled_by`."""
        generator = _generator.get()
        if generator is None:
            return _sample_by_key(self, key, tuple(shape), dtype)
        positions = np.prod(shape[:-2])
        fans = {'fan_in': shape[-2] * positions, 'fan_out': shape[-1] * positions}
        fans['fan_avg'] = (fans['fan_in'] + fans['fan_out']) / 2
        std = np.float32(np.sqrt(self.scale / fans[self.mode]))
        if self.distribution == 'normal':
            return generator.standard_normal(shape, np.float32) * std
        limit = std * np.float32(np.sqrt(3))
        return (2 * generator.random(shape, np.float32) - 1) * limit


# Flax traces the initializer wherever a parameter is used, to compare shapes. Jitted,
# each one is traced once.
@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _sample_by_key(distribution, key, shape, dtype):
    if isinstance(distribution, Normal):
        return nn.initializers.normal(distribution.std)(key, shape, dtype)
    if isinstance(distribution, Uniform):
        limit = distribution.limit
        return jax.random.uniform(key, shape, dtype, -limit, limit)
    sample = nn.initializers.variance_scaling(*dataclasses.astuple(distribution))
    return sample(key, shape, dtype)


ZEROS, ONES = Constant(0.0), Constant(1.0)
KAIMING = VarianceScaling(2.0, 'fan_out', 'normal')
XAVIER = VarianceScaling(1.0, 'fan_avg', 'uniform')
