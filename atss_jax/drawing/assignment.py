"""Images of which anchors are assigned to which box: `draw assignment`."""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from atss_jax.config import build_experiment
from atss_jax.data.batch import load_row
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner, assign, candidates, thresholds
from atss_jax.detection.boxes import iou
from atss_jax.drawing.boxes import class_color, draw_boxes, write_image
from atss_jax.drawing.sheets import contact_sheet
from atss_jax.drawing.text import (
    BLACK,
    MIN_TEXT_PIXELS,
    WHITE,
    class_text,
    fit_text,
    put_text,
)
from atss_jax.structures import Batch

_LONG_SIDE = 640  # of a panel, in pixels


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What the assignment does with the n objects of one image, crowds left out.

    Attributes:
        boxes: (n,4) xyxy.
        labels: (n,) classes.
        thresholds: (n,) the IoU from which a candidate is positive.
        centers: (n,K,2) x and y of the center of each candidate.
        levels: (n,K) the pyramid level of each candidate.
        is_candidate: (n,K) validity mask of the candidates.
        is_positive: (n,K) whether the candidate is assigned to the box.
    """

    boxes: np.ndarray
    labels: np.ndarray
    thresholds: np.ndarray
    centers: np.ndarray
    levels: np.ndarray
    is_candidate: np.ndarray
    is_positive: np.ndarray

    def scaled(self, factor: float) -> 'Explanation':
        """The same for the image enlarged by `factor`."""
        return dataclasses.replace(
            self, boxes=self.boxes * factor, centers=self.centers * factor
        )


def draw_assignment(
    config, out: str, split: str, image_ids: Sequence[int] | None, count: int
) -> None:
    """Writes a sheet: for each image its boxes, and their candidates by level.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        split: 'train', 'val' or 'test'; images are whole, at `img_scale`.
        image_ids: which images; None: the first that have objects.
        count: how many images, where `image_ids` is None.

    Raises:
        ValueError: no such image, or none with objects; bad data.
    """
    experiment = build_experiment(config)
    data = experiment.data[split]
    source, pipeline = data.open(), data.pipeline.without_jitter()
    loss, canvases = experiment.loss, pipeline.all_canvases()
    canvas_index = pipeline.canvas_index(source)
    columns = -(-(len(loss.anchors.strides) + 2) // 2)
    panels, captions = [], []
    for index in _indices(source.records, image_ids, count):
        row = load_row(source, index, canvases[canvas_index[index]], pipeline)
        explanation = explain(row, loss.anchors, loss.assigner, pipeline.size_divisor)
        row_panels, row_captions = _panels(
            row, explanation, source.classes, loss.anchors.strides
        )
        empty_cells = -len(row_panels) % columns  # the next image begins a row
        panels += row_panels + [np.full_like(row_panels[0], 255)] * empty_cells
        captions += row_captions + [''] * empty_cells
    write_image(out, contact_sheet(panels, columns, captions))


def _indices(records, image_ids, count):
    """Positions of the images in the records."""
    if image_ids is None:
        has_object = np.flatnonzero(records.counts > 0)[:count].tolist()
        if not has_object:
            raise ValueError('no image of the split has an object')
        return has_object
    index_of = {id_: index for index, id_ in enumerate(records.image_ids.tolist())}
    unknown = [id_ for id_ in image_ids if id_ not in index_of]
    if unknown:
        raise ValueError(
            f'image ids {unknown} are not in the data (or filtered out); it has '
            f'{len(index_of)} images, such as {list(index_of)[:5]}'
        )
    return [index_of[id_] for id_ in image_ids]


def explain(
    row: Batch, anchors: AnchorGenerator, assigner: ATSSAssigner, divisor: int
) -> Explanation:
    """Runs the assignment on one image and keeps what it decides by.

    Args:
        row: one row of a batch, without its leading axis.
        anchors: the grid.
        assigner: settings of the assignment.
        divisor: sides of the valid region are rounded up to a multiple of it.
    """
    canvas = row['image'].shape[:2]
    step = jax.jit(functools.partial(_explain, canvas, anchors, assigner, divisor))
    objects = row['gt_valid'] & ~row['gt_ignored']
    arrays = jax.device_get(step((row['gt_boxes'], objects, row['image_size'])))
    arrays = {name: values[objects] for name, values in arrays.items()}
    level_ends = np.cumsum(
        [h * w * anchors.num_anchors for h, w in anchors.grid_sizes(canvas)]
    )
    return Explanation(
        boxes=row['gt_boxes'][objects],
        labels=row['gt_labels'][objects],
        levels=np.searchsorted(level_ends, arrays.pop('index'), side='right'),
        **arrays,
    )


def _explain(canvas, anchors, assigner, divisor, inputs):
    gt_boxes, objects, image_size = inputs
    valid_size = -(-image_size // divisor) * divisor
    index, anchor_boxes, is_candidate = candidates(
        gt_boxes, image_size, valid_size, canvas, anchors, assigner
    )
    assigned_box = assign(
        gt_boxes,
        objects,
        image_size,
        canvas,
        valid_size=valid_size,
        anchors=anchors,
        assigner=assigner,
    )
    assigned_GK = assigned_box.at[index].get(mode='fill', fill_value=-1)
    is_own = assigned_GK == jnp.arange(len(gt_boxes))[:, None]
    return {
        'index': index,
        'is_candidate': is_candidate,
        'centers': (anchor_boxes[..., :2] + anchor_boxes[..., 2:]) / 2,
        'thresholds': thresholds(iou(gt_boxes[:, None], anchor_boxes), is_candidate),
        'is_positive': is_candidate & is_own,
    }


def _panels(row, explanation, classes, strides):
    """Panels of one image (the boxes, each level, a bar chart) and their captions."""
    height, width = row['image_size']
    image = row['image'][:height, :width]
    ratio = _LONG_SIDE / max(height, width)
    large = cv2.resize(image, (round(width * ratio), round(height * ratio)))
    shown = explanation.scaled(ratio)
    panels = [_draw_objects(large, shown, classes)]
    num_boxes, total = len(shown.boxes), int(shown.is_positive.sum())
    noun = 'box' if num_boxes == 1 else 'boxes'
    captions = [f'{row["image_id"]}: {num_boxes} {noun}, {total} positives']
    positives = np.zeros((len(strides), num_boxes), int)
    for level, stride in enumerate(strides):
        in_level = shown.levels == level
        positives[level] = (shown.is_positive & in_level).sum(1)
        num_candidates = (shown.is_candidate & in_level).sum()
        radius = min(5.0, 0.3 * stride * ratio)  # circles of neighbors must not touch
        panels.append(_draw_level(large, shown, level, radius))
        captions.append(
            f'stride {stride}: {positives[level].sum()} of {num_candidates} positive'
        )
    panels.append(_draw_bars(large.shape, positives, strides))
    captions.append('positives by stride')
    return panels, captions


def _draw_objects(image, shown, classes):
    """Each box in a color of its own, with its class and IoU threshold."""
    names = [
        f'{class_text(classes[label], label)} IoU>{threshold:.2f}'
        for label, threshold in zip(shown.labels, shown.thresholds, strict=True)
    ]
    return draw_boxes(image, shown.boxes, np.arange(len(shown.boxes)), names)


def _draw_level(image, shown, level, radius):
    """Negative candidates as circles, positives as discs, in the color of their box.

    Where several boxes share a candidate, their circles lie around each other.
    """
    panel = image // 2 + 100  # pale, so that the marks stand out
    in_level = shown.levels == level
    positive = shown.is_positive & in_level
    negative = shown.is_candidate & in_level & ~positive
    colors = [class_color(k) for k in range(len(shown.boxes))]
    for box, color in zip(shown.boxes.round().astype(int), colors, strict=True):
        box = box.tolist()
        cv2.rectangle(panel, box[:2], box[2:], color, 2, cv2.LINE_AA)
    thickness = 2 if radius > 4 else 1
    radius, circles = max(2, round(radius)), collections.Counter()
    for k, color in enumerate(colors):
        for center in shown.centers[k][positive[k]].round().astype(int).tolist():
            cv2.circle(panel, center, radius + 3, BLACK, -1, cv2.LINE_AA)
            cv2.circle(panel, center, radius + 1, color, -1, cv2.LINE_AA)
            circles[tuple(center)] = 2  # a disc is as large as two circles
    for k, color in enumerate(colors):
        for center in shown.centers[k][negative[k]].round().astype(int).tolist():
            outer = radius + (thickness + 1) * circles[tuple(center)]
            cv2.circle(panel, center, outer, color, thickness, cv2.LINE_AA)
            circles[tuple(center)] += 1
    return panel


def _draw_bars(shape, positives, strides):
    """A bar for each level, stacked in the colors of the boxes, its sum on top.

    Args:
        shape: of the panel.
        positives: (L,n) counts by level and box.
        strides: of the levels.
    """
    panel = np.full(shape, 255, np.uint8)
    height, width = shape[:2]
    text_size = max(MIN_TEXT_PIXELS, height / 30)
    top, bottom = round(3 * text_size), height - round(3 * text_size)
    unit = (bottom - top) / max(1, positives.sum(1).max())
    slot = width / len(strides)
    for level, stride in enumerate(strides):
        left, right = round((level + 0.2) * slot), round((level + 0.8) * slot)
        y = float(bottom)
        for k, count in enumerate(positives[level]):
            upper = y - count * unit
            if count:
                corners = (left, round(upper)), (right, round(y))
                cv2.rectangle(panel, *corners, class_color(k), -1)
                cv2.rectangle(panel, *corners, WHITE, 1)
            y = upper
        for text, baseline in (
            (str(positives[level].sum()), round(y - text_size / 2)),
            (str(stride), bottom + round(1.6 * text_size)),
        ):
            line = fit_text(text, text_size, slot)
            x = (left + right) // 2 - line.width // 2
            put_text(panel, line, x, baseline, BLACK)
    return panel
