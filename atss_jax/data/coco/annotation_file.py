"""COCO annotation files, read and checked; the names of COCO's own classes."""

import dataclasses
import json
import re
import reprlib
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from atss_jax.data import image_file

ON_ERROR = ('raise', 'skip')

# Far larger than any image, and nothing computed from it overflows float32.
_LARGEST = 1e15
_LARGEST_SIDE = 2**20  # OpenCV's own limit
_LONGEST_TEXT = 1024
_MAX_NAMED = 5  # records that a warning lists
_NO_TEXT = re.compile('[\0\ud800-\udfff]')  # neither a file name nor printable


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a function; a missing value is None."""

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value):
    # False for NaN and infinity; type(), since True is an int to isinstance().
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


def _is_text(value):
    fits = type(value) is str and 0 < len(value) <= _LONGEST_TEXT
    return fits and not _NO_TEXT.search(value)


INTEGER = Rule(
    'an integer of 64 bits', lambda v: type(v) is int and -(2**63) <= v < 2**63
)
SIDE = Rule(
    f'an integer from 1 to {_LARGEST_SIDE}',
    lambda v: type(v) is int and 1 <= v <= _LARGEST_SIDE,
)
TEXT = Rule(f'a text of 1 to {_LONGEST_TEXT} characters', _is_text)
BOX = Rule(
    f'4 finite numbers of at most {_LARGEST:g} [x, y, width, height]',
    lambda v: type(v) is list and len(v) == 4 and all(map(_is_number, v)),
)
NUMBER_OR_NONE = Rule(
    f'a finite number of at most {_LARGEST:g}',
    lambda v: v is None or _is_number(v),
)
FLAG_OR_NONE = Rule(
    'an integer from 0 to 1',
    lambda v: v is None or (type(v) in (int, bool) and 0 <= v <= 1),
)


class Table:
    """The records of one list that satisfy all rules so far.

    Attributes:
        rows: these records, in the file's order.
    """

    def __init__(self, path: str, name: str, rows: list, on_error: str):
        """Starts with all records that are JSON objects.

        Args:
            path: of the file, for messages.
            name: of the list, for messages.
            rows: the list as parsed.
            on_error: 'raise' an error about the first record that breaks a rule, or
                'skip': such records are left out, with one warning per rule.
        """
        self.rows = rows
        self._path, self._name, self._on_error = path, name, on_error
        self._places = range(len(rows))
        bad = [i for i, row in enumerate(rows) if type(row) is not dict]
        self._refuse(
            bad, 'not an object', lambda row: f'must be an object, found {show(row)}'
        )

    def column(self, key: str) -> list:
        """The value of each record; None where it is missing."""
        return [row.get(key) for row in self.rows]

    def require(self, key: str, rule: Rule, on_error: str | None = None) -> None:
        """Refuses or leaves out records whose value breaks a rule.

        Args:
            key: of the value.
            rule: what the value must be.
            on_error: for this rule, in place of the table's.

        Raises:
            ValueError: a record breaks the rule and `on_error` is 'raise'.
        """
        bad = [i for i, v in enumerate(self.column(key)) if not rule.holds(v)]

        def problem(row):
            found = f'found {show(row[key])}' if key in row else 'it is missing'
            return f'{key} must be {rule.expected}, {found}'

        self._refuse(bad, f'{key} is not {rule.expected}', problem, on_error)

    def leave_out_unused_twins(self, key: str, used: Container[Any]) -> None:
        """Leaves out records whose `key` another record has and whose id is not used.

        The last of several stays if none is used: exports put a category that stands
        for all, and often has the name of one of them, first.
        """
        groups = {}
        for index, value in enumerate(self.column(key)):
            groups.setdefault(value, []).append(index)
        bad = []
        for group in groups.values():
            unused = [i for i in group if self.rows[i]['id'] not in used]
            bad += unused[:-1] if len(unused) == len(group) else unused
        kind = f'{key} of another one, and without annotations'
        self._refuse(sorted(bad), kind, str, on_error='skip')

    def require_unique(
        self, key: str, alike: Sequence[str] = (), advice: str = ''
    ) -> None:
        """Refuses or leaves out records with a value that an earlier record has.

        With 'skip' the first of such a group stays. None does if they differ in a field
        of `alike`, since nobody knows which of them a reference means.

        Args:
            key: of the value.
            alike: fields that tell records of one value apart.
            advice: end of the message of the error.

        Raises:
            ValueError: a value occurs twice and `on_error` is 'raise'.
        """
        values = self.column(key)
        if len(set(values)) == len(values):
            return
        groups = {}
        for index, value in enumerate(values):
            groups.setdefault(value, []).append(index)
        repeats = [i for group in groups.values() for i in group[1:]]
        unclear = [
            group[0]
            for group in groups.values()
            if any(
                self.rows[i].get(k) != self.rows[group[0]].get(k)
                for i in group
                for k in alike
            )
        ]

        def problem(row):
            place = self._places[values.index(row[key])]
            return f'{key} {show(row[key])} is taken by {self._name}[{place}]{advice}'

        # An error is about the repeated record, not about the first.
        unclear = unclear if self._on_error == 'skip' else []
        bad = sorted(repeats + unclear)
        self._refuse(bad, f'{key} is taken by another', problem)

    def _refuse(
        self,
        bad: list[int],
        kind: str,
        problem: Callable[[Any], str],
        on_error: str | None = None,
    ) -> None:
        if not bad:
            return
        if (on_error or self._on_error) == 'raise':
            place = self._label(bad[0])
            raise ValueError(f'{self._path}: {place}: {problem(self.rows[bad[0]])}')
        named = ', '.join(map(self._label, bad[:_MAX_NAMED]))
        more = ', ...' if len(bad) > _MAX_NAMED else ''
        warnings.warn(
            f'{self._path}: {len(bad)} of {len(self._places)} {self._name} left out: '
            f'{kind} ({named}{more})',
            stacklevel=2,
        )
        good = sorted(set(range(len(self.rows))) - set(bad))
        self.rows = [self.rows[i] for i in good]
        self._places = [self._places[i] for i in good]

    def _label(self, index: int) -> str:
        row, place = self.rows[index], f'{self._name}[{self._places[index]}]'
        has_id = isinstance(row, dict) and 'id' in row
        return f'{place} (id {show(row["id"])})' if has_id else place


_LONGEST_SHOWN = 80
_SHORT = reprlib.Repr()  # looks only a few levels deep, whatever the file holds
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _LONGEST_SHOWN


def show(value: object) -> str:
    """A value of the file for a message, shortened if it is large or deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f'{text[: _LONGEST_SHOWN - 3]}...'


