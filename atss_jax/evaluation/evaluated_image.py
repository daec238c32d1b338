"""Annotations and detections of images next to each other, as arrays."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from atss_jax.structures import Detections


@dataclasses.dataclass(frozen=True)
class EvaluatedImage:
    """G annotations and N detections of one image.

    Boxes are xyxy in pixels of the original image.

    Attributes:
        image_id: COCO id.
        annotation_ids: (G,) int64, COCO ids.
        gt_boxes: (G,4) float64.
        gt_labels: (G,) 0..C-1; -1: of a category that the detector does not know.
        is_crowd: (G,) bool; detections in a crowd region are neither right nor wrong.
        boxes: (N,4) float64, best first.
        labels: (N,) 0..C-1.
        scores: (N,) float64, descending.
    """

    image_id: int
    annotation_ids: np.ndarray
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    is_crowd: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def above(self, min_score: float) -> 'EvaluatedImage':
        """The same image with only the detections of at least `min_score`."""
        kept = self.scores >= min_score
        return dataclasses.replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            scores=self.scores[kept],
        )


def evaluated_images(
    ground_truth: dict,
    detections: Mapping[int, Detections],
    category_ids: Sequence[int],
) -> list[EvaluatedImage]:
    """Puts the annotations of each image next to its detections.

    Args:
        ground_truth: COCO dict, as from `Source.ground_truth()`.
        detections: by image id, best first; the result has these images, in this order.
        category_ids: COCO category id of each label.
    """
    label_of = {id_: label for label, id_ in enumerate(category_ids)}
    by_image = collections.defaultdict(list)
    for annotation in ground_truth['annotations']:
        by_image[annotation['image_id']].append(annotation)
    return [
        _evaluated_image(image_id, by_image[image_id], detected, label_of)
        for image_id, detected in detections.items()
    ]


def _evaluated_image(image_id, annotations, detections, label_of):
    return EvaluatedImage(
        image_id,
        np.array([a['id'] for a in annotations], np.int64),
        corner_boxes(annotations),
        np.array([label_of.get(a['category_id'], -1) for a in annotations], int),
        np.array([bool(a.get('iscrowd', 0)) for a in annotations], bool),
        np.asarray(detections.boxes, np.float64),
        np.asarray(detections.labels, int),
        np.asarray(detections.scores, np.float64),
    )


def corner_boxes(records: Sequence[dict]) -> np.ndarray:
    """(N,4) float64 boxes of COCO annotations or results, as xyxy."""
    boxes = np.array([r['bbox'] for r in records], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
