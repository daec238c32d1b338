"""Precision and recall of boxes, by hotcoco or, where it is missing, by pycocotools.

Both give the same numbers to the last bit. hotcoco is about a hundred times as fast.
"""

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Limits of detections per image: COCO reports at 1, 10, 100, mmdet at 100, 300, 1000.
# Matching is greedy from the best score down, so one pass at 1000 serves all limits.
MAX_DETS = (1, 10, 100, 300, 1000)


class Objects(NamedTuple):
    """G annotations of the ground truth.

    Attributes:
        images: (G,) int64, position of each one's image among those that are scored.
        labels: (G,) int64, 0..C-1.
        boxes: (G,4) float64, x, y, width, height.
        areas: (G,) float64.
        is_crowd: (G,) bool.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray


class DetectedObjects(NamedTuple):
    """N detections; those of equal scores count in this order.

    Attributes:
        images: (N,) int64, position of each one's image among those that are scored.
        labels: (N,) int64, 0..C-1.
        boxes: (N,4) float64, x, y, width, height.
        scores: (N,) float64.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class Scored(NamedTuple):
    """What is compared.

    Positions and labels stand for the ids of images and categories: hotcoco takes no
    negative ids, and in its arrays of detections none above 2**53.

    Attributes:
        num_images: images, in ascending order of id: it decides between equal scores.
        num_classes: C.
        objects: the ground truth.
        detections: their scores and boxes are finite.
    """

    num_images: int
    num_classes: int
    objects: Objects
    detections: DetectedObjects

    def image_records(self) -> list[dict]:
        """The images as COCO lists them; sizes do not matter for boxes."""
        return [{'id': i, 'height': 1, 'width': 1} for i in range(self.num_images)]

    def category_records(self) -> list[dict]:
        """The classes as COCO lists them."""
        return [{'id': label, 'name': str(label)} for label in range(self.num_classes)]


def curves(scored: Scored) -> Mapping[str, np.ndarray]:
    """Precision and recall, by hotcoco; without it by pycocotools, and a warning.

    Returns:
        The arrays of `COCOeval.eval`, -1 where there is no object: 'precision' and
        'scores', (10 IoU thresholds, 101 recalls, C, 4 areas, 5 limits of detections
        per image), and 'recall', (10, C, 4, 5).
    """
    hotcoco = find_hotcoco()
    return by_pycocotools(scored) if hotcoco is None else by_hotcoco(scored, hotcoco)


@functools.cache
def find_hotcoco() -> ModuleType | None:
    """The library, or None and a warning, once per process, if it cannot be loaded."""
    try:
        return importlib.import_module('hotcoco')
    except ImportError as error:
        warnings.warn(
            f'hotcoco cannot be imported ({error}): pycocotools scores instead. The '
            'numbers are the same, but take about a hundred times as long. To get it: '
            'pip install hotcoco',
            stacklevel=2,
        )
        return None


def by_hotcoco(scored: Scored, hotcoco: ModuleType) -> Mapping[str, np.ndarray]:
    """`curves`, by hotcoco, which uses all cores."""
    objects, detections = scored.objects, scored.detections
    ground_truth = hotcoco.COCO.from_arrays(
        scored.image_records(),
        scored.category_records(),
        objects.images,
        objects.labels,
        objects.boxes,
        area=objects.areas,
        iscrowd=objects.is_crowd.astype(np.int64),
    )
    table = np.column_stack(
        [detections.images, detections.boxes, detections.scores, detections.labels]
    )
    results = ground_truth.load_res(table)
    evaluator = hotcoco.COCOeval(ground_truth, results, 'bbox')
    # Reading an attribute of `params` gives a copy: each is set as a whole.
    evaluator.params.img_ids = list(range(scored.num_images))
    evaluator.params.cat_ids = list(range(scored.num_classes))
    evaluator.params.max_dets = list(MAX_DETS)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def by_pycocotools(scored: Scored) -> Mapping[str, np.ndarray]:
    """`curves`, by pycocotools."""
    objects, detections = scored.objects, scored.detections
    areas = detections.boxes[:, 2] * detections.boxes[:, 3]
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _index(scored, objects, objects.areas, iscrowd=objects.is_crowd),
            _index(scored, detections, areas, score=detections.scores),
            'bbox',
        )
        evaluator.params.imgIds = list(range(scored.num_images))
        evaluator.params.catIds = list(range(scored.num_classes))
        evaluator.params.maxDets = list(MAX_DETS)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval


def _index(scored, boxes, areas, **columns):
    """An index of annotations. Ids begin with 1: a match with 0 would be lost."""
    columns |= {
        'image_id': boxes.images,
        'category_id': boxes.labels,
        'bbox': boxes.boxes,
        'area': areas,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    coco = COCO()
    coco.dataset = {
        'images': scored.image_records(),
        'categories': scored.category_records(),
        'annotations': [
            {'id': number, 'iscrowd': 0, **dict(zip(columns, row, strict=True))}
            for number, row in enumerate(rows, start=1)
        ],
    }
    coco.createIndex()
    return coco
