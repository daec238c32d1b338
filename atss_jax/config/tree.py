"""Configs as nested sections: fields by dotted path, and similar paths."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def is_section_list(value: Any) -> bool:
    """Whether `value` is a list or tuple of sections, as `model.neck` may be."""
    is_list = isinstance(value, tuple | list) and len(value) > 0
    return is_list and all(isinstance(element, Mapping) for element in value)


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Values of all fields by dotted path; an empty section counts as a value.

    A list of sections counts as a section whose fields are 0, 1 and so on.
    """
    leaves = {}
    for name, value in config.items():
        path = f'{prefix}{name}'
        if is_section_list(value):
            value = {str(index): section for index, section in enumerate(value)}
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, f'{path}.'))
        else:
            leaves[path] = value
    return leaves


def closest(path: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar of the known paths, or ''.

    Fields of the same section come first. The last part of the path must be similar in
    any case: most of a long path is common to all fields of its section.
    """
    known = sorted(known)
    if sibling := closest_sibling(path, known):
        return sibling
    names = {_name(other) for other in known}
    similar = set(difflib.get_close_matches(_name(path), names, n=len(names) or 1))
    candidates = [other for other in known if _name(other) in similar]
    return _did_you_mean(difflib.get_close_matches(path, candidates, n=1))


def closest_sibling(path: str, known: Iterable[str]) -> str:
    """As `closest`, among the fields of the same section."""
    parent = path.rpartition('.')[0]
    siblings = {
        _name(other): other
        for other in sorted(known)
        if other.rpartition('.')[0] == parent
    }
    matches = difflib.get_close_matches(_name(path), siblings, n=1)
    return _did_you_mean([siblings[match] for match in matches])


def _name(path):
    return path.rpartition('.')[2]


def _did_you_mean(matches):
    return f"; did you mean '{matches[0]}'?" if matches else ''
