"""Finds out in which form a data set lies at a path."""

import os
from collections.abc import Callable, Sequence

from atss_jax.data.forms import (
    coco,
    hugging_face,
    nearby,
    other_tools,
    packed,
    voc,
    yolo,
)
from atss_jax.data.forms.form import Form, Incomplete

FORMS: dict[str, Callable[[str], Form | None]] = {
    'COCO': coco.find,
    'YOLO': yolo.find,
    'Pascal VOC': voc.find,
    'Hugging Face': hugging_face.find,
}
"""By the name of each form, the function that finds a data set of this form at a path,
or None where there is none."""

PREFIXES = {
    'coco': 'COCO',
    'yolo': 'YOLO',
    'voc': 'Pascal VOC',
    'hf': 'Hugging Face',
}
"""Name of the form that `PREFIX:PATH` asks for."""


def find(path: str) -> Form:
    """The data set at a path.

    Args:
        path: a folder, an annotation file, or the address of a data set; before it may
            stand the form, such as `voc:FOLDER`, where several lie there.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: no known form lies there, or more than one.
    """
    form_name, place = _form_and_place(path)
    if '://' not in place and not os.path.exists(place):
        raise FileNotFoundError(f'path = {path!r}: there is no such file or folder')
    names = tuple(FORMS) if form_name is None else (form_name,)
    forms, incomplete = _look(place, names)
    if len(forms) == 1:
        return forms[0]
    if forms:
        raise ValueError(_several(path, forms))
    if reason := nearby.explain(place, _forms_at(names), describe):
        raise ValueError(f'path = {path!r}: {reason}')
    if incomplete is not None:
        raise incomplete
    if reason := other_tools.explain(place) or packed.explain(place):
        raise ValueError(f'path = {path!r}: {reason}')
    raise ValueError(
        f'path = {path!r}: found no annotations in a known form ({", ".join(names)}); '
        f'{_content(place)} (docs/data.md says which files belong to each form)'
    )


def _look(place: str, names: Sequence[str]) -> tuple[list[Form], Incomplete | None]:
    """The data sets of these forms at a path; an error about one that lacks a part."""
    forms, incomplete = [], None
    for name in names:
        try:
            form = FORMS[name](place)
        except Incomplete as error:
            incomplete = error
            continue
        if form is not None:
            forms.append(form)
    return forms, incomplete


def _forms_at(names: Sequence[str]) -> Callable[[str], list[Form]]:
    return lambda path: _look(path, names)[0]


def whole_of(form: Form) -> list[Form]:
    """The data sets that the folder of a data set is itself a part of."""
    return nearby.around(form.path, _forms_at(tuple(FORMS)))


def _form_and_place(path):
    """The form that a path asks for, or None, and the path or address without it."""
    prefix, colon, place = path.partition(':')
    is_prefix = colon and prefix in PREFIXES and not place.startswith('//')
    if is_prefix and not os.path.exists(path):
        return PREFIXES[prefix], os.path.expanduser(place)
    return None, os.path.expanduser(path)


def _several(path, forms):
    listed = '; '.join(describe(form) for form in forms)
    prefix_of = {name: prefix for prefix, name in PREFIXES.items()}
    choices = ' or '.join(f'{prefix_of[form.name]}:{form.path}' for form in forms)
    return (
        f'path = {path!r}: more than one form of annotations lies there: {listed}. '
        f'Say which one you want, {choices}, or give the path of its file or folder'
    )


def describe(form: Form) -> str:
    """One line that says what was found and where."""
    places = ', '.join(f'{split} ({place})' for split, place in form.splits.items())
    return f'{form.path}: {form.name} with {places}'


_SHOWN = 8


def _content(path):
    """What lies at a path, for a message."""
    if not os.path.isdir(path):
        return 'it is a file' if os.path.exists(path) else 'it is an address'
    names = sorted(os.listdir(path))
    if not names:
        return 'it is an empty folder'
    more = ', ...' if len(names) > _SHOWN else ''
    return f'in it are {", ".join(names[:_SHOWN])}{more}'
