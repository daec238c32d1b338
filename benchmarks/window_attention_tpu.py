"""What the TPU compiler says of a block of Swin-L, by two algorithms of attention.

    python benchmarks/window_attention_tpu.py [--topology=v5e:1x1]

Needs no TPU, but `pip install 'atss-jax[tpu]'`. A block with shifted windows of 12 x 12
cells of each stage, its FFN included, forward and backward (gradients of input and
parameters): one image of 1280 x 2048 in bfloat16. With the algorithm that programs for
TPUs contain, and with that of all windows at once that other programs contain.
"""

import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed

from atss_jax.models import window_attention, window_attention_tpu  # noqa: E402
from atss_jax.models.swin import SwinBlock  # noqa: E402
from benchmarks.tpu_part import HEADING, parsed_topology, row_of  # noqa: E402

# Rows, columns, channels, heads.
STAGES = (
    (320, 512, 192, 6),
    (160, 256, 384, 12),
    (80, 128, 768, 24),
    (40, 64, 1536, 48),
)
WINDOW = 12


def block_of(channels, heads):
    """A block, and shapes and types of its parameters."""
    fields = {'channels': channels, 'num_heads': heads, 'window_size': WINDOW}
    block = SwinBlock({**fields, 'shift': WINDOW // 2}, 4 * channels)
    x, size = jnp.zeros((1, WINDOW, WINDOW, channels)), jnp.full((1, 2), WINDOW)
    return block, jax.eval_shape(block.init, jax.random.key(0), x, size)


def main():
    """Prints a table."""
    topology = parsed_topology(__doc__)
    print(f'| rows x columns x channels | {HEADING}')
    for height, width, channels, heads in STAGES:
        block, parameters = block_of(channels, heads)
        x = jax.ShapeDtypeStruct((1, height, width, channels), 'bfloat16')
        size = jax.ShapeDtypeStruct((1, 2), 'int32')

        def total(parameters, x, size, block=block):
            return (block.apply(parameters, x, size).astype(jnp.float32) ** 2).sum()

        for name, function in (
            ('all windows at once', window_attention.attend),
            ('ours for TPUs', window_attention_tpu.attend),
        ):
            # Without its own `jax.checkpoint`, XLA computes nothing of it again.
            with mock.patch.object(window_attention_tpu, 'attend', function):
                gradient = jax.grad(total, argnums=(0, 1))
                row = row_of(topology, gradient, (parameters, x, size))
            print(f'| {height} x {width} x {channels} | {name} | {row}', flush=True)


if __name__ == '__main__':
    main()