# The file -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """An annotation file as columns, in the file's order.

    Attributes:
        path: of the file.
        image_ids: (N,) int64.
        file_names: (N,) as written in the file, relative to the image folder.
        image_sizes: (N,2) int64 height, width.
        annotation_ids: (M,) int64.
        annotation_images: (M,) int64, image id of each annotation.
        annotation_categories: (M,) int64, category id of each annotation.
        boxes: (M,4) float64 x, y, width, height.
        areas: (M,) float64; width * height where the file gives none.
        crowds: (M,) bool; False where the file gives none.
        dropped: (M,) bool, annotations with a non-zero `ignore`.
        categories: name of each category id.
    """

    path: str
    image_ids: np.ndarray
    file_names: list[str]
    image_sizes: np.ndarray
    annotation_ids: np.ndarray
    annotation_images: np.ndarray
    annotation_categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    dropped: np.ndarray
    categories: dict[int, str]

    def as_dict(self) -> dict:
        """The file's COCO dict, reduced to what the evaluation of boxes reads."""
        images = zip(
            self.image_ids.tolist(),
            self.file_names,
            self.image_sizes.tolist(),
            strict=True,
        )
        annotations = zip(
            self.annotation_ids.tolist(),
            self.annotation_images.tolist(),
            self.annotation_categories.tolist(),
            self.boxes.tolist(),
            self.areas.tolist(),
            self.crowds.astype(int).tolist(),
            strict=True,
        )
        keys = ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')
        return {
            'images': [
                {'id': id_, 'file_name': name, 'height': height, 'width': width}
                for id_, name, (height, width) in images
            ],
            'annotations': [dict(zip(keys, row, strict=True)) for row in annotations],
            'categories': [
                {'id': id_, 'name': name} for id_, name in self.categories.items()
            ],
        }


