"""Adaptive training sample selection: which anchors learn which box.

For each box (arXiv 1912.02424, algorithm 1):

1. Candidates: on every level the `topk` anchors whose centers are nearest to the box's.
2. Threshold: mean plus standard deviation of the candidates' IoU with the box. A box
   that fits one level well has high mean and deviation: only that level's anchors pass.
3. Positives: candidates at or above the threshold whose center lies inside the box.

An anchor that several boxes claim goes to the one with the highest IoU.

Anchors form a grid. The cell in the p-th nearest row and the q-th nearest column of a
box's center has p*q - 1 others at least as near, in these rows and columns; so the k
nearest have p*q <= k: 23 cells for k = 9. Only these are looked at, never all anchors;
memory is O(boxes * k log k * levels).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import centers, iou
from atss_jax.structures import ceil_divide, round_up

_MIN_INSIDE = 0.01  # pixels between an anchor's center and each side of its box


@dataclasses.dataclass(frozen=True)
class ATSSAssigner:
    """mmdet's settings of the assignment.

    Attributes:
        topk: candidates a level.
        allowed_border: pixels an anchor may reach beyond the image; -1: any number.
    """

    topk: int = 9
    allowed_border: float = -1


def valid_cells(
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
    level: int,
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
) -> Int[Array, 'a 2 2']:
    """First and last+1 (row, column) at which each anchor of a cell may be used.

    Cells within the valid region, and, with `allowed_border >= 0`, anchors that reach
    no further than that beyond the image: a rectangle of cells for each base anchor.

    Args:
        anchors: the grid.
        assigner: for `allowed_border`.
        level: index into the pyramid.
        image_size: height, width of the image.
        valid_size: height, width of its padded region (mmdet's `pad_shape`).
    """
    stride = anchors.strides[level]
    base = anchors.base_anchors(level)
    stop = jnp.broadcast_to(ceil_divide(valid_size, stride), (len(base), 2))
    start = jnp.zeros_like(stop)
    if assigner.allowed_border >= 0:
        border = assigner.allowed_border
        low, high = base[:, 1::-1], base[:, :1:-1]  # (y, x) corners
        # low + cell*stride >= -border   and   high + cell*stride < image_size + border
        first = np.maximum(np.ceil((-border - low) / stride), 0)
        start = jnp.asarray(first, jnp.int32)
        room = image_size + border - high
        stop = jnp.minimum(stop, jnp.ceil(room / stride).astype(jnp.int32))
    return jnp.stack([start, jnp.maximum(stop, start)], axis=1)


def _cells_by_rank(position, bounds, rank, length):
    """The cell of an axis that is so many-th nearest to a position, and whether it is.

    Of two at the same distance the lower comes first. Args, which broadcast: position
    in cells; bounds: first and last+1; rank, from 0; length: cells of the canvas.
    """
    first, stop = bounds

    def window(width):
        """First of the `width` nearest cells, which lie side by side."""
        start = jnp.ceil(position - width / 2)
        # In float32 first: a far box must not overflow the integer.
        start = jnp.clip(start, -1, length + 1).astype(jnp.int32)
        return jnp.clip(start, first, jnp.maximum(stop - width, first))

    # The window that has one cell more has grown down or up.
    start = window(rank + 1)
    cell = jnp.where(start < window(rank), start, start + rank)
    return cell, cell < stop


def _near_anchors(gt_centers, anchors, topk, sizes, bounds):
    """Squared distance and index within the level of all that may be candidates.

    Returns (L,n,G) each; the distance is inf where there is no anchor.
    """
    ranks = np.arange(1, topk + 1)
    near = np.nonzero(np.outer(ranks, ranks) <= topk)
    base = np.stack([anchors.base_anchors(i) for i in range(len(sizes))])
    stride = np.array(anchors.strides)[:, None, None, None]
    axes = []
    for axis in (0, 1):  # x, y
        side = base[:, :, None, axis, None], base[:, :, None, axis + 2, None]
        center = gt_centers[:, axis]
        cells, ok = _cells_by_rank(
            (center - (side[0] + side[1]) / 2) / stride,
            (bounds[:, :, i, 1 - axis, None, None] for i in (0, 1)),
            near[1 - axis][:, None],
            np.array(sizes)[:, 1 - axis, None, None, None],
        )
        shift = (cells * stride).astype(jnp.float32)
        square = (((shift + side[0]) + (shift + side[1])) / 2 - center) ** 2
        axes.append((cells, jnp.where(ok, square, jnp.inf)))
    (columns, x), (rows, y) = axes
    width = np.array(sizes)[:, 1, None, None, None]
    which = np.arange(anchors.num_anchors)[:, None, None]
    index = (rows * width + columns) * anchors.num_anchors + which
    shape = len(sizes), -1, len(gt_centers)
    return (x + y).reshape(shape), index.reshape(shape)


def _nearest(square, index, count):
    """Index and is-one of the `count` smallest of (L,n,G) distances: (count,L,G).

    Of equal distances the lowest index comes first. Boxes are the last axis, so that
    many are compared at a time; `top_k` sorts box by box.
    """

    def pick(left, _):
        distance = left.min(1, keepdims=True)
        nearest = jnp.where(left == distance, index, np.iinfo(np.int32).max).min(1)
        left = jnp.where(index == nearest[:, None], jnp.inf, left)
        return left, (nearest, distance[:, 0] < jnp.inf)

    return jax.lax.scan(pick, square, length=min(count, square.shape[1]))[1]


def candidates(
    gt_boxes: Float[Array, 'G 4'],
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
    canvas: tuple[int, int],
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
) -> tuple[Int[Array, 'G K'], Float[Array, 'G K 4'], Bool[Array, 'G K']]:
    """Step 1: index among the canvas's anchors, box, and whether there is one."""
    sizes = anchors.grid_sizes(canvas)
    bounds = jnp.stack(
        [
            valid_cells(anchors, assigner, level, image_size, valid_size)
            for level in range(len(sizes))
        ]
    )
    near = _near_anchors(centers(gt_boxes), anchors, assigner.topk, sizes, bounds)
    index, ok = (part.transpose(1, 2, 0) for part in _nearest(*near, assigner.topk))
    boxes, indices, start = [], [], 0
    for level, (height, width) in enumerate(sizes):
        boxes.append(anchors.at(level, index[level], width))
        indices.append(index[level] + start)
        start += height * width * anchors.num_anchors
    parts = indices, boxes, list(ok)
    return tuple(jnp.concatenate(part, 1) for part in parts)


def thresholds(
    iou_GK: Float[Array, 'G K'], ok: Bool[Array, 'G K']
) -> Float[Array, 'G']:
    """Step 2: mean + standard deviation (ddof 1) of each box's candidates."""
    count = ok.sum(1)
    mean = jnp.where(ok, iou_GK, 0).sum(1) / count
    squares = jnp.where(ok, iou_GK - mean[:, None], 0) ** 2
    # NaN with fewer than two candidates, as in PyTorch: then nothing passes.
    return mean + jnp.sqrt(squares.sum(1) / (count - 1))


def assign(
    gt_boxes: Float[Array, 'G 4'],
    gt_valid: Bool[Array, 'G'],
    image_size: Int[Array, '2'],
    canvas: tuple[int, int],
    *,
    valid_size: Int[Array, '2'] | None = None,
    anchors: AnchorGenerator = AnchorGenerator(),  # noqa: B008, frozen
    assigner: ATSSAssigner = ATSSAssigner(),
) -> Int[Array, 'A']:
    """Index of the box that each anchor is assigned to, -1 for none.

    Args:
        gt_boxes: the boxes of one image; rows with `gt_valid` False are never assigned.
        gt_valid: True for objects; False for padding and for crowd regions.
        image_size: height, width of the image on the canvas.
        canvas: height, width; decides the order and number of anchors.
        valid_size: height, width of the padded image whose anchors count (mmdet's
            `pad_shape`); by default `image_size` rounded up to a multiple of 32.
        anchors: the grid.
        assigner: settings.

    Differs from mmdet: of anchors at exactly the same distance the lowest index is a
    candidate (there, any). Source: mmdet `ATSSAssigner`.
    """
    num_anchors = (
        sum(h * w for h, w in anchors.grid_sizes(canvas)) * anchors.num_anchors
    )
    num_boxes = len(gt_boxes)
    if num_boxes == 0:
        return jnp.full(num_anchors, -1)
    if valid_size is None:
        valid_size = round_up(image_size, 32)
    index, box, ok = candidates(
        gt_boxes, image_size, valid_size, canvas, anchors, assigner
    )
    ok = ok & gt_valid[:, None]
    iou_GK = iou(gt_boxes[:, None], box)
    center = centers(box)
    near, far = center - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - center
    # By axis: XLA on CPU is slow at reductions over axes as short as this.
    margin_x, margin_y = (jnp.minimum(near[..., a], far[..., a]) for a in (0, 1))
    is_inside = jnp.minimum(margin_x, margin_y) > _MIN_INSIDE
    positive = ok & is_inside & (iou_GK >= thresholds(iou_GK, ok)[:, None])
    return _resolve(index, iou_GK, positive, num_anchors)


def _resolve(index, iou_GK, positive, num_anchors):
    """Gives each anchor to the claim with highest IoU, then lowest box index."""
    num_boxes = len(index)
    index = jnp.where(positive, index, num_anchors)  # out of range: dropped
    best = jnp.full(num_anchors, -1.0).at[index].max(iou_GK, mode='drop')
    wins = iou_GK == best.at[index].get(mode='fill', fill_value=2.0)
    claims = jnp.where(wins, jnp.arange(num_boxes)[:, None], num_boxes)
    owner = jnp.full(num_anchors, num_boxes).at[index].min(claims, mode='drop')
    return jnp.where(owner == num_boxes, -1, owner)
