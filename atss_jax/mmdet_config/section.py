"""Takes fields out of a mmdet config one by one, so that none is passed over."""

import dataclasses
from collections.abc import Mapping
from typing import Any

REQUIRED = object()


@dataclasses.dataclass
class Unused:
    """Fields that were met and change nothing here, by path in the mmdet config."""

    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


class Section:
    """A dict of the config, its path for messages, and what is still to be read of it.

    Fields are taken away as they are read. `finish` raises if one is left: it would
    change numbers, or is a misspelling, and nothing here stands for it.
    """

    def __init__(self, values: Mapping[str, Any], path: str, unused: Unused):
        self._left = dict(values)
        self.path = path
        self.unused = unused

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def name_of(self, name: str) -> str:
        """The full path of a field."""
        return f'{self.path}.{name}' if self.path else name

    def peek(self, name: str) -> Any:
        """The value of a field, or None; it stays to be read."""
        return self._left.get(name)

    def with_field(self, name: str, value: Any) -> 'Section':
        """The same section with one field more."""
        return Section({**self._left, name: value}, self.path, self.unused)

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """The value of a field, or mmdet's default for it.

        Raises:
            ValueError: it is not there and mmdet has no default.
        """
        if name not in self._left and default is REQUIRED:
            raise ValueError(f'the mmdet config has no {self.name_of(name)}')
        return self._left.pop(name, default)

    def take_tuple(self, name: str, default: Any = REQUIRED) -> tuple:
        """A list or tuple, as a tuple."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple):
            raise self.refuse(name, value, 'a list or tuple')
        return tuple(value)

    def take_number(self, name: str, default: Any = REQUIRED) -> float:
        """A number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(name, value, 'a number')
        return value

    def take_text(self, name: str, default: Any = REQUIRED) -> str:
        """A text."""
        value = self.take(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, value, 'a text')
        return value

    def take_kind(self, *kinds: str) -> str:
        """The `type`, one of `kinds`, without a scope (`mmdet.`) before it."""
        kind = self.take('type')
        short = kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind
        if short not in kinds:
            raise self.refuse('type', kind, ' or '.join(kinds))
        return short

    def expect(self, **fields: Any) -> None:
        """Fields that may be absent, or have the one value that is the same as ours.

        Raises:
            ValueError: one has another value.
        """
        for name, only in fields.items():
            value = self._left.pop(name, only)
            if plain(value) != plain(only):
                raise self.refuse(name, value, repr(only))

    def skip(self, *names: str) -> None:
        """Fields that change no number: listed if they are there."""
        for name in names:
            if name in self._left:
                self.unused.fields[self.name_of(name)] = self._left.pop(name)

    def section(self, name: str, default: Any = REQUIRED) -> 'Section':
        """A dict inside, as a section of its own; absent or None: `default`.

        Raises:
            ValueError: it is no dict, or not there and there is no default.
        """
        value = self._left.pop(name, None)
        value = default if value is None else value
        if value is REQUIRED:
            raise ValueError(f'the mmdet config has no {self.name_of(name)}')
        if not isinstance(value, Mapping):
            raise self.refuse(name, value, 'a dict')
        return Section(value, self.name_of(name), self.unused)

    def sections(self, name: str, default: Any = REQUIRED) -> list['Section']:
        """A list of dicts inside; a single dict counts as a list of one.

        Raises:
            ValueError: it is something else.
        """
        value = self.take(name, default)
        value = () if value is None and default is not REQUIRED else value
        value = [value] if isinstance(value, Mapping) else value
        if not isinstance(value, list | tuple):
            raise self.refuse(name, value, 'a list of dicts')
        paths = [f'{self.name_of(name)}[{i}]' for i in range(len(value))]
        for path, element in zip(paths, value, strict=True):
            if not isinstance(element, Mapping):
                raise self.refuse(path, element, 'a dict')
        return [
            Section(element, path, self.unused)
            for path, element in zip(paths, value, strict=True)
        ]

    def refuse(self, name: str, value: Any, expected: str) -> ValueError:
        """An error that names field and value; `name` may be a full path."""
        path = name if name.startswith(self.path) and self.path else self.name_of(name)
        return ValueError(
            f'the mmdet config has {path} = {value!r}, which is not supported; '
            f'expected {expected}'
        )

    def left(self) -> tuple[str, ...]:
        """Names of the fields that were not read."""
        return tuple(self._left)

    def finish(self) -> None:
        """Raises ValueError if fields are left."""
        for name, value in self._left.items():
            raise ValueError(
                f'the mmdet config has {self.name_of(name)} = {value!r}, for which '
                'there is nothing here; it may change the numbers'
            )

    def finish_unread(self, reason: str) -> None:
        """Lists what is left, with the reason why it changes nothing."""
        for name, value in self._left.items():
            self.unused.fields[self.name_of(name)] = f'{value!r} ({reason})'
        self._left.clear()


def plain(value: Any) -> Any:
    """Lists as tuples, all the way down: the two are the same in a config."""
    if isinstance(value, Mapping):
        return {name: plain(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(element) for element in value)
    return value
