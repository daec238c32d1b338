"""Checks a whole data set: reads it, decodes its images, and lists what it found."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Sequence

from atss_jax.data.check.checked import (
    CheckedSplit,
    Expectations,
    Finding,
    objects_of,
)
from atss_jax.data.check.classes import find_class_trouble
from atss_jax.data.check.copies import find_copies
from atss_jax.data.check.decoded import decode_all
from atss_jax.data.check.measures import ClassCounts, count_classes
from atss_jax.data.check.suspicions import find_suspicions
from atss_jax.data.class_agreement import ONLY_IN_CASE
from atss_jax.data.coco.table import SKIP, MalformedRecords
from atss_jax.data.division.advice import (
    lacking_splits,
    split_command,
    way_to_divide,
)
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.finder import Finder
from atss_jax.data.forms.form import ALL, Form
from atss_jax.data.records import Source


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check of a data set found.

    Attributes:
        title: where the data lie, as the user gave it.
        place: which data these are, in one line.
        splits: those that could be read.
        classes: counts of each class.
        findings: problems that stop training first.
        expected: what the data were compared with.
    """

    title: str
    place: str
    splits: list[CheckedSplit]
    classes: list[ClassCounts]
    findings: list[Finding]
    expected: Expectations

    @property
    def stops(self) -> bool:
        """Whether training would stop."""
        return any(finding.stops for finding in self.findings)


@dataclasses.dataclass(frozen=True)
class Opener:
    """How a split is opened.

    Attributes:
        name: of the split.
        is_training: whether it is trained on.
        open: reads the annotations of all its images, by `on_error`: 'skip' leaves
            malformed records out with a warning, and 'raise' raises an error about the
            first.
    """

    name: str
    is_training: bool
    open: Callable[[str], Source]


def openers_of(
    path: str, splits: Sequence[str], finder: Finder | None = None
) -> list[Opener]:
    """How splits of a data set are opened.

    Args:
        path: of the data set, as the user gave it.
        splits: names of the splits.
        finder: may have found the data set already.
    """
    finder = Finder() if finder is None else finder

    def opener(name):
        is_training = name in ('train', ALL)
        return Opener(
            name,
            is_training,
            lambda on_error: AutoDataset(
                path,
                name,
                filter_empty_gt=False,
                min_size=0,
                test_mode=not is_training,
                on_error=on_error,
                finder=finder,
            ),
        )

    return [opener(name) for name in splits]


def find_lacking_splits(path: str, form: Form) -> list[Finding]:
    """A finding if a data set is not divided as training needs it.

    Args:
        path: of the data set, as the user gave it.
        form: the data set.
    """
    lacking = lacking_splits(form)
    if not lacking:
        return []
    problem = f'there is no {" and no ".join(lacking)}'
    if ALL in form.splits:
        problem = 'the data set is not divided'
    advice = way_to_divide(form)
    text = f'training needs the splits train and val, but {problem}. {advice}'
    return [Finding(True, text, command=split_command(path, form))]


def _all(items: Iterable, count: int, name: str) -> Iterable:
    return items


def check(
    title: str,
    place: str,
    openers: Sequence[Opener],
    expected: Expectations,
    progress: Callable[[Iterable, int, str], Iterable] = _all,
    about_all: Sequence[Finding] = (),
) -> Verdict:
    """Reads the splits, decodes every image once, and judges them.

    Args:
        title: where the data lie, as the user gave it.
        place: which data these are, in one line.
        openers: the splits.
        expected: what the data are compared with.
        progress: wraps the images of a split, their number and its name, to show how
            far it is.
        about_all: findings about the data set as a whole.
    """
    splits, findings = [], []
    for opener in openers:
        try:
            splits.append(_read(opener, progress))
        except (ValueError, OSError) as error:
            findings.append(Finding(True, f'{opener.name}: {error}'))
    for split in splits:
        findings += _from_reader(split, expected)
        findings += find_suspicions(split, expected)
    classes = count_classes(splits)
    findings += find_copies(splits) + find_class_trouble(splits, classes)
    findings += about_all  # at the end: a command cannot divide what is broken
    findings.sort(key=lambda finding: not finding.stops)
    return Verdict(title, place, splits, classes, findings, expected)


def _read(opener, progress):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            source = opener.open('skip')
        except ValueError as error:
            raise ValueError(_first_cause(opener) or str(error)) from error
    objects = objects_of(source)
    messages = list(dict.fromkeys(_message(warning) for warning in caught))
    if not len(objects.rows):
        messages = _with_first_cause(opener, messages)
    images = progress(decode_all(source), len(source.records), opener.name)
    return CheckedSplit(
        name=opener.name,
        source=source,
        objects=objects,
        images=list(images),
        warnings=messages,
        is_training=opener.is_training,
    )


def _with_first_cause(opener, messages):
    """The messages, the first about malformed records with what is wrong with one."""
    flags = [is_malformed for _, is_malformed in messages]
    cause = _first_cause(opener) if any(flags) else ''
    if not cause:
        return messages
    first = flags.index(True)
    count = messages[first][0].partition(' left out: ')[0]
    detailed = f'{count} left out. The first: {cause}', True
    return [*messages[:first], detailed, *messages[first + 1 :]]


def _first_cause(opener):
    """The message about the first malformed record; '' if there is none.

    If all records are left out, the error that nothing remains does not say why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            opener.open('raise')
        except ValueError as first:
            return str(first).replace(SKIP, '')
    return ''


def _message(caught):
    """The text of a warning, and whether it is about malformed records."""
    return str(caught.message), issubclass(caught.category, MalformedRecords)


def _way_out(split, expected):
    """What to do about malformed records; to leave them out helps if some remain."""
    if not len(split.objects.rows):
        return 'Fix them'
    if expected.from_config:
        return "Fix them, or set --config.data.on_error='skip'"
    return 'Fix them, or leave them out with atss init --on_error=skip'


_COUNTED_HERE = (
    'annotations not trained on, as in mmdet',
    ONLY_IN_CASE,
    'a name for all others, without annotations',
)
"""In warnings about boxes and classes that the findings name with their images, and
about what is in every export of Roboflow."""


def _from_reader(split: CheckedSplit, expected: Expectations) -> list[Finding]:
    """What the reader warned about, and whether there is anything to learn."""
    findings = []
    for text, is_malformed in split.warnings:
        if any(phrase in text for phrase in _COUNTED_HERE):
            continue
        stops = is_malformed and not expected.skips_malformed
        if stops:
            text += f'. {_way_out(split, expected)}'
        findings.append(Finding(stops, f'{split.name}: {text}'))
    records = split.source.records
    is_told = split.is_lost and not expected.skips_malformed
    if split.is_training and not (~records.ignored).any() and not is_told:
        findings.append(Finding(True, f'{split.name}: no object that can be learned'))
    return findings
