"""Checks of config fields, and a reader that leaves no field unread."""

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Mapping
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
    'data.reduced_decoding': False,
    'data.train.oversample_thr': None,
    **{f'data.{split}.pipeline.backend': 'cv2' for split in ('train', 'val', 'test')},
    'data.train.pipeline.flip_direction': 'horizontal',
    'data.train.pipeline.before_resize': None,
    'data.train.pipeline.after_flip': None,
    'early_stopping': None,
    'evaluation.num_eval_images': 4,
    'evaluation.save_best': 'auto',
    'log_config.hooks': None,
    'test_cfg.dtype': 'float32',
    'test_cfg.with_nms': True,
}
"""Fields that configs of version 0.1 lack, each with the value that they imply."""


OPTIONAL = {'early_stopping.metric': 'AP', 'early_stopping.min_delta': 0.0}
"""Fields that an optional section may leave out, each with its value then."""


COMPANIONS = {'model.backbone.dcn': 'stage_with_dcn'}
"""Fields next to an optional section that are read only with it, by its path."""


def with_added_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config that may be of an earlier version, with the fields added since then.

    The fields that a section may leave out are added as well. A field is added where
    its section exists; the sections around it are copied.
    """
    complete = dict(config)
    for path, value in (ADDED | OPTIONAL).items():
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
        kinds: names of the fields of each kind of section, by the path of the field
            that says which kind it is.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.leaves = flatten(with_added_fields(config))
        self.checks: dict[str, Check] = {}
        self._sections: list[str] = []  # prefixes of paths that were read as a whole
        self.kinds: dict[str, Mapping[str, Collection[str]]] = {}

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
            raise ValueError(
                f"config has no field '{path}' (expected {check.expected})"
                + self._hint_for_missing(path)
            )
        value = self.leaves[path]
        try:
            return check.convert(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(
                f'config.{path} = {shortened(value)} is not supported; expected '
                f'{check.expected}'
            ) from None

    def kind(self, path: str, fields: Mapping[str, Collection[str]]) -> str:
        """Returns the value at `path`, which decides what fields its section has.

        Args:
            path: the field, `model.backbone.type`.
            fields: by its accepted values, names of fields that not all of them have.

        Raises:
            ValueError: there is no such field, or it has another value.
        """
        self.kinds[path] = fields
        return self(path, one_of(*fields))

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

    def _kind_of(self, path):
        """Path of the field that decides about a field's section, and the field's name.

        The name is that in the section: `dcn` for `model.backbone.dcn.type`. None:
        all sections that the field is in have the same fields in any case.
        """
        section = path.rpartition('.')[0]
        while section:
            for kind in self.kinds:
                if kind.rpartition('.')[0] == section:
                    name = path.removeprefix(f'{section}.').partition('.')[0]
                    return None if kind == path else (kind, name)
            section = section.rpartition('.')[0]
        return None

    def _other_kinds(self, path):
        """The kinds of section that have this field, if the present one does not."""
        decided = self._kind_of(path)
        if decided is None:
            return []
        kind, name = decided
        owners = [value for value, names in self.kinds[kind].items() if name in names]
        return [] if self.leaves.get(kind) in owners else owners

    def _hint_for_missing(self, path):
        """Suggests an unread field, or says what decides that this one is needed."""
        unread = [
            leaf
            for leaf in self.leaves
            if leaf not in self.checks and not self._other_kinds(leaf)
        ]
        misspelled = closest_sibling(path, unread)
        decided = self._kind_of(path)
        if not misspelled and path in self.kinds:
            return (
                '; a config has all its fields: take a shipped one, with '
                '`from atss_jax.configs import NAME`, and change what differs'
            )
        if not misspelled and decided and decided[1] in self._fields_of(decided[0]):
            value = self.leaves[decided[0]]
            return (
                f'; the fields of this section depend on config.{decided[0]} = '
                f'{value!r}: to change it, set the whole section with '
                f'{_whole_section(decided[0], value)}'
            )
        hint = misspelled or closest(path, unread)
        return hint.replace('did you mean', 'is it misspelled as')

    def _fields_of(self, kind):
        """Names of the fields that a section has because of the kind that it is."""
        return self.kinds[kind].get(self.leaves.get(kind), ())

    def _hint_for_unread(self, path):
        """Says what the field belongs to, or suggests one that was read."""
        if owners := self._other_kinds(path):
            kind, name = self._kind_of(path)
            section, _, decider = kind.rpartition('.')
            value = self.leaves[kind]
            subject = 'it' if path == f'{section}.{name}' else f"'{section}.{name}'"
            return (
                f'; {subject} belongs to {decider} {" or ".join(map(repr, owners))}, '
                f'but config.{kind} = {value!r}: remove it, or set the whole section '
                f'with {_whole_section(kind, value)}'
            )
        for section, companion in COMPANIONS.items():
            if path == f'{section.rpartition(".")[0]}.{companion}':
                return f"; it goes with a section '{section}'"
        return closest(path, self.checks)

    def refuse(self, path: str, reason: str) -> ValueError:
        """Returns an error about a value that contradicts other fields."""
        return ValueError(f'config.{path} = {shortened(self.leaves[path])}: {reason}')

    def finish(self) -> None:
        """Raises ValueError if a field was never read."""
        for path in self.leaves:
            if path not in self.checks and not path.startswith((*self._sections,)):
                raise ValueError(
                    f"config has a field '{path}' that nothing reads"
                    + self._hint_for_unread(path)
                )


def _whole_section(kind, value):
    """The flag that sets a section to another kind, of which `value` is the name."""
    section, _, decider = kind.rpartition('.')
    return f'--config.{section}="{{\'{decider}\': {value!r}, ...}}"'
