"""What a config field may hold, and a reader that lets no field go unread."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from atss_jax.config.sections import closest, closest_sibling, flatten


@dataclasses.dataclass(frozen=True)
class Check:
    """A test of a value, in words and in code.

    Attributes:
        expected: in words, for messages and for the config reference.
        convert: gives the value as the program uses it; ValueError or TypeError if it
            is not accepted.
    """

    expected: str
    convert: Callable[[Any], Any]


def _require(condition):
    if not condition:
        raise ValueError


def one_of(*choices: Any) -> Check:
    """One of these values, of the same type: True is not 1."""

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

    limits = [
        f'{words} {limit:g}'
        for words, limit in [
            ('of at least', minimum),
            ('above', above),
            ('of at most', maximum),
        ]
        if math.isfinite(limit)
    ]
    return Check(' '.join(['a number', ' and '.join(limits)]).strip(), convert)


def integer(minimum: int, maximum: float = math.inf) -> Check:
    """A whole number from `minimum` to `maximum`."""

    def convert(value):
        _require(_is_number(value) and value == int(value))
        _require(minimum <= value <= maximum)
        return int(value)

    limit = f' and at most {maximum}' if maximum < math.inf else ''
    return Check(f'a whole number of at least {minimum}{limit}', convert)


def _boolean(value):
    _require(isinstance(value, bool))
    return value


def _text(value):
    _require(isinstance(value, str) and value)
    return value


boolean = Check('True or False', _boolean)
text = Check('text', _text)


def optional(check: Check) -> Check:
    """None, or what `check` accepts."""
    return Check(
        f'{check.expected}, or None',
        lambda value: None if value is None else check.convert(value),
    )


def tuple_of(check: Check, length: int | None = None) -> Check:
    """A tuple or list of values that `check` accepts; comes out as a tuple."""

    def convert(value):
        _require(isinstance(value, tuple | list) and value)
        _require(length is None or len(value) == length)
        return tuple(check.convert(element) for element in value)

    count = 'several of' if length is None else f'{length} of'
    return Check(f'a tuple, {count}: {check.expected}', convert)


class Reader:
    """Reads fields of a config by path, each checked and each once.

    What was never read is an error of `finish`: a field that changes nothing is a
    misspelling or a misunderstanding, and must not pass in silence.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.leaves = flatten(config)
        self.read: dict[str, Check] = {}

    def has_section(self, path: str) -> bool:
        """Whether there is a section with fields at `path`."""
        return any(leaf.startswith(f'{path}.') for leaf in self.leaves)

    def __call__(self, path: str, check: Check) -> Any:
        """The value at `path`.

        Raises:
            ValueError: there is none, or `check` does not accept it.
        """
        self.read[path] = check
        if path not in self.leaves:
            unread = [leaf for leaf in self.leaves if leaf not in self.read]
            hint = self._hint(path, unread).replace('did you mean', 'is it misspelt as')
            raise ValueError(
                f"config has no field '{path}' (expected {check.expected}){hint}"
            )
        value = self.leaves[path]
        try:
            return check.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(
                f'config.{path} = {value!r} is not supported; expected {check.expected}'
            ) from None

    def _hint(self, path, known):
        """A field beside it; else that the section's type decides; else any field."""
        section = path.rpartition('.')[0]
        check = self.read.get(f'{section}.type')
        beside = closest_sibling(path, sorted(known))
        if beside or check is None or ' or ' not in check.expected:
            return closest(path, known)
        kind = self.leaves.get(f'{section}.type')
        return (
            f'; fields go with config.{section}.type = {kind!r}, so set the section '
            f'whole for another type: --config.{section}="{{\'type\': {kind!r}, ...}}"'
        )

    def refuse(self, path: str, reason: str) -> ValueError:
        """An error about a value that is fine alone but not with the others."""
        return ValueError(f'config.{path} = {self.leaves[path]!r}: {reason}')

    def finish(self) -> None:
        """Raises ValueError if a field was never read."""
        for path in self.leaves:
            if path not in self.read:
                raise ValueError(
                    f"config has a field '{path}' that nothing reads"
                    + self._hint(path, self.read)
                )
