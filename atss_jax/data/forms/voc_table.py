"""The images and objects of VOC annotation files, checked."""

import os
import warnings
from collections.abc import Sequence

import numpy as np

from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import SKIP, TEXT, Rule, Table
from atss_jax.data.forms.sizes import UNREADABLE, image_sizes
from atss_jax.data.forms.voc_xml import CORNERS, VocFile

_LARGEST = 1e15  # as in COCO files
_CONTENT = Rule('XML with the root <annotation>', lambda problem: problem is None)
_IMAGE = Rule(
    'one image file with the name of the annotation file up to its ending',
    lambda paths: len(paths) == 1,
)
_SIZE = Rule(
    'given, or else be that of an image that can be read',
    lambda size: size is not None,
)
_BOX = Rule('an element of <object>', bool)
_CORNER = Rule(
    f'a number of at most {_LARGEST:g}',
    lambda v: isinstance(v, float) and -_LARGEST <= v <= _LARGEST,
)
_FLAG = Rule('0 or 1', lambda v: v in (0, 1))


def check_images(
    owner: str, folder: str, rows: list[dict], on_error: str, training: bool
) -> Table:
    """The images of a split that have no error; missing sizes are those of the files.

    Args:
        owner: folder or list of the split, for messages.
        folder: that the paths of the images are relative to.
        rows: `at`, `image_id`, `file`, what it says (`parsed`, None if it does not
            exist) and the paths of the images that it may be of (`image`).
        on_error: 'raise' or 'skip', see `Table`.
        training: whether annotation files must exist.

    Raises:
        ValueError: an image is malformed and `on_error` is 'raise'.
    """
    for row in rows:
        read = row['parsed'] or VocFile()
        row['content'], row['size'] = read.problem, read.size
    table = Table(owner, 'images', rows, on_error, SKIP, lambda i: rows[i]['at'])
    files = table.column('file')
    repeated = [i for i in range(1, len(files)) if files[i] == files[i - 1]]
    table.leave_out(repeated, 'listed more than once')
    if training:
        missing = {row['file'] for row in rows if row['parsed'] is None}
        exists = Rule(
            'an annotation file that exists', lambda file: file not in missing
        )
        table.require('file', exists)
    table.require('content', _CONTENT)
    table.require('image', _IMAGE)
    unknown = [row for row in table.rows if row['size'] is None]
    paths = [os.path.join(folder, row['image'][0]) for row in unknown]
    for row, size in zip(unknown, image_sizes(paths, folder).tolist(), strict=True):
        row['size'] = None if tuple(size) == UNREADABLE else tuple(size)
    table.require('size', _SIZE)
    return table


def check_objects(
    owner: str, images: Table, names: Sequence[str], source: str, on_error: str
) -> Table:
    """The objects of images that have no error.

    Args:
        owner: folder or list of the split, for messages.
        images: as `check_images` gives them.
        names: of all classes.
        source: what names the classes, for messages.
        on_error: 'raise' or 'skip', see `Table`.

    Raises:
        ValueError: an object is malformed and `on_error` is 'raise'.
    """
    rows = [
        {
            'at': f'{image["file"]}: object {number}',
            'image_id': image['image_id'],
            **row,
        }
        for image in images.rows
        if image['parsed'] is not None
        for number, row in enumerate(image['parsed'].objects, 1)
    ]
    table = Table(owner, 'objects', rows, on_error, SKIP, lambda i: rows[i]['at'])
    table.require('name', TEXT)
    table.require('name', _class_rule(table.column('name'), set(names), source))
    table.require('bndbox', _BOX)
    for key in CORNERS:
        table.require(key, _CORNER)
    table.require('difficult', _FLAG)
    count = sum(row['xmin'] < 1 or row['ymin'] < 1 for row in table.rows)
    if count:
        warnings.warn(
            f'{owner}: {count} of {len(table.rows)} boxes begin at 0, so the program '
            'that wrote them may have counted pixels from 0. They are read as VOC '
            'counts, from 1, and may lie one pixel too far to the left and the top',
            stacklevel=3,
        )
    return table


def _class_rule(used, names, source):
    """The rule for names; it says so if they are all foreign to the file of classes."""
    expected = f'one of the classes of {source}'
    if used and names.isdisjoint(used):
        expected += (
            ', which has none of the names that the annotation files have (if it is '
            'that of other data, as labelImg leaves one, delete it)'
        )
    return Rule(expected, names.__contains__)


def annotations(
    owner: str, images: Table, objects: Table, names: Sequence[str]
) -> Annotations:
    """The table that all readers give; category ids are counted from 1."""
    category_ids = {name: id_ for id_, name in enumerate(names, 1)}
    boxes = _boxes(objects)
    categories = [category_ids[name] for name in objects.column('name')]
    return Annotations(
        path=owner,
        image_ids=np.array(images.column('image_id'), np.int64),
        file_names=[paths[0] for paths in images.column('image')],
        image_sizes=np.array(images.column('size'), np.int64).reshape(-1, 2),
        annotation_ids=np.arange(1, len(boxes) + 1),
        annotation_images=np.array(objects.column('image_id'), np.int64),
        annotation_categories=np.array(categories, np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowds=np.array(objects.column('difficult'), bool),
        dropped=np.zeros(len(boxes), bool),
        categories=dict(enumerate(names, 1)),
    )


def _boxes(objects):
    """(M,4) float64 x, y, width, height.

    A box of VOC has all pixels from xmin to xmax, and the first pixel is 1. So its
    sides lie at xmin - 1 and xmax in continuous pixels, and likewise for y.

    Differs from mmdet: it subtracts 1 from all four, so that boxes lack their last row
    and column of pixels, and it cuts off fractions.

    Source: mmdet XMLDataset, whose VOCMetric adds that pixel again.
    """
    corners = np.array([objects.column(key) for key in CORNERS], np.float64)
    left, top, right, bottom = corners.reshape(4, -1)
    left, top = left - 1, top - 1
    return np.stack([left, top, right - left, bottom - top], 1)
