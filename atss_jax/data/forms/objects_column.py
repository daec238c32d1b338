"""Columns named `objects`, as data sets of Hugging Face have them, made a table."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import (
    FLAG_OR_NONE,
    INTEGER,
    NUMBER_OR_NONE,
    SKIP,
    TEXT,
    Rule,
    Table,
    box_rule,
    show,
)

BOX_FORMATS = {
    'xywh': 'x, y, width, height',
    'xyxy': 'x1, y1, x2, y2',
    'cxcywh': 'center x, center y, width, height',
}
"""What the four numbers of a box are, by the name that `?bbox=NAME` gives it."""
RELATIVE = 'relative_'
"""Before such a name: the numbers are fractions of the image's width and height."""

_NAMES = {
    'bbox': ('bbox', 'bboxes', 'boxes'),
    'category': ('category', 'categories', 'category_id', 'label', 'labels'),
    'area': ('area', 'areas'),
    'iscrowd': ('iscrowd', 'is_crowd'),
    'id': ('id', 'bbox_id'),
}
"""Names of the lists in `objects`, the usual one first."""
CATEGORY_NAMES = _NAMES['category']


@dataclasses.dataclass(frozen=True)
class ImageRows:
    """The rows of a split as they were read, one per image, not yet checked.

    Attributes:
        path: of the file or folder, for messages.
        rows: of each image `place`, where it stands, for messages, and as far as they
            are given `file_name`, relative to the data set's folder, `objects`,
            `image_id`, `width` and `height`.
        columns: names of all columns that are there, for messages.
        problems: by index, why a row could not be read.
        class_names: what integers as categories stand for; None: not said there.
    """

    path: str
    rows: list[dict]
    columns: Sequence[str]
    problems: Mapping[int, str]
    class_names: tuple[str, ...] | None = None


def is_inside(name: object) -> bool:
    """Whether a file name leads to a file in the folder that it is relative to."""
    if not TEXT.holds(name) or '://' in name:
        return False
    name = os.path.normpath(name.replace('\\', '/'))
    return not os.path.isabs(name) and name.partition('/')[0] != '..'


def shown_names(names: Iterable[str]) -> str:
    """The first names of a list, for a message."""
    first = [show(name)[1:-1] for name in itertools.islice(names, 11)]
    return ', '.join(first[:10]) + (', ...' if len(first) > 10 else '') or 'nothing'


_FILE_NAME = Rule('a path in the folder of the data set, relative to it', is_inside)


def image_table(images: ImageRows, on_error: str, training: bool) -> Table:
    """The rows whose image and `objects` can be used; `id` is added to each.

    Args:
        images: all rows.
        on_error: 'raise' an error about the first malformed row, or 'skip': they are
            left out, and a warning counts them.
        training: whether `objects` must be there; elsewhere there are none without it.

    Raises:
        ValueError: there are no rows, no `objects`, or a row is malformed.
    """
    if not images.rows:
        raise ValueError(f'{images.path}: there are no rows, thus no images')
    if training and 'objects' not in images.columns:
        raise ValueError(
            f'{images.path}: there is no column objects, which must hold the bbox and '
            'the category of each object; its columns are '
            f'{shown_names(images.columns)}'
        )
    _number(images)

    def place(index):
        return images.rows[index]['place']

    table = Table(images.path, 'images', images.rows, on_error, SKIP, place)
    table.refuse(images.problems, 'not a JSON object')
    table.require('file_name', _FILE_NAME)
    table.require_unique('file_name')
    problems = {
        index: problem
        for index, objects in enumerate(table.column('objects'))
        if (training or objects is not None) and (problem := _problem(objects))
    }
    table.refuse(problems, 'objects cannot be read')
    return table


def _number(images):
    """Gives each row an `id`: its `image_id` if all have unique integers, else 1..N."""
    rows = [r for i, r in enumerate(images.rows) if i not in images.problems]
    ids = [row.get('image_id') for row in rows]
    if not (all(map(INTEGER.holds, ids)) and len(set(ids)) == len(ids)):
        if any(id_ is not None for id_ in ids):
            warnings.warn(
                f'{images.path}: image_id is not a different integer for each image, '
                'so the ids of the images in results are 1, 2, 3, ... in its order',
                stacklevel=4,
            )
        ids = range(1, len(rows) + 1)
    for row, id_ in zip(rows, ids, strict=True):
        row['id'] = id_


def _problem(objects):
    """What is wrong with `objects` as a whole; '' if nothing is."""
    if type(objects) is list:
        for index, each in enumerate(objects):
            if type(each) is not dict:
                return f'objects[{index}] must be an object, found {show(each)}'
        return ''
    if type(objects) is not dict:
        return (
            'objects must be lists of bbox and category (empty ones for an image '
            f'without objects), found {show(objects)}'
        )
    names = {key: name for key in _NAMES if (name := _name_of(objects, key))}
    for key in ('bbox', 'category') if objects else ():
        if key not in names:
            return (
                f'objects must have a list {" or ".join(_NAMES[key])}, found '
                f'{shown_names(k for k, v in objects.items() if v is not None)}'
            )
    for name in names.values():
        if type(objects[name]) is not list:
            return f'objects.{name} must be a list, found {show(objects[name])}'
    lengths = {name: len(objects[name]) for name in names.values()}
    if len(set(lengths.values())) > 1:
        counts = ', '.join(f'{count} {name}' for name, count in lengths.items())
        return f'the lists of objects must be equally long, found {counts}'
    return ''


