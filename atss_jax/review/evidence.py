"""How much the annotations of one image look faulty next to the detections in it.

Each kind of fault has one number per suspect, larger the more it looks like the fault.
The same functions say what it would be if there were a fault, which is rehearsed: see
`calibration`.
"""

import dataclasses

import numpy as np

from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.evaluation.overlap import match_best_first, pairwise_iou

KINDS = ('missing', 'class', 'loose', 'twice')

_SAME_PLACE = 0.5  # IoU from which a detection is at the place of an object
_SAME_OBJECT = 0.3  # IoU from which a detection of its class may mean the object
_MIN_SCORE = 0.1  # of a detection that may be a missing object


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One image with what belongs together in it.

    Attributes:
        image: G annotations and N detections.
        iou: (N,G); in a crowd region, the share of the detection that lies inside.
        gt_iou: (G,G) of the annotations with each other, 0 on the diagonal.
        detection_of: (G,) the detection of its class that means each object, -1 for
            none; each detection means one object.
        class_scores: (G,C) the best score of each class at the place of each object.
        is_suspect: (G,) bool: objects of known classes, not crowd regions.
    """

    image: EvaluatedImage
    iou: np.ndarray
    gt_iou: np.ndarray
    detection_of: np.ndarray
    class_scores: np.ndarray
    is_suspect: np.ndarray


def compare(image: EvaluatedImage, num_classes: int) -> Comparison:
    """Says which detections and annotations of an image belong together."""
    iou = pairwise_iou(image.boxes, image.gt_boxes, image.is_crowd)
    is_suspect = (image.gt_labels >= 0) & ~image.is_crowd
    may_match = (image.labels[:, None] == image.gt_labels) & is_suspect
    gt_index = match_best_first(np.where(may_match & (iou >= _SAME_OBJECT), iou, 0))
    detection_of = np.full(len(image.gt_labels), -1)
    rows = np.flatnonzero(gt_index >= 0)
    detection_of[gt_index[rows]] = rows
    class_scores = np.zeros((len(image.gt_labels), num_classes))
    rows, objects = np.nonzero(iou >= _SAME_PLACE)
    np.maximum.at(class_scores, (objects, image.labels[rows]), image.scores[rows])
    gt_iou = pairwise_iou(image.gt_boxes, image.gt_boxes)
    np.fill_diagonal(gt_iou, 0)
    return Comparison(image, iou, gt_iou, detection_of, class_scores, is_suspect)


# An object without an annotation ------------------------------------------------------


def unannotated(comparison: Comparison) -> np.ndarray:
    """(K,) detections at the place of no annotation, the best at each place."""
    image, iou = comparison.image, comparison.iou
    free = iou.max(axis=1, initial=0) < _SAME_PLACE
    chosen: list[int] = []
    for row in np.flatnonzero(free & (image.scores >= _MIN_SCORE)).tolist():
        overlap = pairwise_iou(image.boxes[[row]], image.boxes[chosen])
        if overlap.max(initial=0) < _SAME_PLACE:
            chosen.append(row)
    return np.array(chosen, int)


def missing_evidence(comparison: Comparison, rows: np.ndarray) -> np.ndarray:
    """(K,) score of detections, times the share that overlaps no annotation."""
    overlap = comparison.iou[rows].max(axis=1, initial=0)
    return comparison.image.scores[rows] * (1 - overlap)


def rehearsed_missing(comparison: Comparison) -> np.ndarray:
    """(G,) as `missing_evidence`, for each object if its annotation were left out."""
    objects, rows = _detected(comparison)
    others = comparison.iou[rows]
    others[np.arange(len(rows)), objects] = 0
    evidence = np.zeros(len(comparison.detection_of))
    scores = comparison.image.scores[rows]
    evidence[objects] = scores * (1 - others.max(axis=1, initial=0))
    return evidence


def _detected(comparison):
    """The objects that a detection means, and the detection of each."""
    objects = np.flatnonzero(comparison.detection_of >= 0)
    return objects, comparison.detection_of[objects]


# An object of another class -----------------------------------------------------------


def class_evidence(class_scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(G,) best score of another class at the place, minus that of the annotated one.

    Args:
        class_scores: (G,C) the best score of each class at the place of each object.
        labels: (G,) annotated class, 0..C-1.
    """
    objects = np.arange(len(labels))
    others = class_scores.copy()
    others[objects, labels] = 0
    return others.max(axis=1, initial=0) - class_scores[objects, labels]


