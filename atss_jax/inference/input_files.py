"""The images and videos that a command line names, and their ids in its results."""

import collections
import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.image_files import SUFFIXES

VIDEOS = (
    *('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv'),
    *('.flv', '.3gp', '.mts', '.m2ts', '.ogv'),
)
# Files of other names count as images if they begin like one. TIFF and BMP are not
# among these: raw photos begin like the one, texts like the other.
_BEGINS_LIKE_IMAGE = re.compile(
    rb'\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a', re.DOTALL
)
_OF_SYSTEMS = ('__MACOSX', '.DS_Store', 'Thumbs.db', 'desktop.ini')
_MAX_KINDS = 5  # that a message lists

# Files -------------------------------------------------------------------------------


class InputFile(NamedTuple):
    """An image or video to detect objects in.

    Attributes:
        path: path of the file.
        name: path of its drawn results below their folder, unique among the inputs.
        is_video: whether its name ends like that of a video.
    """

    path: pathlib.Path
    name: str
    is_video: bool


def find_files(
    inputs: Iterable[str],
    out: str | os.PathLike | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[InputFile]:
    """The given files, and all images and videos in the given folders, in order.

    A file that is named twice comes once. Folders are searched through links too, but
    not what macOS adds to copies and archives (`._*`, `__MACOSX`).

    Args:
        inputs: files, folders, and patterns such as `images/*.jpg`.
        out: folder of results, whose files are skipped; None: there is none.
        tell: called with a line about files of a folder that are neither.

    Raises:
        ValueError: an input has no images in it.
        FileNotFoundError: an input does not exist.
    """
    paths = {}
    for text in inputs:
        for path, name in _expand(text, out, tell):
            is_result = _is_inside(path, out)
            if not is_result or path == pathlib.Path(text):
                paths.setdefault(path.resolve(), (path, name))
    if not paths:
        raise ValueError(f'no images except results in {out}')
    items, taken = [], set()
    for path, name in paths.values():
        is_video = path.suffix.lower() in VIDEOS
        end = '.mp4' if is_video else '.jpg'
        unique, number = name.with_suffix(end), 1
        while str(unique) in taken:
            number += 1
            unique = name.with_name(f'{name.stem}_{number}{end}')
        taken.add(str(unique))
        items.append(InputFile(path, str(unique), is_video))
    return items


def _expand(text, out, tell):
    """(path, name of its results) of each file that one input stands for."""
    if '\\' in text and not os.path.exists(text):
        text = text.replace('\\', '/')
    path = pathlib.Path(text)
    if path.is_dir():
        files = sorted(_walk(path))
        inside = [p for p in files if _is_known(p)]
        known = set(inside)
        others = [p for p in files if p not in known and not _is_inside(p, out)]
        kinds = _count_kinds(others)
        if not inside:
            raise ValueError(
                f'no images in {text}: expected files that end in '
                f'{", ".join(SUFFIXES + VIDEOS)}; passed over: {kinds or "nothing"}'
            )
        if others:
            tell(f'{text}: passed over, since they are no images: {kinds}')
        return [(p, p.relative_to(path)) for p in inside]
    if path.exists():
        return [(path, pathlib.Path(path.name))]
    if not glob.has_magic(text):
        raise FileNotFoundError(f'no image or folder at {text}')
    matches = [pathlib.Path(p) for p in sorted(glob.glob(text, recursive=True))]
    matches = [p for p in matches if p.is_file()]
    if not matches:
        raise ValueError(f'no file matches {text}')
    return [(p, pathlib.Path(p.name)) for p in matches]


def _walk(folder, above=()):
    """Every file in a folder and its subfolders, through links but not in circles."""
    above = (*above, folder.resolve())
    try:
        paths = list(folder.iterdir())
    except PermissionError:
        yield folder
        return
    for path in paths:
        if path.name.startswith('._') or path.name in _OF_SYSTEMS:
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:
            yield from _walk(path, above)


def _is_inside(path, folder):
    """Whether a path lies in a folder; nothing lies in None."""
    if folder is None:
        return False
    return pathlib.Path(folder).resolve() in path.resolve().parents


def _is_known(path):
    """Whether a file is an image or a video, by its name or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES + VIDEOS:
        return True
    try:
        with path.open('rb') as file:
            return bool(_BEGINS_LIKE_IMAGE.match(file.read(16)))
    except OSError:
        return False


def _count_kinds(files):
    """`2 .txt, 1 .heic`; empty without files."""
    kinds = collections.Counter(
        'folder that may not be read'
        if path.is_dir()
        else path.suffix.lower() or 'without a suffix'
        for path in files
    )
    named = [f'{number} {kind}' for kind, number in kinds.most_common(_MAX_KINDS)]
    if len(kinds) > _MAX_KINDS:
        named.append(f'{kinds.total()} files in all')
    return ', '.join(named)


# Ids ---------------------------------------------------------------------------------


class Ids(NamedTuple):
    """The ids of classes and images in COCO results.

    Attributes:
        category_ids: category id of each label.
        images: image id of each file; None: images are counted from 1.
    """

    category_ids: tuple[int, ...]
    images: Mapping[pathlib.Path, int] | None = None


def choose_ids(
    classes: Sequence[str], files: Iterable[InputFile], ann_file: str | None
) -> Ids:
    """The ids of an annotation file; without one, classes and images count from 1.

    Images are looked up by the end of their absolute paths, classes by their names.

    Raises:
        ValueError: the annotations lack a class or an image, or several files are one
            of their images.
    """
    if ann_file is None:
        return Ids(tuple(range(1, len(classes) + 1)))
    coco = annotation_file.read_listing(ann_file, classes)
    by_name = {name: id_ for id_, name in coco.categories.items()}
    if missing := [name for name in classes if name not in by_name]:
        raise ValueError(f'{ann_file} has no class {missing}; it has {list(by_name)}')
    known = {}
    # Second, since a name as it stands counts more than one with slashes.
    for parts_of in (_parts_with_slashes, _parts):
        names = map(parts_of, coco.file_names)
        known |= dict(zip(names, coco.image_ids, strict=True))
    images = {file.path: _find_id(file.path, known) for file in files}
    if missing := [str(path) for path, id_ in images.items() if id_ is None]:
        raise ValueError(
            f'{ann_file} does not list {len(missing)} of {len(images)} files, such as '
            f'{", ".join(missing[:3])}; paths must end with a file_name of its images, '
            f'which are {coco.file_names[:3]}'
        )
    if len(set(images.values())) < len(images):
        raise ValueError(f'several files are the same image of {ann_file}')
    return Ids(tuple(by_name[name] for name in classes), images)


def _parts(name):
    """The parts of a path, without `.` and `..`, in one form of Unicode."""
    name = unicodedata.normalize('NFC', os.path.normpath(name))
    return tuple(part for part in pathlib.PurePath(name).parts if part != '..')


def _parts_with_slashes(name):
    return _parts(name.replace('\\', '/'))


def _find_id(path, known):
    """The id of the longest file name that the path ends with; None without any.

    The path counts as it is given, and where links in it lead to.
    """
    for place in (os.path.abspath(path), os.path.realpath(path)):
        parts = _parts(place)
        for start in range(len(parts)):
            if parts[start:] in known:
                return int(known[parts[start:]])
    return None
