"""Adaptive training sample selection: which anchors learn which box.

For each ground truth box (arXiv 1912.02424, algorithm 1):

1. Candidates: on every level, the `topk` anchors whose centers are nearest to the
   center of the box.
2. Threshold: mean plus standard deviation of the candidates' IoU with the box. A box
   that fits one level well has a high deviation: only that level's anchors pass.
3. Positives: candidates at or above the threshold whose center lies inside the box.

An anchor that is positive for several boxes goes to the one with the highest IoU.

mmdetection computes the distance and the IoU of every box and anchor. Here only those
anchors are looked at that can be candidates. Anchors form a grid, so the `topk` nearest
lie in a window of topk x topk cells around the center of the box, shifted to stay
inside the valid grid. Of this window only a part matters: the cell in the p-th nearest
row and the q-th nearest column has p*q - 1 others that are at least as near, so the
topk nearest have p*q <= topk. These are 23 of the 81 cells for topk = 9. Time and
memory are O(boxes * levels * topk log topk), whatever the number of anchors.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import centers, iou
from atss_jax.structures import ceil_divide, round_up

_MIN_INSIDE = 0.01  # pixels between the center of an anchor and each side of its box


@dataclasses.dataclass(frozen=True)
class ATSSAssigner:
    """mmdet's settings of the assignment.

    Attributes:
        topk: number of candidates per level.
        allowed_border: pixels by which an anchor may reach beyond the image to be used;
            -1: any number.
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
        gt_valid: True for objects; False for padding and for crowd regions.
        image_size: height, width of the image on the canvas.
        canvas: height, width; decides the number and the order of anchors.
        valid_size: height, width of the region whose anchors may be used (mmdet's
            `pad_shape`); by default `image_size` rounded up to a multiple of 32.
        anchors: the anchor grid.
        assigner: settings.

    Source: mmdet `ATSSAssigner`.
    Differs from mmdet: of several anchors at exactly the same distance, those with the
    lowest index are the candidates. In mmdet the order in which `torch.topk` happens
    to sort them decides. On the boxes of BCCD's first 160 training images at half
    scale (320 x 240), whose corners are multiples of 0.5, 141 anchors in 58 images are
    assigned differently, of 18,832 positives (0.75 %). Every one of them is at exactly
    the distance of the last candidate of its level.
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
        Index of each candidate among all anchors of the canvas, its box, and whether
        the entry is a candidate; a level may have fewer than `topk` valid anchors.
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
    boxes, indices, first = [], [], 0
    for level, (height, width) in enumerate(grid_sizes):
        boxes.append(anchors.at(level, index[level], width))
        indices.append(index[level] + first)
        first += height * width * anchors.num_anchors
    by_level = indices, boxes, list(is_candidate)
    return tuple(jnp.concatenate(arrays, 1) for arrays in by_level)


def valid_cells(
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
    level: int,
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
) -> Int[Array, 'a 2 2']:
    """First and last+1 (row, column) in which each anchor of a cell may be used.

    These are the cells of the valid region; with `allowed_border >= 0`, only those
    whose anchor reaches no further than that beyond the image. Both are rectangles.

    Args:
        anchors: the anchor grid.
        assigner: for `allowed_border`.
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
    inf where there is no valid anchor. Computed with the axes: level, anchor of the
    cell, (row, column) by rank of nearness, box.

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
    row_ranks, column_ranks = np.nonzero(np.outer(p, p) <= topk)

    def along(axis, ranks):
        """Cells of these ranks along x (0) or y (1), and their squared distance."""
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
    """Cell of one axis that is the rank-th nearest (from 0) to a position.

    Of two cells at the same distance the lower comes first. The result is `stop` or
    more if there are too few valid cells. All arguments broadcast.

    The n nearest cells lie side by side, in a window. The rank-th nearest is the cell
    that the window of rank + 1 cells has in addition to the window of rank cells.

    Args:
        position: in cells.
        first: first valid cell.
        stop: last valid cell + 1.
        rank: from 0.
        length: cells of the canvas along this axis.
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

    Takes (L,n,G) and returns (L,G,count). Of equal distances the lowest index comes
    first.
    """

    def take_nearest(remaining, _):
        minimum = remaining.min(1, keepdims=True)
        is_nearest = remaining == minimum
        nearest = jnp.where(is_nearest, index, np.iinfo(np.int32).max).min(1)
        remaining = jnp.where(index == nearest[:, None], jnp.inf, remaining)
        return remaining, (nearest, minimum[:, 0] < jnp.inf)

    # Not `top_k`: it sorts box by box, whereas this compares all boxes at once.
    count = min(count, distance.shape[1])
    _, results = jax.lax.scan(take_nearest, distance, length=count)
    return tuple(array.transpose(1, 2, 0) for array in results)


def thresholds(
    iou_GK: Float[Array, 'G K'], is_candidate: Bool[Array, 'G K']
) -> Float[Array, 'G']:
    """Step 2: mean + standard deviation of the IoU of each box with its candidates.

    The standard deviation is that of a sample (divided by the number - 1), as
    `torch.std` computes it. With fewer than two candidates the threshold is NaN, as in
    mmdet, and no anchor passes it.
    """
    count = is_candidate.sum(1)
    mean = jnp.where(is_candidate, iou_GK, 0).sum(1) / count
    squares = jnp.where(is_candidate, iou_GK - mean[:, None], 0) ** 2
    return mean + jnp.sqrt(squares.sum(1) / (count - 1))


def _is_inside(points, boxes):
    """Whether points are inside boxes, more than 0.01 pixels away from every side."""
    to_low, to_high = points - boxes[..., :2], boxes[..., 2:] - points
    # By axis: XLA on CPU is slow at reductions over axes as short as this.
    margin_x, margin_y = (
        jnp.minimum(to_low[..., axis], to_high[..., axis]) for axis in (0, 1)
    )
    return jnp.minimum(margin_x, margin_y) > _MIN_INSIDE


def _resolve_conflicts(index_GK, iou_GK, is_positive, num_anchors):
    """Assigns each anchor to the box with the highest IoU of those it is positive for.

    Of equal IoUs the box with the lowest index wins.
    """
    num_boxes = len(index_GK)
    index_GK = jnp.where(is_positive, index_GK, num_anchors)  # out of range: dropped
    highest = jnp.full(num_anchors, -1.0).at[index_GK].max(iou_GK, mode='drop')
    wins = iou_GK == highest.at[index_GK].get(mode='fill', fill_value=2.0)
    box_index = jnp.where(wins, jnp.arange(num_boxes)[:, None], num_boxes)
    assigned = jnp.full(num_anchors, num_boxes).at[index_GK].min(box_index, mode='drop')
    return jnp.where(assigned == num_boxes, -1, assigned)
