"""The index of a split: all its annotations in one file, without the images.

The plan needs the annotations of all records in advance. A record holds an image
together with its objects, so that all of the data must be read to list them; this is
done once, and the columns are kept in a file of their own.
"""

import hashlib
import io
import json
import os
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from atss_jax.data import image_header
from atss_jax.data.annotations import (
    COLUMNS_OF_ANNOTATIONS,
    COLUMNS_OF_IMAGES,
    Annotations,
)
from atss_jax.data.tfds.storage import check_split, is_local, open_rows, record_errors
from atss_jax.files.atomic import replacing
from atss_jax.files.download import cache_folder

if TYPE_CHECKING:
    from etils import epath

FORMAT = 1
_COLUMNS = COLUMNS_OF_IMAGES + COLUMNS_OF_ANNOTATIONS


def index_name(split: str) -> str:
    """File name of the index of a split, in the data set's folder."""
    return f'atss_jax-{split}.npz'


def fingerprint(info: Any, split: str) -> str:
    """Identifies the records that an index belongs to.

    Args:
        info: the `tfds.core.DatasetInfo` of the data set.
        split: of the data set.
    """
    part = info.splits[split]
    content = [FORMAT, info.full_name, split, part.shard_lengths, int(part.num_bytes)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_index(builder: Any, split: str) -> Annotations:
    """The annotations of a split; row k of the index describes record k.

    An index that `prepare-tfds` wrote is exact. For data from elsewhere it is made from
    the records (see `scan`), which takes as long as reading all images, and is kept:
    next to the data if that is writable, else in the cache folder.

    Raises:
        ValueError: there is no such split, or the index of `prepare-tfds` is missing or
            belongs to other records.
        OSError: the records cannot be read.
    """
    from etils import epath

    check_split(builder, split)
    wanted = fingerprint(builder.info, split)
    folder = epath.Path(builder.data_dir)
    stored = folder / index_name(split)
    label = f'{folder} {split}'
    if is_prepared_by_us(builder):
        file = load(stored, wanted, label)
        if file is None:
            raise ValueError(
                f'{stored}: missing, or not the index of the records next to it. Copy '
                'it from where the data set was prepared, or prepare the data set again'
            )
        return file
    cached = epath.Path(cache_folder()) / 'tfds' / f'{wanted[:16]}-{split}.npz'
    for path in (stored, cached):
        if (file := load(path, wanted, label)) is not None:
            return file
    file = scan(builder, split, label)
    _keep(file, wanted, [stored, cached] if is_local(folder) else [cached])
    return file


def _keep(file: Annotations, wanted: str, paths: list['epath.Path']) -> None:
    """Writes an index to the first path that is writable; warns if none is."""
    for path in paths:
        try:
            save(path, file, wanted)
        except OSError as error:
            reason = error
        else:
            return
    warnings.warn(
        f'{file.path}: the index cannot be kept ({reason}), so each start makes it '
        'again. Set ATSS_JAX_CACHE to a folder that can be written to',
        stacklevel=3,
    )


def save(path: str | os.PathLike, file: Annotations, wanted: str) -> None:
    """Writes an index to a local path, whole or not at all."""
    columns = {name: np.asarray(getattr(file, name)) for name in _COLUMNS}
    columns['file_names'] = np.array(file.file_names, str)
    columns['category_ids'] = np.array(list(file.categories), np.int64)
    columns['category_names'] = np.array(list(file.categories.values()), str)
    with replacing(path) as temporary, open(temporary, 'wb') as stream:
        np.savez_compressed(stream, fingerprint=np.array(wanted), **columns)


def load(path: 'epath.Path', wanted: str, label: str) -> Annotations | None:
    """The index at `path`; None if there is none, or if it belongs to other records.

    Args:
        path: local or in a bucket.
        wanted: fingerprint of the records.
        label: name of the data for messages.

    Raises:
        ValueError: the index is damaged.
    """
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as columns:
            if str(columns['fingerprint']) != wanted:
                return None
            return _file(columns, label)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise ValueError(f'{path}: a damaged index ({error}); delete it') from error


def _file(columns: Any, label: str) -> Annotations:
    fields = {name: columns[name] for name in _COLUMNS}
    fields['file_names'] = fields['file_names'].tolist()
    categories = zip(
        columns['category_ids'].tolist(),
        columns['category_names'].tolist(),
        strict=True,
    )
    return Annotations(path=label, categories=dict(categories), **fields)


# Annotations read from the records ----------------------------------------------------

_CHUNK = 64  # records that are read together: 10 MB of COCO
_FIELDS = ('area', 'bbox', 'id', 'is_crowd', 'label')
# COCO numbers its 80 categories with gaps.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(id_ for id_ in range(1, 91) if id_ not in _UNUSED)


def is_prepared_by_us(builder: Any) -> bool:
    """Whether the records hold the exact numbers that `prepare-tfds` adds."""
    features = builder.info.features
    return 'objects' in features and 'bbox_exact' in _fields(features['objects'])


def _fields(objects: Any) -> set[str]:
    """Names of the features of an object; none if it is not a sequence of objects."""
    inner = getattr(objects, 'feature', None)
    return set(inner) if hasattr(inner, 'keys') else set()


def scan(builder: Any, split: str, label: str) -> Annotations:
    """The columns of the original COCO file, as exactly as the records allow.

    TensorFlow Datasets' own `coco` loses information, which is filled in as follows:

    - Boxes are relative to the image size, in float32. As pixels rounded to hundredths
      they are COCO's own numbers again, since COCO gives two decimals; boxes with more
      are off by up to 0.005 pixels.
    - `area` is truncated to an integer. 0.5 is added, the middle of the possible
      values: areas then fall on the right side of the bounds between small, medium and
      large, and an object of less than one pixel has an area above 0.
    - Sizes are those in the image's header.
    - Category ids are COCO's if the data set is named `coco` and has 80 labels;
      otherwise they are counted from 1.
    - `ignore` is lost, and images are in the shuffled order of the files.

    Args:
        builder: of the data set.
        split: of the data set.
        label: name of the data for messages.

    Raises:
        ValueError: records do not have the features of `coco/2017`.
        OSError: records cannot be read.
    """
    names = _label_names(builder, label)
    rows = open_rows(builder, split)
    images, objects = [], []
    bar = tqdm.tqdm(total=len(rows), desc=f'index {label}', unit='images', disable=None)
    with bar:
        for start in range(0, len(rows), _CHUNK):
            stop = min(start + _CHUNK, len(rows))
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
    missing = {'image', 'image/filename', 'image/id', 'objects'} - set(features)
    if not missing:
        missing = set(_FIELDS) - _fields(features['objects'])
    if missing:
        raise ValueError(
            f'{label}: not prepared like coco/2017: records have no '
            f'{", ".join(sorted(missing))}; expected {expected}'
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
            f'{file_name}: its size is not known, since it is not an image '
            f'({image_header.KINDS}), {len(record["image"])} bytes '
            f'(image id {image_id}, {label})'
        )
    return image_id, str(file_name), header.size


def _objects(
    objects: dict[str, Any], image_id: int, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Columns of the objects of one image; `label` counts from 0."""
    corners = np.array(objects['bbox'], np.float64).reshape(-1, 4)
    y1, x1, y2, x2 = corners.T * np.array([*size, *size], np.float64)[:, None]
    return {
        'ids': np.array(objects['id'], np.int64),
        'images': np.full(len(corners), image_id, np.int64),
        'labels': np.array(objects['label'], np.int64),
        'boxes': np.round(np.stack([x1, y1, x2 - x1, y2 - y1], 1), 2),
        'areas': np.array(objects['area'], np.float64) + 0.5,
        'crowds': np.array(objects['is_crowd'], bool),
    }


def _columns(images, objects, categories: dict[int, str], label: str) -> Annotations:
    image_ids = np.array([image[0] for image in images], np.int64)
    if len(np.unique(image_ids)) != len(image_ids):
        raise ValueError(f'{label}: image ids are not unique')
    column = {name: np.concatenate([x[name] for x in objects]) for name in objects[0]}
    ids = np.array([*categories, -1], np.int64)  # -1 for label -1: no class
    return Annotations(
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
