"""Annotations and detections of images next to each other, as arrays."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from atss_jax.structures import Detections


@dataclasses.dataclass(frozen=True)
class ReviewedImage:
    """G annotations and N detections of one image; boxes are xyxy in its pixels.

    Attributes:
        image_id: COCO id.
        annotation_ids: (G,) int64, COCO ids.
        gt_boxes: (G,4) float64.
        gt_labels: (G,) 0..C-1; -1: of a category that the detector does not know.
        is_crowd: (G,) bool.
        boxes: (N,4) float64, best first.
        labels: (N,) 0..C-1.
        scores: (N,) float64.
    """

    image_id: int
    annotation_ids: np.ndarray
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    is_crowd: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def review_images(
    ground_truth: dict,
    detections: Mapping[int, Detections],
    category_ids: Sequence[int],
) -> list[ReviewedImage]:
    """The images in which something was looked for, in their order.

    Args:
        ground_truth: COCO dict, as from `Source.ground_truth()`.
        detections: by image id, best first.
        category_ids: COCO category id of each label.
    """
    label_of = {id_: label for label, id_ in enumerate(category_ids)}
    by_image = collections.defaultdict(list)
    for annotation in ground_truth['annotations']:
        by_image[annotation['image_id']].append(annotation)
    return [
        _reviewed_image(image_id, by_image.get(image_id, []), each, label_of)
        for image_id, each in detections.items()
    ]


def _reviewed_image(image_id, annotations, detections, label_of):
    gt_boxes = np.array([a['bbox'] for a in annotations], np.float64).reshape(-1, 4)
    gt_boxes[:, 2:] += gt_boxes[:, :2]
    return ReviewedImage(
        image_id,
        np.array([a['id'] for a in annotations], np.int64),
        gt_boxes,
        np.array([label_of.get(a['category_id'], -1) for a in annotations], int),
        np.array([bool(a.get('iscrowd', 0)) for a in annotations], bool),
        np.asarray(detections.boxes, np.float64),
        np.asarray(detections.labels, int),
        np.asarray(detections.scores, np.float64),
    )
