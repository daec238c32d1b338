"""The annotations of data that others prepared, read out of its records."""

from typing import Any

import numpy as np
import tqdm

from atss_jax.data import image_header
from atss_jax.data.coco.annotation_file import CocoFile
from atss_jax.data.tfds.storage import open_rows, record_errors

_AT_ONCE = 64  # records that are read together, 10 MB of COCO's
_FIELDS = ('area', 'bbox', 'id', 'is_crowd', 'label')
# COCO numbers its 80 categories with gaps.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(id_ for id_ in range(1, 91) if id_ not in _UNUSED)


def is_prepared_by_us(builder: Any) -> bool:
    """Whether records hold the exact numbers of `prepare-tfds`."""
    features = builder.info.features
    return 'objects' in features and 'bbox_exact' in _fields(features['objects'])


def _fields(objects: Any) -> set[str]:
    """Names of what a sequence of objects holds; none if it is no sequence of them."""
    inner = getattr(objects, 'feature', None)
    return set(inner) if hasattr(inner, 'keys') else set()


def scan(builder: Any, split: str, label: str) -> CocoFile:
    """The columns that a COCO file would have had, as well as records allow.

    What TensorFlow Datasets' own `coco` loses, and what stands in its place:

    - Boxes are shares of the image in float32. As pixels rounded to hundredths they
      are COCO's own numbers again, since COCO gives two decimals; boxes with more are
      off by up to 0.005 pixels.
    - `area` is cut to a whole number. Half is added, the middle of what it can have
      been: the bounds between small, medium and large fall right, and no object of
      less than one pixel looks like one without area.
    - Sizes are those in the image's header.
    - Category ids are COCO's where the data set is one of `coco` with 80 labels;
      others are counted from 1.
    - Marks of `ignore` are gone, and the order of images is the shuffled one of the
      files.

    Args:
        builder: of the data set.
        split: which part.
        label: what messages call the data.

    Raises:
        ValueError: records are not like those of `coco/2017`.
        OSError: records cannot be read.
    """
    names = _label_names(builder, label)
    rows = open_rows(builder, split)
    images, objects = [], []
    bar = tqdm.tqdm(total=len(rows), desc=f'index {label}', unit='images', disable=None)
    with bar:
        for start in range(0, len(rows), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(rows))
            with record_errors(label):
                records = rows.__getitems__(list(range(start, stop)))
            for record in records:
                image_id, file_name, size = _image(record, label)
                images.append((image_id, file_name, size))
                objects.append(_objects(record['objects'], image_id, size))
            bar.update(stop - start)
    ids = _category_ids(builder.info.name, len(names))
    return _columns(images, objects, dict(zip(ids, names, strict=True)), label)


def _label_names(builder: Any, label: str) -> list[str]:
    features = builder.info.features
    expected = f'image, image/filename, image/id, objects ({", ".join(_FIELDS)})'
    lacks = {'image', 'image/filename', 'image/id', 'objects'} - set(features)
    if not lacks:
        lacks = set(_FIELDS) - _fields(features['objects'])
    if lacks:
        raise ValueError(
            f'{label}: not prepared like coco/2017: records have no '
            f'{", ".join(sorted(lacks))}; expected {expected}'
        )
    return list(features['objects'].feature['label'].names)


def _category_ids(name: str, count: int) -> tuple[int, ...]:
    if name == 'coco' and count == len(COCO_IDS):
        return COCO_IDS
    return tuple(range(1, count + 1))


def _image(record: dict[str, Any], label: str) -> tuple[int, str, tuple[int, int]]:
    image_id = int(record['image/id'])
    file_name = record['image/filename']
    if isinstance(file_name, bytes):
        file_name = file_name.decode()
    header = image_header.read(record['image'])
    if header is None or header.size is None or min(header.size) < 1:
        raise ValueError(
            f'{file_name}: its size is not known, since it is no image '
            f'({image_header.KINDS}), {len(record["image"])} bytes '
            f'(image id {image_id}, {label})'
        )
    return image_id, str(file_name), header.size


def _objects(
    found: dict[str, Any], image_id: int, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Columns of the objects of one image; `label` counts from 0."""
    corners = np.array(found['bbox'], np.float64).reshape(-1, 4)
    y1, x1, y2, x2 = corners.T * np.array([*size, *size], np.float64)[:, None]
    return {
        'ids': np.array(found['id'], np.int64),
        'images': np.full(len(corners), image_id, np.int64),
        'labels': np.array(found['label'], np.int64),
        'boxes': np.round(np.stack([x1, y1, x2 - x1, y2 - y1], 1), 2),
        'areas': np.array(found['area'], np.float64) + 0.5,
        'crowds': np.array(found['is_crowd'], bool),
    }


def _columns(images, objects, categories: dict[int, str], label: str) -> CocoFile:
    image_ids = np.array([image[0] for image in images], np.int64)
    if len(np.unique(image_ids)) != len(image_ids):
        raise ValueError(f'{label}: image ids are not unique')
    column = {name: np.concatenate([x[name] for x in objects]) for name in objects[0]}
    ids = np.array([*categories, -1], np.int64)  # label -1: none
    return CocoFile(
        path=label,
        image_ids=image_ids,
        file_names=[image[1] for image in images],
        image_sizes=np.array([image[2] for image in images], np.int64),
        annotation_ids=column['ids'],
        annotation_images=column['images'],
        annotation_categories=ids[column['labels']],
        boxes=column['boxes'],
        areas=column['areas'],
        crowds=column['crowds'],
        dropped=np.zeros(len(column['ids']), bool),
        categories=categories,
    )
