"""The files of a folder and of all folders in it."""

import os
import warnings
from collections.abc import Container

SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.jif', '.png', '.apng', '.webp'),
    *('.bmp', '.dib', '.tif', '.tiff', '.gif'),
)
"""How the names of files end that `image_file` decodes, in lower case."""


def files_below(folder: str, suffixes: Container[str] = SUFFIXES) -> list[str]:
    """Paths of files relative to `folder`, with slashes, sorted.

    Links are followed. Hidden files and folders, and those that macOS adds to archives,
    are not looked at. Folders in it that may not be read are warned of.

    Args:
        folder: where to look, in all folders below too.
        suffixes: how the names must end, in lower case.
    """
    return sorted(_files(folder, '', suffixes, frozenset()))


def has_any(folder: str) -> bool:
    """Whether there is an image in a folder or in one below."""
    return any(True for _ in _files(folder, '', SUFFIXES, frozenset()))


def inside(path: str, folder: str) -> str:
    """A path relative to a folder; absolute if it does not lie in it."""
    if path.startswith(f'{folder}{os.sep}'):  # the usual case, and thrice as fast
        return path[len(folder) + 1 :]
    relative = os.path.relpath(path, folder)
    is_outside = relative.split(os.sep, 1)[0] == os.pardir
    return os.path.abspath(path) if is_outside else relative


def suffix(path: str) -> str:
    """How the name of a file ends, in lower case, such as '.jpg'."""
    return os.path.splitext(path)[1].lower()


def _files(folder, inside, suffixes, above):
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that it lies in
        return
    try:
        entries = os.scandir(folder)
    except PermissionError as error:
        if not inside:
            raise
        warnings.warn(f'{folder}: not searched ({error.strerror})', stacklevel=2)
        return
    with entries:
        for entry in entries:
            if entry.name.startswith('.') or entry.name == '__MACOSX':
                continue
            name = f'{inside}{entry.name}'
            if entry.is_dir():
                yield from _files(entry.path, f'{name}/', suffixes, above | {here})
            elif suffix(name) in suffixes:
                yield name
