"""A fast path for post-processing: try few candidates, and all only where needed."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.structures import Detections

Candidates = tuple[
    Float[Array, 'n 4'], Float[Array, 'n'], Int[Array, 'n'], Bool[Array, 'n']
]
"""Boxes, scores, labels, and whether the row is a candidate at all."""

# Enough for most images. Per level, the fewer the fewer anchors it has:
_FEW_ANCHORS, _FEW_PAIRS = 384, 512
# And of all levels together, for NMS:
_FEW_CANDIDATES = 512


def few_first(
    candidates: Callable[[Sequence[Array], list[tuple[int, int]]], list[Candidates]],
    suppress: Callable[[Candidates], Detections],
    maxima: Sequence[Float[Array, '_n']],
    nms_pre: int,
    try_few: bool = True,
) -> Detections:
    """`suppress` of all `candidates`, with as few of them as give the same detections.

    An image seldom has many (anchor, class) pairs above the score threshold. So this
    takes few candidates and checks whether any that were left out could matter.

    On one image of 800 x 1344 pixels and 80 classes, on a CPU: 1.9 ms instead of 3.6
    with 150 pairs above the threshold, but 11 instead of 7 with 9,500 pairs.

    Args:
        candidates: (maxima, limits) to the best pairs of each level; the limits of a
            level are its numbers of anchors and of pairs.
        suppress: candidates to detections.
        maxima: best logit of each anchor, by level; -inf below the score threshold.
        nms_pre: number of pairs per level that post-processing asks for.
        try_few: if not, all candidates are taken at once.
    """

    def from_all(maxima):
        limits = [(nms_pre, nms_pre)] * len(maxima)
        return suppress(_concatenate(candidates(maxima, limits)))

    if not try_few or nms_pre <= _FEW_PAIRS:
        return from_all(maxima)
    limits = [_few(level_maxima) for level_maxima in maxima]
    levels = candidates(maxima, limits)
    few = _concatenate(levels)
    detections = suppress(_best(few, _FEW_CANDIDATES))
    # NMS takes the candidates by score: those it did not see come after the last one.
    is_exact = detections.valid.all() | (few[3].sum() <= _FEW_CANDIDATES)
    for level_maxima, (max_anchors, _), (*_, valid) in zip(
        maxima, limits, levels, strict=True
    ):
        is_exact &= ((level_maxima > -jnp.inf).sum() <= max_anchors) & ~valid.all()
    return _unless(is_exact, detections, from_all, maxima)


def _few(level_maxima):
    """Numbers of anchors and of pairs to try in a level.

    Fewer on small levels, for `top_k` takes longer the more it returns: 0.89 instead of
    1.06 ms for an image of 800 x 1344 pixels with 939 pairs above the threshold.
    """
    size = level_maxima.shape[0]
    if not isinstance(size, int):  # of an exported program, known when it runs
        return _FEW_ANCHORS, _FEW_PAIRS
    return min(_FEW_ANCHORS, 64 + size // 5), min(_FEW_PAIRS, 96 + size // 3)


def _concatenate(levels):
    return tuple(jnp.concatenate(arrays) for arrays in zip(*levels, strict=True))


def _best(candidates, count):
    """The candidates with the best scores."""
    _, scores, _, valid = candidates
    scores = jnp.where(valid, scores, -jnp.inf)
    _, index = jax.lax.top_k(scores, min(count, len(scores)))
    return tuple(array[index] for array in candidates)


def _unless(is_exact, detections, from_all, maxima):
    """`detections` if they are exact, else `from_all(maxima)`.

    A loop of one round or none: under `vmap` it runs if any image needs it, whereas
    `jax.lax.cond` would become a selection that always computes both.
    """

    def run(state):
        # XLA moves out of the loop, and so always computes, what does not depend on
        # the state; therefore the maxima are made to depend on it.
        dependent = jax.tree.map(lambda x: jnp.where(state[1], 0, x), maxima)
        return from_all(dependent), jnp.ones_like(is_exact)

    return jax.lax.while_loop(lambda state: ~state[1], run, (detections, is_exact))[0]
