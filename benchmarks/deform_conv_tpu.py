"""What the TPU compiler says of a deformable 3x3 convolution, by two algorithms.

    python benchmarks/deform_conv_tpu.py [--topology=v5e:1x1]

Needs no TPU, but `pip install 'atss-jax[tpu]'`. Eight images in bfloat16, forward and
backward (gradients of input, offsets, masks and kernel), at the sizes that the R50 has
on a canvas of 800 x 1344: for the algorithm that programs for TPUs contain, and for the
gathers of all images at once that those for GPUs contain. Gathers and scatters
themselves are not in the estimated cycles, of which the compiler has none for them.
"""

import argparse
import time
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from atss_jax.compilation import hlo
from atss_jax.compilation.topology import mesh_of, read_topology
from atss_jax.compilation.traffic import traffic
from atss_jax.models import deform_conv, deform_conv_tpu

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


def compile_for(topology, values):
    """GB of HBM traffic, ms of estimated cycles, MiB of HBM, CPU seconds."""
    sharding = NamedSharding(mesh_of(topology), PartitionSpec())
    values = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in values]
    jax.clear_caches()
    start = time.process_time()
    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3))).trace(*values)
    compiled = traced.lower(lowering_platforms=('tpu',)).compile()
    seconds = time.process_time() - start
    moved = traffic(hlo.parse(compiled.as_text()))
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return moved.size / 1e9, 1e3 * moved.cycles / topology.chip.clock, memory, seconds


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--topology', default='v5e:1x1')
    try:
        topology = read_topology(parser.parse_args().topology)
    except ValueError as error:
        parser.error(str(error))
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_compilation_cache', False)
    print(
        '| rows x columns x channels | algorithm | HBM traffic | estimated cycles |',
        end='',
    )
    print(' temporary HBM | compiled in |\n|---|---|---|---|---|---|')
    for shape in SHAPES:
        size = ' x '.join(map(str, shape))
        for name, function in (
            ('gathers', deform_conv.sum_of_taps),
            ('ours for TPUs', deform_conv_tpu.sum_of_taps),
        ):
            with mock.patch.object(deform_conv_tpu, 'sum_of_taps', function):
                numbers = compile_for(topology, arguments(*shape))
            cells = '{:.2f} GB | {:.1f} ms | {:.0f} MiB | {:.0f} s'.format(*numbers)
            print(f'| {size} | {name} | {cells} |', flush=True)


if __name__ == '__main__':
    main()
