"""Equal images within a split and between splits, by their pixels."""

import collections
from collections.abc import Sequence

from atss_jax.data.check.checked import MAX_NAMED, CheckedSplit, Finding, image_name


def equal_images(splits: Sequence[CheckedSplit]) -> list[list[tuple[int, int]]]:
    """Groups of equal images, each as (index of the split, record), in their order."""
    places = collections.defaultdict(list)
    for number, split in enumerate(splits):
        for row, image in enumerate(split.images):
            if image.digest:
                places[image.digest].append((number, row))
    return [group for group in places.values() if len(group) > 1]


def find_copies(splits: Sequence[CheckedSplit]) -> list[Finding]:
    """One finding for each split and each pair of splits that have equal images."""
    pairs = collections.defaultdict(list)
    for group in equal_images(splits):
        by_split = collections.defaultdict(list)
        for number, row in group:
            by_split[number].append(row)
        for number, rows in by_split.items():
            pairs[number, number] += [(rows[0], row) for row in rows[1:]]
            for other, other_rows in by_split.items():
                if other > number:
                    pairs[number, other] += [(rows[0], row) for row in other_rows]
    return [
        _finding(splits[first], splits[second], rows)
        for (first, second), rows in sorted(pairs.items())
        if rows
    ]


def _finding(first, second, pairs):
    if first is second:
        images = '1 image is a copy of another'
        if len(pairs) > 1:
            images = f'{len(pairs)} images are copies of others'
        text = f'{first.name}: {images}, pixel by pixel'
    else:
        text = (
            f'{first.name} and {second.name}: {len(pairs)} '
            f'{"image" if len(pairs) == 1 else "images"} of {second.name} '
            f'{"is" if len(pairs) == 1 else "are"} also in {first.name}, pixel by '
            f'pixel, so {second.name} flatters the detector'
        )
    names = [
        f'{image_name(first, image)} = {image_name(second, copy)}'
        for image, copy in pairs[:MAX_NAMED]
    ]
    if len(pairs) > MAX_NAMED:
        names.append('...')
    examples = [
        place
        for image, copy in pairs[:2]
        for place in ((first.name, image), (second.name, copy))
    ]
    return Finding(False, text, tuple(names), tuple(examples))
