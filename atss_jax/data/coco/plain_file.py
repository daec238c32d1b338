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
    annotations: list[_Annotation]
    categories: msgspec.Raw


_DECODER = msgspec.json.Decoder(_File)


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
        file = _DECODER.decode(content)
        plain = PlainFile(_table(path, file), bytes(file.categories))
        is_list = isinstance(plain.category_rows(), list)
    # Malformed JSON; values of another type; numbers that do not fit into 64 bits.
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    return plain if is_list and _keeps_rules(file, plain.table) else None


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
    images, annotations = file.images, file.annotations

    def column(records, name, dtype):
        values = (getattr(record, name) for record in records)
        return np.fromiter(values, dtype, len(records))

    boxes = itertools.chain.from_iterable(a.bbox for a in annotations)
    boxes = np.fromiter(boxes, np.float64, 4 * len(annotations)).reshape(-1, 4)
    areas = (math.nan if a.area is None else a.area for a in annotations)
    areas = np.fromiter(areas, np.float64, len(annotations))
    return Annotations(
        path=path,
        image_ids=column(images, 'id', np.int64),
        file_names=[image.file_name for image in images],
        image_sizes=np.stack(
            [column(images, 'height', np.int64), column(images, 'width', np.int64)], 1
        ),
        annotation_ids=column(annotations, 'id', np.int64),
        annotation_images=column(annotations, 'image_id', np.int64),
        annotation_categories=column(annotations, 'category_id', np.int64),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowds=column(annotations, 'iscrowd', bool),
        dropped=column(annotations, 'ignore', bool),
        categories={},
    )


def _keeps_rules(file: _File, table: Annotations) -> bool:
    """Whether the values keep the rules of `annotation_file`; types they do already."""
    given = [a.area for a in file.annotations if a.area is not None]
    numbers = (np.abs(table.boxes), np.abs(np.array(given, np.float64)))
    sizes = table.image_sizes
    return bool(
        ((sizes >= 1) & (sizes <= LARGEST_SIDE)).all()
        and all(map(TEXT.holds, table.file_names))
        and all((number <= LARGEST).all() for number in numbers)
        and {a.iscrowd for a in file.annotations} <= {None, 0, 1}
        and _is_unique(table.image_ids)
        and _is_unique(table.annotation_ids)
        and np.isin(table.annotation_images, table.image_ids).all()
    )


def _is_unique(ids: np.ndarray) -> bool:
    return len(np.unique(ids)) == len(ids)
