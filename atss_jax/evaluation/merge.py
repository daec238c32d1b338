"""Detections of one image: rows without padding, and several views as one list."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from atss_jax.data.transforms import flip_boxes
from atss_jax.detection.postprocess import DetectConfig, suppress
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


@functools.partial(jax.jit, static_argnames=('config', 'max_per_img'))
def _nms(*arrays, config, max_per_img):
    return suppress(*arrays, config, max_per_img)


def padded_nms(
    detections: Detections, length: int, config: DetectConfig, max_per_img: int
) -> Detections:
    """The NMS of a config on the host's detections of several views.

    Args:
        detections: without padding.
        length: they are padded to it, so that lists of all lengths share one program.
        config: what NMS there is.
        max_per_img: how many to keep.

    Returns:
        Those that are kept, best first, without padding.
    """
    padding = length - len(detections.scores)
    padded = [
        np.pad(column, ((0, padding), *((0, 0),) * (column.ndim - 1)))
        for column in detections
    ]
    kept = _nms(*padded, config=config, max_per_img=max_per_img)
    return without_padding(jax.device_get(kept))


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
        config: NMS and number of detections.

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
    length = len(views) * config.max_per_img
    return padded_nms(merged, length, config, config.max_per_img)
