"""Kinds of errors, and the AP that fixing each kind would gain (TIDE).

Every wrong detection is of one kind; overlaps are IoU, with the object that it overlaps
most:

- localization: right class, overlap of at least 0.1 but below 0.5;
- classification: overlap of at least 0.5 with an object of another class;
- duplicate: right class and place, but a better detection matches the object;
- background: overlap of at most 0.1 with any object;
- both: all others, a wrong class at a wrong place.

An object is missed if no detection matches it and none of the first two kinds is about
it.

Source: Bolya et al., TIDE (arXiv 2008.08115), section 2. Where a detection fits two
kinds, the order of the authors' tests decides, which is the one above.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from atss_jax.evaluation.evaluated_image import (
    EvaluatedImage,
    corner_boxes,
    evaluated_images,
)
from atss_jax.evaluation.overlap import match_best_first, pairwise_iou
from atss_jax.structures import Detections

_MAX_DETECTIONS = 100  # per (image, class), as COCO counts


def images_of_results(
    ground_truth: dict,
    results: list[dict],
    category_ids: tuple[int, ...],
    image_ids: Iterable[int],
) -> list[EvaluatedImage]:
    """Gathers ground truth and COCO results by image; at most 100 of a class count.

    Args:
        ground_truth: COCO dict.
        results: COCO results.
        category_ids: COCO category id of each label; other categories are left out.
        image_ids: which images, in this order.
    """
    label_of = {category: label for label, category in enumerate(category_ids)}
    known = [a for a in ground_truth['annotations'] if a['category_id'] in label_of]
    by_image = collections.defaultdict(list)
    for result in results:
        if result['category_id'] in label_of:
            by_image[result['image_id']].append(result)
    detections = {
        int(id_): _best_detections(by_image[int(id_)], label_of) for id_ in image_ids
    }
    return evaluated_images({'annotations': known}, detections, category_ids)


def _best_detections(results, label_of):
    """The detections of one image that count, best first."""
    labels = np.array([label_of[r['category_id']] for r in results], int)
    scores = np.array([r['score'] for r in results], np.float64)
    order = np.argsort(-scores, kind='stable')
    order = order[_rank_in_class(labels[order]) < _MAX_DETECTIONS]
    is_valid = np.ones(len(order), bool)
    return Detections(
        corner_boxes(results)[order], scores[order], labels[order], is_valid
    )


def _rank_in_class(labels):
    """(N,) the number of earlier entries of the same class."""
    ranks, counts = np.zeros(len(labels), int), collections.Counter()
    for index, label in enumerate(labels.tolist()):
        ranks[index] = counts[label]
        counts[label] += 1
    return ranks


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
    gt_index = match_best_first(np.where(is_match & ~image.is_crowd, iou, 0))
    in_crowd = (is_match & image.is_crowd).any(1)
    return Match(gt_index, in_crowd & (gt_index < 0), iou)


# Kinds of errors ----------------------------------------------------------------------

WRONG = ('classification', 'localization', 'both', 'duplicate', 'background')
KINDS = (*WRONG, 'missed')

_FOREGROUND, _BACKGROUND = 0.5, 0.1


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The state of each detection and object of one image, at IoU 0.5.

    Attributes:
        kinds: (N,) 'correct', 'ignored' or one of `WRONG`.
        gt_index: (N,) the object that a detection matches, or that its classification
            or localization error is about; -1 for none.
        is_found: (G,) bool, objects that a detection matches.
        is_missed: (G,) bool; an object may be neither found nor missed.
    """

    kinds: np.ndarray
    gt_index: np.ndarray
    is_found: np.ndarray
    is_missed: np.ndarray


def diagnose(image: EvaluatedImage) -> Diagnosis:
    """Tells for each detection whether it is right, or which error it is."""
    matched = match(image, _FOREGROUND)
    kinds = np.full(len(image.scores), 'correct', dtype='<U14')
    kinds[matched.ignored] = 'ignored'
    gt_index = matched.gt_index.copy()
    iou = np.where(image.is_crowd, 0, matched.iou)
    same_class = image.labels[:, None] == image.gt_labels
    for row in np.flatnonzero((matched.gt_index < 0) & ~matched.ignored):
        kinds[row], gt_index[row] = _kind(iou[row], same_class[row])
    is_found = matched.is_found()
    is_addressed = np.zeros(len(image.gt_labels), bool)
    is_addressed[gt_index[gt_index >= 0]] = True
    is_missed = ~is_found & ~is_addressed & ~image.is_crowd
    return Diagnosis(kinds, gt_index, is_found, is_missed)


def _kind(iou, same_class):
    """Kind and object of one wrong detection, from its (G,) IoU and class equality."""
    if not len(iou):
        return 'background', -1
    same, other = np.where(same_class, iou, 0), np.where(same_class, 0, iou)
    if _BACKGROUND <= same.max() < _FOREGROUND:
        return 'localization', int(same.argmax())
    if other.max() >= _FOREGROUND:
        return 'classification', int(other.argmax())
    if same.max() >= _FOREGROUND:
        return 'duplicate', -1
    return ('background' if iou.max() <= _BACKGROUND else 'both'), -1


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """AP at IoU 0.5, and what fixing each kind of error alone would add to it.

    Attributes:
        ap50: as COCO defines it; nan without any object.
        gains: for each of `KINDS`, for 'false positives' (all wrong detections
            removed) and for 'false negatives' (all objects not found left out).
        counts: number of errors of each.
    """

    ap50: float
    gains: dict[str, float]
    counts: dict[str, int]


