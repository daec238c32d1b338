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
from atss_jax.data.check.copies import find_copies
from atss_jax.data.check.decoded import decode_all
from atss_jax.data.check.measures import ClassCounts, count_classes
from atss_jax.data.check.suspicions import find_suspicions
from atss_jax.data.coco.table import MalformedRecords
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.form import ALL
from atss_jax.data.records import Source

_FEW = 10  # objects of a class
_RARE = 0.1  # share of the mean number of objects of a class


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
        open: reads the annotations of all its images; malformed records are left out
            with a warning.
    """

    name: str
    is_training: bool
    open: Callable[[], Source]


def openers_of(path: str, splits: Sequence[str]) -> list[Opener]:
    """How the splits of the data set at a path, as the user gave it, are opened."""

    def opener(name):
        is_training = name in ('train', ALL)
        return Opener(
            name,
            is_training,
            lambda: AutoDataset(
                path,
                name,
                filter_empty_gt=False,
                min_size=0,
                test_mode=not is_training,
                on_error='skip',
            ),
        )

    return [opener(name) for name in splits]


def _all(items: Iterable, count: int, name: str) -> Iterable:
    return items


def check(
    title: str,
    place: str,
    openers: Sequence[Opener],
    expected: Expectations,
    progress: Callable[[Iterable, int, str], Iterable] = _all,
) -> Verdict:
    """Reads the splits, decodes every image once, and judges them.

    Args:
        title: where the data lie, as the user gave it.
        place: which data these are, in one line.
        openers: the splits.
        expected: what the data are compared with.
        progress: wraps the images of a split, their number and its name, to show how
            far it is.
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
    findings += find_copies(splits) + _from_classes(splits, classes)
    findings.sort(key=lambda finding: not finding.stops)
    return Verdict(title, place, splits, classes, findings, expected)


def _read(opener, progress):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        source = opener.open()
    images = progress(decode_all(source), len(source.records), opener.name)
    return CheckedSplit(
        name=opener.name,
        source=source,
        objects=objects_of(source),
        images=list(images),
        warnings=list(dict.fromkeys(_warning(warning) for warning in caught)),
        is_training=opener.is_training,
    )


def _warning(caught):
    """The text of a warning, and whether it is about malformed records."""
    return str(caught.message), issubclass(caught.category, MalformedRecords)


_COUNTED_HERE = 'annotations not trained on, as in mmdet'
"""In warnings about boxes that the findings name with their images."""


def _from_reader(split: CheckedSplit, expected: Expectations) -> list[Finding]:
    """What the reader warned about, and whether there is anything to learn."""
    findings = []
    for text, is_malformed in split.warnings:
        if _COUNTED_HERE in text:
            continue
        stops = is_malformed and not expected.skips_malformed
        if stops:
            text += ". Fix them, or set --config.data.on_error='skip'"
        findings.append(Finding(stops, f'{split.name}: {text}'))
    records = split.source.records
    if split.is_training and not (~records.ignored).any():
        findings.append(Finding(True, f'{split.name}: no object that can be learned'))
    return findings


def _from_classes(
    splits: Sequence[CheckedSplit], classes: Sequence[ClassCounts]
) -> list[Finding]:
    """Classes that a split lacks, and rare ones."""
    findings = []
    for split in splits:
        absent = [each.name for each in classes if not each.objects[split.name]]
        if absent:
            findings.append(
                Finding(
                    False,
                    f'{split.name}: no object of {len(absent)} of {len(classes)} '
                    f'classes: {_listed(absent)}',
                )
            )
    trained = [split.name for split in splits if split.is_training]
    names = {
        each.name: sum(each.objects[split] for split in trained) for each in classes
    }
    even = sum(names.values()) / max(len(names), 1)
    rare = [
        f'{name} {count}'
        for name, count in sorted(names.items(), key=lambda item: item[1])
        if 0 < count < max(_FEW, _RARE * even)
    ]
    if rare:
        text = (
            f'{" and ".join(trained)}: {len(rare)} of {len(classes)} classes have '
            f'fewer than {_FEW} objects or less than {_RARE:.0%} of the mean of all '
            f'classes: {_listed(rare)}'
        )
        findings.append(Finding(False, text))
    return findings


_MAX_LISTED = 8


def _listed(names):
    more = ', ...' if len(names) > _MAX_LISTED else ''
    return ', '.join(names[:_MAX_LISTED]) + more
