"""Which detection found which object, image by image, as COCO matches them."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

_MAX_DETECTIONS = 100  # an image and class, as COCO counts


@dataclasses.dataclass(frozen=True)
class Image:
    """Truth and detections of one image, in its pixels.

    Attributes:
        image_id: COCO id.
        boxes: (G,4) xyxy of the objects and crowds.
        labels: (G,) 0..C-1.
        crowd: (G,) bool; what is found in a crowd counts neither way.
        found_boxes: (N,4) xyxy, best first; at most 100 of a class.
        found_labels: (N,) 0..C-1.
        scores: (N,) falling.
    """

    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    found_boxes: np.ndarray
    found_labels: np.ndarray
    scores: np.ndarray


def images_of(
    ground_truth: dict,
    results: list[dict],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int],
) -> list[Image]:
    """Truth and detections by image; other images and categories are left out.

    Args:
        ground_truth: COCO dict.
        results: COCO results.
        category_ids: COCO category id of each label.
        image_ids: of the images, in the order that is wanted.
    """
    labels = {category: label for label, category in enumerate(category_ids)}
    truth, found = collections.defaultdict(list), collections.defaultdict(list)
    for records, by_image in ((ground_truth['annotations'], truth), (results, found)):
        for record in records:
            if record['category_id'] in labels:
                by_image[record['image_id']].append(record)
    return [_image(int(i), truth[int(i)], found[int(i)], labels) for i in image_ids]


def _image(image_id, truth, found, labels):
    def columns(records):
        boxes = np.array([r['bbox'] for r in records], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, np.array([labels[r['category_id']] for r in records], int)

    boxes, own_labels = columns(truth)
    crowd = np.array([bool(r.get('iscrowd', 0)) for r in truth], bool)
    found_boxes, found_labels = columns(found)
    scores = np.array([r['score'] for r in found], np.float64)
    order = np.argsort(-scores, kind='stable')
    order = order[_rank_in_class(found_labels[order]) < _MAX_DETECTIONS]
    return Image(
        image_id,
        boxes,
        own_labels,
        crowd,
        found_boxes[order],
        found_labels[order],
        scores[order],
    )


def _rank_in_class(labels):
    """(N,) how many before each are of the same class."""
    ranks, seen = np.zeros(len(labels), int), collections.Counter()
    for index, label in enumerate(labels.tolist()):
        ranks[index] = seen[label]
        seen[label] += 1
    return ranks


def pairwise_iou(found: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(N,G) overlap; with a crowd it is the share of the detection that lies inside."""
    first = np.maximum(found[:, None, :2], boxes[None, :, :2])
    last = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(last - first, 0).prod(-1)
    own = (found[:, 2:] - found[:, :2]).prod(-1)[:, None]
    union = own + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - shared
    whole = np.where(crowd, own, union)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


@dataclasses.dataclass(frozen=True)
class Match:
    """Who found what at one IoU threshold.

    Attributes:
        truth: (N,) the object that each detection found, -1 for none.
        ignored: (N,) bool, detections in a crowd of their class: neither right nor
            wrong.
        iou: (N,G) overlaps.
    """

    truth: np.ndarray
    ignored: np.ndarray
    iou: np.ndarray

    def found(self) -> np.ndarray:
        """(G,) bool: objects that were found."""
        found = np.zeros(self.iou.shape[1], bool)
        found[self.truth[self.truth >= 0]] = True
        return found


def match(image: Image, threshold: float = 0.5) -> Match:
    """Best first, each detection takes the free object of its class it overlaps most.

    Source: pycocotools.COCOeval.evaluateImg, all areas.
    """
    iou = pairwise_iou(image.found_boxes, image.boxes, image.crowd)
    alike = image.found_labels[:, None] == image.labels
    open_ = np.where(alike & ~image.crowd & (iou >= threshold), iou, 0)
    truth = np.full(len(iou), -1)
    for row in np.flatnonzero(open_.any(1)):
        best = int(open_[row].argmax())
        if open_[row, best] > 0:
            truth[row] = best
            open_[:, best] = 0
    in_crowd = (alike & image.crowd & (iou >= threshold)).any(1)
    return Match(truth, in_crowd & (truth < 0), iou)
