"""Lists of records of annotation files, and the rules that their values must keep."""

import dataclasses
import re
import reprlib
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

# Far larger than any image, and nothing computed from it overflows float32.
LARGEST = 1e15
LARGEST_SIDE = 2**20  # OpenCV's own limit
_LONGEST_TEXT = 1024
_MAX_NAMED = 5  # records that a warning lists
_NO_TEXT = re.compile('[\0\ud800-\udfff]')  # neither a file name nor printable


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a function; a missing value is None."""

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value):
    # False for NaN and infinity; type(), since True is an int to isinstance().
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def _is_text(value):
    fits = type(value) is str and 0 < len(value) <= _LONGEST_TEXT
    return fits and not _NO_TEXT.search(value)


INTEGER = Rule(
    'an integer of 64 bits', lambda v: type(v) is int and -(2**63) <= v < 2**63
)
SIDE = Rule(
    f'an integer from 1 to {LARGEST_SIDE}',
    lambda v: type(v) is int and 1 <= v <= LARGEST_SIDE,
)
TEXT = Rule(f'a text of 1 to {_LONGEST_TEXT} characters', _is_text)


def box_rule(numbers: str) -> Rule:
    """The rule for a box; `numbers` says what its four numbers are."""
    return Rule(
        f'4 finite numbers of at most {LARGEST:g} [{numbers}]',
        lambda v: type(v) is list and len(v) == 4 and all(map(_is_number, v)),
    )


BOX = box_rule('x, y, width, height')
NUMBER_OR_NONE = Rule(
    f'a finite number of at most {LARGEST:g}',
    lambda v: v is None or _is_number(v),
)
FLAG_OR_NONE = Rule(
    'an integer from 0 to 1',
    lambda v: v is None or (type(v) in (int, bool) and 0 <= v <= 1),
)


SKIP = " (data.on_error='skip' in a config leaves such records out)"
"""End of the messages about malformed records of a user's data."""


class MalformedRecords(UserWarning):
    """Records were left out that would be an error with `on_error='raise'`."""


