"""Takes fields out of an mmdet config one by one, so that none is ignored silently."""

from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.expression import Unevaluated, check_evaluated

REQUIRED = object()


class Section:
    """The fields of a section of the config that have not been read yet.

    Each field is removed when it is read. At the end, `finish` of the whole config
    raises an error if one remains: it may change numbers or be misspelled, and has no
    equivalent here.

    Args:
        values: the fields.
        path: path of the section, for messages; '' for the whole config.
        parent: the section that this one was read from.

    Attributes:
        path: as given.
        unused: value by path of fields that have no effect here; shared by all sections
            of a config.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        path: str = '',
        parent: 'Section | None' = None,
    ):
        self._unread = dict(values)
        self._inner: list[Section] = []
        self.path = path
        self.unused: dict[str, Any] = {} if parent is None else parent.unused
        if parent is not None:
            parent._inner.append(self)

    def __contains__(self, name: str) -> bool:
        return name in self._unread

    def name_of(self, name: str) -> str:
        """The full path of a field."""
        return f'{self.path}.{name}' if self.path else name

    def peek(self, name: str) -> Any:
        """The value of a field, or None; the field remains unread."""
        return _evaluated(self._unread.get(name))

    def put(self, name: str, value: Any) -> None:
        """Adds a field that the config has elsewhere."""
        self._unread[name] = value

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """Reads a field; `default` is mmdet's.

        Raises:
            ValueError: the field is missing and has no default.
        """
        if name not in self._unread and default is REQUIRED:
            raise ValueError(f'the mmdet config has no {self.name_of(name)}')
        return _evaluated(self._unread.pop(name, default))

    def take_tuple(self, name: str, default: Any = REQUIRED) -> tuple:
        """Reads a list or tuple as a tuple."""
        value = self.take(name, default)
        if not isinstance(value, list | tuple):
            raise self.refuse(name, value, 'a list or tuple')
        return tuple(check_evaluated(value))

    def take_number(self, name: str, default: Any = REQUIRED) -> float:
        """Reads a number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(name, value, 'a number')
        return value

    def take_text(self, name: str, default: Any = REQUIRED) -> str:
        """Reads a string."""
        value = self.take(name, default)
        if not isinstance(value, str):
            raise self.refuse(name, value, 'a string')
        return value

    def take_kind(self, *kinds: str) -> str:
        """Reads the `type`, one of `kinds`, without its scope (`mmdet.`)."""
        kind = self.take('type')
        short = kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind
        if short not in kinds:
            raise self.refuse('type', kind, ' or '.join(kinds))
        return short

    def expect(self, **fields: Any) -> None:
        """Reads fields of which only one value is supported; they may be missing.

        Raises:
            ValueError: a field has another value.
        """
        for name, supported in fields.items():
            value = self._unread.pop(name, supported)
            if plain(value) != plain(supported):
                raise self.refuse(name, value, repr(supported))

    def skip(self, *names: str) -> None:
        """Moves fields that change no numbers to `unused`; they may be missing."""
        for name in names:
            if name in self._unread:
                self.unused[self.name_of(name)] = self._unread.pop(name)

    def section(self, name: str, default: Any = REQUIRED) -> 'Section':
        """Reads a dict as a section; if it is missing or None, `default`.

        Raises:
            ValueError: it is not a dict, or missing and there is no default.
        """
        value = _evaluated(self._unread.pop(name, None))
        value = default if value is None else value
        if value is REQUIRED:
            raise ValueError(f'the mmdet config has no {self.name_of(name)}')
        if not isinstance(value, Mapping):
            raise self.refuse(name, value, 'a dict')
        return Section(value, self.name_of(name), self)

    def sections(self, name: str, default: Any = REQUIRED) -> list['Section']:
        """Reads a list of dicts as sections; a single dict counts as a list of one.

        Raises:
            ValueError: it is something else.
        """
        value = self.take(name, default)
        value = () if value is None and default is not REQUIRED else value
        value = [value] if isinstance(value, Mapping) else value
        if not isinstance(value, list | tuple):
            raise self.refuse(name, value, 'a list of dicts')
        value = [_evaluated(element) for element in value]
        paths = [f'{self.name_of(name)}[{i}]' for i in range(len(value))]
        for path, element in zip(paths, value, strict=True):
            if not isinstance(element, Mapping):
                raise self.refuse(path, element, 'a dict')
        return [
            Section(element, path, self)
            for path, element in zip(paths, value, strict=True)
        ]

    def refuse(self, name: str, value: Any, expected: str) -> ValueError:
        """Returns an error about the value of a field; `name` may be a full path."""
        path = name if name.startswith(self.path) and self.path else self.name_of(name)
        return ValueError(
            f'the mmdet config has {path} = {value!r}, which is not supported; '
            f'expected {expected}'
        )

    def unread(self) -> tuple[str, ...]:
        """Names of the fields that have not been read."""
        return tuple(self._unread)

    def finish(self) -> None:
        """Raises ValueError if a section inside this one has an unread field."""
        for section in self._inner:
            for name, value in section._unread.items():
                raise ValueError(
                    f'the mmdet config has {section.name_of(name)} = {value!r}, which '
                    'has no equivalent here and may change numbers'
                )
            section.finish()

    def skip_rest(self, reason: str) -> None:
        """Moves all unread fields to `unused`, with the reason why."""
        for name, value in self._unread.items():
            self.unused[self.name_of(name)] = f'{value!r} ({reason})'
        self._unread.clear()


def _evaluated(value):
    """The value, which may be a dict or list with values that were not evaluated."""
    if isinstance(value, Unevaluated):
        raise value.error
    return value


def plain(value: Any) -> Any:
    """Converts lists to tuples at all levels: in a config they mean the same.

    Raises:
        ValueError: something in it could not be evaluated.
    """
    value = _evaluated(value)
    if isinstance(value, Mapping):
        return {name: plain(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(element) for element in value)
    return value
