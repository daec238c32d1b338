"""A COCO annotation file, read into checked columns.

Everything is checked here, once, so that a wrong record is named by file and id when
training starts and not by a stack trace hours later. Columns, because the 860,000
annotations of COCO's train2017 then take 60 MB instead of gigabytes.
"""

import dataclasses
import itertools
import json
import math
import warnings

import numpy as np

_SECTIONS = ('images', 'annotations', 'categories')


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """The columns of a COCO file, in the file's order.

    Attributes:
        path: where it was read from.
        image_ids: (N,) int64.
        file_names: (N,) as written in the file, relative to the picture folder.
        image_sizes: (N,2) int64 height, width.
        annotation_ids: (M,) int64.
        annotation_images: (M,) int64, the image id of each annotation.
        annotation_categories: (M,) int64, the category id of each annotation.
        boxes: (M,4) float64 x, y, width, height.
        areas: (M,) float64; width * height where the file gives none.
        crowds: (M,) bool; false where the file says nothing.
        dropped: (M,) bool, annotations marked with a non-zero `ignore`.
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
        """The COCO dict again, with what box evaluation reads and nothing else."""
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


def read(path: str) -> CocoFile:
    """Reads and checks a COCO annotation file (detection; masks are skipped).

    Raises:
        ValueError: it is not JSON, not COCO, or a record is malformed; the message
            names the file, the record and what was found.
    """
    content = _load_json(path)
    images = _Table(path, 'images', content['images'])
    annotations = _Table(path, 'annotations', content['annotations'])
    categories = _Table(path, 'categories', content['categories'])
    boxes = annotations.boxes()
    file = CocoFile(
        path=path,
        image_ids=images.integers('id', unique=True),
        file_names=images.names('file_name'),
        image_sizes=np.stack(
            [images.integers('height', least=1), images.integers('width', least=1)], 1
        ),
        annotation_ids=annotations.integers('id', unique=True),
        annotation_images=annotations.integers('image_id'),
        annotation_categories=annotations.integers('category_id'),
        boxes=boxes,
        areas=annotations.areas(boxes),
        crowds=annotations.integers('iscrowd', default=0, least=0, most=1).astype(bool),
        dropped=np.array([bool(row.get('ignore')) for row in annotations.rows], bool),
        categories=dict(
            zip(
                categories.integers('id', unique=True).tolist(),
                categories.names('name', unique=True),
                strict=True,
            )
        ),
    )
    _check_references(file, annotations)
    return file


def _load_json(path: str) -> dict:
    with open(path, encoding='utf-8') as stream:
        try:
            # Masks are most of the file and nothing here reads them: dropped as soon as
            # they are parsed, they never pile up in memory.
            content = json.load(stream, object_hook=_without_mask)
        except ValueError as error:
            raise ValueError(f'{path}: not a JSON file ({error})') from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path}: not a COCO annotation file: expected an object with '
            f'{", ".join(_SECTIONS)}; found a {type(content).__name__}'
        )
    missing = [name for name in _SECTIONS if not isinstance(content.get(name), list)]
    if missing:
        raise ValueError(
            f'{path}: not a COCO annotation file: no list of {", ".join(missing)}; '
            f'found {", ".join(map(repr, content)) or "an empty object"}'
        )
    return content


def _without_mask(record: dict) -> dict:
    record.pop('segmentation', None)
    return record


def _check_references(file: CocoFile, annotations: '_Table') -> None:
    strays = np.flatnonzero(~np.isin(file.annotation_images, file.image_ids))
    if strays.size:
        image_id = file.annotation_images[strays[0]]
        raise annotations.error(
            strays[0], f"image_id {image_id} is not among the file's images"
        )
    # mmdet skips these without a word; a file with ids off by one would train anyway.
    known = np.array(list(file.categories), np.int64)
    unknown = file.annotation_categories[~np.isin(file.annotation_categories, known)]
    if unknown.size:
        warnings.warn(
            f'{file.path}: {unknown.size} annotations are skipped: their category_id '
            f'({", ".join(map(str, np.unique(unknown)[:5]))}) is not among the '
            f"file's categories",
            stacklevel=4,
        )


class _Table:
    """One list of the file: hands out columns, and names the record that is wrong.

    JSON gives exact types, so a column is checked by the set of its types: that takes
    no Python code per record unless something is wrong.
    """

    def __init__(self, path: str, name: str, rows: list):
        self.path, self.name, self.rows = path, name, rows
        for index, row in enumerate(rows):
            if type(row) is not dict:
                raise self.error(index, f'must be an object, found {_show(row)}')

    def error(self, index: int, problem: str) -> ValueError:
        row = self.rows[index]
        own_id = f' (id {row["id"]!r})' if isinstance(row, dict) and 'id' in row else ''
        return ValueError(f'{self.path}: {self.name}[{index}]{own_id}: {problem}')

    def _column(self, key: str, kinds: set[type], expected: str) -> list:
        values = [row.get(key) for row in self.rows]
        if not set(map(type, values)) <= kinds:
            index = next(i for i, v in enumerate(values) if type(v) not in kinds)
            raise self._wrong(index, key, expected)
        return values

    def _wrong(self, index: int, key: str, expected: str) -> ValueError:
        row = self.rows[index]
        found = f'found {_show(row[key])}' if key in row else 'it is missing'
        return self.error(index, f'{key} must be {expected}, {found}')

    def _check_unique(self, key: str, values: list) -> None:
        if len(set(values)) == len(values):
            return
        first = {}
        for index, value in enumerate(values):
            if first.setdefault(value, index) != index:
                raise self.error(
                    index, f'{key} {value!r} is taken by {self.name}[{first[value]}]'
                )

    def names(self, key: str, unique: bool = False) -> list[str]:
        values = self._column(key, {str}, 'a text')
        if '' in values:
            raise self._wrong(values.index(''), key, 'a text that is not empty')
        if unique:
            self._check_unique(key, values)
        return values

    def integers(
        self,
        key: str,
        unique: bool = False,
        default: int | None = None,
        least: int = -(2**63),
        most: int = 2**63 - 1,
    ) -> np.ndarray:
        kinds = {int} if default is None else {int, bool, type(None)}
        values = self._column(key, kinds, 'an integer')
        if default is not None:
            values = [default if value is None else value for value in values]
        if values and not (least <= min(values) and max(values) <= most):
            index = next(i for i, v in enumerate(values) if not least <= v <= most)
            raise self._wrong(index, key, f'an integer from {least} to {most}')
        if unique:
            self._check_unique(key, values)
        return np.array(values, np.int64)

    def boxes(self) -> np.ndarray:
        expected = '4 finite numbers [x, y, width, height]'
        values = self._column('bbox', {list}, expected)
        flat = list(itertools.chain.from_iterable(values))
        right = set(map(len, values)) <= {4} and set(map(type, flat)) <= {int, float}
        if not right or not all(map(math.isfinite, flat)):
            index = next(i for i, box in enumerate(values) if not _is_box(box))
            raise self._wrong(index, 'bbox', expected)
        return np.array(flat, np.float64).reshape(-1, 4)

    def areas(self, boxes: np.ndarray) -> np.ndarray:
        """Missing ones filled, since pycocotools fails on them."""
        values = self._column('area', {int, float, type(None)}, 'a number')
        areas = np.array(values, np.float64)  # None becomes nan
        if np.isinf(areas).any():
            index = int(np.flatnonzero(np.isinf(areas))[0])
            raise self._wrong(index, 'area', 'a finite number')
        return np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas)


def _is_box(values: list) -> bool:
    return len(values) == 4 and all(
        type(value) in (int, float) and math.isfinite(value) for value in values
    )


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
