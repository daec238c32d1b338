"""Whether the classes of data sets agree, and which names of classes look alike."""

from collections.abc import Iterable, Mapping, Sequence

ONLY_IN_CASE = 'differ only in case or white space'
"""In messages about names that are probably meant as one."""


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of unlike names that are equal up to case and white space.

    >>> alike(['Cat', 'dog', 'cat '])
    [('Cat', 'cat ')]
    """
    groups = {}
    for name in dict.fromkeys(names):
        groups.setdefault(' '.join(name.split()).casefold(), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def quoted(names: Iterable[str]) -> str:
    """Names in quotation marks, which show white space at their ends.

    >>> quoted(['Cat', 'cat', 'cat '])
    "'Cat', 'cat' and 'cat '"
    """
    *first, last = map(repr, names)
    return f'{", ".join(first)} and {last}' if first else last


def disagreement(classes: Mapping[str, Sequence[str]]) -> str:
    """A sentence about how the classes of data sets differ; empty if they do not.

    Args:
        classes: names in the order of their labels, by what has them.
    """
    if len(set(map(tuple, classes.values()))) <= 1:
        return ''
    listed = '; '.join(f'{owner}: {tuple(names)}' for owner, names in classes.items())
    groups = alike(name for names in classes.values() for name in names)
    hint = ''.join(f'; {quoted(group)} {ONLY_IN_CASE}' for group in groups)
    return (
        'classes differ in name or order, so labels would mean different things: '
        f'{listed}{hint}'
    )
