"""Images of which anchors learn which box: `draw assignment`."""

import collections
import functools
from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from atss_jax.config import build_experiment
from atss_jax.data.loader import load_row
from atss_jax.detection.assign import assign, candidates, thresholds
from atss_jax.detection.boxes import iou
from atss_jax.drawing import boxes as visualize
from atss_jax.drawing import text as lettering

_LONG_SIDE = 640  # of a panel, in pixels


def draw_assignment(
    config, out: str, split: str, image_ids: Sequence[int] | None, count: int
) -> None:
    """Writes a sheet: for each image its boxes, candidates and positives by level.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        split: 'train', 'val' or 'test'; images are whole, at `img_scale`.
        image_ids: of the images; None: the first that have objects.
        count: how many those are.

    Raises:
        ValueError: no such image, or none with objects; bad data.
    """
    experiment = build_experiment(config)
    data = experiment.data[split]
    source, pipeline = data.open(), data.pipeline.without_jitter()
    loss, canvases = experiment.loss, pipeline.all_canvases()
    chosen = pipeline.canvas_index(source)
    columns = -(-(len(loss.anchors.strides) + 2) // 2)
    panels, captions = [], []
    for index in _indices(source.records, image_ids, count):
        row = load_row(source, index, canvases[chosen[index]], pipeline)
        found = explain(row, loss.anchors, loss.assigner, pipeline.size_divisor)
        own, texts = _panels(row, found, source.classes, loss.anchors.strides)
        gap = -len(own) % columns  # the next image begins a row
        panels += own + [np.full_like(own[0], 255)] * gap
        captions += texts + [''] * gap
    visualize.write_image(out, visualize.contact_sheet(panels, columns, captions))


def _indices(records, image_ids, count):
    if image_ids is None:
        has_object = np.flatnonzero(records.counts > 0)[:count].tolist()
        if not has_object:
            raise ValueError('no image of the split has an object')
        return has_object
    rows = {id_: row for row, id_ in enumerate(records.image_ids.tolist())}
    unknown = [id_ for id_ in image_ids if id_ not in rows]
    if unknown:
        raise ValueError(
            f'image ids {unknown} are not in the data (or filtered out); it has '
            f'{len(rows)} images, such as {list(rows)[:5]}'
        )
    return [rows[id_] for id_ in image_ids]


def explain(row, anchors, assigner, divisor: int) -> dict[str, np.ndarray]:
    """What the assignment does with one image.

    Args:
        row: of a batch, without its leading axis.
        anchors: the grid.
        assigner: settings.
        divisor: of the size of the valid region.

    Returns:
        By object (crowds left out): `boxes` (n,4), `labels` (n,), `thresholds` (n,);
        candidates by their center `points` (n,K,2), `levels` (n,K) and `is_candidate`
        (n,K); `is_positive` (n,K): this anchor learns this box.
    """
    step = functools.partial(
        _explain, row['image'].shape[:2], anchors, assigner, divisor
    )
    objects = row['gt_valid'] & ~row['gt_ignored']
    found = jax.device_get(jax.jit(step)(row['gt_boxes'], objects, row['image_size']))
    kept = {name: values[objects] for name, values in found.items()}
    sizes = anchors.grid_sizes(row['image'].shape[:2])
    ends = np.cumsum([h * w * anchors.num_anchors for h, w in sizes])
    kept['levels'] = np.searchsorted(ends, kept.pop('index'), side='right')
    return kept | {
        'boxes': row['gt_boxes'][objects],
        'labels': row['gt_labels'][objects],
    }


def _explain(canvas, anchors, assigner, divisor, gt_boxes, objects, image_size):
    valid_size = -(-image_size // divisor) * divisor
    index, box, ok = candidates(
        gt_boxes, image_size, valid_size, canvas, anchors, assigner
    )
    owner = assign(
        gt_boxes,
        objects,
        image_size,
        canvas,
        valid_size=valid_size,
        anchors=anchors,
        assigner=assigner,
    )
    owner_GK = owner.at[index].get(mode='fill', fill_value=-1)
    return {
        'index': index,
        'is_candidate': ok,
        'points': (box[..., :2] + box[..., 2:]) / 2,
        'thresholds': thresholds(iou(gt_boxes[:, None], box), ok),
        'is_positive': ok & (owner_GK == jnp.arange(len(gt_boxes))[:, None]),
    }


def _panels(row, found, classes, strides):
    """The boxes, one panel a level, a bar chart; and their captions."""
    height, width = row['image_size']
    image = row['image'][:height, :width]
    ratio = _LONG_SIDE / max(height, width)
    large = cv2.resize(image, (round(width * ratio), round(height * ratio)))
    boxes = found['boxes'] * ratio
    colors = [visualize.class_color(k) for k in range(len(boxes))]
    panels = [_draw_objects(large, boxes, found, classes)]
    total = int(found['is_positive'].sum())
    noun = 'box' if len(boxes) == 1 else 'boxes'
    captions = [f'{row["image_id"]}: {len(boxes)} {noun}, {total} positives']
    counts = np.zeros((len(strides), len(boxes)), int)
    for level, stride in enumerate(strides):
        here = found['is_candidate'] & (found['levels'] == level)
        positive = here & found['is_positive']
        counts[level] = positive.sum(1)
        points = found['points'] * ratio
        reach = min(5.0, 0.3 * stride * ratio)  # rings of neighbors must not touch
        panels.append(_draw_level(large, boxes, points, here, positive, colors, reach))
        captions.append(f'stride {stride}: {positive.sum()} of {here.sum()} positive')
    panels.append(_draw_bars(large.shape, counts, strides, colors))
    captions.append('positives by stride')
    return panels, captions


def _draw_objects(image, boxes, found, classes):
    """Each box in a color of its own, with its name and IoU threshold."""
    names = [
        f'{lettering.class_text(classes[label], label)} IoU>{threshold:.2f}'
        for label, threshold in zip(found['labels'], found['thresholds'], strict=True)
    ]
    return visualize.draw_boxes(image, boxes, np.arange(len(boxes)), names)


def _draw_level(image, boxes, points, here, positive, colors, reach):
    """Candidates as rings, positives as discs, in the color of their box.

    Where several boxes have one candidate, a ring is around the other.
    """
    panel = image // 2 + 100  # pale, so that the marks stand out
    for box, color in zip(boxes.round().astype(int).tolist(), colors, strict=True):
        cv2.rectangle(panel, box[:2], box[2:], color, 2, cv2.LINE_AA)
    thickness = 2 if reach > 4 else 1
    radius, taken = max(2, round(reach)), collections.Counter()
    for k, color in enumerate(colors):
        for point in points[k][positive[k]].round().astype(int).tolist():
            cv2.circle(panel, point, radius + 3, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(panel, point, radius + 1, color, -1, cv2.LINE_AA)
            taken[tuple(point)] = 2
    for k, color in enumerate(colors):
        for point in points[k][here[k] & ~positive[k]].round().astype(int).tolist():
            around = radius + (thickness + 1) * taken[tuple(point)]
            cv2.circle(panel, point, around, color, thickness, cv2.LINE_AA)
            taken[tuple(point)] += 1
    return panel


def _draw_bars(shape, counts, strides, colors):
    """A bar a level, of pieces in the boxes' colors, with the sum on top."""
    panel = np.full(shape, 255, np.uint8)
    height, width = shape[:2]
    size = max(lettering.MIN_TEXT_PIXELS, height / 30)
    top, bottom = round(3 * size), height - round(3 * size)
    most, slot = max(1, counts.sum(1).max()), width / len(strides)
    for level, stride in enumerate(strides):
        left, right = round((level + 0.2) * slot), round((level + 0.8) * slot)
        y = float(bottom)
        for count, color in zip(counts[level], colors, strict=True):
            above = y - count / most * (bottom - top)
            if count:
                first, last = (left, round(above)), (right, round(y))
                cv2.rectangle(panel, first, last, color, -1)
                cv2.rectangle(panel, first, last, (255, 255, 255), 1)
            y = above
        middle = (left + right) // 2
        _center(
            panel, str(counts[level].sum()), middle, round(y - size / 2), size, slot
        )
        _center(panel, str(stride), middle, bottom + round(1.6 * size), size, slot)
    return panel


def _center(panel, text, x, y, size, room):
    line = lettering.fit(text, size, room)
    lettering.put(panel, line, x - line.width // 2, y, lettering.BLACK)
