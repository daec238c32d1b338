"""Checks of config fields, and a reader that leaves no field unread."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from atss_jax.config.tree import closest, closest_sibling, flatten


@dataclasses.dataclass(frozen=True)
class Check:
    """What a field accepts, in words and in code.

    Attributes:
        expected: what is accepted, in words, for messages and the config reference.
        convert: returns the value as the program uses it; raises ValueError or
            TypeError if the value is not accepted.
    """

    expected: str
    convert: Callable[[Any], Any]


def _require(condition):
    if not condition:
        raise ValueError


def one_of(*choices: Any) -> Check:
    """One of these values, and of the same type: True is not 1."""

    def convert(value):
        for choice in choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError

    return Check(' or '.join(repr(choice) for choice in choices), convert)


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(
    minimum: float = -math.inf, maximum: float = math.inf, above: float = -math.inf
) -> Check:
    """A finite number from `minimum` to `maximum` that is larger than `above`."""

    def convert(value):
        _require(_is_number(value) and math.isfinite(value))
        _require(minimum <= value <= maximum and value > above)
        return float(value)

    if math.isfinite(minimum) and math.isfinite(maximum):
        return Check(f'a number from {minimum:g} to {maximum:g}', convert)
    limits = {'above': above, 'of at least': minimum, 'of at most': maximum}
    words = [f'{word} {x:g}' for word, x in limits.items() if math.isfinite(x)]
    return Check(' '.join(['a number', ' and '.join(words)]).strip(), convert)


def integer(minimum: int, maximum: float = math.inf) -> Check:
    """An integer from `minimum` to `maximum`; 2.0 counts as one."""

    def convert(value):
        _require(_is_number(value) and value == int(value))
        _require(minimum <= value <= maximum)
        return int(value)

    if maximum < math.inf:
        return Check(f'an integer from {minimum} to {maximum}', convert)
    return Check(f'an integer of at least {minimum}', convert)


def _boolean(value):
    _require(isinstance(value, bool))
    return value


def _text(value):
    _require(isinstance(value, str) and value)
    return value


boolean = Check('True or False', _boolean)
text = Check('a string', _text)


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return Check(
        f'{check.expected}; or None',
        lambda value: None if value is None else check.convert(value),
    )


def tuple_of(check: Check, length: int | None = None) -> Check:
    """A tuple or list of values that `check` accepts; becomes a tuple."""

    def convert(value):
        _require(isinstance(value, tuple | list) and value)
        _require(length is None or len(value) == length)
        return tuple(check.convert(element) for element in value)

    count = 'one or more' if length is None else f'{length}'
    return Check(f'a tuple of {count}, each {check.expected}', convert)


def one_or_more(check: Check) -> Check:
    """What `check` accepts, or a tuple or list of such values."""
    several = tuple_of(check)

    def convert(value):
        is_several = isinstance(value, tuple | list)
        return several.convert(value) if is_several else check.convert(value)

    return Check(f'{check.expected}; or a tuple of several', convert)


# Checks that several sections use.
POSITIVE = number(above=0)
NON_NEGATIVE = number(minimum=0)
FRACTION = number(minimum=0, maximum=1)
SCALE = tuple_of(integer(1), 2)
PATH = Check('a path', lambda value: os.path.expanduser(_text(value)))
FOLDER = Check(
    "a path; '' is the current folder",
    lambda value: value if value == '' else PATH.convert(value),
)


_MAX_SHOWN = 200  # characters


def shortened(value: Any, to_text: Callable[[Any], str] = repr) -> str:
    """A value for a message, cut where it is long."""
    text = to_text(value)
    return text if len(text) <= _MAX_SHOWN else f'{text[:_MAX_SHOWN]}...'


ADDED = {
    'data.train.oversample_thr': None,
    **{f'data.{split}.pipeline.backend': 'cv2' for split in ('train', 'val', 'test')},
}
"""Fields that configs of version 0.1 lack, each with the value that they imply."""


def with_added_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that may be of an earlier version, with the fields added since then.

    A field is added where its section exists; the sections around it are copied.
    """
    complete = dict(config)
    for path, value in ADDED.items():
        *parents, name = path.split('.')
        section = complete
        for parent in parents:
            if not isinstance(section.get(parent), Mapping):
                break
            section[parent] = section = dict(section[parent])
        else:
            section.setdefault(name, value)
    return complete


