"""The columns of large COCO files, kept in the cache folder once they are read."""

import hashlib
import os
import pathlib
import warnings
import zipfile

import numpy as np

from atss_jax.data.annotations import COLUMNS_OF_ANNOTATIONS, Annotations
from atss_jax.data.coco.plain_file import PlainFile, read_plain
from atss_jax.files.atomic import replacing
from atss_jax.files.cached import sha256_of
from atss_jax.files.download import cache_folder

# To be raised with any change of the columns, or of what `read_plain` accepts.
_LAYOUT = 1
_SMALLEST = 64 << 20  # bytes: smaller files are read in less than half a second
# File names are kept as one text.
_COLUMNS = ('image_ids', 'image_sizes', *COLUMNS_OF_ANNOTATIONS)
# What zipfile and NumPy raise about a file with flipped or missing bytes.
_DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
)


def read_columns(path: str) -> PlainFile | None:
    """A COCO file by `read_plain`, from the cache if this very content was read before.

    The cache has one entry for each path of a large file, with the SHA-256 of the
    content that it was made from. The file is thus read at each call, but parsed only
    when it has changed.

    Returns:
        None where `read_plain` does; such files are not kept.

    Raises:
        OSError: the file cannot be read.
    """
    if os.path.getsize(path) < _SMALLEST:
        return read_plain(path, pathlib.Path(path).read_bytes())
    cache = cache_file(path)
    if cache.is_file():
        kept = load(cache, path, sha256_of(pathlib.Path(path)))
        if kept is not None:
            return kept
    content = pathlib.Path(path).read_bytes()
    plain = read_plain(path, content)
    if plain is not None:
        _keep(cache, plain, hashlib.sha256(content).hexdigest())
    return plain


def cache_file(path: str) -> pathlib.Path:
    """Where the columns of an annotation file are kept."""
    digest = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()
    return cache_folder() / 'annotations' / f'{digest[:16]}.npz'


def load(cache: pathlib.Path, path: str, digest: str) -> PlainFile | None:
    """What a cache file holds; None if it is damaged or of another content or layout.

    Args:
        cache: the cache file.
        path: of the annotation file, for messages.
        digest: SHA-256 of the annotation file.
    """
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            if (int(arrays['layout']), str(arrays['digest'])) != (_LAYOUT, digest):
                return None
            columns = {name: arrays[name] for name in _COLUMNS}
            names = arrays['file_names'].tobytes().decode()
            categories = arrays['categories'].tobytes()
    except _DAMAGED:
        return None
    names = names.split('\0') if len(columns['image_ids']) else []
    table = Annotations(path=path, file_names=names, categories={}, **columns)
    return PlainFile(table, categories)


def save(cache: pathlib.Path, plain: PlainFile, digest: str) -> None:
    """Writes a cache file, whole or not at all; arguments as for `load`."""
    columns = {name: getattr(plain.table, name) for name in _COLUMNS}
    # No file name has this character: it is a rule of theirs.
    columns['file_names'] = _as_bytes('\0'.join(plain.table.file_names).encode())
    columns['categories'] = _as_bytes(plain.categories)
    with replacing(cache) as temporary, open(temporary, 'wb') as stream:
        np.savez(stream, layout=_LAYOUT, digest=digest, **columns)


def _as_bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _keep(cache, plain, digest):
    try:
        save(cache, plain, digest)
    except OSError as error:
        warnings.warn(
            f'{plain.table.path}: what was read cannot be kept ({error}), so each '
            'start parses the file again. Set ATSS_JAX_CACHE to a folder that can be '
            'written to',
            stacklevel=4,
        )
