"""Whether a detection with score 0.7 is right in 7 cases of 10."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from atss_jax.evaluation import coco_metric
from atss_jax.report.errors import WRONG, Breakdown, Diagnosis, breakdown, diagnose
from atss_jax.report.matching import Image, images_of, match


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores against the share of right detections, in bins of equal width.

    Attributes:
        edges: (n+1,) of the bins, 0 to 1.
        counts: (n,) detections.
        scores: (n,) their mean score; nan in an empty bin.
        precision: (n,) share of them that is right; nan in an empty bin.
        error: mean distance of the two, weighted by counts (the expected calibration
            error); nan without detections.
    """

    edges: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    precision: np.ndarray
    error: float


def calibrate(scores: np.ndarray, correct: np.ndarray, bins: int = 10) -> Calibration:
    """Compares scores (N,) in 0..1 with what was right (N,) bool.

    Bins are closed at their lower edge, the last one at both.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    edges = np.linspace(0, 1, bins + 1)
    own = np.clip(np.searchsorted(edges, scores, side='right') - 1, 0, bins - 1)
    counts = np.bincount(own, minlength=bins)

    def mean(values):
        total = np.bincount(own, weights=values, minlength=bins)
        empty = np.full(bins, np.nan)
        return np.divide(total, counts, out=empty, where=counts > 0)

    means, precision = mean(scores), mean(correct.astype(float))
    gaps = np.nan_to_num(np.abs(means - precision)) * counts
    error = float(gaps.sum() / counts.sum()) if counts.any() else float('nan')
    return Calibration(edges, counts, means, precision, error)


def confusion_matrix(
    images: Sequence[Image],
    num_classes: int,
    min_score: float,
    threshold: float = 0.5,
) -> np.ndarray:
    """(C+1, C+1) counts: row the true class, column the detected one, last background.

    Detections find objects of their own class first. The others then, best first, take
    the object left over that they overlap most, of whatever class. So a confusion is
    counted only where the right answer was not given as well.

    Args:
        images: truth and detections.
        num_classes: C.
        min_score: detections below it are not looked at.
        threshold: IoU from which a detection is about an object.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for image in images:
        matched = match(image, threshold)
        considered = (image.scores >= min_score) & ~matched.ignored
        # Best first: those below the score took nothing from those above it.
        truth = np.where(considered, matched.truth, -1)
        left = np.ones(len(image.labels), bool) & ~image.crowd
        left[truth[truth >= 0]] = False
        for row in np.flatnonzero(considered & (truth < 0)):
            overlap = np.where(left, matched.iou[row], 0)
            if len(overlap) and overlap.max() >= threshold:
                truth[row] = overlap.argmax()
                left[truth[row]] = False
        true_labels = np.append(image.labels, num_classes)[truth]
        found = considered.nonzero()
        np.add.at(counts, (true_labels[found], image.found_labels[found]), 1)
        np.add.at(counts, (image.labels[left], num_classes), 1)
    return counts


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
        min_score: of what the confusion and the worst images show.
        images: those from `min_score` up, by image id.
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
    images: dict[int, tuple[Image, Diagnosis]]
    worst: list[int]


def analyze(
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
        image_ids: the images.
        min_score: detections below it are not in the confusion and the worst images.
    """
    image_ids = list(map(int, image_ids))
    counted = coco_metric.accumulate(ground_truth, results, category_ids, image_ids)
    images = images_of(ground_truth, results, category_ids, image_ids)
    diagnoses = [diagnose(image) for image in images]
    sure = [_above(image, min_score) for image in images]
    sure = {image.image_id: (image, diagnose(image)) for image in sure}
    return Analysis(
        classes=classes,
        scores=coco_metric.scores_of(counted, classes),
        class_numbers=_class_numbers(counted, images, len(classes)),
        curves={iou: counted.curves(index) for iou, index in CURVES.items()},
        errors=breakdown(images, diagnoses, len(classes)),
        confusion=confusion_matrix(images, len(classes), min_score),
        calibration=_calibration(images, diagnoses),
        min_score=min_score,
        images=sure,
        worst=_worst_first(sure),
    )


def _above(image: Image, min_score: float) -> Image:
    kept = image.scores >= min_score
    return dataclasses.replace(
        image,
        found_boxes=image.found_boxes[kept],
        found_labels=image.found_labels[kept],
        scores=image.scores[kept],
    )


def _class_numbers(counted, images: Sequence[Image], num_classes):
    count = functools.partial(np.bincount, minlength=num_classes)
    none = np.zeros(0, int)
    objects = count(np.concatenate([none, *(p.labels[~p.crowd] for p in images)]))
    found = count(np.concatenate([none, *(p.found_labels for p in images)]))
    return [
        {'objects': int(objects[label]), 'detections': int(found[label]), **row}
        for label, row in enumerate(counted.class_numbers())
    ]


def _calibration(images, diagnoses):
    none = np.zeros(0)
    scores = np.concatenate([none, *(image.scores for image in images)])
    kinds = np.concatenate([none.astype(str), *(d.kinds for d in diagnoses)])
    counted = kinds != 'ignored'
    return calibrate(scores[counted], kinds[counted] == 'correct')


def _worst_first(images):
    """Ids by objects not found plus the scores of wrong detections, if there is any."""

    def badness(one):
        image, diagnosis = one
        wrong = np.isin(diagnosis.kinds, WRONG)
        not_found = ~diagnosis.is_found & ~image.crowd
        return not_found.sum() + image.scores[wrong].sum()

    amounts = {image_id: badness(one) for image_id, one in images.items()}
    bad = [image_id for image_id, amount in amounts.items() if amount > 0]
    return sorted(bad, key=lambda image_id: -amounts[image_id])
