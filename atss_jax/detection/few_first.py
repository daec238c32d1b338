"""A fast path for post-processing: try few candidates, and all only where needed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.structures import Detections

# Enough for most images: anchors per level, and pairs of all levels.
_FEW_ANCHORS = 384
_FEW_PAIRS = 1024


class FewPairs(NamedTuple):
    """The (anchor, class) pairs of k anchors of a level.

    Attributes:
        scores: of the detections that they would be; -inf: it is none.
        anchors: left, top, right, bottom in pixels of the canvas.
        deltas: of each anchor.
        count: number of pairs.
        is_exact: whether all candidates of the level are among them.
    """

    scores: Float[Array, 'k C']
    anchors: Float[Array, 'k 4']
    deltas: Float[Array, 'k 4']
    count: Int[Array, '']
    is_exact: Bool[Array, '']


class BestPairs(NamedTuple):
    """The best pairs of all levels, best first.

    Attributes:
        scores: of the detections that they would be.
        anchors: left, top, right, bottom in pixels of the canvas.
        deltas: of each anchor.
        labels: classes.
        valid: whether the row is a pair.
        is_all: whether there are no other pairs.
    """

    scores: Float[Array, 'n']
    anchors: Float[Array, 'n 4']
    deltas: Float[Array, 'n 4']
    labels: Int[Array, 'n']
    valid: Bool[Array, 'n']
    is_all: Bool[Array, '']


def first_anchors(
    maxima: Float[Array, '_n'],
) -> tuple[Int[Array, 'k'], Bool[Array, 'k'], Bool[Array, '']]:
    """The first few anchors of a level that may have pairs, in order.

    Args:
        maxima: best logit of each anchor; -inf: it has no pairs.

    Returns:
        Their indices, which of them are there at all, and whether there are no others.
    """
    size = maxima.shape[0]
    # Of equal numbers `top_k` takes the first, so rounding above 2^24 does no harm.
    order = -jnp.arange(size, dtype=jnp.float32)
    order = jnp.where(maxima > -jnp.inf, order, -jnp.inf)
    order, index = jax.lax.top_k(order, _few(size))
    is_there = order > -jnp.inf
    # If the last one is not there, there are no others either.
    return index, is_there, jnp.array(len(index) == size) | ~is_there[-1]


def _few(size):
    """Number of anchors to try in a level with so many."""
    if not isinstance(size, int):  # of an exported program, known when it runs
        return _FEW_ANCHORS
    return min(_FEW_ANCHORS, 64 + size // 8, size)


def best_pairs(levels: Sequence[FewPairs]) -> BestPairs:
    """The best pairs of all levels; of equal scores the first ones."""
    scores = jnp.concatenate([level.scores for level in levels])
    anchors = jnp.concatenate([level.anchors for level in levels])
    deltas = jnp.concatenate([level.deltas for level in levels])
    num_pairs, num_classes = scores.size, scores.shape[1]
    best, pair = jax.lax.top_k(scores.reshape(-1), min(_FEW_PAIRS, num_pairs))
    row = pair // num_classes
    is_all = sum(level.count for level in levels) <= _FEW_PAIRS
    return BestPairs(
        scores=best,
        anchors=anchors[row],
        deltas=deltas[row],
        labels=pair % num_classes,
        valid=best > -jnp.inf,
        is_all=is_all,
    )


def few_first(
    few: Sequence[FewPairs],
    detect_few: Callable[[BestPairs], Detections],
    detect_all: Callable[[Sequence[Array]], Detections],
    maxima: Sequence[Float[Array, '_n']],
) -> Detections:
    """`detect_all(maxima)`, but of few candidates where they give the same.

    An image seldom has many (anchor, class) pairs above the score threshold. So this
    takes few and checks whether any that were left out could matter.

    On one image of 800 x 1344 pixels and 80 classes, on a CPU: 1.3 ms instead of 4.1
    with 900 pairs above the threshold. Where few do not suffice, both are computed.

    Args:
        few: pairs of each level.
        detect_few: detections of the best pairs.
        detect_all: detections of all, from the maxima.
        maxima: best logit of each anchor, by level; -inf below the score threshold.
    """
    best = best_pairs(few)
    detections = detect_few(best)
    # NMS takes the candidates by score: those it did not see come after the last one.
    is_exact = detections.valid.all() | best.is_all
    for level in few:
        is_exact &= level.is_exact
    return _unless(is_exact, detections, detect_all, maxima)


def _unless(is_exact, detections, detect_all, maxima):
    """`detections` if they are exact, else `detect_all(maxima)`.

    A loop of one round or none: under `vmap` it runs if any image needs it, whereas
    `jax.lax.cond` would become a selection that always computes both.
    """

    def run(state):
        # XLA moves out of the loop, and so always computes, what does not depend on
        # the state; therefore the maxima are made to depend on it.
        dependent = jax.tree.map(lambda x: jnp.where(state[1], 0, x), maxima)
        return detect_all(dependent), jnp.ones_like(is_exact)

    return jax.lax.while_loop(lambda state: ~state[1], run, (detections, is_exact))[0]
