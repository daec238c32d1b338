"""Adaptive training sample selection: assigns ground truth boxes to anchors.

For each ground truth box ("box" below; arXiv 1912.02424, algorithm 1):

1. Candidates: on every level, the `topk` anchors whose centers are nearest to the
   center of the box.
2. Threshold: mean plus standard deviation of the candidates' IoU with the box. A box
   that fits one level well has a high deviation: only that level's anchors pass.
3. Positives: candidates at or above the threshold whose center lies inside the box.

An anchor that is positive for several boxes goes to the one with the highest IoU.

mmdetection computes the distance and the IoU of every pair of box and anchor. Here only
anchors that can be candidates are considered. Anchors form a grid of cells. Consider
the p-th nearest row and the q-th nearest column to the center of the box, counted from
1: at least p*q - 1 other cells are as near as the cell where they meet. So, with ties
broken consistently, the `topk` nearest all have p*q <= topk. For topk = 9 these are 23
cells. Their number per box and level is O(topk log topk), whatever the size of the
grid; the `topk` nearest of them are then selected one after the other.

Axes of arrays: G boxes, A anchors of all levels, K candidates of a box on all levels,
L levels, a anchors per cell, n anchors that may be candidates, per level.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import centers, iou
from atss_jax.structures import ceil_divide, round_up

_MIN_MARGIN = 0.01  # pixels between the center of an anchor and each side of its box


@dataclasses.dataclass(frozen=True)
class ATSSAssigner:
    """Settings of the assignment, named as in mmdet.

    Attributes:
        topk: number of candidates per level.
        allowed_border: pixels by which an anchor may extend beyond the image; one that
            extends further is not used. -1 means no limit.
    """

    topk: int = 9
    allowed_border: float = -1


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
    """Index of the box that each anchor of one image is assigned to, -1 for none.

    Args:
        gt_boxes: ground truth boxes; rows with `gt_valid` False are never assigned.
        gt_valid: True for objects; False for padding rows and crowd regions.
        image_size: height, width of the image on the canvas.
        canvas: height, width of the padded image; determines the anchor grid.
        valid_size: height, width of the region whose anchors may be used (mmdet's
            `pad_shape`); by default `image_size` rounded up to a multiple of 32.
        anchors: the anchor grid.
        assigner: the settings.

    Source: mmdet `ATSSAssigner`.
    Differs from mmdet: of several anchors at exactly the same distance, those with the
    lowest index become candidates. In mmdet it depends on the order in which
    `torch.topk` returns them. On the boxes of BCCD's first 160 training images at half
    scale (320 x 240), whose corners are multiples of 0.5, 141 anchors in 58 images are
    assigned differently, of 18,832 positives (0.75 %). All of them are at exactly the
    same distance as the last candidate of their level.
    """
    num_anchors = sum(h * w for h, w in anchors.grid_sizes(canvas))
    num_anchors *= anchors.num_anchors
    if len(gt_boxes) == 0:
        return jnp.full(num_anchors, -1)
    if valid_size is None:
        valid_size = round_up(image_size, 32)
    index_GK, boxes_GK, is_candidate = candidates(
        gt_boxes, image_size, valid_size, canvas, anchors, assigner
    )
    is_candidate &= gt_valid[:, None]
    iou_GK = iou(gt_boxes[:, None], boxes_GK)
    is_positive = (
        is_candidate
        & (iou_GK >= thresholds(iou_GK, is_candidate)[:, None])
        & _is_inside(centers(boxes_GK), gt_boxes[:, None])
    )
    return _resolve_conflicts(index_GK, iou_GK, is_positive, num_anchors)


def candidates(
    gt_boxes: Float[Array, 'G 4'],
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
    canvas: tuple[int, int],
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
) -> tuple[Int[Array, 'G K'], Float[Array, 'G K 4'], Bool[Array, 'G K']]:
    """Step 1: the candidates of each box, on all levels.

    Returns:
        Index of each candidate among all anchors of the canvas; its anchor box; and
        False where the entry is not used, as a level may have fewer than `topk` valid
        anchors.
    """
    grid_sizes = anchors.grid_sizes(canvas)
    levels = range(len(grid_sizes))
    bounds = jnp.stack(
        [valid_cells(anchors, assigner, i, image_size, valid_size) for i in levels]
    )
    index, distance = _near_anchors(
        centers(gt_boxes), anchors, assigner.topk, grid_sizes, bounds
    )
    index, is_candidate = _nearest(index, distance, assigner.topk)
    boxes, indices, offset = [], [], 0  # offset: index of the first anchor of a level
    for level, (height, width) in enumerate(grid_sizes):
        boxes.append(anchors.at(level, index[level], width))
        indices.append(index[level] + offset)
        offset += height * width * anchors.num_anchors
    results = indices, boxes, list(is_candidate)
    return tuple(jnp.concatenate(of_levels, 1) for of_levels in results)


def valid_cells(
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
    level: int,
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
) -> Int[Array, 'a 2 2']:
    """The rectangle of cells whose anchors may be used: (row, column) start and stop.

    The stop is exclusive. Without a border limit, these are the cells of the valid
    region. With `allowed_border >= 0` cells whose anchor extends too far beyond the
    image are left out, so the rectangle differs among the anchors of a cell.

    Args:
        anchors: the anchor grid.
        assigner: gives `allowed_border`.
        level: index of the pyramid level.
        image_size: height, width of the image.
        valid_size: height, width of the valid region (mmdet's `pad_shape`).
    """
    stride = anchors.strides[level]
    base = anchors.base_anchors(level)
    stop = jnp.broadcast_to(ceil_divide(valid_size, stride), (len(base), 2))
    first = jnp.zeros_like(stop)
    if assigner.allowed_border >= 0:
        border = assigner.allowed_border
        low, high = base[:, 1::-1], base[:, :1:-1]  # (y, x) corners
        # low + cell*stride >= -border   and   high + cell*stride < image_size + border
        first = jnp.asarray(np.maximum(np.ceil((-border - low) / stride), 0), jnp.int32)
        limit = jnp.ceil((image_size + border - high) / stride)
        stop = jnp.minimum(stop, limit.astype(jnp.int32))
    return jnp.stack([first, jnp.maximum(stop, first)], axis=1)


def _near_anchors(gt_centers, anchors, topk, grid_sizes, bounds):
    """Anchors that may be candidates: index within their level, squared distance.

    Both are (L,n,G), with n = 23 for topk = 9 and one anchor per cell. The distance is
    inf where there is no valid anchor. Until the last line, arrays have the axes
    level, anchor of the cell, cell (sorted by rank of row and column), box.

    Args:
        gt_centers: (G,2) x, y of the center of each box.
        anchors: the anchor grid.
        topk: number of candidates per level.
        grid_sizes: (rows, columns) of each level on the canvas.
        bounds: (L,a,2,2) from `valid_cells`.
    """
    base = np.stack([anchors.base_anchors(i) for i in range(len(grid_sizes))])
    stride = np.array(anchors.strides)[:, None, None, None]
    lengths = np.array(grid_sizes)[:, :, None, None, None]
    p = np.arange(1, topk + 1)
    # Ranks count from 0, p from 1.
    row_ranks, column_ranks = np.nonzero(np.outer(p, p) <= topk)

    def along(axis, ranks):
        """Row or column of each rank along x (0) or y (1), and its squared distance."""
        low, high = base[:, :, None, axis, None], base[:, :, None, axis + 2, None]
        first, stop = (bounds[:, :, i, 1 - axis, None, None] for i in (0, 1))
        center = gt_centers[:, axis]
        position = (center - (low + high) / 2) / stride
        cells = _cell_by_rank(
            position, first, stop, ranks[:, None], lengths[:, 1 - axis]
        )
        shift = (cells * stride).astype(jnp.float32)
        squares = (((shift + low) + (shift + high)) / 2 - center) ** 2
        return cells, jnp.where(cells < stop, squares, jnp.inf)

    columns, x_squares = along(0, column_ranks)
    rows, y_squares = along(1, row_ranks)
    anchor_of_cell = np.arange(anchors.num_anchors)[:, None, None]
    index = (rows * lengths[:, 1] + columns) * anchors.num_anchors + anchor_of_cell
    shape = len(grid_sizes), -1, len(gt_centers)
    return index.reshape(shape), (x_squares + y_squares).reshape(shape)


def _cell_by_rank(position, first, stop, rank, length):
    """Cell along one axis with a given rank of nearness to a position; 0 is nearest.

    If two cells are equally near, the lower one has the lower rank. If there are too
    few valid cells, the result is `stop` or more. All arguments broadcast.

    The r nearest cells are always contiguous: a window. Growing the window from r to
    r + 1 cells adds one cell, at its start or at its end: the cell of rank r.

    Args:
        position: in cells.
        first: first valid cell.
        stop: last valid cell + 1.
        rank: rank of the cell, from 0.
        length: number of cells of the canvas along this axis.
    """

    def window_start(size):
        start = jnp.ceil(position - size / 2)
        # Clipped before the cast: far outside the image it would overflow an integer.
        start = jnp.clip(start, -1, length + 1).astype(jnp.int32)
        return jnp.clip(start, first, jnp.maximum(stop - size, first))

    start = window_start(rank + 1)
    grew_at_its_start = start < window_start(rank)
    return jnp.where(grew_at_its_start, start, start + rank)


def _nearest(index, distance, count):
    """Index of the `count` nearest anchors of each box, and whether each one exists.

    Takes (L,n,G) and returns (L,G,count), or fewer than `count` if n is less. Among
    equal distances, the lowest index comes first.
    """

    def take_nearest(remaining, _):
        minimum = remaining.min(1, keepdims=True)
        is_nearest = remaining == minimum
        nearest = jnp.where(is_nearest, index, np.iinfo(np.int32).max).min(1)
        remaining = jnp.where(index == nearest[:, None], jnp.inf, remaining)
        return remaining, (nearest, minimum[:, 0] < jnp.inf)

    # Faster than `jax.lax.top_k`, which sorts box by box: this handles all at once.
    count = min(count, distance.shape[1])
    _, results = jax.lax.scan(take_nearest, distance, length=count)
    return tuple(array.transpose(1, 2, 0) for array in results)


def thresholds(
    iou_GK: Float[Array, 'G K'], is_candidate: Bool[Array, 'G K']
) -> Float[Array, 'G']:
    """Step 2: mean + standard deviation of the IoU of each box with its candidates.

    The standard deviation is that of a sample (with n - 1 in the denominator), as
    `torch.std` computes it. With fewer than two candidates the threshold is NaN, as in
    mmdet, and no anchor passes it.
    """
    count = is_candidate.sum(1)
    mean = jnp.where(is_candidate, iou_GK, 0).sum(1) / count
    squares = jnp.where(is_candidate, iou_GK - mean[:, None], 0) ** 2
    return mean + jnp.sqrt(squares.sum(1) / (count - 1))


def _is_inside(points, boxes):
    """Whether points are inside boxes, more than `_MIN_MARGIN` away from every side."""
    to_low, to_high = points - boxes[..., :2], boxes[..., 2:] - points
    # One axis at a time: XLA on CPU is slow at reducing over such short axes.
    margin_x, margin_y = (
        jnp.minimum(to_low[..., axis], to_high[..., axis]) for axis in (0, 1)
    )
    return jnp.minimum(margin_x, margin_y) > _MIN_MARGIN


def _resolve_conflicts(index_GK, iou_GK, is_positive, num_anchors):
    """Assigns each anchor to one of the boxes that it is positive for, or to none (-1).

    The box with the highest IoU wins; among equal IoUs, the one with the lowest index.
    """
    num_boxes = len(index_GK)
    # Indices out of range are ignored below; no IoU equals the fill value 2.
    index_GK = jnp.where(is_positive, index_GK, num_anchors)
    highest = jnp.full(num_anchors, -1.0).at[index_GK].max(iou_GK, mode='drop')
    wins = iou_GK == highest.at[index_GK].get(mode='fill', fill_value=2.0)
    box_index = jnp.where(wins, jnp.arange(num_boxes)[:, None], num_boxes)
    assigned = jnp.full(num_anchors, num_boxes).at[index_GK].min(box_index, mode='drop')
    return jnp.where(assigned == num_boxes, -1, assigned)
