"""Sizes of image files, from their headers, read in parallel and kept in the cache.

Some forms of annotations do not say how large the images are.
"""

import functools
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from atss_jax.data import image_file
from atss_jax.files.atomic import write_json
from atss_jax.files.download import cache_folder
from atss_jax.files.read_ahead import map_ahead

UNREADABLE = (0, 0)
"""The size of an image that cannot be read."""


def image_sizes(
    paths: Sequence[str],
    owner: str,
    content: Callable[[str], bytes] = image_file.file_content,
    file_of: Callable[[str], str] = str,
) -> np.ndarray:
    """(N,2) int64 height, width of each image, turned as its EXIF orientation says.

    A size is read again when the length of the file or the time of its last change is
    not the one that the cache has. Images that cannot be read are `UNREADABLE`.

    Args:
        paths: of the image files.
        owner: path of the data set, which the cache file is for.
        content: gives the bytes of an image file by its path.
        file_of: gives the file in which an image lies by the image's path.
    """
    cache = _cache_file(owner)
    known = _load(cache)
    stamps = {path: _stamp(file_of(path)) for path in paths}
    unknown = [
        path
        for path, stamp in stamps.items()
        if stamp is not None and known.get(path, {}).get('stamp') != stamp
    ]
    read_size = functools.partial(_size, content=content)
    for path, size in zip(unknown, map_ahead(read_size, unknown), strict=True):
        known[path] = {'stamp': stamps[path], 'size': size}
    sizes = [
        UNREADABLE if stamps[path] is None else known[path]['size'] for path in paths
    ]
    if unknown:
        _keep(cache, known)
    return np.array(sizes, np.int64).reshape(-1, 2)


def _stamp(path):
    """Length and time of the last change of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _size(path, content):
    try:
        return image_file.size_of(path, content)
    except (image_file.BadImage, OSError):
        return UNREADABLE


def _cache_file(owner: str) -> pathlib.Path:
    digest = hashlib.sha256(os.path.abspath(owner).encode()).hexdigest()
    return cache_folder() / 'image_sizes' / f'{digest[:16]}.json'


def _load(cache: pathlib.Path) -> dict[str, dict]:
    """What a cache file has; nothing where it does not exist or is damaged."""
    try:
        content = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {path: entry for path, entry in entries if _is_entry(entry)}


def _is_entry(entry):
    size = entry.get('size') if isinstance(entry, dict) else None
    return (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int for side in size)
    )


def _keep(cache: pathlib.Path, known: dict[str, dict]) -> None:
    # What could not be read now may be readable the next time.
    known = {
        path: each for path, each in known.items() if tuple(each['size']) != UNREADABLE
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, known)
    except OSError as error:
        warnings.warn(
            f'the sizes of the images cannot be kept ({error}), so each start reads '
            'them again. Set ATSS_JAX_CACHE to a folder that can be written to',
            stacklevel=3,
        )
