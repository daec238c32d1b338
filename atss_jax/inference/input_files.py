"""The images and videos that a command line names, and their ids in its results."""

import glob
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from atss_jax.data.coco import annotation_file

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')

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


def find_files(inputs: Iterable[str], out: str | os.PathLike) -> list[InputFile]:
    """The given files, and all images and videos in the given folders, in order.

    A file that is named twice comes once.

    Args:
        inputs: files, folders, and patterns such as `images/*.jpg`.
        out: folder of results, whose files are skipped.

    Raises:
        ValueError: an input has no images in it.
        FileNotFoundError: an input does not exist.
    """
    paths = {}
    for text in inputs:
        for path, name in _expand(text):
            is_result = pathlib.Path(out).resolve() in path.resolve().parents
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


def _expand(text):
    """(path, name of its results) of each file that one input stands for."""
    path = pathlib.Path(text)
    if path.is_dir():
        inside = [p for p in sorted(path.rglob('*')) if _is_known(p)]
        if not inside:
            raise ValueError(
                f'no images in {text}: expected files that end in '
                f'{", ".join(IMAGES + VIDEOS)}'
            )
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


def _is_known(path):
    return path.suffix.lower() in IMAGES + VIDEOS and path.is_file()


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

    Images are looked up by the end of their paths, classes by their names.

    Raises:
        ValueError: the annotations lack a class or an image, or several files are one
            of their images.
    """
    if ann_file is None:
        return Ids(tuple(range(1, len(classes) + 1)))
    coco = annotation_file.read(ann_file)
    by_name = {name: id_ for id_, name in coco.categories.items()}
    if missing := [name for name in classes if name not in by_name]:
        raise ValueError(f'{ann_file} has no class {missing}; it has {list(by_name)}')
    known = dict(zip(map(_parts, coco.file_names), coco.image_ids, strict=True))
    images = {file.path: _find_id(file.path, known) for file in files}
    if missing := [str(path) for path, id_ in images.items() if id_ is None]:
        raise ValueError(
            f'{ann_file} does not list {len(missing)} of {len(images)} files, such as '
            f'{", ".join(missing[:3])}'
        )
    if len(set(images.values())) < len(images):
        raise ValueError(f'several files are the same image of {ann_file}')
    return Ids(tuple(by_name[name] for name in classes), images)


def _parts(name):
    return pathlib.PurePosixPath(name).parts


def _find_id(path, known):
    """The id of the longest file name that the path ends with; None without any."""
    parts = path.parts
    for start in range(len(parts)):
        if parts[start:] in known:
            return int(known[parts[start:]])
    return None
