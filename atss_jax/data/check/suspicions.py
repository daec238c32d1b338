"""What is odd about the boxes, images and classes of one split."""

from collections.abc import Iterator

import numpy as np

from atss_jax.data.check.checked import (
    CheckedSplit,
    Expectations,
    Finding,
    about_images,
    about_objects,
)
from atss_jax.data.check.measures import measure_boxes, resize_factor

_MOSTLY = 0.9  # share of the objects of a class from which on it is its rule
_ENOUGH = 5  # objects, below which a rule may be chance
_LARGE_SHARE = 0.2
_SPECK = 4  # pixels of the resized image, half a cell of the finest level


def find_suspicions(split: CheckedSplit, expected: Expectations) -> list[Finding]:
    """All findings about one split except copies and classes."""
    checks = (
        _unusable,
        _crowding,
        _anchors,
        _specks,
        _places,
        _twins,
        _borders,
        _ids,
        _empty,
    )
    return [finding for check in checks for finding in check(split, expected)]


def _unusable(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Images that cannot be used, by reason."""
    reasons = [image.reason for image in split.images]
    number = sum(map(bool, reasons))
    # As `BadImages` allows them.
    allowed = int(expected.max_bad * len(reasons) + 1e-9)
    allowed = max(allowed, 1) if expected.max_bad else 0
    for reason in sorted(set(filter(None, reasons))):
        rows = np.flatnonzero(np.array(reasons) == reason)
        text = f'{len(rows)} of {len(reasons)} images cannot be used: {reason}'
        if len(rows) == len(reasons):
            text += f'. The first: {split.images[0].message}'
        elif number > allowed:
            text += f' (data.max_bad_pictures allows {allowed} in all)'
        stops = number > allowed or number == len(reasons)
        yield about_images(split, rows, text, stops)


def _crowding(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Images with more boxes than a batch can hold."""
    counts = split.source.records.counts
    rows = np.flatnonzero(counts > expected.max_boxes)
    if rows.size and split.is_training:
        images = '1 image has' if rows.size == 1 else f'{rows.size} images have'
        text = (
            f'{images} more than data.max_boxes = {expected.max_boxes} boxes; set '
            f'--config.data.max_boxes={counts.max()}'
        )
        if not expected.from_config:
            text = (
                f'{images} more than {expected.max_boxes} boxes, which is the usual '
                f'capacity; a config by atss init holds all, up to {counts.max()}'
            )
        yield about_images(split, rows, text, expected.from_config)


def _anchors(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Objects far smaller or larger than all anchors."""
    sides = measure_boxes(split, expected).sides
    smallest, largest = min(expected.anchors), max(expected.anchors)
    small, large = sides < smallest / 2, sides > largest * 2
    for applies, text, advice in (
        (
            small,
            f'smaller than half of the smallest anchor, {smallest:g} pixels',
            'A larger img_scale or a smaller octave_base_scale fits them better',
        ),
        (
            large,
            f'larger than twice the largest anchor, {largest:g} pixels',
            'A smaller img_scale or a larger octave_base_scale fits them better',
        ),
    ):
        if np.sum(applies) > _LARGE_SHARE / 4 * len(sides):
            number = f'{np.sum(applies)} of {len(sides)} ({np.mean(applies):.0%})'
            yield Finding(
                False,
                f'{split.name}: {number} objects are {text}, at the resized scale. '
                f'{advice}',
            )


def _specks(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Boxes so small that they may be slips of the hand."""
    factor = resize_factor(split.sizes, expected.img_scale)[split.objects.rows]
    sides = split.objects.boxes[:, 2:] * factor[:, None]
    is_speck = (sides < _SPECK).any(axis=1) & (split.objects.boxes[:, 2:] >= 1).all(1)
    if is_speck.any():
        text = (
            f'{is_speck.sum()} of {len(sides)} boxes are narrower or lower than '
            f'{_SPECK} pixels at the resized scale: slips of the hand?'
        )
        yield about_objects(split, np.flatnonzero(is_speck), text)


def _places(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Boxes outside of their images or without a size."""
    rows, boxes = split.objects.rows, split.objects.boxes
    height, width = split.sizes[rows].T
    x, y, box_width, box_height = boxes.T
    is_out = (x >= width) | (y >= height) | (x + box_width <= 0) | (y + box_height <= 0)
    is_over = (x < -2) | (y < -2) | (x + box_width > width + 2)
    is_over |= y + box_height > height + 2
    is_tiny = (box_width < 1) | (box_height < 1)
    for applies, text in (
        (is_tiny, 'boxes are narrower or lower than 1 pixel and are not learned'),
        (is_out & ~is_tiny, 'boxes are outside of their images and are not learned'),
        (is_over & ~is_out, 'boxes reach more than 2 pixels outside of their images'),
    ):
        if applies.any():
            number = f'{applies.sum()} of {len(rows)}'
            yield about_objects(split, np.flatnonzero(applies), f'{number} {text}')


def _twins(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Identical boxes in one image."""
    rows, labels = split.objects.rows, split.objects.labels
    places = np.concatenate([rows[:, None], split.objects.boxes], 1)
    _, place = np.unique(places, axis=0, return_inverse=True)
    place = place.reshape(-1)
    pairs = np.stack([place, labels], 1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    repeated = np.setdiff1d(np.arange(len(rows)), first)
    if repeated.size:
        text = f'{repeated.size} boxes repeat another of the same class in their image'
        yield about_objects(split, repeated, text)
    # Of the boxes without repetitions, those whose place occurs more than once.
    several = first[np.bincount(place[first], minlength=1)[place[first]] > 1]
    if several.size:
        text = f'{several.size} boxes are the same as one of another class'
        yield about_objects(split, several, text)


def _borders(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Classes whose boxes all touch the border of the image."""
    rows, boxes = split.objects.rows, split.objects.boxes
    height, width = split.sizes[rows].T
    x, y, box_width, box_height = boxes.T
    touches = (x <= 1) | (y <= 1) | (x + box_width >= width - 1)
    touches |= y + box_height >= height - 1
    for label, name in enumerate(split.source.classes):
        is_class = split.objects.labels == label
        if is_class.sum() >= _ENOUGH and touches[is_class].mean() >= _MOSTLY:
            text = (
                f'{touches[is_class].sum()} of {is_class.sum()} boxes of {name} touch '
                'the border of the image'
            )
            yield about_objects(split, np.flatnonzero(is_class & touches), text)


def _ids(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Boxes that would fit if they belonged to the image before or after theirs."""
    boxes, rows = split.objects.boxes, split.objects.rows
    if len(split.sizes) < 2 or not len(rows):
        return
    misfits = _misfits(boxes, split.sizes[rows])
    if misfits < _LARGE_SHARE / 4 * len(rows):
        return
    for step, word in ((-1, 'before'), (1, 'after')):
        others = rows + step
        exists = ((others >= 0) & (others < len(split.sizes))).all()
        if exists and _misfits(boxes, split.sizes[others]) == 0:
            yield Finding(
                False,
                f'{split.name}: {misfits} boxes do not fit their images, but all fit '
                f'the image {word}: are the image ids off by one?',
            )


def _misfits(boxes, sizes):
    ends = boxes[:, :2] + boxes[:, 2:]
    return int((ends[:, ::-1] > sizes + 2).any(axis=1).sum())


def _empty(split: CheckedSplit, expected: Expectations) -> Iterator[Finding]:
    """Images without objects, and images too small for training."""
    rows = np.flatnonzero(split.counts == 0)
    if rows.size and not split.is_lost:
        verb, they = ('has', 'it is') if rows.size == 1 else ('have', 'they are')
        text = f'{rows.size} of {len(split.counts)} images {verb} no objects'
        if split.is_training:
            text += f'; {they} trained on with filter_empty_gt=False only'
        yield about_images(split, rows, text)
    rows = np.flatnonzero(split.sizes.min(axis=1) < expected.min_size)
    if rows.size and split.is_training:
        images, are = ('image', 'is') if rows.size == 1 else ('images', 'are')
        text = (
            f'{rows.size} {images} {are} smaller than min_size = {expected.min_size} '
            f'pixels and {are} not trained on'
        )
        yield about_images(split, rows, text)
