"""Boxes as arrays: centers, areas, four forms of IoU, and the delta coder.

All boxes are float32 xyxy in continuous pixels. Leading axes broadcast:
`iou(boxes[:, None], others[None])` is the matrix of all pairs.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_EPS = 1e-6
MAX_LOG_RATIO = abs(math.log(16 / 1000))
"""Of decoded widths and heights to those of the anchor."""


def centers(boxes: Float[Array, '*n 4']) -> Float[Array, '*n 2']:
    """Center (x, y) of each box."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def area(boxes: Float[Array, '*n 4']) -> Float[Array, '*n']:
    """Area of each box; can be negative if a box is inverted."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _overlap(a, b):
    """Areas of intersection and union."""
    corner = jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - corner, 0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, area(a) + area(b) - intersection


def _enclosing_sides(a, b):
    """Width and height of the smallest box that contains both."""
    corner = jnp.minimum(a[..., :2], b[..., :2])
    return jnp.maximum(jnp.maximum(a[..., 2:], b[..., 2:]) - corner, 0)


def iou(a: Float[Array, '*#n 4'], b: Float[Array, '*#n 4']) -> Float[Array, '*n']:
    """Intersection over union. Source: mmdet `bbox_overlaps`, eps 1e-6."""
    intersection, union = _overlap(a, b)
    return intersection / jnp.maximum(union, _EPS)


def giou(a: Float[Array, '*#n 4'], b: Float[Array, '*#n 4']) -> Float[Array, '*n']:
    """Generalized IoU, -1..1. Source: arXiv 1902.09630; mmdet `bbox_overlaps`."""
    intersection, union = _overlap(a, b)
    union = jnp.maximum(union, _EPS)
    sides = _enclosing_sides(a, b)
    enclosing = jnp.maximum(sides[..., 0] * sides[..., 1], _EPS)
    return intersection / union - (enclosing - union) / enclosing


def _iou_and_center_penalty(a, b):
    intersection, union = _overlap(a, b)
    sides = _enclosing_sides(a, b)
    diagonal = (sides**2).sum(-1) + _EPS
    distance = ((centers(a) - centers(b)) ** 2).sum(-1)
    return intersection / (union + _EPS), distance / diagonal


def diou(a: Float[Array, '*#n 4'], b: Float[Array, '*#n 4']) -> Float[Array, '*n']:
    """IoU minus normalized squared distance of centers. Source: arXiv 1911.08287."""
    overlap, penalty = _iou_and_center_penalty(a, b)
    return overlap - penalty


def ciou(a: Float[Array, '*#n 4'], b: Float[Array, '*#n 4']) -> Float[Array, '*n']:
    """DIoU minus a penalty on different aspect ratios, clipped to -1..1.

    Source: arXiv 2005.03572; mmdet `ciou_loss`, where the weight of the penalty is a
    constant for the gradient, and 0 up to an IoU of 0.5.
    """
    overlap, penalty = _iou_and_center_penalty(a, b)

    def angle(boxes):
        sides = boxes[..., 2:] - boxes[..., :2]
        return jnp.arctan(sides[..., 0] / (sides[..., 1] + _EPS))

    v = 4 / math.pi**2 * (angle(b) - angle(a)) ** 2
    # 1 - IoU + v is 0 only for equal boxes, where v is 0 too.
    weight = jnp.where(overlap > 0.5, v / jnp.maximum(1 - overlap + v, 1e-12), 0)
    return jnp.clip(overlap - penalty - lax.stop_gradient(weight) * v, -1, 1)


@dataclasses.dataclass(frozen=True)
class DeltaXYWHBBoxCoder:
    """Turns the head's deltas, relative to anchors, into boxes.

    Ratios of widths and heights are clipped at 1000/16. Source: mmdet
    `DeltaXYWHBBoxCoder`.

    Attributes:
        target_means: added to the deltas after they are scaled.
        target_stds: factors by which the deltas are scaled.
    """

    target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    target_stds: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)

    def decode(
        self, anchors: Float[Array, '*#n 4'], deltas: Float[Array, '*#n 4']
    ) -> Float[Array, '*n 4']:
        """Decoded boxes, not clipped to the image."""
        deltas = deltas * jnp.array(self.target_stds) + jnp.array(self.target_means)
        sides = anchors[..., 2:] - anchors[..., :2]
        center = (anchors[..., :2] + anchors[..., 2:]) * 0.5 + sides * deltas[..., :2]
        ratio = jnp.exp(jnp.clip(deltas[..., 2:], -MAX_LOG_RATIO, MAX_LOG_RATIO))
        half = sides * ratio * 0.5
        return jnp.concatenate([center - half, center + half], -1)
