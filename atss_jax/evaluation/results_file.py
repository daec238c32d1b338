"""A COCO results file, as any detector may have written it, read and checked."""

import json
import math
import pathlib
from typing import Any

_FIELDS = ('image_id', 'category_id', 'bbox', 'score')


def read_results(path: str | pathlib.Path, ground_truth: dict) -> list[dict]:
    """The detections of a results file.

    Args:
        path: JSON, a list of `{'image_id', 'category_id', 'bbox': [x, y, w, h],
            'score'}`; more fields are passed over.
        ground_truth: COCO dict that must have their pictures and categories.

    Raises:
        ValueError: the file is no such list, or does not belong to `ground_truth`.
        OSError: it cannot be read.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file of results')
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not a JSON file ({error})') from error
    if not isinstance(content, list):
        found = f'a {type(content).__name__}'
        if isinstance(content, dict):
            found = f'an object with {", ".join(map(repr, list(content)[:5]))}'
        raise ValueError(
            f'{path}: expected COCO results, a list of objects with '
            f'{", ".join(_FIELDS)}; found {found}'
        )
    results = [_result(path, index, record) for index, record in enumerate(content)]
    for field, section in (('image_id', 'images'), ('category_id', 'categories')):
        _check_known(path, results, field, {r['id'] for r in ground_truth[section]})
    return results


def _result(path, index: int, record: Any) -> dict:
    if not isinstance(record, dict) or not all(name in record for name in _FIELDS):
        raise ValueError(
            f'{path}: detection {index} (counted from 0) is {str(record)[:200]}; '
            f'expected an object with {", ".join(_FIELDS)}'
        )
    for name in ('image_id', 'category_id'):
        if type(record[name]) is not int:
            raise _refuse(path, index, name, record, 'an integer')
    box = record['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise _refuse(path, index, 'bbox', record, 'four finite numbers x, y, w, h')
    if min(box[2:]) < 0:
        raise _refuse(path, index, 'bbox', record, 'width and height of at least 0')
    if not _is_finite(record['score']) or not 0 <= record['score'] <= 1:
        raise _refuse(path, index, 'score', record, 'a number from 0 to 1')
    return {name: record[name] for name in _FIELDS}


def _is_finite(value):
    return type(value) in (int, float) and math.isfinite(value)


def _refuse(path, index, name, record, expected):
    return ValueError(
        f'{path}: detection {index} (counted from 0) has {name} '
        f'{str(record[name])[:100]}, expected {expected}'
    )


def _check_known(path, results, field, known):
    unknown = sorted({result[field] for result in results} - known)
    if unknown:
        raise ValueError(
            f'{path}: {len(unknown)} values of {field} are not in the annotations, '
            f'such as {", ".join(map(str, unknown[:5]))}; these are results of other '
            'data or with other ids'
        )
