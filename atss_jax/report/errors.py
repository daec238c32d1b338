"""What is wrong with detections, and the AP that mending each kind would gain (TIDE).

Every wrong detection is of one kind; overlaps are IoU, of the object it overlaps most:

- localization: right class, overlap of at least 0.1 but below 0.5;
- classification: overlap of at least 0.5 with an object of another class;
- duplicate: right class and place, but a better detection has the object;
- background: overlap of at most 0.1 with any object;
- both: what is left, a wrong class at a wrong place.

An object is missed that no detection found, and none of the first two kinds points to.

Source: Bolya et al., TIDE (arXiv 2008.08115), section 2. Where a detection fits two
kinds, the authors' order of tests decides, the one above.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atss_jax.report.matching import Image, match

WRONG = ('classification', 'localization', 'both', 'duplicate', 'background')
KINDS = (*WRONG, 'missed')

_FOREGROUND, _BACKGROUND = 0.5, 0.1


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The state of each detection and object of one image, at IoU 0.5.

    Attributes:
        kinds: (N,) 'correct', 'ignored' or one of `WRONG`.
        partner: (N,) the object found, or that a classification or localization error
            is about; -1 for none.
        is_found: (G,) bool, objects that were found.
        is_missed: (G,) bool; an object may be neither found nor missed.
    """

    kinds: np.ndarray
    partner: np.ndarray
    is_found: np.ndarray
    is_missed: np.ndarray


def diagnose(image: Image) -> Diagnosis:
    """Says of each detection whether it is right, and what is wrong with it."""
    matched = match(image, _FOREGROUND)
    kinds = np.full(len(image.scores), 'correct', dtype='<U14')
    kinds[matched.ignored] = 'ignored'
    partner = matched.truth.copy()
    iou = np.where(image.crowd, 0, matched.iou)
    alike = image.found_labels[:, None] == image.labels
    for row in np.flatnonzero((matched.truth < 0) & ~matched.ignored):
        kinds[row], partner[row] = _kind(iou[row], alike[row])
    is_found = matched.found()
    addressed = np.zeros(len(image.labels), bool)
    addressed[partner[partner >= 0]] = True
    missed = ~is_found & ~addressed & ~image.crowd
    return Diagnosis(kinds, partner, is_found, missed)


def _kind(iou, alike):
    """Kind and object of one wrong detection: overlaps (G,), same class (G,)."""
    if not len(iou):
        return 'background', -1
    same, other = np.where(alike, iou, 0), np.where(alike, 0, iou)
    if _BACKGROUND <= same.max() < _FOREGROUND:
        return 'localization', int(same.argmax())
    if other.max() >= _FOREGROUND:
        return 'classification', int(other.argmax())
    if same.max() >= _FOREGROUND:
        return 'duplicate', -1
    return ('background' if iou.max() <= _BACKGROUND else 'both'), -1


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """AP at IoU 0.5 and what mending each kind of error alone would add to it.

    Attributes:
        ap50: as COCO has it; nan without any object.
        gains: of each of `KINDS`, and of 'false positives' and 'false negatives': all
            wrong detections removed, all objects not found forgiven.
        counts: how many there are of each.
    """

    ap50: float
    gains: dict[str, float]
    counts: dict[str, int]


def breakdown(
    images: Sequence[Image], diagnoses: Sequence[Diagnosis], num_classes: int
) -> Breakdown:
    """The AP gained if each kind of error were mended, the others left as they are.

    A mended classification or localization error is a right detection, unless the
    object has been found, or by a better such error: then it goes. Others go. A missed
    object is no longer counted as one; a class of which neither objects nor wrong
    detections are left then has AP 1.

    Differs from the authors' program: of several errors about one object the best of
    the mended kind counts, there the best of both kinds.
    """
    table = _Table.of(images, diagnoses, num_classes)
    base = table.ap()
    found = table.objects - table.unfound
    gains = {kind: table.mended(kind) for kind in WRONG}
    gains['missed'] = table.ap(objects=table.objects - table.missed)
    gains['false positives'] = table.ap(keep=table.kinds == 'correct')
    gains['false negatives'] = table.ap(objects=found)
    counts = {kind: int((table.kinds == kind).sum()) for kind in WRONG}
    counts['missed'] = int(table.missed.sum())
    counts['false positives'] = sum(counts[kind] for kind in WRONG)
    counts['false negatives'] = int(table.unfound.sum())
    gains = {kind: max(ap - base, 0.0) for kind, ap in gains.items()}
    return Breakdown(base, gains, counts)


@dataclasses.dataclass(frozen=True)
class _Table:
    """All detections in columns, ignored ones left out, best first; objects by class.

    `objects`, `unfound` and `missed` (C,) are counts. `mends` (N,) says that a mended
    detection would find an object that is free, and `mended_label` (N,) which class.
    """

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    mends: np.ndarray
    mended_label: np.ndarray
    objects: np.ndarray
    unfound: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, images, diagnoses, num_classes):
        columns = [
            (p.found_labels, p.scores, d.kinds, *_mends(p, d))
            for p, d in zip(images, diagnoses, strict=True)
        ]
        empty = [np.zeros(0, int), np.zeros(0), np.zeros(0, '<U14')]
        empty += [np.zeros(0, bool), np.zeros(0, int)]
        columns = [np.concatenate(part) for part in zip(empty, *columns, strict=True)]
        order = np.argsort(-columns[1], kind='stable')
        order = order[columns[2][order] != 'ignored']

        def count(of):
            labels = [of(p, d) for p, d in zip(images, diagnoses, strict=True)]
            labels = np.concatenate([np.zeros(0, int), *labels])
            return np.bincount(labels, minlength=num_classes)

        return cls(
            *(column[order] for column in columns),
            objects=count(lambda p, d: p.labels[~p.crowd]),
            unfound=count(lambda p, d: p.labels[~p.crowd & ~d.is_found]),
            missed=count(lambda p, d: p.labels[d.is_missed]),
        )

    def mended(self, kind):
        is_kind = self.kinds == kind
        mends = is_kind & self.mends
        labels = np.where(mends, self.mended_label, self.labels)
        correct = mends | (self.kinds == 'correct')
        return self.ap(keep=~is_kind | mends, labels=labels, correct=correct)

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


def _mends(image, diagnosis):
    """(N,) whether a mended error finds a free object first, and its class (N,)."""
    mends = np.zeros(len(image.scores), bool)
    taken = set()
    for row, (kind, partner) in enumerate(
        zip(diagnosis.kinds, diagnosis.partner, strict=True)
    ):
        if kind in ('classification', 'localization'):
            free = not diagnosis.is_found[partner] and (kind, partner) not in taken
            mends[row] = free
            taken.add((kind, partner))
    if not len(image.labels):
        return mends, image.found_labels
    return mends, image.labels[diagnosis.partner]


def average_precision(correct: np.ndarray, objects: int) -> float:
    """COCO's AP of one class: precision at 101 recalls, no lower than at a higher one.

    Args:
        correct: (N,) bool, of the detections, best first.
        objects: how many there are to find; with none, 1 if nothing wrong was found.
    """
    if objects == 0:
        return float(not len(correct))
    hits = np.cumsum(correct)
    recall = hits / objects
    precision = hits / np.arange(1, len(correct) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side='left')
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
