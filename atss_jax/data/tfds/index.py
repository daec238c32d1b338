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

from atss_jax.data.coco.annotation_file import CocoFile
from atss_jax.data.tfds.scan import is_prepared_by_us, scan
from atss_jax.data.tfds.storage import check_split, is_local
from atss_jax.files.atomic import replacing
from atss_jax.files.download import cache_folder

if TYPE_CHECKING:
    from etils import epath

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
    """Identifies the records that an index belongs to.

    Args:
        info: the `tfds.core.DatasetInfo` of the data set.
        split: of the data set.
    """
    part = info.splits[split]
    content = [FORMAT, info.full_name, split, part.shard_lengths, int(part.num_bytes)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_index(builder: Any, split: str) -> CocoFile:
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


def _keep(file: CocoFile, wanted: str, paths: list['epath.Path']) -> None:
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


def save(path: str | os.PathLike, file: CocoFile, wanted: str) -> None:
    """Writes an index to a local path, whole or not at all."""
    columns = {name: np.asarray(getattr(file, name)) for name in _COLUMNS}
    columns['file_names'] = np.array(file.file_names, str)
    columns['category_ids'] = np.array(list(file.categories), np.int64)
    columns['category_names'] = np.array(list(file.categories.values()), str)
    with replacing(path) as temporary, open(temporary, 'wb') as stream:
        np.savez_compressed(stream, fingerprint=np.array(wanted), **columns)


def load(path: 'epath.Path', wanted: str, label: str) -> CocoFile | None:
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


def _file(columns: Any, label: str) -> CocoFile:
    fields = {name: columns[name] for name in _COLUMNS}
    fields['file_names'] = fields['file_names'].tolist()
    categories = zip(
        columns['category_ids'].tolist(),
        columns['category_names'].tolist(),
        strict=True,
    )
    return CocoFile(path=label, categories=dict(categories), **fields)