class Reader:
    """Reads the fields of a config by path; each is checked.

    `finish` raises an error if a field was never read: a field that changes nothing is
    misspelled or misunderstood, and must not be ignored silently.

    Attributes:
        leaves: value of every field by dotted path.
        checks: check of every field that was read, by path.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.leaves = flatten(with_added_fields(config))
        self.checks: dict[str, Check] = {}
        self._sections: list[str] = []  # prefixes of paths that were read as a whole

    def has(self, path: str) -> bool:
        """Whether there is a field or a section at `path`."""
        return path in self.leaves or self.has_section(path)

    def has_section(self, path: str) -> bool:
        """Whether there is a section with fields at `path`."""
        return any(leaf.startswith(f'{path}.') for leaf in self.leaves)

    def has_optional_section(self, path: str, example: str) -> bool:
        """Whether there is a section at `path` rather than None.

        Args:
            path: where the section may be.
            example: what it looks like, for messages.

        Raises:
            ValueError: `path` is missing or holds something else.
        """
        if self.has_section(path):
            return True
        self(path, Check(f'None or a section {example}', one_of(None).convert))
        return False

    def __call__(self, path: str, check: Check) -> Any:
        """Returns the value at `path`.

        Raises:
            ValueError: there is none, or `check` does not accept it.
        """
        self.checks[path] = check
        if path not in self.leaves:
            self._check_kind(path, check)
            unread = [leaf for leaf in self.leaves if leaf not in self.checks]
            hint = self._hint(path, unread).replace(
                'did you mean', 'is it misspelled as'
            )
            raise ValueError(
                f"config has no field '{path}' (expected {check.expected}){hint}"
            )
        value = self.leaves[path]
        try:
            return check.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(
                f'config.{path} = {shortened(value)} is not supported; expected '
                f'{check.expected}'
            ) from None

    def section(self, path: str, check: Check) -> Any:
        """Reads a section whose names are not fixed, all of it at once.

        `check` takes the values of all fields in it, by their path in the section.

        Raises:
            ValueError: there is no section, or `check` does not accept a field.
        """
        prefix = f'{path}.'
        self.checks[path] = check
        if self.leaves.get(path) == {}:
            return check.convert({})
        leaves = {leaf: x for leaf, x in self.leaves.items() if leaf.startswith(prefix)}
        if not leaves:
            return self(path, Check(check.expected, one_of().convert))
        for leaf, value in leaves.items():
            try:
                check.convert({leaf.removeprefix(prefix): value})
            except (ValueError, TypeError):
                raise ValueError(
                    f'config.{leaf} = {shortened(value)} is not supported; '
                    f'config.{path} is {check.expected}'
                ) from None
        self._sections.append(prefix)
        return check.convert(
            {leaf.removeprefix(prefix): value for leaf, value in leaves.items()}
        )

    def _check_kind(self, path, check):
        """Raises ValueError for a section in place of a value, or the reverse."""
        prefix = f'{path}.'
        fields = [leaf for leaf in self.leaves if leaf.startswith(prefix)]
        if fields:
            names = sorted({leaf[len(prefix) :].partition('.')[0] for leaf in fields})
            raise ValueError(
                f'config.{path} is a section with {", ".join(names)}; expected '
                f'{check.expected}'
            )
        section, _, name = path.rpartition('.')
        while section:
            if self.has_section(f'{section}.0') and not name.isdigit():
                raise ValueError(
                    f'config.{section} is a list; expected one section, which has '
                    f"'{path}'"
                )
            if section in self.leaves:
                value = shortened(self.leaves[section])
                raise ValueError(
                    f'config.{section} = {value} is not supported; expected a section '
                    f"that has '{path}'"
                )
            section, _, name = section.rpartition('.')

    def _hint(self, path, known):
        """Suggests a field of the same section, the section's type, or any field."""
        section = path.rpartition('.')[0]
        check = self.checks.get(f'{section}.type')
        sibling = closest_sibling(path, known)
        if sibling or check is None or ' or ' not in check.expected:
            return sibling or closest(path, known)
        kind = self.leaves.get(f'{section}.type')
        if kind is None:
            return (
                '; a config has all its fields: take a shipped one, with '
                '`from atss_jax.configs import NAME`, and change what differs'
            )
        return (
            f'; the fields of this section depend on config.{section}.type = {kind!r}: '
            f'to change the type, set the whole section with --config.{section}='
            f'"{{\'type\': {kind!r}, ...}}"'
        )

    def refuse(self, path: str, reason: str) -> ValueError:
        """Returns an error about a value that contradicts other fields."""
        return ValueError(f'config.{path} = {shortened(self.leaves[path])}: {reason}')

    def finish(self) -> None:
        """Raises ValueError if a field was never read."""
        for path in self.leaves:
            if path not in self.checks and not path.startswith((*self._sections,)):
                raise ValueError(
                    f"config has a field '{path}' that nothing reads"
                    + self._hint(path, self.checks)
                )
