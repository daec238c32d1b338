"""Plants faults of known places into annotations, for the benchmark of the doctor.

A fault is one of four: the annotation of an object is left out, it has another class,
its box is loose, or there is a second annotation of the same object. No annotation gets
two faults.
"""

import collections
import copy
from typing import Any, NamedTuple

import numpy as np

from atss_jax.evaluation.overlap import pairwise_iou
from atss_jax.review.ranking import Suggestion

KINDS = ('missing', 'class', 'loose', 'twice')
LOOSE = (0.5, 0.7)  # IoU of a loose box with the one that it replaces
TWICE = (0.75, 0.95)  # IoU of a second annotation with the first


class Fault(NamedTuple):
    """One planted fault.

    Attributes:
        kind: one of `KINDS`.
        annotation: as it is in the faulty file; for 'missing' as it was.
        twin: for 'twice' the id of the annotation that was copied, else None.
        original: the annotation as it was.
    """

    kind: str
    annotation: dict[str, Any]
    twin: int | None
    original: dict[str, Any]


def plant(
    content: dict[str, Any], share: float, seed: int
) -> tuple[dict[str, Any], list[Fault]]:
    """Plants as many faults of each kind as are a share of the annotations.

    Args:
        content: a COCO dict; it is not changed. Crowds are left alone.
        share: of the annotations, for each kind.
        seed: another seed gives other faults.

    Returns:
        The faulty COCO dict, and the faults in the order of `KINDS`.
    """
    faulty = copy.deepcopy(content)
    by_id = {row['id']: row for row in faulty['annotations']}
    eligible = [id_ for id_, row in by_id.items() if not row.get('iscrowd')]
    count = round(share * len(eligible))
    rng = np.random.default_rng(seed)
    chosen = iter(rng.permutation(eligible)[: count * len(KINDS)].tolist())
    sizes = {row['id']: (row['width'], row['height']) for row in faulty['images']}
    classes = [row['id'] for row in faulty['categories']]
    next_id, faults = max(by_id) + 1, []
    for kind in KINDS:
        for _ in range(count):
            row = by_id[next(chosen)]
            original, twin = copy.deepcopy(row), None
            if kind == 'missing':
                faulty['annotations'].remove(row)
            elif kind == 'class':
                others = [id_ for id_ in classes if id_ != row['category_id']]
                row['category_id'] = int(rng.choice(others))
            elif kind == 'loose':
                _set_box(row, moved(row['bbox'], LOOSE, sizes[row['image_id']], rng))
            else:
                twin, row = row['id'], copy.deepcopy(row)
                row['id'], next_id = next_id, next_id + 1
                _set_box(row, moved(row['bbox'], TWICE, sizes[row['image_id']], rng))
                faulty['annotations'].append(row)
            faults.append(Fault(kind, copy.deepcopy(row), twin, original))
    return faulty, faults


def moved(
    box: list[float],
    overlap: tuple[float, float],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> list[float]:
    """A box in the image whose IoU with another is in a range, sampled at random.

    Each side of the box moves by its own share of the width or height.

    Args:
        box: x, y, width, height.
        overlap: lowest and highest IoU.
        size: width and height of the image.
        rng: the source of random numbers.
    """
    x, y, width, height = box
    corners = np.array([x, y, x + width, y + height])
    limits = np.array([*size, *size])
    while True:
        shifts = rng.uniform(-0.35, 0.35, 4) * [width, height, width, height]
        other = np.clip(corners + shifts, 0, limits)
        iou = pairwise_iou(corners[None], other[None])[0, 0]
        if overlap[0] <= iou <= overlap[1]:
            x1, y1, x2, y2 = other.tolist()
            return [x1, y1, x2 - x1, y2 - y1]


def _set_box(row, box):
    row['bbox'], row['area'] = box, box[2] * box[3]


# Scoring suggestions ------------------------------------------------------------------


def hits(
    suggestions: list[Suggestion], faults: list[Fault], category_ids: tuple[int, ...]
) -> np.ndarray:
    """(N,) bool: the suggestions that name a planted fault, and its kind.

    A missing object must be suggested with its class and an IoU of at least 0.5. Of two
    annotations of one object, either may be named. Each fault counts once.
    """
    left_out, planted = collections.defaultdict(list), {}
    for fault in faults:
        if fault.kind == 'missing':
            left_out[fault.annotation['image_id']].append(fault)
        else:
            planted[fault.kind, fault.annotation['id']] = fault
            planted[fault.kind, fault.twin] = fault
    named: set[int] = set()  # an annotation has one fault
    is_hit = np.zeros(len(suggestions), bool)
    for row, each in enumerate(suggestions):
        fault = planted.get((each.kind, each.annotation_id))
        if each.kind == 'missing':
            category, near = category_ids[each.label], left_out[each.image_id]
            fault = left_out_at(np.array(each.box), category, near)
        if fault is not None and fault.annotation['id'] not in named:
            named.add(fault.annotation['id'])
            is_hit[row] = True
    return is_hit


def left_out_at(box: np.ndarray, category: int, faults: list[Fault]) -> Fault | None:
    """The fault, of those of an image, whose object a detection is at; None: of none.

    Args:
        box: (4,) xyxy of the detection.
        category: its category id.
        faults: annotations that were left out.
    """
    for fault in faults:
        x, y, width, height = fault.annotation['bbox']
        other = np.array([[x, y, x + width, y + height]])
        is_there = pairwise_iou(box[None], other)[0, 0] >= 0.5
        if is_there and fault.annotation['category_id'] == category:
            return fault
    return None
