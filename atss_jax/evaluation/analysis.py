"""All numbers of a report, from truth and detections; writes and draws nothing."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.calibration import Calibration, calibrate
from atss_jax.evaluation.confusion import confusion_matrix
from atss_jax.evaluation.errors import WRONG, Breakdown, Diagnosis, breakdown, diagnose
from atss_jax.evaluation.matching import Picture, pictures_of

# Index of an IoU threshold among COCO's ten.
CURVES = {0.5: 0, 0.75: 5, 0.9: 8}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a report says.

    Attributes:
        classes: name of each label.
        scores: the COCO numbers.
        class_numbers: of each class: objects and detections counted, AP, AP50, ...
        curves: by IoU threshold, (C, 101) precision at recall 0, 0.01, ..., 1.
        errors: the error breakdown at IoU 0.5, of all detections.
        confusion: (C+1, C+1), of detections from `min_score` up.
        calibration: of all detections.
        min_score: of what the confusion and the worst pictures show.
        pictures: those from `min_score` up, by image id.
        worst: image ids of those with most errors, the worst first.
    """

    classes: tuple[str, ...]
    scores: coco_metric.Scores
    class_numbers: list[dict[str, float]]
    curves: dict[float, np.ndarray]
    errors: Breakdown
    confusion: np.ndarray
    calibration: Calibration
    min_score: float
    pictures: dict[int, tuple[Picture, Diagnosis]]
    worst: list[int]


def analyse(
    ground_truth: dict,
    results: list[dict],
    classes: tuple[str, ...],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int],
    min_score: float,
) -> Analysis:
    """Computes everything; arguments as of `coco_metric.evaluate`.

    Args:
        ground_truth: COCO dict.
        results: COCO results.
        classes: name of each label.
        category_ids: COCO category id of each label.
        image_ids: the pictures.
        min_score: detections below it are not in the confusion and the worst pictures.
    """
    image_ids = list(map(int, image_ids))
    counted = coco_metric.accumulate(ground_truth, results, category_ids, image_ids)
    pictures = pictures_of(ground_truth, results, category_ids, image_ids)
    diagnoses = [diagnose(picture) for picture in pictures]
    sure = [_above(picture, min_score) for picture in pictures]
    sure = {picture.image_id: (picture, diagnose(picture)) for picture in sure}
    return Analysis(
        classes=classes,
        scores=coco_metric.scores_of(counted, classes),
        class_numbers=_class_numbers(counted, pictures, len(classes)),
        curves={iou: counted.curves(index) for iou, index in CURVES.items()},
        errors=breakdown(pictures, diagnoses, len(classes)),
        confusion=confusion_matrix(pictures, len(classes), min_score),
        calibration=_calibration(pictures, diagnoses),
        min_score=min_score,
        pictures=sure,
        worst=_worst_first(sure),
    )


def _above(picture: Picture, min_score: float) -> Picture:
    kept = picture.scores >= min_score
    return dataclasses.replace(
        picture,
        found_boxes=picture.found_boxes[kept],
        found_labels=picture.found_labels[kept],
        scores=picture.scores[kept],
    )


def _class_numbers(counted, pictures: Sequence[Picture], num_classes):
    count = functools.partial(np.bincount, minlength=num_classes)
    none = np.zeros(0, int)
    objects = count(np.concatenate([none, *(p.labels[~p.crowd] for p in pictures)]))
    found = count(np.concatenate([none, *(p.found_labels for p in pictures)]))
    return [
        {'objects': int(objects[label]), 'detections': int(found[label]), **row}
        for label, row in enumerate(counted.class_numbers())
    ]


def _calibration(pictures, diagnoses):
    none = np.zeros(0)
    scores = np.concatenate([none, *(picture.scores for picture in pictures)])
    kinds = np.concatenate([none.astype(str), *(d.kinds for d in diagnoses)])
    counted = kinds != 'ignored'
    return calibrate(scores[counted], kinds[counted] == 'correct')


def _worst_first(pictures):
    """Ids by objects not found plus the scores of wrong detections, if there is any."""

    def badness(one):
        picture, diagnosis = one
        wrong = np.isin(diagnosis.kinds, WRONG)
        not_found = ~diagnosis.is_found & ~picture.crowd
        return not_found.sum() + picture.scores[wrong].sum()

    amounts = {image_id: badness(one) for image_id, one in pictures.items()}
    bad = [image_id for image_id, amount in amounts.items() if amount > 0]
    return sorted(bad, key=lambda image_id: -amounts[image_id])
