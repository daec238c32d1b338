"""What is odd about classes: splits disagree, names look alike, some are rare."""

from collections.abc import Sequence

import numpy as np

from atss_jax.data.check.checked import CheckedSplit, Finding, about_objects
from atss_jax.data.check.measures import ClassCounts
from atss_jax.data.class_agreement import ONLY_IN_CASE, alike, disagreement

_FEW = 10  # objects of a class
_RARE = 0.1  # share of the mean number of objects of a class
_MAX_LISTED = 8


def find_class_trouble(
    splits: Sequence[CheckedSplit], classes: Sequence[ClassCounts]
) -> list[Finding]:
    """All findings about the classes of the splits, which `classes` counts."""
    return [
        *_disagreeing(splits),
        *_alike(splits, classes),
        *_absent(splits, classes),
        *_rare(splits, classes),
    ]


def _disagreeing(splits):
    """Splits whose classes are not those of training, as training compares them."""
    trained = [split for split in splits if split.is_training]
    for split in splits:
        if split.is_training or not trained:
            continue
        pair = {each.name: each.source.classes for each in (trained[0], split)}
        if text := disagreement(pair):
            # Training opens `val`; other splits are opened by evaluation.
            yield Finding(split.name == 'val', f'{split.name}: {text}')


def _alike(splits, classes):
    """Names that are probably meant as one, with images of the rarest."""
    counts = {each.name: each.objects for each in classes}
    total = {name: sum(objects.values()) for name, objects in counts.items()}
    for names in alike(counts):
        # Between splits, it is what `_disagreeing` says.
        if all(len({*names} & {*split.source.classes}) < 2 for split in splits):
            continue
        listed = ', '.join(
            f'{name!r} of {total[name]} objects ({_by_split(counts[name])})'
            for name in names
        )
        text = (
            f'names of classes {ONLY_IN_CASE}: {listed}. They are different classes to '
            'the detector: if you mean one, give all its objects one name'
        )
        occurring = [name for name in names if total[name]]
        if not occurring:
            yield Finding(False, text)
            continue
        rarest = min(occurring, key=total.get)
        split = next(each for each in splits if counts[rarest][each.name])
        is_rarest = split.objects.labels == split.source.classes.index(rarest)
        finding = about_objects(split, np.flatnonzero(is_rarest), '')
        names = (f'{rarest!r} in {finding.names[0]}', *finding.names[1:])
        yield Finding(False, text, names, finding.examples, finding.objects)


def _by_split(objects):
    return ', '.join(f'{split} {count}' for split, count in objects.items())


def _absent(splits, classes):
    for split in splits:
        names = split.source.classes  # `_disagreeing` reports the others
        absent = [
            each.name
            for each in classes
            if each.name in names and not each.objects[split.name]
        ]
        if absent and not split.is_lost:
            yield Finding(
                False,
                f'{split.name}: no object of {len(absent)} of {len(names)} '
                f'classes: {_listed(absent)}',
            )


def _rare(splits, classes):
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
        yield Finding(
            False,
            f'{" and ".join(trained)}: {len(rare)} of {len(classes)} classes '
            f'{"has" if len(rare) == 1 else "have"} '
            f'fewer than {_FEW} objects or less than {_RARE:.0%} of the mean of all '
            f'classes: {_listed(rare)}',
        )


def _listed(names):
    more = ', ...' if len(names) > _MAX_LISTED else ''
    return ', '.join(names[:_MAX_LISTED]) + more
