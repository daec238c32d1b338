"""The YAML file of a YOLO data set: names of the classes, folders of the splits."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from atss_jax.data.coco.table import TEXT, show
from atss_jax.data.forms import class_names
from atss_jax.data.forms.form import in_order, split_name
from atss_jax.data.forms.image_files import in_any_case

_SPLITS = {
    'train': 'train',
    'validation': 'val',
    'valid': 'val',
    'val': 'val',
    'test': 'test',
}
_NAMES = re.compile(rb'^(\xef\xbb\xbf)?[\'"]?(names|nc)[\'"]?\s*:', re.MULTILINE)
_DETECTOR = re.compile(rb'^[\'"]?backbone[\'"]?\s*:', re.MULTILINE)  # has `nc` too
_MOST_DIGITS = 6  # of numbers: nobody has a million classes


@dataclasses.dataclass(frozen=True)
class YoloConfig:
    """What such a file says.

    Attributes:
        names: of the classes.
        keypoints: number of values of the keypoints that follow each box.
        places: by split, paths of the folders of images and the lists of image files,
            which need not exist.
    """

    names: tuple[str, ...]
    keypoints: int
    places: Mapping[str, tuple[str, ...]]


def find_file(path: pathlib.Path) -> pathlib.Path | None:
    """The YAML file of a data set in a folder, or the path itself; None if it is none.

    Raises:
        ValueError: there are several, and none is named data.yaml.
    """
    if not path.is_dir():
        return path if _is_data_set(path) else None
    files = list(filter(_is_data_set, sorted(path.iterdir())))
    usual = [file for file in files if file.stem == 'data']
    if len(files) > 1 and len(usual) != 1:
        names = ', '.join(file.name for file in files)
        raise ValueError(
            f'{path}: each of {names} could be the YAML file of a YOLO data set; give '
            'the path of one of them'
        )
    return (usual or files or [None])[0]


def _is_data_set(file):
    """Whether a YAML file has a key of a YOLO data set; it is not parsed."""
    if file.suffix.lower() not in ('.yaml', '.yml') or not file.is_file():
        return False
    content = file.read_bytes()
    return bool(_NAMES.search(content)) and not _DETECTOR.search(content)


def read(file: pathlib.Path) -> YoloConfig:
    """Reads and checks a YAML file.

    Raises:
        ValueError: it is malformed; the message names the file and the line or the key.
    """
    content = _load(file)
    if not TEXT.holds(content.get('path') or '.'):
        raise ValueError(
            f'{file}: path must be a folder, found {show(content["path"])}'
        )
    places = {}
    for key, split in _SPLITS.items():
        if content.get(key):
            entries = _entries(file, key, content[key])
            places[split] = tuple(
                _locate(file.parent, content, split, entry) for entry in entries
            )
    return YoloConfig(
        _names(file, content), _keypoints(file, content), in_order(places)
    )


def _load(file: pathlib.Path) -> dict[str, Any]:
    """The content, all scalars as they are written: `no` is a name, not False."""
    try:
        content = yaml.load(file.read_bytes(), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = f':{error.problem_mark.line + 1}' if error.problem_mark else ''
        raise ValueError(f'{file}{line}: not YAML: {error.problem}') from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{file}: not YAML: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{file}: expected keys such as names, train and val; found {show(content)}'
        )
    return content


def _names(file: pathlib.Path, content: dict[str, Any]) -> tuple[str, ...]:
    count = content.get('nc')
    if count is not None and not _is_count(count):
        raise ValueError(f'{file}: nc must be the number of classes, found {count!r}')
    names = content.get('names')
    if not names:
        if not count or not int(count):
            raise ValueError(f'{file}: no names of classes (names) and no number (nc)')
        class_names.check_count(str(file), int(count))
        return tuple(f'class_{index}' for index in range(int(count)))
    if isinstance(names, dict):
        names = _in_order_of_keys(file, names)
    if not isinstance(names, list):
        raise ValueError(
            f'{file}: names must be a list of names or one with their indices, found '
            f'{show(names)}'
        )
    class_names.check_count(str(file), len(names))
    for index, name in enumerate(names):
        if not TEXT.holds(name):
            raise ValueError(
                f'{file}: names[{index}] must be {TEXT.expected}, found {show(name)}'
            )
    if count is not None and int(count) != len(names):
        raise ValueError(f'{file}: nc is {count}, but names has {len(names)} names')
    return tuple(names)


def _in_order_of_keys(file, names):
    by_index = {int(key): name for key, name in names.items() if _is_count(key)}
    if len(by_index) != len(names) or sorted(by_index) != list(range(len(names))):
        raise ValueError(
            f'{file}: the indices of the {len(names)} names must be 0 to '
            f'{len(names) - 1}, found {show(list(names))}'
        )
    return [by_index[index] for index in range(len(names))]


def _keypoints(file: pathlib.Path, content: dict[str, Any]) -> int:
    shape = content.get('kpt_shape')
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_count, shape)):
        raise ValueError(
            f'{file}: kpt_shape must be the number of keypoints and of values of each, '
            f'found {show(shape)}'
        )
    return int(shape[0]) * int(shape[1])


def _is_count(text: Any) -> bool:
    return type(text) is str and text.isdecimal() and len(text) <= _MOST_DIGITS


def _entries(file: pathlib.Path, key: str, value: Any) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not TEXT.holds(entry):
            raise ValueError(
                f'{file}: {key} must be a folder of images, a list of image files, or '
                f'several of these, found {show(value)}'
            )
    return entries


def _locate(folder: pathlib.Path, content: dict, split: str, entry: str) -> str:
    """Path of a folder or file that is written in the YAML file, wherever it lies now.

    It is relative to `path`, and that to the file's own folder or the one above. People
    move data sets, so if there is no such place, its end is looked for in the file's
    folder, as long as that still names the split. Roboflow writes `../train/images`
    next to `train`: there the end comes first, since another data set may lie next to
    this one.

    Differs from Ultralytics in that order: it reads the other data set.
    """
    entry = entry.replace('\\', '/')
    places = [folder / entry]
    base = content.get('path')
    if base:
        places = [folder / base / entry, folder.parent / base / entry, *places]
    parts = pathlib.PurePosixPath(entry.lstrip('/')).parts
    names = [part for part in parts if part != '..']
    ends = [
        folder.joinpath(*names[start:])
        for start in range(len(names))
        if any(split_name(name) == split for name in names[start:])
    ]
    if parts[:1] == ('..',) and os.path.normpath(base or '.') == '.':
        places = [*ends[:1], *places, *ends[1:]]
    else:
        places += ends
    paths = [os.path.normpath(place) for place in places]
    # On Windows and macOS, where many data sets are made, `Train` is `train`.
    others = map(in_any_case, paths)
    return next(filter(os.path.exists, [*paths, *others]), paths[0])
