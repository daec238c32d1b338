"""Ids of images and classes in results: counted from 1, or those of a COCO file."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from atss_jax.data.coco import annotation_file
from atss_jax.inference.image_list import Item


class Ids(NamedTuple):
    """Which id is whose.

    Attributes:
        category_ids: of each label.
        images: id of each file; None: they are counted from 1.
    """

    category_ids: tuple[int, ...]
    images: Mapping[pathlib.Path, int] | None = None


def choose(classes: Sequence[str], items: Iterable[Item], ann_file: str | None) -> Ids:
    """The ids of a COCO file, or counted ones without a file.

    Images are found in it by the end of their paths, classes by their names.

    Raises:
        ValueError: a class or an image that it does not have, or more than once.
    """
    if ann_file is None:
        return Ids(tuple(range(1, len(classes) + 1)))
    coco = annotation_file.read(ann_file)
    by_name = {name: id_ for id_, name in coco.categories.items()}
    if missing := [name for name in classes if name not in by_name]:
        raise ValueError(f'{ann_file} has no class {missing}; it has {list(by_name)}')
    known = dict(zip(map(_parts, coco.file_names), coco.image_ids, strict=True))
    images = {item.path: _find(item.path, known) for item in items}
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


def _find(path, known):
    """The id of the longest name that the path ends in; None if there is none."""
    parts = path.parts
    for start in range(len(parts)):
        if parts[start:] in known:
            return int(known[parts[start:]])
    return None
