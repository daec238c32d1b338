"""Configs as nested sections: dotted paths of fields, and the closest of them."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def is_sections(value: Any) -> bool:
    """Whether it is a list or tuple of sections, as `model.neck` may be."""
    is_list = isinstance(value, tuple | list) and len(value) > 0
    return is_list and all(isinstance(element, Mapping) for element in value)


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Leaves by dotted path; an empty section is a leaf.

    A list of sections counts as a section, whose fields are 0, 1 and so on.
    """
    leaves = {}
    for name, value in config.items():
        path = f'{prefix}{name}'
        if is_sections(value):
            value = {str(index): section for index, section in enumerate(value)}
        if isinstance(value, Mapping) and value:
            leaves.update(flatten(value, f'{path}.'))
        else:
            leaves[path] = value
    return leaves


def closest(path: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the most similar path, or nothing.

    Paths that differ in their last part only come first. The last part is similar in
    any case: most of a long path is that of all fields beside it.
    """
    known = sorted(known)
    beside = closest_sibling(path, known)
    if beside:
        return beside
    name = path.rpartition('.')[2]
    names = {other.rpartition('.')[2] for other in known}
    similar = set(difflib.get_close_matches(name, names, n=len(names) or 1))
    others = [other for other in known if other.rpartition('.')[2] in similar]
    match = difflib.get_close_matches(path, others, n=1)
    return f"; did you mean '{match[0]}'?" if match else ''


def closest_sibling(path, known):
    """As `closest`, among the fields of the same section."""
    parent, _, name = path.rpartition('.')
    siblings = {
        other.rpartition('.')[2]: other
        for other in known
        if other.rpartition('.')[0] == parent
    }
    match = difflib.get_close_matches(name, siblings, n=1)
    return f"; did you mean '{siblings[match[0]]}'?" if match else ''
