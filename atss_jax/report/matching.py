"""Which detection matches which object, image by image, as COCO matches them."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

_MAX_DETECTIONS = 100  # per (image, class), as COCO counts


@dataclasses.dataclass(frozen=True)
class EvaluatedImage:
    """Ground truth (G objects and crowd regions) and N detections of one image.

    Boxes are xyxy in pixels of the original image.

    Attributes:
        image_id: COCO id.
        gt_boxes: (G,4).
        gt_labels: (G,) 0..C-1.
        is_crowd: (G,) bool; detections in a crowd region are neither right nor wrong.
        boxes: (N,4) detections, best first; at most 100 of a class.
        labels: (N,) 0..C-1.
        scores: (N,) descending.
    """

    image_id: int
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
    results: list[dict],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int],
) -> list[EvaluatedImage]:
    """Gathers ground truth and detections by image.

    Args:
        ground_truth: COCO dict.
        results: COCO results.
        category_ids: COCO category id of each label; other categories are left out.
        image_ids: which images, in this order.
    """
    label_of = {category: label for label, category in enumerate(category_ids)}
    annotations, detections = (
        _by_image(records, label_of)
        for records in (ground_truth['annotations'], results)
    )
    return [
        _evaluated_image(
            int(id_), annotations[int(id_)], detections[int(id_)], label_of
        )
        for id_ in image_ids
    ]


def _by_image(records, label_of):
    by_image = collections.defaultdict(list)
    for record in records:
        if record['category_id'] in label_of:
            by_image[record['image_id']].append(record)
    return by_image


def _evaluated_image(image_id, annotations, detections, label_of):
    gt_boxes, gt_labels = _boxes_and_labels(annotations, label_of)
    boxes, labels = _boxes_and_labels(detections, label_of)
    scores = np.array([d['score'] for d in detections], np.float64)
    order = np.argsort(-scores, kind='stable')
    order = order[_rank_in_class(labels[order]) < _MAX_DETECTIONS]
    return EvaluatedImage(
        image_id,
        gt_boxes,
        gt_labels,
        np.array([bool(a.get('iscrowd', 0)) for a in annotations], bool),
        boxes[order],
        labels[order],
        scores[order],
    )


def _boxes_and_labels(records, label_of):
    boxes = np.array([r['bbox'] for r in records], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([label_of[r['category_id']] for r in records], int)


def _rank_in_class(labels):
    """(N,) the number of earlier entries of the same class."""
    ranks, counts = np.zeros(len(labels), int), collections.Counter()
    for index, label in enumerate(labels.tolist()):
        ranks[index] = counts[label]
        counts[label] += 1
    return ranks


def pairwise_iou(
    boxes: np.ndarray, gt_boxes: np.ndarray, is_crowd: np.ndarray
) -> np.ndarray:
    """(N,G) IoU; for a crowd region, the share of the detection that lies inside."""
    first = np.maximum(boxes[:, None, :2], gt_boxes[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], gt_boxes[None, :, 2:])
    intersection = np.maximum(last - first, 0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = area + (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(-1) - intersection
    whole = np.where(is_crowd, area, union)
    return np.divide(
        intersection, whole, out=np.zeros_like(intersection), where=whole > 0
    )


@dataclasses.dataclass(frozen=True)
class Match:
    """Which detection matches which object at one IoU threshold.

    Attributes:
        gt_index: (N,) the object that each detection matches, -1 for none.
        ignored: (N,) bool, detections in a crowd region of their class, neither right
            nor wrong.
        iou: (N,G) overlaps.
    """

    gt_index: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray

    def is_found(self) -> np.ndarray:
        """(G,) bool: whether a detection matches the object."""
        is_found = np.zeros(self.iou.shape[1], bool)
        is_found[self.gt_index[self.gt_index >= 0]] = True
        return is_found


def match(image: EvaluatedImage, threshold: float = 0.5) -> Match:
    """Matches detections, best first, each to the free object it overlaps most.

    Only objects of the detection's class with an IoU of at least `threshold` count.

    Source: pycocotools.COCOeval.evaluateImg, all areas.
    """
    iou = pairwise_iou(image.boxes, image.gt_boxes, image.is_crowd)
    is_match = (image.labels[:, None] == image.gt_labels) & (iou >= threshold)
    free_iou = np.where(is_match & ~image.is_crowd, iou, 0)
    gt_index = np.full(len(iou), -1)
    for row in np.flatnonzero(free_iou.any(1)):
        best = int(free_iou[row].argmax())
        if free_iou[row, best] > 0:
            gt_index[row] = best
            free_iou[:, best] = 0
    in_crowd = (is_match & image.is_crowd).any(1)
    return Match(gt_index, in_crowd & (gt_index < 0), iou)
