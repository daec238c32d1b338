"""One image shown in several ways: its detections as one list."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from atss_jax.data.transforms import flip_boxes
from atss_jax.detection.nms import class_wise_nms
from atss_jax.detection.postprocess import DetectConfig

Found = dict[str, np.ndarray]
"""Detections of one image: `boxes` (n,4) xyxy original pixels, `scores`, `labels`."""


@functools.partial(jax.jit, static_argnames=('iou_threshold', 'max_per_img'))
def _nms(*arrays, iou_threshold, max_per_img):
    return class_wise_nms(*arrays, iou_threshold, max_per_img)


def merge(
    views: Sequence[Found], flips: Sequence[bool], width: int, config: DetectConfig
) -> Found:
    """What is found in any view of an image, each object once.

    Boxes of mirrored views are mirrored back, and one class-wise NMS keeps the best
    `max_per_img` of all. One view that is not mirrored comes out as it is: nothing in
    it is left to suppress.

    Args:
        views: detections in each view, in pixels of the original image.
        flips: whether the view was mirrored.
        width: of the original image.
        config: NMS threshold and number of detections.

    Source: mmdet DetTTAModel.
    """
    if len(views) == 1 and not flips[0]:
        return views[0]
    boxes = [
        flip_boxes(view['boxes'], width).astype(np.float32) if flip else view['boxes']
        for view, flip in zip(views, flips, strict=True)
    ]
    boxes = np.concatenate(boxes)
    scores, labels = (
        np.concatenate([view[name] for view in views]) for name in ('scores', 'labels')
    )
    # Always as many rows, so that one program serves all images.
    room = len(views) * config.max_per_img - len(boxes)
    merged = _nms(
        np.pad(boxes, ((0, room), (0, 0))),
        np.pad(scores, (0, room)),
        np.pad(labels, (0, room)),
        np.arange(len(boxes) + room) < len(boxes),
        iou_threshold=config.iou_threshold,
        max_per_img=config.max_per_img,
    )
    merged = jax.device_get(merged)
    return {
        'boxes': merged.boxes[merged.valid],
        'scores': merged.scores[merged.valid],
        'labels': merged.labels[merged.valid],
    }
