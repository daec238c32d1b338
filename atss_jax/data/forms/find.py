"""Finds out in which form a data set lies at a path."""

import os
from collections.abc import Callable

from atss_jax.data.forms import coco, hugging_face, voc, yolo
from atss_jax.data.forms.form import Form, Incomplete

FORMS: dict[str, Callable[[str], Form | None]] = {
    'COCO': coco.find,
    'YOLO': yolo.find,
    'Pascal VOC': voc.find,
    'Hugging Face': hugging_face.find,
}
"""By the name of each form, the function that finds a data set of this form at a path,
or None where there is none."""


def find(path: str) -> Form:
    """The data set at a path.

    Args:
        path: a folder, an annotation file, or the address of a data set.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: no known form lies there, or more than one.
    """
    path = os.path.expanduser(path)
    if '://' not in path and not os.path.exists(path):
        raise FileNotFoundError(f'path = {path!r}: there is no such file or folder')
    found, incomplete = [], None
    for look in FORMS.values():
        try:
            form = look(path)
        except Incomplete as error:
            incomplete = error
            continue
        if form is not None:
            found.append(form)
    if len(found) == 1:
        return found[0]
    if not found and incomplete is not None:
        raise incomplete
    if found:
        listed = '; '.join(describe(form) for form in found)
        raise ValueError(
            f'path = {path!r}: more than one form of annotations lies there: {listed}. '
            'Give the path of one of them, the annotation file or its own folder'
        )
    raise ValueError(
        f'path = {path!r}: found no annotations in a known form '
        f'({", ".join(FORMS)}); there {_content(path)}. docs/data.md says which files '
        'belong to each form'
    )


def describe(form: Form) -> str:
    """One line that says what was found and where."""
    places = ', '.join(f'{split} ({place})' for split, place in form.splits.items())
    return f'{form.path}: {form.name} with {places}'


_SHOWN = 8


def _content(path):
    """What lies at a path, for a message."""
    if not os.path.isdir(path):
        return 'is a file' if os.path.exists(path) else 'is an address'
    names = sorted(os.listdir(path))
    if not names:
        return 'is an empty folder'
    more = ', ...' if len(names) > _SHOWN else ''
    return f'is {", ".join(names[:_SHOWN])}{more}'
