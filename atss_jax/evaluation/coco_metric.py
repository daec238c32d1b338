"""COCO average precision and recall of boxes."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from atss_jax.evaluation.precision_recall import (
    MAX_DETS,
    DetectedObjects,
    Objects,
    Scored,
    curves,
)
from atss_jax.structures import Detections

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
    _check_lengths(image_id, boxes, scores, labels)
    return [
        {
            'image_id': int(image_id),
            'bbox': box,
            'score': float(score),
            'category_id': int(category_ids[int(label)]),
        }
        for box, score, label in zip(
            _with_sizes(boxes).tolist(), scores, labels, strict=True
        )
    ]


def _check_lengths(image_id, boxes, scores, labels):
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(
            f'image id {image_id}: {len(boxes)} boxes, {len(scores)} scores and '
            f'{len(labels)} labels; expected the same number of each'
        )


def _with_sizes(boxes: np.ndarray) -> np.ndarray:
    """xyxy as x, y, width, height."""
    # float64 before subtracting, as in mmdet, whose boxes are Python floats by then.
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def evaluate(
    ground_truth: dict,
    results: Sequence[dict] | Mapping[int, Detections],
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
        results: COCO results of all images, as from `coco_results`, or the detections
            by image id themselves, which is many times faster than by way of results.
        classes: name of each label.
        category_ids: COCO category id of each label; others are ignored.
        image_ids: ids of the images to score; None: all of `ground_truth`.

    Raises:
        ValueError: an image is not in `ground_truth`, or a box or a score of a
            detection is not finite: pycocotools ranks nan last and lets it match.

    Source: pycocotools.COCOeval; mmdet.evaluation.CocoMetric.
    """
    if len(classes) != len(category_ids):
        raise ValueError(f'{len(classes)} classes, {len(category_ids)} category_ids')
    counts = accumulate(ground_truth, results, category_ids, image_ids)
    return scores_of(counts, classes)


@dataclasses.dataclass(frozen=True)
class Accumulated:
    """Precision and recall as pycocotools defines them; -1 where there is no object.

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
        precision = self.precision[threshold, :, :, 0, MAX_DETS.index(100)].T
        return np.where(precision > -1, precision, np.nan)

    def class_numbers(self) -> list[dict[str, float]]:
        """AP, AP50, AP75, APs, APm, APl and AR100 of each class, in label order."""
        limit = MAX_DETS.index(100)
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
    results: Sequence[dict] | Mapping[int, Detections],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int] | None = None,
) -> Accumulated:
    """Precision and recall that `evaluate` averages; arguments and errors as there."""
    arrays = curves(to_scored(ground_truth, results, category_ids, image_ids))
    return Accumulated(arrays['precision'], arrays['recall'])


def to_scored(
    ground_truth: dict,
    results: Sequence[dict] | Mapping[int, Detections],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int] | None = None,
) -> Scored:
    """What `accumulate` compares, as arrays; arguments and errors of `evaluate`."""
    known = {image['id'] for image in ground_truth['images']}
    chosen = known if image_ids is None else set(map(int, image_ids))
    is_mapping = isinstance(results, Mapping)
    _check_images(
        'results', set(results if is_mapping else _column(results, 'image_id')), known
    )
    _check_images('image_ids', chosen, known)
    if not chosen:
        raise ValueError('no images to score: image_ids or ground_truth is empty')
    places = {image_id: place for place, image_id in enumerate(sorted(chosen))}
    label_of = {category: label for label, category in enumerate(category_ids)}
    detections = (
        _of_detections(results, places)
        if is_mapping
        else _of_results(results, places, label_of)
    )
    _check_finite(detections, sorted(chosen))
    objects = _of_annotations(ground_truth['annotations'], places, label_of)
    return Scored(len(places), len(category_ids), objects, detections)


def _column(records, name):
    return [record[name] for record in records]


def _check_images(name: str, ids: set[int], known: set[int]) -> None:
    if unknown := sorted(ids - known):
        raise ValueError(
            f'{name}: {len(unknown)} image ids are not in the ground truth, '
            f'such as {", ".join(map(str, unknown[:5]))}'
        )


def _check_finite(detections: DetectedObjects, image_ids: list[int]) -> None:
    is_finite = np.isfinite(detections.boxes).all(1) & np.isfinite(detections.scores)
    if not is_finite.all():
        row = int(is_finite.argmin())
        raise ValueError(
            f'{np.count_nonzero(~is_finite)} detections have a box or a score that is '
            f'not finite, such as that of image id {image_ids[detections.images[row]]} '
            f'with [x, y, width, height] {detections.boxes[row].tolist()} and score '
            f'{detections.scores[row]}; expected finite numbers'
        )


def _of_annotations(annotations, places, label_of):
    """The annotations of the images and classes that are scored."""
    rows = _scored_ones(annotations, places, label_of)
    return Objects(
        *_positions(rows, places, label_of),
        np.array(_column(rows, 'bbox'), np.float64).reshape(-1, 4),
        np.array(_column(rows, 'area'), np.float64),
        np.array([bool(row.get('iscrowd', 0)) for row in rows], bool),
    )


def _of_results(results, places, label_of):
    """The results of the images and classes that are scored."""
    rows = _scored_ones(results, places, label_of)
    return DetectedObjects(
        *_positions(rows, places, label_of),
        np.array(_column(rows, 'bbox'), np.float64).reshape(-1, 4),
        np.array(_column(rows, 'score'), np.float64),
    )


def _scored_ones(records, places, label_of):
    return [
        record
        for record in records
        if record['image_id'] in places and record['category_id'] in label_of
    ]


def _positions(rows, places, label_of):
    images = [places[row['image_id']] for row in rows]
    labels = [label_of[row['category_id']] for row in rows]
    return np.array(images, np.int64), np.array(labels, np.int64)


def _of_detections(detections, places):
    """The detections in the images that are scored."""
    chosen = {i: d for i, d in detections.items() if i in places}
    for image_id, (boxes, scores, labels, _) in chosen.items():
        _check_lengths(image_id, boxes, scores, labels)
    counts = [len(d.scores) for d in chosen.values()]
    images = np.array([places[image_id] for image_id in chosen], np.int64)

    def column(name, none):
        return np.concatenate([none, *(getattr(d, name) for d in chosen.values())])

    return DetectedObjects(
        np.repeat(images, counts),
        column('labels', np.zeros(0, np.int64)),
        _with_sizes(column('boxes', np.zeros((0, 4)))),
        column('scores', np.zeros(0)),
    )


def scores_of(accumulated: Accumulated, classes: tuple[str, ...]) -> Scores:
    """The averages that COCO and mmdet report; `classes` names the labels."""
    precision, recall = accumulated.precision, accumulated.recall

    def ap(limit: int, area: str = '', threshold: int | slice = slice(None)) -> float:
        limit = MAX_DETS.index(limit)
        return _mean(precision[threshold, :, :, _AREAS[area], limit])

    def ar(limit: int, area: str = '') -> float:
        return _mean(recall[:, :, _AREAS[area], MAX_DETS.index(limit)])

    def six_aps(limit: int) -> list[float]:
        return [
            ap(100),  # whatever the limit: it is fixed in pycocotools and mmdet
            ap(limit, threshold=0),  # IoU thresholds are 0.5, 0.55, ..., 0.95
            ap(limit, threshold=5),
            *(ap(limit, area) for area in 'sml'),
        ]

    def each_class(limit: int) -> list[float]:
        values = precision[:, :, :, 0, MAX_DETS.index(limit)]
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
