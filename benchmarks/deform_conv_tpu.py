"""What the TPU compiler says of a deformable 3x3 convolution, by two algorithms.

    python benchmarks/deform_conv_tpu.py [--topology=v5e:1x1]

Needs no TPU, but `pip install 'atss-jax[tpu]'`. Eight images in bfloat16, forward and
backward (gradients of input, offsets, masks and kernel), at the sizes that the R50 has
on a canvas of 800 x 1344: for the algorithm that programs for TPUs contain, and for the
gathers of all images at once that those for GPUs contain. Gathers and scatters
themselves are not in the estimated cycles, of which the compiler has none for them.
"""

import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed

from atss_jax.models import deform_conv, deform_conv_tpu  # noqa: E402
from benchmarks.tpu_part import HEADING, parsed_topology, row_of  # noqa: E402

# Rows, columns, channels: the 3x3 of stages 2 to 4, and of DyHead on P3.
SHAPES = ((100, 168, 128), (50, 84, 256), (25, 42, 512), (100, 168, 256))
IMAGES = 8


def arguments(height, width, channels):
    """Shapes and types of features, offsets, masks, kernel and valid sizes."""
    grid = (IMAGES, height, width)
    return (
        jax.ShapeDtypeStruct((*grid, channels), 'bfloat16'),
        jax.ShapeDtypeStruct((*grid, 18), 'float32'),
        jax.ShapeDtypeStruct((*grid, 9), 'float32'),
        jax.ShapeDtypeStruct((3, 3, channels, channels), 'float32'),
        jax.ShapeDtypeStruct((IMAGES, 2), 'int32'),
    )


def total(*values):
    """A sum of squares, which has a gradient everywhere."""
    y = deform_conv.modulated_deform_conv(*values)
    return (y.astype(jnp.float32) ** 2).sum()


def main():
    """Prints a table."""
    topology = parsed_topology(__doc__)
    print(f'| rows x columns x channels | {HEADING}')
    for shape in SHAPES:
        size = ' x '.join(map(str, shape))
        for name, function in (
            ('gathers', deform_conv.sum_of_taps),
            ('ours for TPUs', deform_conv_tpu.sum_of_taps),
        ):
            with mock.patch.object(deform_conv_tpu, 'sum_of_taps', function):
                gradient = jax.grad(total, argnums=(0, 1, 2, 3))
                row = row_of(topology, gradient, arguments(*shape))
            print(f'| {size} | {name} | {row}', flush=True)


if __name__ == '__main__':
    main()
