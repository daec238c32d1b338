"""Data sets near a path at which there is none: in its folders, or around it.

A path is often that of a folder too high or too low. Nothing is read in its place; the
messages say which path is the right one.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence

from atss_jax.data.forms.form import Form, split_name
from atss_jax.data.forms.image_files import SUFFIXES, is_meant, suffix

FormsAt = Callable[[str], Sequence[Form]]
"""Gives the data sets at a path, one of each form that is there."""

_PARTS = frozenset(
    ('images', 'labels', 'annotations', 'jpegimages', 'imagesets', 'main')
)
"""Names of folders inside of data sets, in lower case, in addition to those of splits.
The folder above any other one is not searched: it may be a whole disk."""
_PARTS_OF_FILES = (*SUFFIXES, '.xml', '.txt', '.names')
_LOOKED_AT = 100  # folders in a folder


def explain(path: str, forms_at: FormsAt, describe: Callable[[Form], str]) -> str:
    """A sentence that names the data sets near a path; '' if there are none.

    Args:
        path: at which there is no data set.
        forms_at: finds the data sets at a path.
        describe: a line about a data set, which begins with its path.
    """
    if forms := inside(path, forms_at):
        folders = 'a folder' if len(forms) == 1 else 'folders'
        where = f'no data set lies there itself, but in {folders} of it'
    elif forms := around(path, forms_at):
        where = 'that is a part of a data set'
    else:
        return ''
    return f'{where}: {_listed(forms, describe)}'


def _listed(forms: Sequence[Form], describe: Callable[[Form], str]) -> str:
    lines = '; '.join(map(describe, forms))
    paths = list(dict.fromkeys(form.path for form in forms))
    advice = paths[0] if len(paths) == 1 else 'the path of one of them'
    return f'{lines}. Give {advice} instead'


def inside(folder: str, forms_at: FormsAt) -> list[Form]:
    """The data sets in the folders of a folder or, if there are none, in theirs.

    Args:
        folder: where to look. Of several links to one folder the first counts.
        forms_at: finds the data sets at a path.
    """
    if not os.path.isdir(folder):
        return []
    children = _folders([folder])
    for folders in (children, _folders(children)):
        if forms := [form for each in folders for form in _look(each, forms_at)]:
            return forms
    return []


def _folders(parents: Sequence[str]) -> list[str]:
    """The first folders in some folders, each under one name."""
    folders: dict[str, str] = {}
    for parent in parents:
        try:
            with os.scandir(parent) as entries:
                names = sorted(x.name for x in entries if is_meant(x) and x.is_dir())
        except PermissionError:
            continue
        for name in names:
            folder = os.path.join(parent, name)
            folders.setdefault(os.path.realpath(folder), folder)
            if len(folders) == _LOOKED_AT:
                return list(folders.values())
    return list(folders.values())


def around(path: str, forms_at: FormsAt) -> list[Form]:
    """The data sets that a folder or file is a part of, as its name tells.

    Args:
        path: such as `my_data/train/images`, for which `my_data/train` is looked at,
            and then `my_data`.
        forms_at: finds the data sets at a path.
    """
    for folder in _above(path):
        if forms := _look(folder, forms_at):
            return forms
    return []


def _above(path: str) -> Iterator[str]:
    """The folders above a path, as long as its last name is one of a part."""
    if not os.path.exists(path):  # the address of a data set
        return
    is_relative = not os.path.isabs(path)
    path, is_file = os.path.abspath(path), os.path.isfile(path)
    while _is_part(os.path.basename(path), is_file):
        path, is_file = os.path.dirname(path), False
        if path in (os.path.expanduser('~'), os.path.abspath(os.sep)):
            return
        yield os.path.relpath(path) if is_relative else path


def _is_part(name, is_file):
    if is_file:
        return suffix(name) in _PARTS_OF_FILES
    word = name.lower().rstrip('0123456789-_')  # `train2017`
    return word in _PARTS or (word.isalpha() and split_name(word) is not None)


def _look(folder, forms_at):
    """The data sets in a folder; none where it or one in it is malformed."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # they are given when the data set is used
        try:
            return forms_at(folder)
        except (ValueError, OSError):
            return []