_SECTIONS = ('images', 'annotations', 'categories')
_IMAGE = {'id': INTEGER, 'file_name': TEXT, 'height': SIDE, 'width': SIDE}
_ANNOTATION = {
    'id': INTEGER,
    'image_id': INTEGER,
    'category_id': INTEGER,
    'bbox': BOX,
    'area': NUMBER_OR_NONE,
    'iscrowd': FLAG_OR_NONE,
}


def read(
    path: str, on_error: str = 'raise', training: bool = True, img_prefix: str = ''
) -> CocoFile:
    """Reads and checks a COCO annotation file for detection; masks are ignored.

    Args:
        path: of the file.
        on_error: 'raise' an error about the first malformed image or annotation, or
            'skip': malformed ones are left out, and a warning counts them. A malformed
            category is always an error: leaving it out would renumber the classes.
        training: whether annotations and the sizes of images must be there. Otherwise
            a file without annotations has images without objects, and missing sizes are
            read from the images, with a warning.
        img_prefix: folder of the images, for their sizes.

    Raises:
        ValueError: the file is not JSON, not COCO, or a record is malformed; the
            message names the file, the record and what was found.
    """
    content = _load_json(path, training)
    names = _category_names(path, content)
    images = Table(path, 'images', content['images'], on_error)
    rules = _IMAGE
    if not training:
        _fill_sizes(path, images.rows, img_prefix)
        side = f'{SIDE.expected}, if no image in {img_prefix or "."!r} says its size'
        rules = _IMAGE | dict.fromkeys(('height', 'width'), Rule(side, SIDE.holds))
    _check(images, rules)
    images.require_unique('id', alike=tuple(_IMAGE))
    annotations = Table(path, 'annotations', content['annotations'], on_error)
    _check(annotations, _ANNOTATION)
    annotations.require_unique('id')
    # mmdet silently skips both; a file with ids off by one would train.
    annotations.require('image_id', _one_of('images', images.column('id')))
    # Too common to stop a run: people reduce files to some categories by hand.
    annotations.require('category_id', _one_of('categories', names), on_error='skip')
    return _columns(path, images, annotations, names)


class Listing(NamedTuple):
    """The names of an annotation file.

    Attributes:
        image_ids: id of each image.
        file_names: of each image, as written in the file.
        categories: name of each category id.
    """

    image_ids: list[int]
    file_names: list[str]
    categories: dict[int, str]


def read_listing(path: str) -> Listing:
    """Reads ids and names alone; annotations and sizes need not be there.

    Raises:
        ValueError: the file is not JSON, not COCO, or an id or a name is malformed.
    """
    content = _load_json(path, training=False)
    images = Table(path, 'images', content['images'], 'raise')
    _check(images, {'id': INTEGER, 'file_name': TEXT})
    images.require_unique('id')
    names = _category_names(path, content)
    return Listing(images.column('id'), images.column('file_name'), names)