def _name_of(objects, key):
    """The name of `_NAMES` under which `objects` has something; None: it has not."""
    for name in _NAMES[key]:
        if objects.get(name) is not None:
            return name
    return None


def _each(objects: Any) -> Iterator[dict]:
    """The objects of an image, with the usual names; `objects` as `_problem` accepts.

    Values that are not there are left out.
    """
    if type(objects) is dict:
        names = {key: name for key in _NAMES if (name := _name_of(objects, key))}
        columns = [objects[name] for name in names.values()]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))
    for each in objects if type(objects) is list else ():
        names = {key: name for key in _NAMES if (name := _name_of(each, key))}
        yield {key: each[name] for key, name in names.items()}


def category_values(images: ImageRows) -> set[Any]:
    """All categories of the objects, texts or integers; malformed rows are passed by.

    They are none of this function's business: `image_table` refuses them.
    """
    return {
        each.get('category')
        for row in images.rows
        if not _problem(objects := row.get('objects'))
        for each in _each(objects)
        if TEXT.holds(each.get('category')) or INTEGER.holds(each.get('category'))
    }


def annotations(
    path: str, images: Table, names: tuple[str, ...], box_format: str, on_error: str
) -> Annotations:
    """Checks the objects of all images and makes them a table.

    Args:
        path: of the data set, for messages.
        images: as `image_table` gives it, with `height` and `width` of all.
        names: of the categories; an integer is an index into them.
        box_format: what the numbers of a box are, a key of `BOX_FORMATS`, or one after
            `RELATIVE`.
        on_error: as for `image_table`.

    Raises:
        ValueError: an object is malformed.
    """
    rows, places = [], []
    for index, row in enumerate(images.rows):
        for number, each in enumerate(_each(row.get('objects'))):
            rows.append({**each, 'image': index})
            places.append((index, number))
    labels = [row['place'] for row in images.rows]

    def place(index):
        image, number = places[index]
        return f'{labels[image]}, object {number}'

    table = Table(path, 'objects', rows, on_error, SKIP, place)
    numbers = BOX_FORMATS[box_format.removeprefix(RELATIVE)]
    table.require('bbox', box_rule(numbers))
    table.require('category', _category_rule(names))
    table.require('area', NUMBER_OR_NONE)
    table.require('iscrowd', FLAG_OR_NONE)
    return _columns(path, images, table, names, box_format)


def _category_rule(names):
    listed, known = shown_names(names), set(names)
    return Rule(
        f'one of {listed}, or an integer from 0 to {len(names) - 1}',
        lambda value: (
            0 <= value < len(names)
            if type(value) is int
            else type(value) is str and value in known
        ),
    )


def _columns(path, images, objects, names, box_format):
    image_ids = np.array(images.column('id'), np.int64)
    sizes = np.array(
        [(row['height'], row['width']) for row in images.rows], np.int64
    ).reshape(-1, 2)
    rows = np.array(objects.column('image'), np.int64)
    boxes = np.array(objects.column('bbox'), np.float64).reshape(-1, 4)
    boxes = to_xywh(boxes, box_format, sizes[rows])
    areas = np.array(objects.column('area'), np.float64)  # None becomes nan
    index_of = {name: index for index, name in enumerate(names)}
    categories = [index_of.get(value, value) for value in objects.column('category')]
    ids = objects.column('id')
    if not (all(map(INTEGER.holds, ids)) and len(set(ids)) == len(ids)):
        ids = range(1, len(ids) + 1)  # often they start again in each image
    return Annotations(
        path=path,
        image_ids=image_ids,
        file_names=images.column('file_name'),
        image_sizes=sizes,
        annotation_ids=np.array(ids, np.int64),
        annotation_images=image_ids[rows],
        annotation_categories=np.array(categories, np.int64),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowds=np.array(list(map(bool, objects.column('iscrowd'))), bool),
        dropped=np.zeros(len(rows), bool),
        categories=dict(enumerate(names)),
    )


def to_xywh(boxes: np.ndarray, box_format: str, sizes: np.ndarray) -> np.ndarray:
    """(M,4) x, y, width, height in pixels from boxes of another format.

    Args:
        boxes: (M,4) numbers as annotated.
        box_format: as for `annotations`.
        sizes: (M,2) height, width of the image of each box.
    """
    order = box_format.removeprefix(RELATIVE)
    if order != box_format:
        boxes = boxes * sizes[:, [1, 0, 1, 0]]
    first, second = boxes[:, :2], boxes[:, 2:]
    if order == 'xyxy':
        second = second - first
    elif order == 'cxcywh':
        first = first - second / 2
    return np.concatenate([first, second], 1)
