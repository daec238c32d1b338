"""Adaptive training sample selection: which anchors learn which box.

For each box (arXiv 1912.02424, algorithm 1):

1. Candidates: on every level the `topk` anchors whose centres are nearest to the box's.
2. Threshold: mean plus standard deviation of the candidates' IoU with the box. A box
   that fits one level well has high mean and deviation: only that level's anchors pass.
3. Positives: candidates at or above the threshold whose centre lies inside the box.

An anchor that several boxes claim goes to the one with the highest IoU.

Anchors form a grid, so the k nearest centres lie in the k x k cells around the box's
centre: any cell beyond has k nearer ones in its own row or column. Only these cells are
looked at, never all anchors; memory is O(boxes * k^2 * levels).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import centres, iou
from atss_jax.sizes import ceil_divide, round_up

_MIN_INSIDE = 0.01  # pixels between an anchor's centre and each side of its box


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


def _window(position, bounds, width, length):
    """Indices of the `width` cells nearest to `position`, shifted into `bounds`.

    Of two cells at the same distance the lower index is taken. Args: position (G,) in
    cells; bounds (2,) first and last+1; length: cells of the canvas.
    Returns (G,width), valid.
    """
    first = jnp.ceil(position - width / 2)
    # In float32 first: a far box must not overflow the integer.
    first = jnp.clip(first, -1, length + 1).astype(jnp.int32)
    first = jnp.clip(first, bounds[0], jnp.maximum(bounds[1] - width, bounds[0]))
    cells = first[:, None] + jnp.arange(width)
    return cells, cells < bounds[1]


def _level_candidates(gt_centres, anchors, assigner, level, grid_size, bounds):
    """Nearest anchors of one level: index within the level, box, is-one; (G,k) each."""
    height, width = grid_size
    stride, base = anchors.strides[level], anchors.base_anchors(level)
    k_rows, k_columns = min(assigner.topk, height), min(assigner.topk, width)
    indices, squares = [], []
    for a, anchor in enumerate(base):
        position = (gt_centres - (anchor[:2] + anchor[2:]) / 2) / stride
        rows, row_ok = _window(position[:, 1], bounds[a, :, 0], k_rows, height)
        columns, column_ok = _window(position[:, 0], bounds[a, :, 1], k_columns, width)
        x = _square(columns, stride, anchor[0::2], gt_centres[:, :1])
        y = _square(rows, stride, anchor[1::2], gt_centres[:, 1:])
        ok = row_ok[:, :, None] & column_ok[:, None, :]
        squares.append(jnp.where(ok, x[:, None, :] + y[:, :, None], jnp.inf))
        indices.append((rows[:, :, None] * width + columns[:, None, :]) * len(base) + a)
    # Cells before base anchors, the order of anchors: `top_k` breaks ties by it.
    square = jnp.stack(squares, -1).reshape(len(gt_centres), -1)
    index = jnp.stack(indices, -1).reshape(square.shape)
    if len(base) > 1 and assigner.allowed_border >= 0:
        # Base anchors then have windows of their own: sort back to that order.
        order = jnp.argsort(index, 1)
        square, index = (jnp.take_along_axis(x, order, 1) for x in (square, index))
    nearness, nearest = jax.lax.top_k(-square, min(assigner.topk, square.shape[1]))
    index = jnp.take_along_axis(index, nearest, 1)
    return index, anchors.at(level, index, width), nearness > -jnp.inf


def _square(cells, stride, sides, centre):
    """Squared distance, along one axis, of cells' anchors from a box's centre."""
    shift = (cells * stride).astype(jnp.float32)
    return (((shift + sides[0]) + (shift + sides[1])) / 2 - centre) ** 2


def candidates(
    gt_boxes: Float[Array, 'G 4'],
    image_size: Int[Array, '2'],
    valid_size: Int[Array, '2'],
    canvas: tuple[int, int],
    anchors: AnchorGenerator,
    assigner: ATSSAssigner,
) -> tuple[Int[Array, 'G K'], Float[Array, 'G K 4'], Bool[Array, 'G K']]:
    """Step 1: index among the canvas's anchors, box, and whether there is one."""
    gt_centres = centres(gt_boxes)
    levels, start = [], 0
    for level, size in enumerate(anchors.grid_sizes(canvas)):
        bounds = valid_cells(anchors, assigner, level, image_size, valid_size)
        index, box, ok = _level_candidates(
            gt_centres, anchors, assigner, level, size, bounds
        )
        levels.append((index + start, box, ok))
        start += size[0] * size[1] * anchors.num_anchors
    index, box, ok = (jnp.concatenate(part, 1) for part in zip(*levels, strict=True))
    return index, box, ok


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
    centre = centres(box)
    near, far = centre - gt_boxes[:, None, :2], gt_boxes[:, None, 2:] - centre
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
