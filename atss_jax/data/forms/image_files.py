"""The files of a folder and of all folders in it."""

import os
import warnings
from collections.abc import Container, Iterator

SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.jif', '.png', '.apng', '.webp'),
    *('.bmp', '.dib', '.tif', '.tiff', '.gif'),
)
"""How the names of files end that `image_file` decodes, in lower case."""
_MOST_LINKS = 30  # in a path; systems follow 40 or fewer


def files_below(folder: str, suffixes: Container[str] = SUFFIXES) -> list[str]:
    """Paths of files relative to `folder`, with slashes, sorted.

    Links are followed. Hidden files and folders, and those that macOS adds to archives,
    are not looked at. Folders in it that may not be read are warned of.

    Args:
        folder: where to look, in all folders below too.
        suffixes: how the names must end, in lower case.
    """
    return sorted(_files(folder, suffixes))


def has_any(folder: str) -> bool:
    """Whether there is an image in a folder or in one below."""
    return any(True for _ in _files(folder, SUFFIXES))


def inside(path: str, folder: str) -> str:
    """A path relative to a folder; absolute if it does not lie in it."""
    if path.startswith(f'{folder}{os.sep}'):  # the usual case, and thrice as fast
        return path[len(folder) + 1 :]
    relative = os.path.relpath(path, folder)
    is_outside = relative.split(os.sep, 1)[0] == os.pardir
    return os.path.abspath(path) if is_outside else relative


def in_any_case(path: str) -> str:
    """The path, or the only one that is there and differs from it in case alone.

    Where there is none, or several, it is the path itself.
    """
    if os.path.exists(path):
        return path
    parent, name = os.path.split(path)
    if not name or parent == path:
        return path
    folder = in_any_case(parent) if parent else ''
    try:
        names = os.listdir(folder or os.curdir)
    except OSError:
        return path
    if name in names:
        return os.path.join(folder, name)
    alike = [each for each in names if each.lower() == name.lower()]
    return os.path.join(folder, alike[0]) if len(alike) == 1 else path


def suffix(path: str) -> str:
    """How the name of a file ends, in lower case, such as '.jpg'."""
    return os.path.splitext(path)[1].lower()


def _files(folder: str, suffixes: Container[str]) -> Iterator[str]:
    """The names of `files_below`, in the order of the walk.

    A folder that several links lead to is read once for each of them: `val` may be a
    link to `train`. But of the links in linked folders those to folders read before are
    not followed, since the number of ways through such links grows exponentially.
    """
    read: set[str] = set()

    def walk(folder, inside, real_path, above, links):
        if real_path in above:  # a link to a folder that it lies in
            return
        read.add(real_path)
        above = above | {real_path}
        for entry in _entries(folder, is_root=not inside):
            name = f'{inside}{entry.name}'
            if not entry.is_dir():
                if suffix(name) in suffixes:
                    yield name
                continue
            target = os.path.join(real_path, entry.name)
            if not entry.is_symlink():
                yield from walk(entry.path, f'{name}/', target, above, links)
            elif links < _MOST_LINKS:
                target = os.path.realpath(target)
                if not links or target not in read:
                    yield from walk(entry.path, f'{name}/', target, above, links + 1)

    return walk(folder, '', os.path.realpath(folder), frozenset(), 0)


def _entries(folder, is_root):
    """The entries of a folder, sorted, without those that nobody means."""
    try:
        with os.scandir(folder) as entries:
            return sorted(filter(is_meant, entries), key=lambda entry: entry.name)
    except PermissionError as error:
        if is_root:
            raise
        warnings.warn(f'{folder}: not searched ({error.strerror})', stacklevel=2)
        return []


def is_meant(entry: os.DirEntry) -> bool:
    """Whether a folder's entry is not hidden, nor one that macOS adds to archives."""
    return not entry.name.startswith('.') and entry.name != '__MACOSX'