class Table:
    """The records of one list that satisfy all rules so far.

    Attributes:
        rows: these records, in the file's order.
    """

    def __init__(
        self,
        path: str,
        name: str,
        rows: list,
        on_error: str,
        way_out: str = '',
        place: Callable[[int], str] | None = None,
    ):
        """Starts with all records that are JSON objects.

        Args:
            path: of the file, for messages.
            name: of the list, for messages.
            rows: the list as parsed.
            on_error: 'raise' an error about the first record that breaks a rule, or
                'skip': such records are left out, with one warning per rule.
            way_out: end of the messages of all errors.
            place: where the record of an index of `rows` stands, such as 'line 3', for
                messages; None: `NAME[index]`.
        """
        self.rows = rows
        self._place = place or (lambda index: f'{name}[{index}]')
        self._way_out = way_out
        self._path, self._name, self._on_error = path, name, on_error
        self._places = range(len(rows))
        bad = [i for i, row in enumerate(rows) if type(row) is not dict]
        self._refuse(
            bad, 'not an object', lambda row: f'must be an object, found {show(row)}'
        )

    def column(self, key: str) -> list:
        """The value of each record; None where it is missing."""
        return [row.get(key) for row in self.rows]

    def require(self, key: str, rule: Rule, on_error: str | None = None) -> None:
        """Refuses or leaves out records whose value breaks a rule.

        Args:
            key: of the value.
            rule: what the value must be.
            on_error: for this rule, in place of the table's.

        Raises:
            ValueError: a record breaks the rule and `on_error` is 'raise'.
        """
        bad = [i for i, v in enumerate(self.column(key)) if not rule.holds(v)]

        def problem(row):
            found = f'found {show(row[key])}' if key in row else 'it is missing'
            return f'{key} must be {rule.expected}, {found}'

        self._refuse(bad, f'{key} is not {rule.expected}', problem, on_error)

    def leave_out(self, indices: list[int], kind: str) -> None:
        """Leaves out records at positions in `rows`, and a warning counts them.

        Args:
            indices: the positions, ascending.
            kind: what is wrong with them, for the warning.
        """
        self._refuse(indices, kind, str, on_error='skip')

    def refuse(self, problems: Mapping[int, str], kind: str) -> None:
        """Refuses or leaves out the records at these indices of `rows`.

        Args:
            problems: by index, what is wrong with the record.
            kind: what is wrong with all of them.

        Raises:
            ValueError: there is one and `on_error` is 'raise'.
        """
        bad = sorted(problems)
        self._refuse(bad, kind, lambda _row: problems[bad[0]])

    def leave_out_unused_twins(self, key: str, used: Container[Any]) -> None:
        """Leaves out records whose `key` another record has and whose id is not used.

        The last of several stays if none is used: exports put a category that stands
        for all, and often has the name of one of them, first.
        """
        groups = {}
        for index, value in enumerate(self.column(key)):
            groups.setdefault(value, []).append(index)
        bad = []
        for group in groups.values():
            unused = [i for i in group if self.rows[i]['id'] not in used]
            bad += unused[:-1] if len(unused) == len(group) else unused
        self.leave_out(sorted(bad), f'{key} of another one, and without annotations')

    def require_unique(
        self,
        key: str,
        alike: Sequence[str] = (),
        among: Container[Any] | None = None,
        advice: str = '',
    ) -> None:
        """Refuses or leaves out records with a value that an earlier record has.

        With 'skip' the first of such a group stays. None does if they differ in a field
        of `alike`, since nobody knows which of them a reference means.

        Args:
            key: of the value.
            alike: fields that tell records of one value apart.
            among: values that must be unique; None: all.
            advice: end of the message of the error.

        Raises:
            ValueError: a value occurs twice and `on_error` is 'raise'.
        """
        values = self.column(key)
        if len(set(values)) == len(values):
            return
        groups = {}
        for index, value in enumerate(values):
            if among is None or value in among:
                groups.setdefault(value, []).append(index)
        repeats = [i for group in groups.values() for i in group[1:]]
        unclear = [
            group[0]
            for group in groups.values()
            if any(
                self.rows[i].get(k) != self.rows[group[0]].get(k)
                for i in group
                for k in alike
            )
        ]

        def problem(row):
            place = self._places[values.index(row[key])]
            return f'{key} {show(row[key])} is taken by {self._place(place)}{advice}'

        # An error is about the repeated record, not about the first.
        unclear = unclear if self._on_error == 'skip' else []
        bad = sorted(repeats + unclear)
        self._refuse(bad, f'{key} is taken by another', problem)

    def _refuse(
        self,
        bad: list[int],
        kind: str,
        problem: Callable[[Any], str],
        on_error: str | None = None,
    ) -> None:
        if not bad:
            return
        if (on_error or self._on_error) == 'raise':
            place = self._label(bad[0])
            reason = f'{problem(self.rows[bad[0]])}{self._way_out}'
            raise ValueError(f'{self._path}: {place}: {reason}')
        named = ', '.join(map(self._label, bad[:_MAX_NAMED]))
        more = ', ...' if len(bad) > _MAX_NAMED else ''
        warnings.warn(
            f'{self._path}: {len(bad)} of {len(self._places)} {self._name} left out: '
            f'{kind} ({named}{more})',
            UserWarning if on_error == 'skip' else MalformedRecords,
            stacklevel=2,
        )
        good = sorted(set(range(len(self.rows))) - set(bad))
        self.rows = [self.rows[i] for i in good]
        self._places = [self._places[i] for i in good]

    def _label(self, index: int) -> str:
        row, place = self.rows[index], self._place(self._places[index])
        has_id = isinstance(row, dict) and 'id' in row
        return f'{place} (id {show(row["id"])})' if has_id else place


_LONGEST_SHOWN = 80
_SHORT = reprlib.Repr()  # looks only a few levels deep, whatever the file holds
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _LONGEST_SHOWN


def show(value: object) -> str:
    """A value of the file for a message, shortened if it is large or deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f'{text[: _LONGEST_SHOWN - 3]}...'
