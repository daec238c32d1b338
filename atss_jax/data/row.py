"""Rows of batches: a picture on its canvas, its truth, what maps detections back."""

from collections.abc import Callable

import numpy as np

from atss_jax.data import transforms
from atss_jax.data.augment import View
from atss_jax.data.bad_pictures import NONE
from atss_jax.data.pipeline import Pipeline
from atss_jax.data.plan import Canvas
from atss_jax.data.records import Record, Source

Batch = dict[str, np.ndarray]


def check_room(record: Record, max_boxes: int) -> None:
    """Raises ValueError if a picture has more boxes than a batch has room for."""
    count = len(record.labels)
    if count > max_boxes:
        raise ValueError(
            f'image id {record.image_id} ({record.file_name}) has {count} boxes, '
            f'but data.max_boxes = {max_boxes}; raise it to {count} or more'
        )


def load_row(
    source: Source,
    index: int,
    canvas: Canvas,
    pipeline: Pipeline,
    flip: bool = False,
    view: View | None = None,
    out: np.ndarray | None = None,
) -> Batch:
    """One row of a batch (no leading B); names, types and meanings as in `structures`.

    Args:
        source: where the record comes from.
        index: of the record.
        canvas: height, width of the result.
        pipeline: how to resize.
        flip: mirror left to right; not read with a `view`.
        view: what to show of the picture; None: all of it at `img_scale`.
        out: (H,W,3) uint8 to draw the picture on; None: a new array.

    Raises:
        ValueError: more boxes than `pipeline.max_boxes`, or a bad picture.
        OSError: no such picture.
    """
    record, room = source.records[index], pipeline.max_boxes
    check_room(record, room)
    view = view or pipeline.whole(index, record, flip)
    out = new_canvas(canvas) if out is None else out
    row = picture_row(record, source.read_image(record), out, view)
    boxes, shown = pipeline.jitter.boxes(record, view)
    kept = pipeline.jitter.kept(boxes, shown)
    boxes = boxes[kept]
    if view.flip:
        boxes = transforms.flip_boxes(boxes, view.width)
    return row | {
        'gt_boxes': _pad(boxes.astype(np.float32), room),
        'gt_labels': _pad(record.labels[kept].astype(np.int32), room),
        'gt_valid': np.arange(room) < len(boxes),
        'gt_ignored': _pad(record.ignored[kept], room),
    }


def _pad(values, length):
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def new_canvas(canvas: Canvas) -> np.ndarray:
    """(H,W,3) uint8 to draw a row on; what is in it is not defined."""
    return np.empty((*canvas, 3), np.uint8)


def picture_row(
    record: Record, image: np.ndarray, canvas: np.ndarray, view: View
) -> Batch:
    """What a row holds beside the truth.

    Args:
        record: the picture's id and size.
        image: (H,W,3) uint8 RGB of that size.
        canvas: (H,W,3) uint8, which the picture is drawn on and which becomes `image`.
        view: what to show of the picture.
    """
    draw(image, canvas, view)
    return {
        'image': canvas,
        'image_size': np.array(view.shown, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, view.size).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
        'skipped': np.array(NONE, np.int64),
    }


def draw(image: np.ndarray, canvas: np.ndarray, view: View) -> None:
    """Shows a picture in the top left corner of a canvas; the rest turns black.

    OpenCV writes to the canvas itself, without an array in between.
    """
    corner = transforms.corner(canvas, view.shown)
    if view.shown == view.size:
        shown = transforms.resize(image, view.size, out=corner)
    else:
        resized = transforms.resize(image, view.size)
        shown = transforms.crop(resized, view.top, view.left, view.shown)
        if not view.flip:
            corner[:] = shown
    if view.flip:
        # After resizing: resized mirror images differ from mirrored resized ones.
        transforms.flip_image(shown, out=corner)


def build_batch(
    count: int, canvas: Canvas, load: Callable[[int, np.ndarray], Batch]
) -> Batch:
    """A batch whose pictures are drawn where they stay.

    Args:
        count: rows, B.
        canvas: height, width of all.
        load: gives the row of a number from 0, drawn on the canvas given.
    """
    images = np.empty((count, *canvas, 3), np.uint8)
    rows = [load(number, image) for number, image in enumerate(images)]
    names = [name for name in rows[0] if name != 'image']
    return {'image': images} | {n: np.stack([row[n] for row in rows]) for n in names}
