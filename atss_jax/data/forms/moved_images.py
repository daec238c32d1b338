"""Images that do not lie where an annotation file says, found by their names.

Some programs write the path that an image has on their server: Label Studio
`/data/upload/1/3f2a-a.jpg` or `..\\..\\label-studio\\media\\upload\\1\\3f2a-a.jpg`.
"""

import itertools
import os
import re
import unicodedata
import urllib.parse
import warnings
from collections.abc import Iterable, Sequence

from atss_jax.data import image_file
from atss_jax.data.forms import image_files

_LOOKED_AT = 20  # images that say whether the others lie where the file says
_ELSEWHERE = re.compile(r'(?:[/\\]|[A-Za-z]:)|(?:.*[/\\])?\.\.[/\\]|.*(?:://|\?d=)')
"""Beginnings of names that are no plain path in a folder."""
_PREFIX = re.compile('[0-9a-f]{8}-')  # Label Studio puts it before names at an upload


def find_moved(
    owner: str, names: Sequence[str], folder: str, places: Iterable[str]
) -> list[str]:
    """The names of images, with those replaced that are found in another place.

    An image that is not in `folder` is the one whose path has the longest end in common
    with its name. That is so for names of other machines, and for all if none of the
    first images is in `folder`. Others are left as they are: they are missing.

    Args:
        owner: the annotation file, for messages.
        names: of the images, as that file gives them.
        folder: that they are relative to.
        places: folders to search, with all folders in them.

    Raises:
        ValueError: two images fit a name, or one image two names.
    """
    missing = _missing(names, folder)
    if not missing:
        return list(names)
    images = _by_last_name(places)
    paths = [image_file.locate(folder, name) for name in names]
    moved = {}
    for index in missing:
        if image := _best(owner, names[index], images):
            paths[index] = moved[index] = image
    if not moved:
        return list(names)
    _check_different(owner, names, paths)
    first = next(iter(moved))
    warnings.warn(
        f'{owner}: {len(moved)} of {len(names)} images do not lie where file_name says '
        'and were found by the end of their paths, the first one, '
        f'{names[first]}, at {moved[first]}',
        stacklevel=4,
    )
    return [
        os.path.relpath(moved[index], folder) if index in moved else name
        for index, name in enumerate(names)
    ]


def _missing(names, folder):
    """Positions of the names for whose images to look elsewhere."""

    def is_there(name):
        return os.path.isfile(image_file.locate(folder, name))

    are_missing = not any(map(is_there, names[:_LOOKED_AT]))
    return [
        index
        for index, name in enumerate(names)
        if (are_missing or _ELSEWHERE.match(name)) and not is_there(name)
    ]


def _by_last_name(places):
    """Paths of all images in the places, by the name of the file."""
    images = {}
    for place in dict.fromkeys(places):
        for name in image_files.files_below(place):
            path = os.path.normpath(os.path.join(place, name))
            images.setdefault(_plain(name)[-1], {})[path] = _plain(name)
    return images


def _plain(name: str) -> list[str]:
    """The names of the folders and of the file in a path, however it is written."""
    _, is_local_file, path = name.rpartition('?d=')  # of Label Studio's local storage
    if is_local_file:
        path = urllib.parse.unquote(path)
    slashes = unicodedata.normalize('NFC', path.replace('\\', '/'))
    return [part for part in slashes.split('/') if part not in ('', '.', '..')]


def _best(owner, name, images):
    """The path of the image that fits a name best; None if there is none.

    Raises:
        ValueError: several fit equally well.
    """
    wanted = _plain(name)
    if not wanted:
        return None
    candidates = images.get(wanted[-1]) or images.get(_PREFIX.sub('', wanted[-1]), {})
    ends = {path: _common_end(wanted, parts) for path, parts in candidates.items()}
    best = [path for path, length in ends.items() if length == max(ends.values())]
    if len(best) > 1:
        raise ValueError(
            f'{owner}: the image with file_name {name!r} may be {best[0]} or '
            f'{best[1]}. Correct file_name, or remove the wrong image'
        )
    return best[0] if best else None


def _common_end(names, others):
    """How many last names of two paths are equal."""
    pairs = zip(reversed(names), reversed(others), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _check_different(owner, names, paths):
    """Raises ValueError if one image is that of two names."""
    first = {}
    for name, path in zip(names, map(os.path.normpath, paths), strict=True):
        other = first.setdefault(path, name)
        if other != name:
            raise ValueError(
                f'{owner}: {path} is the only image that fits file_name {other!r} as '
                f'well as {name!r}. Correct file_name, relative to the folder of the '
                'images, or add the one that is missing'
            )
