"""COCO annotation files, read and checked; the names of COCO's own classes."""

import dataclasses
import warnings
from collections.abc import Container, Iterable
from typing import NamedTuple

import numpy as np

from atss_jax.data import image_file
from atss_jax.data.annotations import COLUMNS_OF_ANNOTATIONS, Annotations
from atss_jax.data.coco.kept_columns import read_columns
from atss_jax.data.coco.plain_file import without_mask
from atss_jax.data.coco.table import (
    BOX,
    FLAG_OR_NONE,
    INTEGER,
    NUMBER_OR_NONE,
    SIDE,
    SKIP,
    TEXT,
    Rule,
    Table,
    show,
)
from atss_jax.files.atomic import read_given_json

ON_ERROR = ('raise', 'skip')

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
    path: str,
    on_error: str = 'raise',
    training: bool = True,
    img_prefix: str = '',
    classes: Container[str] | None = None,
    with_root: bool = True,
) -> Annotations:
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
        classes: names of which there must be one category each; None: all.
        with_root: whether a category without annotations that only stands for all
            others, as Roboflow writes it, is one of them even if `classes` is None.

    Raises:
        ValueError: the file is not JSON, not COCO, or a record is malformed; the
            message names the file, the record and what was found.
    """
    plain = read_columns(path)
    if plain is None:
        return read_with_checks(
            path, on_error, training, img_prefix, classes, with_root
        )
    rows, used = plain.category_rows(), plain.used_categories()
    names = _category_names(path, rows, used, classes, with_root)
    return _without_unknown(plain.with_names(names))


def read_with_checks(
    path: str,
    on_error: str = 'raise',
    training: bool = True,
    img_prefix: str = '',
    classes: Container[str] | None = None,
    with_root: bool = True,
) -> Annotations:
    """As `read`, but builds and checks each record, which takes four times as long."""
    content = _load_json(path, training)
    used = _used_categories(content['annotations'])
    names = _category_names(path, content['categories'], used, classes, with_root)
    images = Table(path, 'images', content['images'], on_error, SKIP)
    rules = _IMAGE
    if not training:
        _fill_sizes(path, images.rows, img_prefix)
        side = f'{SIDE.expected}, if no image in {img_prefix or "."!r} says its size'
        rules = _IMAGE | dict.fromkeys(('height', 'width'), Rule(side, SIDE.holds))
    _check(images, rules)
    images.require_unique('id', alike=tuple(_IMAGE))
    annotations = Table(path, 'annotations', content['annotations'], on_error, SKIP)
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


def read_listing(path: str, classes: Container[str] | None = None) -> Listing:
    """Reads ids and names alone; annotations and sizes need not be there.

    Args:
        path: of the file.
        classes: names of which there must be one category each; None: all.

    Raises:
        ValueError: the file is not JSON, not COCO, or an id or a name is malformed.
    """
    content = _load_json(path, training=False)
    images = Table(path, 'images', content['images'], 'raise')
    _check(images, {'id': INTEGER, 'file_name': TEXT})
    images.require_unique('id')
    used = _used_categories(content['annotations'])
    names = _category_names(path, content['categories'], used, classes)
    return Listing(images.column('id'), images.column('file_name'), names)


def _used_categories(annotations: list) -> set[int]:
    """The category ids of the annotations, as far as they are integers."""
    ids = [row.get('category_id') for row in annotations if type(row) is dict]
    return {id_ for id_ in ids if type(id_) is int}


def _category_names(
    path: str,
    rows: list,
    used: Container[int],
    classes: Container[str] | None = None,
    with_root: bool = True,
) -> dict[int, str]:
    """The name of each category id; annotations have those of `used`."""
    table = Table(path, 'categories', rows, 'raise')
    _check(table, {'id': INTEGER, 'name': TEXT})
    table.require_unique('id')
    table.leave_out_unused_twins('name', used)
    if not with_root:
        roots = _roots(table.rows, used, classes or ())
        names = ', '.join(show(table.rows[index]['name']) for index in roots)
        table.leave_out(roots, f'{names}, a name for all others, without annotations')
    table.require_unique(
        'name',
        among=classes,
        advice=', and both have annotations: rename one of them, or merge them by '
        'giving the annotations of one the category_id of the other',
    )
    return dict(zip(table.column('id'), table.column('name'), strict=True))


def _roots(
    rows: list[dict], used: Container[int], classes: Container[str]
) -> list[int]:
    """Positions of categories that only stand for others: their `supercategory`.

    Roboflow writes one, with the id 0 and itself of the supercategory 'none'.
    """
    parents = [row.get('supercategory') for row in rows]
    return [
        index
        for index, row in enumerate(rows)
        if row['id'] not in used
        and row['name'] not in classes
        and row.get('supercategory') == 'none'
        and row['name'] in parents
    ]


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
            stacklevel=4,
        )


def _check(table: Table, rules: dict[str, Rule]) -> None:
    for key, rule in rules.items():
        table.require(key, rule)


def _one_of(section: str, ids: Iterable[int]) -> Rule:
    known = set(ids)
    return Rule(f"the id of one of the file's {section}", known.__contains__)


def _without_unknown(table: Annotations) -> Annotations:
    """Leaves out annotations of other categories, as `read_with_checks` does."""
    categories = np.array(list(table.categories), np.int64)
    is_known = np.isin(table.annotation_categories, categories)
    if is_known.all():
        return table
    rows = [{'id': id_} for id_ in table.annotation_ids.tolist()]
    expected = _one_of('categories', ()).expected
    Table(table.path, 'annotations', rows, 'skip').leave_out(
        np.flatnonzero(~is_known).tolist(), f'category_id is not {expected}'
    )
    columns = {name: getattr(table, name)[is_known] for name in COLUMNS_OF_ANNOTATIONS}
    return dataclasses.replace(table, **columns)


def _columns(
    path: str, images: Table, annotations: Table, categories: dict[int, str]
) -> Annotations:
    def integers(table, key):
        return np.array(table.column(key), np.int64)

    boxes = np.array(annotations.column('bbox'), np.float64).reshape(-1, 4)
    areas = np.array(annotations.column('area'), np.float64)  # None becomes nan
    return Annotations(
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
    # Masks are most of the file and are not used: dropped as soon as they are parsed,
    # they never fill the memory.
    content = read_given_json(path, object_hook=without_mask)
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
