"""The two things that flow between the parts: head outputs and detections."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


BATCH_AXIS = 'batch'
"""Name of the mapped device axis; SyncBN reduces over it."""


class HeadOutputs(NamedTuple):
    """What the head says, before sigmoid and before decoding; one entry a level.

    With several anchors a cell (`a` of them) the channels are anchor-major: `a*C`,
    `a*4` and `a`, so that a reshape to `(-1, C)` lists anchors in row, column, anchor
    order. A single image has no leading B.
    """

    cls_logits: tuple[Float[Array, '*B Hl Wl _c'], ...]
    deltas: tuple[Float[Array, '*B Hl Wl _d'], ...]
    centerness: tuple[Float[Array, '*B Hl Wl _a'], ...]


class Detections(NamedTuple):
    """Objects found in one image, best first; rows beyond the last have valid=False."""

    boxes: Float[Array, '*B N 4']
    scores: Float[Array, '*B N']
    labels: Int[Array, '*B N']
    valid: Bool[Array, '*B N']
