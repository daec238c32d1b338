"""Corrections of annotations: what the page saves, and what becomes of a COCO file."""

import copy
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from atss_jax.files.atomic import read_given_json
from atss_jax.review.ranking import Suggestion

VERSION = 1


def correction_of(
    suggestion: Suggestion, category_ids: Sequence[int]
) -> dict[str, Any]:
    """What a suggestion changes, in COCO's terms.

    Args:
        suggestion: if it is accepted.
        category_ids: COCO category id of each label.
    """
    x1, y1, x2, y2 = (round(value, 2) for value in suggestion.box)
    box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
    category = category_ids[suggestion.label]
    fields: dict[str, dict[str, Any]] = {
        'missing': {
            'image_id': suggestion.image_id,
            'category_id': category,
            'bbox': box,
        },
        'class': {'annotation_id': suggestion.annotation_id, 'category_id': category},
        'loose': {'annotation_id': suggestion.annotation_id, 'bbox': box},
        'twice': {'annotation_id': suggestion.annotation_id},
    }
    return {'kind': suggestion.kind, **fields[suggestion.kind]}


def apply(
    content: Mapping[str, Any], corrections: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A COCO dict with corrections; all fields that they are not about stay.

    An annotation of 'missing' is added at the end, under a new id; the annotation of
    'class' gets another category, that of 'loose' another box, whose area is that of
    the box; that of 'twice' is removed. A mask stays as it is.

    Args:
        content: a COCO dict; it is not changed.
        corrections: as from `correction_of`.

    Raises:
        ValueError: an image, an annotation or a category is not in `content`, or two
            corrections are about the same annotation.
    """
    corrected = copy.deepcopy(dict(content))
    rows = corrected.get('annotations') or []
    by_id = {row['id']: row for row in rows}
    known = {
        'image_id': {row['id'] for row in corrected['images']},
        'category_id': {row['id'] for row in corrected['categories']},
        'annotation_id': set(by_id),
    }
    removed: set[int] = set()
    next_id = max(by_id, default=0) + 1
    for number, correction in enumerate(corrections):
        _check_ids(number, correction, known)
        if correction['kind'] == 'missing':
            rows.append({'id': next_id, **_added(correction)})
            next_id += 1
            continue
        row = by_id[correction['annotation_id']]
        known['annotation_id'].remove(row['id'])  # one correction each
        if correction['kind'] == 'class':
            row['category_id'] = correction['category_id']
        elif correction['kind'] == 'loose':
            row['bbox'] = list(correction['bbox'])
            row['area'] = _area(correction['bbox'])
        else:
            removed.add(row['id'])
    corrected['annotations'] = [row for row in rows if row['id'] not in removed]
    return corrected


def _added(correction):
    return {
        'image_id': correction['image_id'],
        'category_id': correction['category_id'],
        'bbox': list(correction['bbox']),
        'area': _area(correction['bbox']),
        'iscrowd': 0,
    }


def _area(box):
    return round(box[2] * box[3], 2)


def _check_ids(number, correction, known):
    for name, ids in known.items():
        if name in correction and correction[name] not in ids:
            raise ValueError(
                f'correction {number} (counted from 0) has {name} {correction[name]}, '
                'which the annotations do not have, or which an earlier correction is '
                'about too'
            )


# The file -----------------------------------------------------------------------------


class Corrections(NamedTuple):
    """The corrections of an annotation file.

    Attributes:
        ann_file: path of the COCO file that they are about.
        sha256: of its bytes, when they were suggested.
        rows: as from `correction_of`.
    """

    ann_file: str
    sha256: str
    rows: list[dict[str, Any]]


def digest(ann_file: str | os.PathLike) -> str:
    """SHA-256 of the bytes of a file."""
    return hashlib.sha256(pathlib.Path(ann_file).read_bytes()).hexdigest()


def read_corrections(path: str | os.PathLike) -> Corrections:
    """Reads the file that the page saves.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another file, or one of its corrections is malformed.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file of corrections')
    content = read_given_json(path)
    if not isinstance(content, dict) or content.get('atss_doctor') != VERSION:
        raise ValueError(
            f'{path}: expected the corrections that a page of atss doctor saves, an '
            f"object with 'atss_doctor': {VERSION}; found {str(content)[:100]}"
        )
    for name, kind in (('ann_file', str), ('sha256', str), ('corrections', list)):
        if not isinstance(content.get(name), kind):
            raise ValueError(
                f'{path}: {name} is {str(content.get(name))[:100]}, expected a '
                f'{kind.__name__}'
            )
    for number, row in enumerate(content['corrections']):
        _check_row(path, number, row)
    return Corrections(content['ann_file'], content['sha256'], content['corrections'])


def _is_id(value):
    return type(value) is int


def _is_box(value):
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(type(x) in (int, float) and math.isfinite(x) for x in value)
        and min(value[2:]) > 0
    )


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    'image_id': (_is_id, 'an integer'),
    'annotation_id': (_is_id, 'an integer'),
    'category_id': (_is_id, 'an integer'),
    'bbox': (_is_box, 'x, y, width, height, the last two above 0'),
}
_FIELDS = {
    'missing': ('image_id', 'category_id', 'bbox'),
    'class': ('annotation_id', 'category_id'),
    'loose': ('annotation_id', 'bbox'),
    'twice': ('annotation_id',),
}


def _check_row(path, number, row):
    where = f'{path}: correction {number} (counted from 0)'
    kind = row.get('kind') if isinstance(row, dict) else None
    if kind not in _FIELDS:
        raise ValueError(
            f'{where} is {str(row)[:100]}, expected an object whose kind is one of '
            f'{", ".join(_FIELDS)}'
        )
    for name in _FIELDS[kind]:
        holds, expected = _CHECKS[name]
        if not holds(row.get(name)):
            raise ValueError(
                f'{where} has {name} {str(row.get(name))[:100]}, expected {expected}'
            )


def corrected_file(corrections: Corrections) -> dict[str, Any]:
    """The corrected content of the annotation file, with all its other fields.

    Raises:
        FileNotFoundError: the annotation file is gone.
        ValueError: it has changed since the corrections were suggested, or they do not
            belong to it.
    """
    file = corrections.ann_file
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(
            f'{file}: the annotation file that the corrections are about is gone; put '
            'it back, or run atss doctor again'
        )
    if digest(file) != corrections.sha256:
        raise ValueError(
            f'{file} has changed since its page was written, so that the corrections '
            'may be about other annotations: run atss doctor again'
        )
    try:
        return apply(read_given_json(file), corrections.rows)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{file}: a record without its id ({error}); data.on_error was skip when '
            'the page was written, and corrections need a file without such records: '
            'atss convert-data --on_error=skip writes one'
        ) from error
