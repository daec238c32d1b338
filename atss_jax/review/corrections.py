"""Corrections of annotations: what is accepted, and what becomes of a COCO file.

A correction says what is accepted, an edit what it does to the list of annotations. The
page carries edits out in JavaScript, `atss doctor --apply` in Python, see `carry_out`.
"""

import hashlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from atss_jax.files.atomic import read_given_json
from atss_jax.review.ranking import Suggestion

VERSION = 2  # since 2 a new annotation has its id
_SMALLEST_SIDE = 0.01  # of a box: its numbers have two decimals
_TOLERANCE = 0.02  # pixels that a rounded box may lie outside of its image


def corrections_of(
    suggestions: Sequence[Suggestion],
    category_ids: Sequence[int],
    annotations: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What each suggestion changes, in COCO's terms.

    Args:
        suggestions: if they are accepted.
        category_ids: COCO category id of each label.
        annotations: those of the file; ids of new ones begin above theirs.
    """
    largest = max((row['id'] for row in annotations), default=0)
    new_ids = itertools.count(largest + 1)
    return [
        correction_of(
            each,
            category_ids,
            next(new_ids) if each.kind == 'missing' else each.annotation_id,
        )
        for each in suggestions
    ]


def correction_of(
    suggestion: Suggestion, category_ids: Sequence[int], annotation_id: int
) -> dict[str, Any]:
    """What a suggestion changes, in COCO's terms.

    Args:
        suggestion: if it is accepted.
        category_ids: COCO category id of each label.
        annotation_id: of the annotation in question; for 'missing' of the new one.
    """
    x1, y1, x2, y2 = (round(value, 2) for value in suggestion.box)
    sides = [max(round(side, 2), _SMALLEST_SIDE) for side in (x2 - x1, y2 - y1)]
    fields = {
        'image_id': suggestion.image_id,
        'category_id': category_ids[suggestion.label],
        'bbox': [x1, y1, *sides],
        'annotation_id': annotation_id,
    }
    kind = suggestion.kind
    return {'kind': kind, **{name: fields[name] for name in _FIELDS[kind]}}


# Edits --------------------------------------------------------------------------------


class Edit(NamedTuple):
    """A change of the list of annotations of a file.

    Attributes:
        index: of the annotation in the list; None: a new one at the end.
        record: what stands there afterwards; None: the annotation is removed.
    """

    index: int | None
    record: dict[str, Any] | None


def edits_of(
    content: Mapping[str, Any], corrections: Sequence[Mapping[str, Any]]
) -> list[Edit]:
    """The edit of each correction.

    The annotation of 'missing' is added; that of 'class' gets another category, that of
    'loose' another box, whose area is that of the box; that of 'twice' is removed. All
    other fields of an annotation stay, its mask too.

    Args:
        content: a COCO dict whose records have ids of their own.
        corrections: as from `corrections_of`.

    Raises:
        ValueError: an image, an annotation or a category is not in `content`, two
            corrections are about the same annotation, a new id is taken, or a box is
            not inside its image.
    """
    rows = content.get('annotations') or []
    index_of = {row['id']: index for index, row in enumerate(rows)}
    images = {row['id']: row for row in content['images']}
    known = {
        'image_id': images.keys(),
        'category_id': {row['id'] for row in content['categories']},
        'annotation_id': set(index_of),
    }
    taken, edits = set(index_of), []
    for number, correction in enumerate(corrections):
        where = f'correction {number} (counted from 0)'
        id_ = correction['annotation_id']
        if correction['kind'] == 'missing':
            _check_is_free(where, id_, taken)
            _check_ids(where, {**correction, 'annotation_id': None}, known)
            row = _added(correction)
            edits.append(Edit(None, row))
        else:
            _check_ids(where, correction, known)
            known['annotation_id'].remove(id_)  # one correction each
            row = rows[index_of[id_]]
            edits.append(Edit(index_of[id_], _changed(row, correction)))
        if 'bbox' in _FIELDS[correction['kind']]:
            _check_is_inside(where, correction['bbox'], images.get(row.get('image_id')))
    return edits


def carry_out(
    rows: Sequence[Mapping[str, Any]], edits: Sequence[Edit]
) -> list[Mapping[str, Any]]:
    """The annotations after edits; `corrected` in doctor.js does the same.

    Args:
        rows: the annotations of the file.
        edits: those of what is accepted, each about another annotation.
    """
    edited = list(rows)
    for index, record in edits:
        if index is None:
            edited.append(record)
        else:
            edited[index] = record
    return [row for row in edited if row is not None]


def apply(
    content: Mapping[str, Any], corrections: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A COCO dict with corrections; all fields that they are not about stay.

    Args:
        content: as for `edits_of`; it is not changed.
        corrections: as from `corrections_of`.

    Raises:
        ValueError: as `edits_of`.
    """
    rows = content.get('annotations') or []
    edits = edits_of(content, corrections)
    return {**content, 'annotations': carry_out(rows, edits)}


def _added(correction):
    return {
        'id': correction['annotation_id'],
        'image_id': correction['image_id'],
        'category_id': correction['category_id'],
        'bbox': list(correction['bbox']),
        'area': _area(correction['bbox']),
        'iscrowd': 0,
    }


def _changed(row, correction):
    """The annotation afterwards; None: it is removed."""
    kind = correction['kind']
    if kind == 'twice':
        return None
    if kind == 'class':
        return {**row, 'category_id': correction['category_id']}
    box = list(correction['bbox'])
    return {**row, 'bbox': box, 'area': _area(box)}


def _area(box):
    return round(box[2] * box[3], 2)


def _check_is_free(where, id_, taken):
    """Raises ValueError if a new id is taken; notes that it is from now on."""
    if id_ in taken:
        raise ValueError(
            f'{where} has annotation_id {id_} for a new annotation, which another one '
            'has already'
        )
    taken.add(id_)


def _check_ids(where, correction, known):
    """Raises ValueError if an id of a correction is not among the `known` ones."""
    for name, ids in known.items():
        id_ = correction.get(name)
        if id_ is not None and id_ not in ids:
            raise ValueError(
                f'{where} has {name} {id_}, which the annotations do not have, or '
                'which an earlier correction is about too'
            )


def _check_is_inside(where, box, image):
    """Raises ValueError if a box is not inside its image, where its size is known.

    Training needs the sizes in the file, but a file that is corrected may lack them.
    """
    size = (image or {}).get('width'), (image or {}).get('height')
    if None in size:
        return
    for start, side, limit in zip(box[:2], box[2:], size, strict=True):
        if start < -_TOLERANCE or start + side > limit + _TOLERANCE:
            raise ValueError(
                f'{where} has bbox {box}, expected x, y, width, height of a box inside '
                f'its image, which is {size[0]} pixels wide and {size[1]} high'
            )


# The file -----------------------------------------------------------------------------


class Corrections(NamedTuple):
    """The corrections of an annotation file.

    Attributes:
        ann_file: path of the COCO file that they are about.
        sha256: of its bytes, when they were suggested.
        rows: as from `corrections_of`.
    """

    ann_file: str
    sha256: str
    rows: list[dict[str, Any]]


class AnnotationFile(NamedTuple):
    """A COCO file that can be corrected.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        size: number of its bytes.
        content: the whole COCO dict, masks and unknown fields too.
    """

    path: str
    sha256: str
    size: int
    content: dict[str, Any]


def read_annotations(path: str | os.PathLike) -> AnnotationFile:
    """Reads the annotations that are to be corrected.

    Raises:
        ValueError: the file is not JSON or not COCO, or records have no ids of their
            own, so that nobody knows which of them a correction means.
    """
    size, content = os.path.getsize(path), read_given_json(path)
    for section in ('images', 'annotations', 'categories'):
        rows = content.get(section) if isinstance(content, dict) else None
        if rows is None and section == 'annotations':
            continue  # outside of training a file may have none
        if not isinstance(rows, list):
            raise ValueError(f'{path}: not a COCO file: it has no list of {section}')
        _check_own_ids(path, section, rows)
    return AnnotationFile(os.fspath(path), digest(path), size, content)


def _check_own_ids(path, section, rows):
    index_of = {}
    for index, row in enumerate(rows):
        id_ = row.get('id') if isinstance(row, dict) else None
        if not _is_id(id_):
            problem = 'has no id that is an integer'
        elif id_ in index_of:
            problem = f'has the id {id_}, as {section}[{index_of[id_]}] has'
        else:
            index_of[id_] = index
            continue
        raise ValueError(
            f"{path}: {section}[{index}] {problem}; with data.on_error='skip' such "
            'records are left out, but they cannot be corrected: atss convert-data '
            '--on_error=skip writes a file without them'
        )


def json_lines(content: Mapping[str, Any]) -> list[str]:
    """The JSON text of a COCO dict in lines, for a page that corrects it as text.

    The first line is all but the annotations, up to the bracket of their list; each
    other one is an annotation. Joined by commas and closed by `]}` they are the text.
    """
    rest = {name: value for name, value in content.items() if name != 'annotations'}
    head = f'{json.dumps(rest)[:-1]}, "annotations": ['
    return [head, *map(json.dumps, content.get('annotations') or [])]


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
            f"object with 'atss_doctor': {VERSION}; found {str(content)[:100]}. A page "
            'that has the annotations in it saves them with the corrections, and '
            'nothing is to be applied'
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
    'missing': ('image_id', 'category_id', 'bbox', 'annotation_id'),
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
    return apply(read_annotations(file).content, corrections.rows)
