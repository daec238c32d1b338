"""Everything that a report says, computed from ground truth and COCO results."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.report.errors import (
    WRONG,
    Breakdown,
    Diagnosis,
    breakdown,
    diagnose,
    images_of_results,
    match,
)

# The IoU thresholds of the curves: the index of each among COCO's ten.
CURVES = {0.5: 0, 0.75: 5, 0.9: 8}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores against the share of right detections, in bins of equal width.

    Attributes:
        edges: (n+1,) edges of the bins, 0 to 1.
        counts: (n,) number of detections.
        scores: (n,) their mean score; nan in an empty bin.
        precision: (n,) the share of them that is right; nan in an empty bin.
        error: mean distance of the two, weighted by counts (the expected calibration
            error); nan without detections.
    """

    edges: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    precision: np.ndarray
    error: float


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a report says.

    Attributes:
        classes: name of each label.
        scores: the COCO numbers.
        class_numbers: for each class the number of objects and detections, AP, AP50...
        curves: by IoU threshold, (C,101) precision at recall 0, 0.01, ..., 1.
        errors: the error breakdown at IoU 0.5, of all detections.
        confusion: (C+1,C+1), of detections from `min_score` up.
        calibration: of all detections.
        min_score: of what the confusion and the worst images show.
        images: images with their detections from `min_score` up, by image id.
        worst: ids of the images with most errors, the worst first.
    """

    classes: tuple[str, ...]
    scores: coco_metric.Scores
    class_numbers: list[dict[str, float]]
    curves: dict[float, np.ndarray]
    errors: Breakdown
    confusion: np.ndarray
    calibration: Calibration
    min_score: float
    images: dict[int, tuple[EvaluatedImage, Diagnosis]]
    worst: list[int]


def analyze(
    ground_truth: dict,
    results: list[dict],
    classes: tuple[str, ...],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int],
    min_score: float,
) -> Analysis:
    """Computes everything.

    Args:
        ground_truth: COCO dict.
        results: COCO results.
        classes: name of each label.
        category_ids: COCO category id of each label.
        image_ids: the images.
        min_score: detections below it are left out of the confusion matrix and the
            worst images.
    """
    image_ids = list(map(int, image_ids))
    accumulated = coco_metric.accumulate(ground_truth, results, category_ids, image_ids)
    images = images_of_results(ground_truth, results, category_ids, image_ids)
    diagnoses = [diagnose(image) for image in images]
    confident = [image.above(min_score) for image in images]
    shown = {image.image_id: (image, diagnose(image)) for image in confident}
    return Analysis(
        classes=classes,
        scores=coco_metric.scores_of(accumulated, classes),
        class_numbers=_class_numbers(accumulated, images, len(classes)),
        curves={iou: accumulated.curves(index) for iou, index in CURVES.items()},
        errors=breakdown(images, diagnoses, len(classes)),
        confusion=confusion_matrix(images, len(classes), min_score),
        calibration=_calibration(images, diagnoses),
        min_score=min_score,
        images=shown,
        worst=_worst_first(shown),
    )


def _class_numbers(accumulated, images, num_classes):
    count = functools.partial(np.bincount, minlength=num_classes)
    none = np.zeros(0, int)
    objects = count(np.concatenate([none, *(i.gt_labels[~i.is_crowd] for i in images)]))
    detections = count(np.concatenate([none, *(i.labels for i in images)]))
    return [
        {'objects': int(objects[label]), 'detections': int(detections[label]), **row}
        for label, row in enumerate(accumulated.class_numbers())
    ]


def _worst_first(images):
    """Ids of images with errors, by objects not found plus wrong detections' scores."""

    def badness(image, diagnosis):
        not_found = ~diagnosis.is_found & ~image.is_crowd
        return not_found.sum() + image.scores[np.isin(diagnosis.kinds, WRONG)].sum()

    amounts = {image_id: badness(*pair) for image_id, pair in images.items()}
    with_errors = [image_id for image_id, amount in amounts.items() if amount > 0]
    return sorted(with_errors, key=lambda image_id: -amounts[image_id])


def _calibration(images, diagnoses):
    none = np.zeros(0)
    scores = np.concatenate([none, *(image.scores for image in images)])
    kinds = np.concatenate([none.astype(str), *(d.kinds for d in diagnoses)])
    counted = kinds != 'ignored'
    return calibrate(scores[counted], kinds[counted] == 'correct')


def calibrate(scores: np.ndarray, correct: np.ndarray, bins: int = 10) -> Calibration:
    """Compares scores (N,) in 0..1 with which detections are right, (N,) bool.

    Bins include their lower edge, the last one both edges.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_index = np.clip(np.searchsorted(edges, scores, side='right') - 1, 0, bins - 1)
    counts = np.bincount(bin_index, minlength=bins)

    def mean(values):
        total = np.bincount(bin_index, weights=values, minlength=bins)
        empty = np.full(bins, np.nan)
        return np.divide(total, counts, out=empty, where=counts > 0)

    mean_scores, precision = mean(scores), mean(correct.astype(float))
    gaps = np.nan_to_num(np.abs(mean_scores - precision)) * counts
    error = float(gaps.sum() / counts.sum()) if counts.any() else float('nan')
    return Calibration(edges, counts, mean_scores, precision, error)


def confusion_matrix(
    images: Sequence[EvaluatedImage],
    num_classes: int,
    min_score: float,
    threshold: float = 0.5,
) -> np.ndarray:
    """(C+1,C+1) counts: rows are the true class, columns the detected one.

    The last row and column are the background. Detections are first matched to objects
    of their own class. Each of the others, best first, then takes the unmatched object
    that it overlaps most, whatever its class. So a confusion is counted only where the
    right answer was not given as well.

    Args:
        images: ground truth and detections.
        num_classes: C.
        min_score: detections below it are left out.
        threshold: IoU from which a detection is about an object.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in images:
        matched = match(image, threshold)
        considered = (image.scores >= min_score) & ~matched.ignored
        # Best first: those below `min_score` took nothing from those above it.
        gt_index = np.where(considered, matched.gt_index, -1)
        is_free = ~image.is_crowd
        is_free[gt_index[gt_index >= 0]] = False
        for row in np.flatnonzero(considered & (gt_index < 0)):
            overlap = np.where(is_free, matched.iou[row], 0)
            if len(overlap) and overlap.max() >= threshold:
                gt_index[row] = overlap.argmax()
                is_free[gt_index[row]] = False
        true_labels = np.append(image.gt_labels, num_classes)[gt_index[considered]]
        np.add.at(counts, (true_labels, image.labels[considered]), 1)
        np.add.at(counts, (image.gt_labels[is_free], num_classes), 1)
    return counts
