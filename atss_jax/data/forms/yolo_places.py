"""Where the images of a YOLO data set lie: folders, and lists of image files."""

import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence

from atss_jax.data import image_file
from atss_jax.data.forms import image_files, yolo_labels
from atss_jax.data.forms.form import ALL, in_order, split_name

_LOOKED_AT = 1000  # images of a place that say whether label files lie there


def images(place: str, folder: str) -> list[tuple[str, str]]:
    """Path of each image of a place, and where it is named, for messages.

    Args:
        place: path of a folder, which is searched with all folders in it, or of a text
            file with the path of an image in each line.
        folder: of the data set. Paths in lists are relative to the list or to this;
            a first folder that is not there is left out, as Darknet's `data/`.
    """
    if os.path.isdir(place):
        paths = [os.path.join(place, name) for name in image_files.files_below(place)]
        return [(path, image_files.inside(path, folder)) for path in paths]
    with open(place, encoding='utf-8-sig', errors='replace') as file:
        lines = [line.strip() for line in file]
    name = image_files.inside(place, folder)
    bases = dict.fromkeys((os.path.dirname(place), folder))
    return [
        (_listed(line, bases), f'{name}:{number}')
        for number, line in enumerate(lines, 1)
        if line
    ]


def _listed(line, bases):
    line = line.replace('\\', '/')
    paths = [os.path.join(base, line) for base in bases]
    paths += [os.path.join(base, line.partition('/')[2]) for base in bases]
    paths = [image_file.locate('', os.path.normpath(path)) for path in paths]
    return next(filter(os.path.isfile, paths), paths[0])


def usual(folder: str) -> dict[str, tuple[str, ...]]:
    """The places of a folder that no other file names, by split.

    They are folders such as `train/images`, `train` or `images/train`, or else lists
    such as `train.txt`; if there is none of these, `images` or the folder is `ALL`.
    """
    root = pathlib.Path(folder)
    inside = _images_of(root)
    for candidates in (_split_folders(root), _split_folders(inside), _lists(root)):
        if candidates:
            return in_order(candidates)
    place = str(inside if inside.is_dir() else root)
    return {ALL: (place,)} if image_files.has_any(place) else {}


def _images_of(folder):
    """The folder `images` of a folder, also if it is `Images`; it need not exist."""
    return pathlib.Path(image_files.in_any_case(str(folder / 'images')))


def _split_folders(folder):
    places = {}
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        split, inside = split_name(each.name), _images_of(each)
        place = inside if os.path.isdir(inside) else each
        if split and each.is_dir() and image_files.has_any(str(place)):
            places[split] = (*places.get(split, ()), str(place))
    return places


def check_unambiguous(folder: str, places: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError if several folders could be that of one split.

    Args:
        folder: of the data set.
        places: what `usual` found there.
    """
    for split, each in places.items():
        if len(each) > 1 and os.path.isdir(each[0]):
            raise ValueError(
                f'{folder}: both {each[0]} and {each[1]} have images of the split '
                f'{split!r}. Rename one of the folders, or say in a data.yaml which '
                'are meant'
            )


def _lists(folder):
    places = {}
    for file in sorted(folder.glob('*.txt')):
        split = split_name(file.stem)
        if split and any(
            os.path.isfile(path) for path, _ in images(str(file), str(folder))
        ):
            places[split] = (*places.get(split, ()), str(file))
    return places


def some_label(place: str, folder: str) -> str | None:
    """The label file of one of the first images of a place; None if none has one."""
    for path, _ in itertools.islice(images(place, folder), _LOOKED_AT):
        label = yolo_labels.label_path(path, folder)
        if yolo_labels.is_label_file(label):
            return label
    return None
