"""Class-wise non-maximum suppression with a fixed number of outputs."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.structures import Detections

_COLUMNS = 64  # see `_fold`


def _fold(x, fill):
    """Reshapes (n,) to rows of `_COLUMNS`, padded with `fill`.

    On a CPU the maximum of a long vector is slow, one comparison after the other; the
    maximum over rows compares many columns at a time.
    """
    padded = jnp.pad(x, (0, -len(x) % _COLUMNS), constant_values=fill)
    return padded.reshape(-1, _COLUMNS)


def _iou(a, b):
    """IoU of boxes given by side; 0/0 is NaN and suppresses nothing, as in mmcv."""
    width = jnp.maximum(jnp.minimum(a[2], b[2]) - jnp.maximum(a[0], b[0]), 0)
    height = jnp.maximum(jnp.minimum(a[3], b[3]) - jnp.maximum(a[1], b[1]), 0)
    intersection = width * height
    area_a, area_b = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return intersection / (area_a + area_b - intersection)


def class_wise_nms(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    iou_threshold: float,
    max_per_img: int,
) -> Detections:
    """The `max_per_img` best boxes that no better box of their class suppresses.

    Picks the best remaining box, removes the boxes of its class that overlap it by more
    than the threshold, and repeats. These are the first `max_per_img` boxes that full
    NMS keeps, without an n x n matrix of overlaps. Of equal scores the lower index
    comes first.

    Differs from mmdet: overlaps are those of the boxes themselves. mmcv's `batched_nms`
    shifts classes apart by an offset, which costs float32 digits of the coordinates.
    """

    def suppress(remaining, iou, is_same_class):
        return jnp.where((iou > iou_threshold) & is_same_class, -jnp.inf, remaining)

    return _pick_in_turn(boxes, scores, labels, valid, suppress, max_per_img)


def class_wise_nms_in_order(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    iou_threshold: float,
    max_per_img: int,
) -> Detections:
    """`class_wise_nms` of boxes that come best first, so without looking for the best.

    Scores of valid boxes are finite.
    """
    count = len(scores)
    sides = [boxes[:, side] for side in range(4)]
    index = jnp.arange(count)

    def pick(remaining, _):
        # The index of each box that remains; `count` in place of one that is gone.
        best = remaining.min()
        is_same_class = labels == labels[best]
        is_gone = (_iou(boxes[best], sides) > iou_threshold) & is_same_class
        # The best goes too: a box without area overlaps nothing, not even itself.
        return jnp.where(is_gone | (index == best), count, remaining), best

    _, best = jax.lax.scan(pick, jnp.where(valid, index, count), length=max_per_img)
    score = jnp.where(best < count, scores[best], -jnp.inf)
    return _picked(boxes, labels, best, score)


def _pick_in_turn(boxes, scores, labels, valid, lower, max_per_img):
    """Picks the best remaining box `max_per_img` times, and lowers the others' scores.

    `lower` takes the scores of the remaining boxes (-inf: it is gone), their IoU with
    the picked one, and whether they are of its class; it gives their new scores.
    """
    sides = [_fold(boxes[:, side], 0) for side in range(4)]
    folded_labels = _fold(labels, 0)
    index = jnp.arange(folded_labels.size).reshape(folded_labels.shape)

    def pick(remaining, _):
        score = remaining.max(0).max()
        best = jnp.where(remaining == score, index, index.size).min(0).min()
        iou = _iou(boxes[best], sides)
        lowered = lower(remaining, iou, folded_labels == labels[best])
        # The best goes too: a box without area overlaps nothing, not even itself.
        return jnp.where(index == best, -jnp.inf, lowered), (best, score)

    _, (best, score) = jax.lax.scan(
        pick, _fold(_candidates(scores, valid), -jnp.inf), length=max_per_img
    )
    return _picked(boxes, labels, best, score)


def _candidates(scores, valid):
    """The scores; -inf where there is none, and for NaN, which would be the maximum."""
    return jnp.where(valid & ~jnp.isnan(scores), scores, -jnp.inf)


def _picked(boxes, labels, best, score):
    """The detections of picked rows; a score of -inf means that none was left."""
    is_detection = score > -jnp.inf
    # Rows beyond the last detection are zeros.
    return Detections(
        jnp.where(is_detection[:, None], boxes[best], 0),
        jnp.where(is_detection, score, 0),
        jnp.where(is_detection, labels[best], 0),
        is_detection,
    )


METHODS = ('linear', 'gaussian', 'naive')


@dataclasses.dataclass(frozen=True)
class SoftNms:
    """mmcv's `soft_nms`, which lowers scores in place of removing boxes.

    Attributes:
        method: 'linear': a box of the class that overlaps the picked one by at least
            the threshold keeps 1 - IoU of its score; 'gaussian': every box of the class
            keeps exp(-IoU² / sigma); 'naive': as NMS.
        sigma: of 'gaussian': the larger, the more of the score remains.
        min_score: boxes whose score falls below it are removed.
    """

    method: str = 'linear'
    sigma: float = 0.5
    min_score: float = 1e-3

    def remaining_share(
        self, iou: Float[Array, '*n'], iou_threshold: float
    ) -> Float[Array, '*n']:
        """The share of its score that a box keeps next to a picked one."""
        if self.method == 'gaussian':
            return jnp.exp(-(iou * iou) / self.sigma)
        lowered = 1 - iou if self.method == 'linear' else jnp.zeros_like(iou)
        return jnp.where(iou >= iou_threshold, lowered, 1)


def class_wise_soft_nms(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    iou_threshold: float,
    soft: SoftNms,
    max_per_img: int,
) -> Detections:
    """The `max_per_img` best boxes when boxes lower the scores of their neighbors.

    Picks the best remaining box, lowers the scores of the boxes of its class that
    overlap it, and repeats. A detection has the score with which it was picked. The
    first box is picked even if its score is below `min_score`, as in mmcv.

    Differs from mmdet: as in `class_wise_nms`, overlaps are those of the boxes
    themselves; and boxes without area lower no score, where mmcv's 'gaussian' makes
    scores NaN.

    Source: mmcv `soft_nms`, `batched_nms`; arXiv 1704.04503.
    """

    def lower(remaining, iou, is_same_class):
        share = soft.remaining_share(iou, iou_threshold)
        share = jnp.where(is_same_class & ~jnp.isnan(iou), share, 1)
        # -inf times 0 would be NaN.
        lowered = jnp.where(remaining > -jnp.inf, remaining * share, -jnp.inf)
        return jnp.where(lowered < soft.min_score, -jnp.inf, lowered)

    return _pick_in_turn(boxes, scores, labels, valid, lower, max_per_img)


def best_boxes(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    max_per_img: int,
) -> Detections:
    """The `max_per_img` boxes with the best scores; nothing is suppressed."""
    candidates = _candidates(scores, valid)
    missing = max(max_per_img - len(scores), 0)
    score, best = jax.lax.top_k(
        jnp.pad(candidates, (0, missing), constant_values=-jnp.inf), max_per_img
    )
    return _picked(boxes, labels, best, score)