def breakdown(
    images: Sequence[EvaluatedImage], diagnoses: Sequence[Diagnosis], num_classes: int
) -> Breakdown:
    """Computes the AP gained if one kind of error were fixed and the others were not.

    A fixed classification or localization error becomes a right detection, unless a
    detection matches the object already or a better error of the kind is about it: then
    it is removed. Errors of other kinds are removed. A missed object is no longer
    counted as one; a class with neither objects nor wrong detections then has AP 1.

    Differs from the authors' program: of several errors about one object the best of
    the fixed kind counts; there, the best of both kinds.
    """
    table = _Table.of(images, diagnoses, num_classes)
    found = table.objects - table.not_found
    aps = {kind: table.ap_without(kind) for kind in WRONG}
    aps['missed'] = table.ap(objects=table.objects - table.missed)
    aps['false positives'] = table.ap(keep=table.kinds == 'correct')
    aps['false negatives'] = table.ap(objects=found)
    counts = {kind: int((table.kinds == kind).sum()) for kind in WRONG}
    counts['missed'] = int(table.missed.sum())
    counts['false positives'] = sum(counts[kind] for kind in WRONG)
    counts['false negatives'] = int(table.not_found.sum())
    ap50 = table.ap()
    gains = {kind: max(ap - ap50, 0.0) for kind, ap in aps.items()}
    return Breakdown(ap50, gains, counts)


@dataclasses.dataclass(frozen=True)
class _Table:
    """All N detections that are not ignored, best first, and objects by class.

    Attributes:
        labels: (N,) classes.
        scores: (N,).
        kinds: (N,) as in `Diagnosis`.
        is_fixable: (N,) whether the detection, fixed, would match an object that no
            other matches.
        fixed_labels: (N,) the class that it then has.
        objects: (C,) number of objects.
        not_found: (C,) number of objects that no detection matches.
        missed: (C,) number of missed objects.
    """

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    is_fixable: np.ndarray
    fixed_labels: np.ndarray
    objects: np.ndarray
    not_found: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, images, diagnoses, num_classes):
        pairs = list(zip(images, diagnoses, strict=True))
        columns = [np.zeros(0, int), np.zeros(0), np.zeros(0, '<U14')]
        columns += [np.zeros(0, bool), np.zeros(0, int)]
        rows = [(i.labels, i.scores, d.kinds, *_fixes(i, d)) for i, d in pairs]
        columns = [
            np.concatenate(column) for column in zip(columns, *rows, strict=True)
        ]
        order = np.argsort(-columns[1], kind='stable')
        order = order[columns[2][order] != 'ignored']

        def count(masks):
            labels = [i.gt_labels[mask] for i, mask in zip(images, masks, strict=True)]
            labels = np.concatenate([np.zeros(0, int), *labels])
            return np.bincount(labels, minlength=num_classes)

        return cls(
            *(column[order] for column in columns),
            objects=count([~i.is_crowd for i in images]),
            not_found=count([~i.is_crowd & ~d.is_found for i, d in pairs]),
            missed=count([d.is_missed for d in diagnoses]),
        )

    def ap_without(self, kind):
        """AP after all errors of a kind are fixed, or removed where they cannot be."""
        is_kind = self.kinds == kind
        is_fixed = is_kind & self.is_fixable
        labels = np.where(is_fixed, self.fixed_labels, self.labels)
        correct = is_fixed | (self.kinds == 'correct')
        return self.ap(keep=~is_kind | is_fixed, labels=labels, correct=correct)

    def ap(self, keep=None, labels=None, correct=None, objects=None):
        """AP at 0.5 over the classes that have objects; nan if none has."""
        labels = self.labels if labels is None else labels
        correct = self.kinds == 'correct' if correct is None else correct
        keep = np.ones(len(labels), bool) if keep is None else keep
        objects = self.objects if objects is None else objects
        aps = [
            average_precision(correct[keep & (labels == label)], objects[label])
            for label in np.flatnonzero(self.objects)
        ]
        return float(np.mean(aps)) if aps else float('nan')


def _fixes(image, diagnosis):
    """`is_fixable` and `fixed_labels` of `_Table` for the detections of one image."""
    is_fixable = np.zeros(len(image.scores), bool)
    taken = set()
    for row, (kind, index) in enumerate(
        zip(diagnosis.kinds, diagnosis.gt_index, strict=True)
    ):
        if kind in ('classification', 'localization'):
            is_free = (kind, index) not in taken and not diagnosis.is_found[index]
            is_fixable[row] = is_free
            taken.add((kind, index))
    if not len(image.gt_labels):
        return is_fixable, image.labels
    return is_fixable, image.gt_labels[diagnosis.gt_index]


def average_precision(correct: np.ndarray, objects: int) -> float:
    """COCO's AP of one class: mean precision at 101 recalls.

    The precision at a recall is the best at this or any higher recall.

    Args:
        correct: (N,) bool for each detection, best first.
        objects: how many there are; if none, AP is 1 without detections, otherwise 0.
    """
    if objects == 0:
        return float(not len(correct))
    hits = np.cumsum(correct)
    recall = hits / objects
    precision = hits / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side='left')
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