def _category_names(path: str, content: dict) -> dict[int, str]:
    """The name of each category id."""
    table = Table(path, 'categories', content['categories'], 'raise')
    _check(table, {'id': INTEGER, 'name': TEXT})
    table.require_unique('id')
    rows = [row for row in content['annotations'] if type(row) is dict]
    ids = [row.get('category_id') for row in rows]
    table.leave_out_unused_twins('name', {id_ for id_ in ids if type(id_) is int})
    table.require_unique(
        'name',
        advice=', and both have annotations: rename one of them, or merge them by '
        'giving the annotations of one the category_id of the other',
    )
    return dict(zip(table.column('id'), table.column('name'), strict=True))


def _fill_sizes(path: str, rows: list[dict], img_prefix: str) -> None:
    """Reads missing sizes from the images; what cannot be read stays missing."""
    filled = 0
    for row in rows:
        is_missing = row.get('height') is None or row.get('width') is None
        if is_missing and TEXT.holds(row.get('file_name')):
            try:
                size = image_file.size_of(
                    image_file.locate(img_prefix, row['file_name'])
                )
            except (image_file.BadImage, OSError):
                continue
            row['height'], row['width'] = size
            filled += 1
    if filled:
        warnings.warn(
            f'{path}: {filled} of {len(rows)} images have no height and width; they '
            f'were read from the files in {img_prefix or "."}',
            stacklevel=3,
        )


def _check(table: Table, rules: dict[str, Rule]) -> None:
    for key, rule in rules.items():
        table.require(key, rule)


def _one_of(section: str, ids: Iterable[int]) -> Rule:
    known = set(ids)
    return Rule(f"the id of one of the file's {section}", known.__contains__)


def _columns(
    path: str, images: Table, annotations: Table, categories: dict[int, str]
) -> CocoFile:
    def integers(table, key):
        return np.array(table.column(key), np.int64)

    boxes = np.array(annotations.column('bbox'), np.float64).reshape(-1, 4)
    areas = np.array(annotations.column('area'), np.float64)  # None becomes nan
    return CocoFile(
        path=path,
        image_ids=integers(images, 'id'),
        file_names=images.column('file_name'),
        image_sizes=np.stack(
            [integers(images, 'height'), integers(images, 'width')], 1
        ),
        annotation_ids=integers(annotations, 'id'),
        annotation_images=integers(annotations, 'image_id'),
        annotation_categories=integers(annotations, 'category_id'),
        boxes=boxes,
        # pycocotools fails on missing ones.
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowds=np.array(list(map(bool, annotations.column('iscrowd'))), bool),
        dropped=np.array(list(map(bool, annotations.column('ignore'))), bool),
        categories=categories,
    )


def _load_json(path: str, training: bool) -> dict:
    """The file's content; outside of training `annotations` may be absent or null."""
    with open(path, encoding='utf-8') as stream:
        try:
            # Masks are most of the file and are not used: dropped as soon as they are
            # parsed, they never fill the memory.
            content = json.load(stream, object_hook=_without_mask)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path}: not a JSON file ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path}: not a COCO annotation file: expected an object with '
            f'{", ".join(_SECTIONS)}; found a {type(content).__name__}'
        )
    if not training and content.get('annotations') is None:
        content['annotations'] = []
    missing = [name for name in _SECTIONS if not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(
            f'{path}: not a COCO annotation file: no list of {", ".join(missing)}; '
            f'found {show(list(content)) if content else "an empty object"}'
        )
    return content


def _without_mask(record: dict) -> dict:
    record.pop('segmentation', None)
    return record


# COCO's own classes -------------------------------------------------------------------

# fmt: off
COCO_CLASSES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck',
    'boat', 'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench',
    'bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra',
    'giraffe', 'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee', 'skis',
    'snowboard', 'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard',
    'surfboard', 'tennis racket', 'bottle', 'wine glass', 'cup', 'fork', 'knife',
    'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot',
    'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant', 'bed',
    'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard',
    'cell phone', 'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book',
    'clock', 'vase', 'scissors', 'teddy bear', 'hair drier', 'toothbrush',
)
"""Names of the 80 classes in the order of their category ids, thus of the labels."""
# fmt: on
