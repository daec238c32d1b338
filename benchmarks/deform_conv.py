"""Time and memory of a deformable 3x3 convolution, compared with an ordinary one.

    python benchmarks/deform_conv.py [--repeats 10]

One image, forward and backward (gradients of input, offsets, masks and weights), at the
sizes that the R50 recipe has on a canvas of 800 x 1344. Memory is what XLA plans in
addition to arguments and results.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from atss_jax.models.convolution import convolve
from atss_jax.models.deform_conv import modulated_deform_conv

# Rows, columns, channels: the 3x3 of stages 2 to 4, and of the towers on P3.
SHAPES = ((100, 168, 128), (50, 84, 256), (25, 42, 512), (100, 168, 256))


def arguments(height, width, channels):
    """Features, kernel, offsets of about two cells, and masks."""
    keys = jax.random.split(jax.random.key(0), 4)
    grid = (1, height, width)
    kernel = (3, 3, channels, channels)
    return (
        jax.random.normal(keys[0], (*grid, channels)),
        jax.random.normal(keys[1], kernel) / (9 * channels) ** 0.5,
        jax.random.normal(keys[2], (*grid, 18)) * 2,
        jax.random.uniform(keys[3], (*grid, 9)),
    )


def ordinary(x, kernel, offset, mask):
    """The ordinary convolution, which ignores offsets and masks."""
    return convolve(x, kernel, 1)


def deformable(x, kernel, offset, mask):
    """The deformable convolution, on an image that is valid everywhere."""
    return modulated_deform_conv(x, offset, mask, kernel, jnp.array([x.shape[1:3]]))


def training(layer):
    """The gradients of all inputs of a layer."""

    def total(values):
        return (layer(*values) ** 2).sum()

    return lambda *values: jax.grad(total)(values)


def measure(function, values, repeats):
    """Median milliseconds, and MiB in addition to arguments and results."""
    compiled = jax.jit(function).lower(*values).compile()
    jax.block_until_ready(compiled(*values))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*values))
        times.append(1e3 * (time.perf_counter() - start))
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return statistics.median(times), memory


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=10)
    repeats = parser.parse_args().repeats
    print(jax.devices()[0].device_kind)
    print('| rows x columns x channels | pass | ordinary | deformable | ratio |')
    print('|---|---|---|---|---|')
    for shape in SHAPES:
        values = arguments(*shape)
        size = ' x '.join(map(str, shape))
        for name, change in (('forward', lambda f: f), ('training', training)):
            plain = measure(change(ordinary), values, repeats)
            ours = measure(change(deformable), values, repeats)
            cells = [
                f'{time:.1f} ms, {memory:.0f} MiB' for time, memory in (plain, ours)
            ]
            ratio = f'{ours[0] / plain[0]:.1f}'
            print(
                f'| {size} | {name} | {cells[0]} | {cells[1]} | {ratio} |', flush=True
            )


if __name__ == '__main__':
    main()
