"""COCO average precision and recall of boxes, computed by pycocotools."""

import contextlib
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Limits of detections per image: COCO reports at 1, 10, 100, mmdet at 100, 300, 1000.
# Matching is greedy from the best score down, so one pass at 1000 serves all limits.
_MAX_DETS = (1, 10, 100, 300, 1000)
_AREAS = {'': 0, 's': 1, 'm': 2, 'l': 3}
_TABLE_WIDTH = 88


@dataclasses.dataclass(frozen=True)
class Scores:
    """The COCO numbers of a set of detections; fractions of 1, not rounded.

    A number is nan where no image has an object of its kind.

    Attributes:
        summary: the twelve COCO numbers, AP, AP50, AP75, APs, APm, APl, AR1, AR10,
            AR100, ARs, ARm, ARl; at most 100 detections per image count (AR1: 1).
        per_class: AP of each class, in label order.
        mmdet: the numbers that mmdet's CocoMetric logs, under its names. They differ
            from the above only where an image has more than 100 detections: mmdet
            counts 1000 in all of them except `coco/bbox_mAP`.
    """

    summary: dict[str, float]
    per_class: dict[str, float]
    mmdet: dict[str, float]

    def as_mmdet(self) -> dict[str, float]:
        """The numbers as mmdet's CocoMetric(classwise=True) returns them.

        They are rounded to 3 digits. Without any object its `bbox_` numbers are -1 and
        its per-class numbers nan.
        """
        return {
            name: -1.0 if math.isnan(value) and '/bbox_' in name else round(value, 3)
            for name, value in self.mmdet.items()
        }


def coco_results(
    image_id: int,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    category_ids: tuple[int, ...],
) -> list[dict]:
    """The detections of one image as COCO results, the entries of a results file.

    Args:
        image_id: COCO id of the image.
        boxes: (N,4) xyxy in pixels of the original image.
        scores: (N,).
        labels: (N,) 0..C-1.
        category_ids: COCO category id of each label.

    Raises:
        ValueError: boxes, scores and labels do not have the same length.
    """
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(
            f'image id {image_id}: {len(boxes)} boxes, {len(scores)} scores and '
            f'{len(labels)} labels; expected the same number of each'
        )
    # float64 before subtracting, as in mmdet, whose boxes are Python floats by then.
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {
            'image_id': int(image_id),
            'bbox': box,
            'score': float(score),
            'category_id': int(category_ids[int(label)]),
        }
        for box, score, label in zip(boxes.tolist(), scores, labels, strict=True)
    ]


def evaluate(
    ground_truth: dict,
    results: list[dict],
    classes: tuple[str, ...],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int] | None = None,
) -> Scores:
    """Scores results against annotations; neither is modified.

    Differs from mmdet: its per-class numbers are under wrong names when the categories
    of the file are not in ascending order of id; an annotation with id 0 counts here (a
    match with it is lost in pycocotools); no detections at all score 0, where mmdet
    returns nothing.

    Args:
        ground_truth: COCO dict, as from `Source.ground_truth()`.
        results: COCO results of all images, as from `coco_results`.
        classes: name of each label.
        category_ids: COCO category id of each label; others are ignored.
        image_ids: ids of the images to score; None: all of `ground_truth`.

    Raises:
        ValueError: an image is not in `ground_truth`.

    Source: pycocotools.COCOeval; mmdet.evaluation.CocoMetric.
    """
    if len(classes) != len(category_ids):
        raise ValueError(f'{len(classes)} classes, {len(category_ids)} category_ids')
    counts = accumulate(ground_truth, results, category_ids, image_ids)
    return scores_of(counts, classes)


@dataclasses.dataclass(frozen=True)
class Accumulated:
    """Precision and recall by pycocotools; -1 where there is no object.

    Attributes:
        precision: (10 IoU thresholds, 101 recalls, C, 4 areas, 5 limits of detections
            per image), the curves; classes in label order.
        recall: (10, C, 4, 5), the highest recall.
    """

    precision: np.ndarray
    recall: np.ndarray

    def curves(self, threshold: int) -> np.ndarray:
        """(C, 101) precision at recall 0, 0.01, ..., 1; nan of a class without objects.

        Args:
            threshold: index of the IoU threshold: 0 is 0.5, 5 is 0.75.
        """
        precision = self.precision[threshold, :, :, 0, _MAX_DETS.index(100)].T
        return np.where(precision > -1, precision, np.nan)

    def class_numbers(self) -> list[dict[str, float]]:
        """AP, AP50, AP75, APs, APm, APl and AR100 of each class, in label order."""
        limit = _MAX_DETS.index(100)
        rows = []
        for label in range(self.precision.shape[2]):
            precision = self.precision[:, :, label, :, limit]
            row = {
                'AP': precision[..., 0],
                'AP50': precision[0, :, 0],
                'AP75': precision[5, :, 0],
            }
            row |= {f'AP{area}': precision[..., _AREAS[area]] for area in 'sml'}
            row['AR100'] = self.recall[:, label, 0, limit]
            rows.append({name: _mean(values) for name, values in row.items()})
        return rows


