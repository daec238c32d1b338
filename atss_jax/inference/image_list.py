"""The images and videos that a command line names."""

import glob
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


class Item(NamedTuple):
    """A file to look at.

    Attributes:
        path: of the file.
        name: where its results go, below a folder; no two are the same.
        is_video: by the end of its name.
    """

    path: pathlib.Path
    name: str
    is_video: bool


def find(inputs: Iterable[str], out: str | os.PathLike) -> list[Item]:
    """Files, and the images and videos in folders and their folders, in order.

    A file that is named twice comes once.

    Args:
        inputs: files, folders, and patterns such as `images/*.jpg`.
        out: folder of results, which is not looked into.

    Raises:
        ValueError: an input that is not there, or has nothing in it.
    """
    paths = {}
    for text in inputs:
        for path, name in _expand(text):
            is_result = pathlib.Path(out).resolve() in path.resolve().parents
            if not is_result or path == pathlib.Path(text):
                paths.setdefault(path.resolve(), (path, name))
    if not paths:
        raise ValueError(f'no images but results in {out}')
    items, taken = [], set()
    for path, name in paths.values():
        is_video = path.suffix.lower() in VIDEOS
        end = '.mp4' if is_video else '.jpg'
        unique, number = name.with_suffix(end), 1
        while str(unique) in taken:
            number += 1
            unique = name.with_name(f'{name.stem}_{number}{end}')
        taken.add(str(unique))
        items.append(Item(path, str(unique), is_video))
    return items


def _expand(text):
    """(path, name for its results) of what one word of a command line stands for."""
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
        raise ValueError(f'no file is like {text}')
    return [(p, pathlib.Path(p.name)) for p in matches]


def _is_known(path):
    return path.suffix.lower() in IMAGES + VIDEOS and path.is_file()
