"""Class-wise non-maximum suppression with a fixed number of outputs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.boxes import area
from atss_jax.structures import Detections


def _iou(box, boxes):
    """IoU of one box with many; 0/0 is NaN, which suppresses nothing. As mmcv's nms."""
    corner = jnp.maximum(box[:2], boxes[:, :2])
    sides = jnp.maximum(jnp.minimum(box[2:], boxes[:, 2:]) - corner, 0)
    intersection = sides[:, 0] * sides[:, 1]
    return intersection / (area(box) + area(boxes) - intersection)


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

    def pick(state, _):
        left = state
        best = jnp.argmax(left)
        score, box = left[best], boxes[best]
        overlaps = (labels == labels[best]) & (_iou(box, boxes) > iou_threshold)
        # The pick goes too: a box without area overlaps nothing, not even itself.
        drop = overlaps | (jnp.arange(len(left)) == best)
        left = jnp.where(drop, -jnp.inf, left)
        return left, (box, score, labels[best], score > -jnp.inf)

    start = jnp.where(valid, scores, -jnp.inf)
    _, (boxes_N, scores_N, labels_N, valid_N) = jax.lax.scan(
        pick, start, length=max_per_img
    )
    # Rows beyond the last detection are zeros, whatever the loop left in them.
    return Detections(
        jnp.where(valid_N[:, None], boxes_N, 0),
        jnp.where(valid_N, scores_N, 0),
        jnp.where(valid_N, labels_N, 0),
        valid_N,
    )