def rehearsed_class(comparison: Comparison, rng: np.random.Generator) -> np.ndarray:
    """(G,) as `class_evidence`, for each object if it had another class at random."""
    count, num_classes = comparison.class_scores.shape
    if num_classes < 2:
        return np.zeros(0)
    steps = rng.integers(1, num_classes, count)
    labels = (comparison.image.gt_labels + steps) % num_classes
    return class_evidence(comparison.class_scores, labels)


# A loose box --------------------------------------------------------------------------


def loose_evidence(comparison: Comparison, gt_boxes: np.ndarray) -> np.ndarray:
    """(G,) score of the detection that means each object, times 1 - IoU with its box.

    Args:
        comparison: the image.
        gt_boxes: (G,4) the boxes to judge.
    """
    objects, rows = _detected(comparison)
    iou = pairwise_iou(comparison.image.boxes, gt_boxes)[rows, objects]
    evidence = np.zeros(len(gt_boxes))
    evidence[objects] = comparison.image.scores[rows] * (1 - iou)
    return evidence


def rehearsed_loose(comparison: Comparison, rng: np.random.Generator) -> np.ndarray:
    """(G,) as `loose_evidence`, for each object if its box were loose."""
    boxes = jittered(comparison.image.gt_boxes, _LOOSE, rng)
    return loose_evidence(comparison, boxes)


# Two annotations of one object --------------------------------------------------------


def twins(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """(G,) the object of the same class that each overlaps most, and the IoU."""
    labels = comparison.image.gt_labels
    is_same = (labels[:, None] == labels) & comparison.is_suspect
    overlap = np.where(is_same, comparison.gt_iou, 0)
    if not len(labels):
        return np.zeros(0, int), np.zeros(0)
    return overlap.argmax(axis=1), overlap.max(axis=1)


def twice_evidence(comparison: Comparison) -> np.ndarray:
    """(G,) IoU with another object of the class, if not both are detected.

    It is times 1 minus the score of the detection that means the second of the two.
    """
    twin, overlap = twins(comparison)
    score = object_scores(comparison)
    return overlap * (1 - np.minimum(score, score[twin]))


def rehearsed_twice(comparison: Comparison, rng: np.random.Generator) -> np.ndarray:
    """(G,) as `twice_evidence`, for each object if it had a second annotation."""
    image = comparison.image
    boxes = jittered(image.gt_boxes, _TWICE, rng)
    overlap = pairwise_iou(boxes, image.gt_boxes).diagonal()
    is_free = np.ones(len(image.scores), bool)
    is_free[comparison.detection_of[comparison.detection_of >= 0]] = False
    is_second = is_free[:, None] & (image.labels[:, None] == image.gt_labels)
    is_second &= pairwise_iou(image.boxes, boxes) >= _SAME_OBJECT
    second = np.where(is_second, image.scores[:, None], 0).max(axis=0, initial=0)
    return overlap * (1 - np.minimum(object_scores(comparison), second))


def object_scores(comparison: Comparison) -> np.ndarray:
    """(G,) score of the detection that means each object, 0 where there is none."""
    objects, rows = _detected(comparison)
    scores = np.zeros(len(comparison.detection_of))
    scores[objects] = comparison.image.scores[rows]
    return scores


# Rehearsed boxes ----------------------------------------------------------------------

# Sides of a box move by normal numbers of this deviation, as shares of the size; the
# median of the IoU with the box as it was is then 0.55, or 0.78.
_LOOSE, _TWICE = 0.2, 0.08


def jittered(
    boxes: np.ndarray, deviation: float, rng: np.random.Generator
) -> np.ndarray:
    """(N,4) boxes whose sides are moved at random, as shares of width and height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    moves = np.clip(rng.normal(0, deviation, boxes.shape), -0.4, 0.4)
    return boxes + moves * np.tile(sides, 2)
