"""Well-formed COCO files, read by msgspec without building their masks.

This is the fast path of `annotation_file.read`: it either gives what the reader that
looks at each record would give, or nothing, and that reader then reads the file. So the
messages about malformed files are that reader's.
"""

import codecs
import dataclasses
import itertools
import json
import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import LARGEST, LARGEST_SIDE, TEXT

# Python refuses integers with more digits, wherever they are; msgspec does not look at
# those in fields that it leaves out.
_MAX_DIGITS = 4300
_STRIDE = 43  # divides it: a longer run of digits has 100 of them at this distance
_PART = 1 << 24  # bytes that are decoded at once


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = None
    ignore: int | bool | float | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[msgspec.Raw]
    categories: msgspec.Raw


_FILE = msgspec.json.Decoder(_File)
# Objects take several times as much memory as text and columns: few exist at a time.
_AT_ONCE = 50_000
_ANNOTATIONS = msgspec.json.Decoder(list[_Annotation])


def without_mask(record: dict) -> dict:
    """An object of a COCO file without `segmentation`, for `json.loads`."""
    record.pop('segmentation', None)
    return record


class PlainFile(NamedTuple):
    """A COCO file whose images and annotations keep all rules.

    Attributes:
        table: of the file, without categories.
        categories: the file's list of categories as JSON, not checked.
    """

    table: Annotations
    categories: bytes

    def category_rows(self) -> Any:
        """What the file has as categories."""
        return json.loads(self.categories, object_hook=without_mask)

    def used_categories(self) -> set[int]:
        """The category ids of all annotations."""
        return set(np.unique(self.table.annotation_categories).tolist())

    def with_names(self, categories: dict[int, str]) -> Annotations:
        """The table with the name of each category id."""
        return dataclasses.replace(self.table, categories=categories)


def read_plain(path: str, content: bytes) -> PlainFile | None:
    """The file, or None unless the checks of each record would find nothing.

    Only what is wrong with categories is left to the caller: it depends on which of
    them are wanted.

    Args:
        path: of the file, for messages.
        content: of the file.
    """
    try:
        _check_skipped(content)
        file = _FILE.decode(content)
        plain = PlainFile(_table(path, file), bytes(file.categories))
        is_plain = isinstance(plain.category_rows(), list)
        return plain if is_plain and _has_right_ids(plain.table) else None
    # Malformed JSON; values of another type; numbers that do not fit into 64 bits.
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


def _check_skipped(content: bytes) -> None:
    """Refuses what Python refuses anywhere, but msgspec only in fields that it reads.

    Raises:
        ValueError: the file is not UTF-8, or has an integer of too many digits.
    """
    if not content.isascii():
        decoder, view = codecs.getincrementaldecoder('utf-8')(), memoryview(content)
        for start in range(0, len(content), _PART):
            decoder.decode(view[start : start + _PART])
        decoder.decode(b'', final=True)
    sample = np.frombuffer(content, np.uint8)[::_STRIDE]
    others = np.flatnonzero((sample < ord('0')) | (sample > ord('9')))
    ends = np.concatenate([[-1], others, [len(sample)]])
    if np.diff(ends).max() > _MAX_DIGITS // _STRIDE:
        raise ValueError('an integer may have too many digits')


def _table(path: str, file: _File) -> Annotations:
    """The columns; raises ValueError if a value breaks a rule of `annotation_file`."""
    images = file.images
    names = [image.file_name for image in images]
    sizes = np.stack([_integers(images, 'height'), _integers(images, 'width')], 1)
    if not ((sizes >= 1) & (sizes <= LARGEST_SIDE)).all():
        raise ValueError('the side of an image')
    if not all(map(TEXT.holds, names)):
        raise ValueError('a file name')
    parts = [
        _annotation_columns(file.annotations[start : start + _AT_ONCE])
        for start in range(0, len(file.annotations), _AT_ONCE)
    ] or [_annotation_columns([])]
    return Annotations(
        path=path,
        image_ids=_integers(images, 'id'),
        file_names=names,
        image_sizes=sizes,
        categories={},
        **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
    )


def _annotation_columns(texts: list[msgspec.Raw]) -> dict[str, np.ndarray]:
    """The columns of some annotations; raises ValueError as `_table` does."""
    annotations = _ANNOTATIONS.decode(b'[%b]' % b','.join(texts))
    count = len(annotations)
    boxes = itertools.chain.from_iterable(a.bbox for a in annotations)
    boxes = np.fromiter(boxes, np.float64, 4 * count).reshape(-1, 4)
    areas = (math.nan if a.area is None else a.area for a in annotations)
    areas = np.fromiter(areas, np.float64, count)
    is_missing = np.isnan(areas)
    if not ((np.abs(areas) <= LARGEST) | is_missing).all():
        raise ValueError('an area')
    if not (np.abs(boxes) <= LARGEST).all():
        raise ValueError('a box')
    if not {a.iscrowd for a in annotations} <= {None, 0, 1}:
        raise ValueError('a flag')
    return {
        'annotation_ids': _integers(annotations, 'id'),
        'annotation_images': _integers(annotations, 'image_id'),
        'annotation_categories': _integers(annotations, 'category_id'),
        'boxes': boxes,
        'areas': np.where(is_missing, boxes[:, 2] * boxes[:, 3], areas),
        'crowds': np.fromiter((a.iscrowd for a in annotations), bool, count),
        'dropped': np.fromiter((a.ignore for a in annotations), bool, count),
    }


def _integers(records: list, name: str) -> np.ndarray:
    values = (getattr(record, name) for record in records)
    return np.fromiter(values, np.int64, len(records))


def _has_right_ids(table: Annotations) -> bool:
    """Whether ids are unique, and those of images are there."""
    return bool(
        _is_unique(table.image_ids)
        and _is_unique(table.annotation_ids)
        and np.isin(table.annotation_images, table.image_ids).all()
    )


def _is_unique(ids: np.ndarray) -> bool:
    return len(np.unique(ids)) == len(ids)