def accumulate(
    ground_truth: dict,
    results: list[dict],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int] | None = None,
) -> Accumulated:
    """Precision and recall that `evaluate` averages; arguments and errors as there."""
    known = {image['id'] for image in ground_truth['images']}
    chosen = known if image_ids is None else set(map(int, image_ids))
    _check_images('results', {result['image_id'] for result in results}, known)
    _check_images('image_ids', chosen, known)
    if not chosen:
        raise ValueError('no images to score: image_ids or ground_truth is empty')
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            _index(ground_truth, ground_truth['annotations']),
            _index(ground_truth, [_as_annotation(result) for result in results]),
            'bbox',
        )
        evaluator.params.imgIds = sorted(chosen)
        evaluator.params.catIds = sorted(category_ids)
        evaluator.params.maxDets = list(_MAX_DETS)
        evaluator.evaluate()
        evaluator.accumulate()
    # pycocotools orders categories by id; reorder them by label.
    columns = np.argsort(np.argsort(category_ids))
    return Accumulated(
        evaluator.eval['precision'][:, :, columns], evaluator.eval['recall'][:, columns]
    )


def _check_images(name: str, ids: set[int], known: set[int]) -> None:
    if unknown := sorted(ids - known):
        raise ValueError(
            f'{name}: {len(unknown)} image ids are not in the ground truth, '
            f'such as {", ".join(map(str, unknown[:5]))}'
        )


def _index(ground_truth: dict, annotations: list[dict]) -> COCO:
    """An index of copies of annotations (pycocotools writes to them), ids from 1."""
    coco = COCO()
    coco.dataset = {
        'images': ground_truth['images'],
        'categories': ground_truth['categories'],
        'annotations': [
            {**annotation, 'id': number}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    coco.createIndex()
    return coco


def _as_annotation(result: dict) -> dict:
    return {**result, 'area': result['bbox'][2] * result['bbox'][3], 'iscrowd': 0}


def scores_of(accumulated: Accumulated, classes: tuple[str, ...]) -> Scores:
    """The averages that COCO and mmdet report; `classes` names the labels."""
    precision, recall = accumulated.precision, accumulated.recall

    def ap(limit: int, area: str = '', threshold: int | slice = slice(None)) -> float:
        limit = _MAX_DETS.index(limit)
        return _mean(precision[threshold, :, :, _AREAS[area], limit])

    def ar(limit: int, area: str = '') -> float:
        return _mean(recall[:, :, _AREAS[area], _MAX_DETS.index(limit)])

    def six_aps(limit: int) -> list[float]:
        return [
            ap(100),  # whatever the limit: it is fixed in pycocotools and mmdet
            ap(limit, threshold=0),  # IoU thresholds are 0.5, 0.55, ..., 0.95
            ap(limit, threshold=5),
            *(ap(limit, area) for area in 'sml'),
        ]

    def each_class(limit: int) -> list[float]:
        values = precision[:, :, :, 0, _MAX_DETS.index(limit)]
        return [_mean(values[:, :, label]) for label in range(len(classes))]

    recalls = {f'AR{limit}': ar(limit) for limit in (1, 10, 100)}
    recalls |= {f'AR{area}': ar(100, area) for area in 'sml'}
    precisions = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
    mmdet_names = [f'coco/{name}_precision' for name in classes] + [
        f'coco/bbox_mAP{suffix}' for suffix in ('', '_50', '_75', '_s', '_m', '_l')
    ]
    return Scores(
        summary=dict(zip(precisions, six_aps(100), strict=True)) | recalls,
        per_class=dict(zip(classes, each_class(100), strict=True)),
        mmdet=dict(zip(mmdet_names, each_class(1000) + six_aps(1000), strict=True)),
    )


def _mean(values: np.ndarray) -> float:
    """Mean of the values that exist; pycocotools marks the others with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else math.nan


def format_table(scores: Scores) -> str:
    """The twelve numbers and the AP of each class as plain text, 88 columns wide.

    Classes run down the columns in label order; '-' stands for nan.
    """
    names = list(scores.summary)
    lines = []
    for row in (names[:6], names[6:]):
        lines.append(''.join(f'{name:>8}' for name in row))
        lines.append(''.join(f'{_show(scores.summary[name]):>8}' for name in row))
    widest = max(map(len, scores.per_class))
    cells = [
        f'{name:<{widest}} {_show(value):>6}'
        for name, value in scores.per_class.items()
    ]
    columns = max((_TABLE_WIDTH + 3) // (len(cells[0]) + 3), 1)
    height = math.ceil(len(cells) / columns)
    lines += ['', 'AP of each class']
    rows = itertools.zip_longest(
        *(cells[i : i + height] for i in range(0, len(cells), height)), fillvalue=''
    )
    lines += [' | '.join(row).rstrip(' |') for row in rows]
    return '\n'.join(lines)


def _show(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.3f}'
