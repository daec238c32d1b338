"""Detections of one image: rows without padding, and several views as one list."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from atss_jax.data.transforms import flip_boxes
from atss_jax.detection.nms import class_wise_nms
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.structures import Detections

EMPTY = Detections(
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    labels=np.zeros(0, np.int32),
    valid=np.zeros(0, bool),
)
"""No detections."""


def without_padding(detections: Detections) -> Detections:
    """The valid rows of the detections of one image, as NumPy arrays on the host."""
    return Detections(*(column[detections.valid] for column in detections))


def concatenate(several: Sequence[Detections]) -> Detections:
    """All rows, in order; of nothing `EMPTY`."""
    return Detections(*map(np.concatenate, zip(EMPTY, *several, strict=True)))


@functools.partial(jax.jit, static_argnames=('iou_threshold', 'max_per_img'))
def _nms(*arrays, iou_threshold, max_per_img):
    return class_wise_nms(*arrays, iou_threshold, max_per_img)


def merge(
    views: Sequence[Detections],
    flips: Sequence[bool],
    width: int,
    config: DetectConfig,
) -> Detections:
    """Merges the detections in several views of an image (test-time augmentation).

    Boxes of mirrored views are mirrored back, then one class-wise NMS keeps the best
    `max_per_img` of all. A single view that is not mirrored is returned unchanged,
    since NMS has nothing to suppress in it.

    Args:
        views: detections in each view, without padding, boxes in original pixels.
        flips: whether each view was mirrored.
        width: width of the original image.
        config: NMS threshold and number of detections.

    Source: mmdet DetTTAModel.
    """
    if len(views) == 1 and not flips[0]:
        return views[0]
    merged = concatenate(
        [
            view._replace(boxes=flip_boxes(view.boxes, width).astype(np.float32))
            if flip
            else view
            for view, flip in zip(views, flips, strict=True)
        ]
    )
    # Padded to the same length for all images, so that they share one program.
    padding = len(views) * config.max_per_img - len(merged.scores)
    padded = [
        np.pad(column, ((0, padding), *((0, 0),) * (column.ndim - 1)))
        for column in merged
    ]
    merged = _nms(
        *padded,
        iou_threshold=config.iou_threshold,
        max_per_img=config.max_per_img,
    )
    return without_padding(jax.device_get(merged))
