"""Sums over the cells of a map on a GPU, for the statistics and gradients of norms.

Written for Triton, which needs a GPU of NVIDIA's Ampere or later, as bfloat16 does. XLA
adds up columns in blocks of 1,024 threads, whose registers fill a multiprocessor. A map
of 16 x 100 x 168 x 256 numbers in bfloat16 on one H200: 51 instead of 90 microseconds
for the sums of a norm, 92 instead of 165 for those of its gradient
(benchmarks/RESULTS.md).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_CELLS = 128  # cells that one program adds up
_ROWS, _GRADIENT_ROWS = 32, 16  # of which it reads so many at once
_WARPS = 4
_CHANNELS = 16, 1024  # least and largest number


def suits(x: Float[Array, 'B H W C']) -> bool:
    """Whether the functions of this file can read a map.

    Triton's blocks have powers of 2 as sides. In float32 the sums are taken by XLA,
    which looks at the mean first.
    """
    channels, (least, largest) = x.shape[-1], _CHANNELS
    is_power_of_2 = channels & (channels - 1) == 0
    is_static = all(isinstance(side, int) for side in x.shape)
    return (
        x.dtype == jnp.bfloat16
        and is_static
        and is_power_of_2
        and least <= channels <= largest
    )


def sums(
    x: Float[Array, 'B H W C'], size: Int[Array, 'B 2'], interpret: bool = False
) -> Float[Array, '2 B C']:
    """Sum, and sum of squares, over the valid cells of each image, in float32.

    Args:
        x: features that `suits`.
        size: their valid rows and columns.
        interpret: runs on any platform, slowly; for tests.
    """

    def terms(image, load):
        values = load(0)
        return values, values * values

    return _sum_terms(terms, [x], [], size, _ROWS, interpret)


def gradient_sums(
    dy: Float[Array, 'B H W C'],
    x: Float[Array, 'B H W C'],
    size: Int[Array, 'B 2'],
    mean: Float[Array, 'B C'],
    factor: Float[Array, 'B C'],
    bias: Float[Array, ' C'],
    interpret: bool = False,
) -> Float[Array, '2 B C']:
    """Sum of the gradient, and of its product with the centered features, per image.

    The gradient is that of `max((x - mean) * factor + bias, 0)`: it counts where this
    is positive, in valid cells.

    Args:
        dy: gradient of the output.
        x: features that `suits`.
        size: their valid rows and columns.
        mean: subtracted from each channel.
        factor: of each channel after that.
        bias: added to each channel then.
        interpret: as for `sums`.
    """

    def terms(image, load):
        mean, factor, bias = image
        centered = load(1) - mean
        gradient = jnp.where(centered * factor + bias > 0, load(0), 0)
        return gradient, gradient * centered

    bias = jnp.broadcast_to(bias, mean.shape)
    vectors = [mean, factor, bias]
    return _sum_terms(terms, [dy, x], vectors, size, _GRADIENT_ROWS, interpret)


def _sum_terms(terms, maps, vectors, size, rows, interpret):
    """Sums of two terms over the valid cells.

    `terms` takes the `vectors` of an image and a function that loads some rows of a map
    by its index, in float32 and with zeros in cells that are not valid.
    """
    # Here, since importing it takes half a second, which no other platform needs.
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    batch, height, width, channels = maps[0].shape
    programs = pl.cdiv(height * width, _CELLS)

    def kernel(size_ref, *refs):
        *map_refs, result = refs[len(vectors) :]
        index, part = pl.program_id(0), pl.program_id(1)
        image = [ref[index, :][None] for ref in refs[: len(vectors)]]
        valid_rows, valid_columns = size_ref[index, 0], size_ref[index, 1]

        def add(step, totals):
            first = part * _CELLS + step * rows
            cell = first + jnp.arange(rows)
            is_valid = (cell // width < valid_rows) & (cell % width < valid_columns)
            is_valid &= cell < height * width

            def load(which):
                ref = map_refs[which].at[index, pl.ds(first, rows), :]
                values = triton.load(ref, mask=is_valid[:, None], other=0)
                return values.astype(jnp.float32)

            new = terms(image, load)
            return tuple(t + x.sum(0) for t, x in zip(totals, new, strict=True))

        zeros = jnp.zeros(channels, jnp.float32)
        totals = jax.lax.fori_loop(0, _CELLS // rows, add, (zeros, zeros))
        for which, total in enumerate(totals):
            result[which, index, part, :] = total

    parts = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((2, batch, programs, channels), jnp.float32),
        grid=(batch, programs),
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=2),
        interpret=interpret,
    )(size, *vectors, *(x.reshape(batch, -1, channels) for x in maps))
    return parts.sum(2)
