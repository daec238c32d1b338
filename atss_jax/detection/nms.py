"""Class-wise non-maximum suppression with a fixed number of outputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.structures import Detections

_COLUMNS = 64  # see `_fold`


def _fold(x, fill):
    """(n,) as rows of `_COLUMNS`, padded.

    The maximum over a long vector is slow on a CPU, one comparison after the other;
    over rows of some columns it is many at a time.
    """
    padded = jnp.pad(x, (0, -len(x) % _COLUMNS), constant_values=fill)
    return padded.reshape(-1, _COLUMNS)


def _iou(a, b):
    """IoU of boxes by side; 0/0 is NaN, which suppresses nothing. As mmcv's nms."""
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
    """The `max_per_img` best boxes that no better one of their class overlaps.

    Picks the best box left, drops the boxes of its class with a larger IoU than the
    threshold, and again: the first `max_per_img` picks of full NMS, without its n x n
    overlaps. Of equal scores the lower index comes first.

    Differs from mmdet: overlaps are those of the boxes themselves. mmcv's `batched_nms`
    moves classes apart by an offset, which costs float32 digits of the coordinates.
    """
    sides = [_fold(boxes[:, side], 0) for side in range(4)]
    folded_labels = _fold(labels, 0)
    index = jnp.arange(folded_labels.size).reshape(folded_labels.shape)

    def pick(left, _):
        score = left.max(0).max()
        best = jnp.where(left == score, index, index.size).min(0).min()
        overlaps = _iou(boxes[best], sides) > iou_threshold
        # The pick goes too: a box without area overlaps nothing, not even itself.
        drop = (overlaps & (folded_labels == labels[best])) | (index == best)
        return jnp.where(drop, -jnp.inf, left), (best, score)

    # A NaN is no score: it would be the maximum, and equal to none.
    left = jnp.where(valid & ~jnp.isnan(scores), scores, -jnp.inf)
    _, (best, score) = jax.lax.scan(pick, _fold(left, -jnp.inf), length=max_per_img)
    found = score > -jnp.inf
    # Rows beyond the last detection are zeros.
    return Detections(
        jnp.where(found[:, None], boxes[best], 0),
        jnp.where(found, score, 0),
        jnp.where(found, labels[best], 0),
        found,
    )
