"""All that the plan must know of a split beforehand: annotations without images.

Records hold an image and its objects together, so listing what they hold means reading
all of them. It is done once: the columns are kept in a file of their own, an index.
"""

import hashlib
import io
import json
import os
import pathlib
import warnings
import zipfile
from typing import Any

import numpy as np
from etils import epath

from atss_jax.data.coco.annotation_file import CocoFile
from atss_jax.data.tfds.scan import is_prepared_by_us, scan
from atss_jax.data.tfds.storage import check_split, is_local
from atss_jax.files.download import cache_folder

FORMAT = 1
_COLUMNS = (
    'image_ids',
    'file_names',
    'image_sizes',
    'annotation_ids',
    'annotation_images',
    'annotation_categories',
    'boxes',
    'areas',
    'crowds',
    'dropped',
)


def index_name(split: str) -> str:
    """File name of the index of a split, in the data set's folder."""
    return f'atss_jax-{split}.npz'


def fingerprint(info: Any, split: str) -> str:
    """Tells which records an index belongs to; `info` is a `tfds.core.DatasetInfo`."""
    own = info.splits[split]
    content = [FORMAT, info.full_name, split, own.shard_lengths, int(own.num_bytes)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_index(builder: Any, split: str) -> CocoFile:
    """The annotations of a split, row k of the index being record k.

    An index that `prepare-tfds` wrote is exact. For data that others prepared it is
    made from the records (see `tfds_scan`), which takes as long as reading all
    images, and kept: beside the data if that can be written to, else in the cache.

    Raises:
        ValueError: no such split; the index of `prepare-tfds` is missing, or is of
            other records.
        OSError: the records cannot be read.
    """
    check_split(builder, split)
    wanted = fingerprint(builder.info, split)
    folder = epath.Path(builder.data_dir)
    beside = folder / index_name(split)
    label = f'{folder} {split}'
    if is_prepared_by_us(builder):
        file = load(beside, wanted, label)
        if file is None:
            raise ValueError(
                f'{beside}: missing, or not of the records beside it. Copy it from '
                'where the data set was prepared, or prepare the data set again'
            )
        return file
    cached = epath.Path(cache_folder()) / 'tfds' / f'{wanted[:16]}-{split}.npz'
    for path in (beside, cached):
        if (file := load(path, wanted, label)) is not None:
            return file
    file = scan(builder, split, label)
    _keep(file, wanted, [beside, cached] if is_local(folder) else [cached])
    return file


def _keep(file: CocoFile, wanted: str, paths: list[epath.Path]) -> None:
    for path in paths:
        try:
            save(path, file, wanted)
        except OSError as error:
            reason = error
        else:
            return
    warnings.warn(
        f'{file.path}: the index could not be kept ({reason}); it is made anew at each '
        'start. Set ATSS_JAX_CACHE to a folder that can be written to',
        stacklevel=3,
    )


def save(path: str | os.PathLike, file: CocoFile, wanted: str) -> None:
    """Writes an index to a local path, whole or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: np.asarray(getattr(file, name)) for name in _COLUMNS}
    columns['file_names'] = np.array(file.file_names, str)
    columns['category_ids'] = np.array(list(file.categories), np.int64)
    columns['category_names'] = np.array(list(file.categories.values()), str)
    # Of this process alone: several may write the same index.
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as stream:
            np.savez_compressed(stream, fingerprint=np.array(wanted), **columns)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load(path: epath.Path, wanted: str, label: str) -> CocoFile | None:
    """The index at `path`; None if there is none, or one of other records.

    Args:
        path: local or in a bucket.
        wanted: fingerprint of the records.
        label: what messages call the data.

    Raises:
        ValueError: it is damaged.
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


def _file(columns: Any, label: str) -> CocoFile:
    own = {name: columns[name] for name in _COLUMNS}
    own['file_names'] = own['file_names'].tolist()
    categories = zip(
        columns['category_ids'].tolist(),
        columns['category_names'].tolist(),
        strict=True,
    )
    return CocoFile(path=label, categories=dict(categories), **own)
