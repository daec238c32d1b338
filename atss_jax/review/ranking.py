"""All suggestions about the annotations of a data set, the most probable first."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.review import evidence
from atss_jax.review.calibration import SHARE, fault_probability
from atss_jax.review.evidence import KINDS, Comparison, compare


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """One thing that is probably wrong, and what would be right.

    Attributes:
        kind: 'missing': an object has no annotation; 'class': it has another class;
            'loose': its box does not fit; 'twice': it has a second annotation.
        probability: that it is wrong, 0..1.
        evidence: how much it looks like this fault; comparable within a kind.
        image_id: COCO id of the image.
        annotation_id: COCO id of the annotation in question; None if it is missing.
        label: the class that is suggested; for 'loose' and 'twice' the annotated one.
        box: xyxy, that is suggested; for 'class' the annotated one, for 'twice' that of
            the annotation which stays.
        score: of the detection that the suggestion is based on; 0 if there is none.
        iou: for 'missing' the largest one of the detection with an annotation, for
            'loose' and 'class' that of the detection and the annotation, for 'twice'
            that of the two annotations.
        annotated_score: the best score of the annotated class at this place; 0 if no
            detection of it is there.
        twin_id: for 'twice' the COCO id of the annotation that stays.
    """

    kind: str
    probability: float
    evidence: float
    image_id: int
    annotation_id: int | None
    label: int
    box: tuple[float, float, float, float]
    score: float
    iou: float
    annotated_score: float = 0.0
    twin_id: int | None = None


def rank(
    images: Sequence[EvaluatedImage],
    num_classes: int,
    share: float = SHARE,
    seed: int = 0,
) -> list[Suggestion]:
    """What is probably wrong, the most probable first.

    There is at most one suggestion for each annotation, of its most probable kind.

    Args:
        images: annotations and detections.
        num_classes: of the detector.
        share: of the annotations that are expected to have a fault of each kind.
        seed: of the faults that are rehearsed.
    """
    rng = np.random.default_rng(seed)
    compared = [compare(image, num_classes) for image in images]
    suspects = [_suspects(each) for each in compared]
    rehearsed = [_rehearsed(each, rng) for each in compared]
    count = sum(int(each.is_suspect.sum()) for each in compared)
    probabilities = {
        kind: _probabilities(
            [each[kind] for each in suspects],
            [each[kind] for each in rehearsed],
            share,
            count,
        )
        for kind in KINDS
    }
    suggestions = [
        suggestion
        for row, (comparison, each) in enumerate(zip(compared, suspects, strict=True))
        for suggestion in _suggestions(
            comparison, each, {kind: probabilities[kind][row] for kind in KINDS}
        )
    ]
    return sorted(suggestions, key=lambda s: (-s.probability, -s.evidence))


def _probabilities(
    suspects: list[np.ndarray], rehearsed: list[np.ndarray], share: float, count: int
) -> list[np.ndarray]:
    """The probability of each suspect of each image, from the evidence of one kind."""
    if not suspects:
        return []
    probability = fault_probability(
        np.concatenate(suspects), np.concatenate(rehearsed), share, count
    )
    return np.split(probability, np.cumsum([len(each) for each in suspects])[:-1])


def _suspects(comparison: Comparison) -> dict[str, np.ndarray]:
    """The evidence of each suspect of an image, by kind."""
    rows, usable = evidence.unannotated(comparison), comparison.is_suspect
    image = comparison.image
    labels = np.maximum(image.gt_labels, 0)
    return {
        'missing': evidence.missing_evidence(comparison, rows),
        'class': evidence.class_evidence(comparison.class_scores, labels)[usable],
        'loose': evidence.loose_evidence(comparison, image.gt_boxes)[usable],
        'twice': evidence.twice_evidence(comparison)[usable],
    }


def _rehearsed(comparison, rng) -> dict[str, np.ndarray]:
    """The evidence of faults on purpose in an image, by kind."""
    usable = comparison.is_suspect
    classes = evidence.rehearsed_class(comparison, rng)
    return {
        'missing': evidence.rehearsed_missing(comparison)[usable],
        'class': classes[usable] if len(classes) else classes,
        'loose': evidence.rehearsed_loose(comparison, rng)[usable],
        'twice': evidence.rehearsed_twice(comparison, rng)[usable],
    }


def _suggestions(
    comparison: Comparison,
    values: dict[str, np.ndarray],
    probabilities: dict[str, np.ndarray],
) -> list[Suggestion]:
    """The suggestions about one image; `values` are the evidence."""
    rows = evidence.unannotated(comparison)
    suggestions = [
        _missing(comparison, row, probability, value)
        for row, probability, value in zip(
            rows.tolist(), probabilities['missing'], values['missing'], strict=True
        )
    ]
    image, kinds = comparison.image, tuple(_ABOUT_ANNOTATION)
    by_kind = np.stack([probabilities[kind] for kind in kinds])
    for place, row in enumerate(np.flatnonzero(comparison.is_suspect).tolist()):
        best = int(by_kind[:, place].argmax())
        kind = kinds[best]
        value = float(values[kind][place])
        fields = _ABOUT_ANNOTATION[kind](comparison, row)
        if fields is not None and value > 0:
            suggestion = Suggestion(
                kind=kind,
                probability=float(by_kind[best, place]),
                evidence=value,
                image_id=image.image_id,
                annotation_id=int(image.annotation_ids[row]),
                **fields,
            )
            suggestions.append(suggestion)
    return suggestions


def _missing(comparison, row, probability, value):
    image = comparison.image
    return Suggestion(
        kind='missing',
        probability=float(probability),
        evidence=float(value),
        image_id=image.image_id,
        annotation_id=None,
        label=int(image.labels[row]),
        box=tuple(image.boxes[row].tolist()),
        score=float(image.scores[row]),
        iou=float(comparison.iou[row].max(initial=0)),
    )


def _other_class(comparison, row):
    """Fields of a suggestion: the best class at the place of the annotation."""
    image = comparison.image
    annotated = int(image.gt_labels[row])
    scores = comparison.class_scores[row].copy()
    annotated_score, scores[annotated] = float(scores[annotated]), 0
    label = int(scores.argmax())
    is_there = (image.labels == label) & (image.scores == scores[label])
    return {
        'label': label,
        'box': tuple(image.gt_boxes[row].tolist()),
        'score': float(scores[label]),
        'iou': float(np.where(is_there, comparison.iou[:, row], 0).max(initial=0)),
        'annotated_score': annotated_score,
    }


def _loose(comparison, row):
    """Fields of a suggestion: the box of the detection; None if there is none."""
    image, detection = comparison.image, comparison.detection_of[row]
    if detection < 0:
        return None
    score = float(image.scores[detection])
    return {
        'label': int(image.gt_labels[row]),
        'box': tuple(image.boxes[detection].tolist()),
        'score': score,
        'iou': float(comparison.iou[detection, row]),
        'annotated_score': score,
    }


def _twice(comparison, row):
    """Fields of a suggestion about the one of two that fits the detections less.

    None for the other one.
    """
    image = comparison.image
    twin, overlap = (column[row] for column in evidence.twins(comparison))
    fits = [_fit(comparison, each) for each in (row, twin)]
    if (fits[0], row) > (fits[1], int(twin)):
        return None
    return {
        'label': int(image.gt_labels[row]),
        'box': tuple(image.gt_boxes[twin].tolist()),
        'score': float(evidence.object_scores(comparison)[row]),
        'iou': float(overlap),
        'twin_id': int(image.annotation_ids[twin]),
    }


_ABOUT_ANNOTATION = {'class': _other_class, 'loose': _loose, 'twice': _twice}


def _fit(comparison, row):
    """The best IoU of the detections of its class with an object, times their score."""
    image = comparison.image
    is_same = image.labels == image.gt_labels[row]
    return float(
        np.where(is_same, image.scores * comparison.iou[:, row], 0).max(initial=0)
    )
