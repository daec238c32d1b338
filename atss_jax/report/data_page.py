"""The page about a data set: what `check-data` found, in figures and examples."""

import html
import os
from collections.abc import Sequence

import numpy as np

from atss_jax.data.check.checked import CheckedSplit, Finding, image_name
from atss_jax.data.check.measures import measure_boxes
from atss_jax.data.check.verdict import Verdict
from atss_jax.data.image_file import UNUSABLE
from atss_jax.files.atomic import write_text
from atss_jax.report.gallery import box, data_url
from atss_jax.report.page import assemble
from atss_jax.report.sections import bars, column, path, unit_plot

_MAX_IMAGES = 24
_BINS = 32
_LOWEST = 2  # pixels, start of the axis of box sizes


def write_data_page(file: str | os.PathLike, verdict: Verdict) -> None:
    """Writes the page as one HTML file that needs nothing else."""
    write_text(file, data_page(verdict))


def data_page(verdict: Verdict) -> str:
    """The whole page."""
    contents = {
        'Verdict': _findings(verdict),
        'Numbers': _numbers(verdict),
        'Classes': _classes(verdict),
        'Box sizes': _box_sizes(verdict),
        'Objects per image': _crowding(verdict),
        'Examples': _examples(verdict),
    }
    images = sum(len(split.images) for split in verdict.splits)
    counts = f'{_counted(images, "image")}, {_counted(len(verdict.classes), "class")}'
    return assemble(f'Data check: {verdict.title}', counts, contents)


def _counted(count, noun):
    plural = f'{noun}es' if noun.endswith('s') else f'{noun}s'
    return f'{count:,} {noun if count == 1 else plural}'


def _findings(verdict: Verdict) -> str:
    pieces = [f'<p>{html.escape(verdict.place)}</p>']
    if not verdict.findings:
        pieces.append('<p>Nothing stops training, and nothing looks odd.</p>')
        return ''.join(pieces)
    for stops, title in ((True, 'Training would stop'), (False, 'Things to look at')):
        items = [
            f'<li>{html.escape(each.text)}{_names(each)}{_command(each)}</li>'
            for each in verdict.findings
            if each.stops == stops
        ]
        if items:
            pieces.append(f'<h3>{title}</h3><ul class="findings">{"".join(items)}</ul>')
        elif stops:
            pieces.append('<p>Nothing stops training.</p>')
    return ''.join(pieces)


def _names(finding: Finding) -> str:
    if not finding.names:
        return ''
    return f'<br><small>{html.escape(", ".join(finding.names))}</small>'


def _command(finding: Finding) -> str:
    if not finding.command:
        return ''
    return f':<br><code>{html.escape(finding.command)}</code>'


def _numbers(verdict: Verdict) -> str:
    heads = ('images', 'without objects', 'unusable', 'objects', 'not learned')
    rows = []
    for split in verdict.splits:
        values = (
            len(split.images),
            int((split.counts == 0).sum()),
            sum(bool(image.reason) for image in split.images),
            len(split.objects.rows),
            sum(split.source.untrained.values()),
        )
        rows.append((split.name, values))
    return _table('split', heads, rows, 'Numbers by split')


def _table(
    first: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence]], name: str
) -> str:
    """A table of numbers that sorts by any column."""
    head = ''.join(
        '<th scope="col" aria-sort="none"><button type="button">'
        f'{html.escape(text)}</button></th>'
        for text in (first, *heads)
    )
    body = ''.join(
        f'<tr><th scope="row" data-value="{html.escape(title)}">{html.escape(title)}'
        '</th>'
        + ''.join(f'<td data-value="{value}">{value:,}</td>' for value in values)
        + '</tr>'
        for title, values in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        '</table></div>'
    )


def _classes(verdict: Verdict) -> str:
    ordered = sorted(verdict.classes, key=lambda each: -sum(each.objects.values()))
    totals = [sum(each.objects.values()) for each in ordered]
    share_of = max(sum(totals), 1)
    balance = bars(
        [
            (each.name, total, f'{total:,} ({total / share_of:.1%})')
            for each, total in zip(ordered, totals, strict=True)
        ],
        max(totals, default=0),
    )
    names = [split.name for split in verdict.splits]
    heads = [f'{what} in {name}' for name in names for what in ('objects', 'images')]
    rows = [
        (
            each.name,
            [n for name in names for n in (each.objects[name], each.images[name])],
        )
        for each in ordered
    ]
    table = _table('class', heads, rows, 'Objects and images by class')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Balance">'
        f'{balance}</div><h3>By split</h3>{table}'
    )


def _box_sizes(verdict: Verdict) -> str:
    """A histogram over the logarithm of the side, with lines at the anchors."""
    expected = verdict.expected
    sides = [measure_boxes(split, expected).sides for split in verdict.splits]
    sides = np.concatenate([np.zeros(0), *sides])
    if not sides.size:
        return '<p>No boxes.</p>'
    highest = 2.0 ** np.ceil(np.log2(max(*expected.anchors, sides.max()) * 1.01))
    span = np.log2(highest / _LOWEST)
    places = np.clip(np.log2(np.maximum(sides, _LOWEST) / _LOWEST) / span, 0, 1)
    counts, edges = np.histogram(places, _BINS, (0, 1))
    top = counts.max()
    columns = [
        column(left, right, count / top, _size_text(left, right, span, count))
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]
    for anchor in expected.anchors:
        place = np.log2(anchor / _LOWEST) / span
        line = path(np.array([place, place]), np.array([0, 1]))
        title = f'<title>anchor of {anchor:g} pixels</title>'
        columns.append(f'<path class="ideal" d="{line}">{title}</path>')
    powers = range(1, int(np.log2(highest)))  # the last would leave the plot
    x_ticks = {(power - 1) / span: f'{2**power}' for power in powers}
    share = top / len(sides)
    y_ticks = {place: f'{place * share:.0%}' for place in (0, 1 / 3, 2 / 3, 1)}
    plot = unit_plot(
        columns, 'side in pixels', 'objects', 'Objects by size', x_ticks, y_ticks
    )
    width, height = expected.img_scale
    return (
        f'<p>Square root of width times height when images are resized to fit '
        f'{width}&times;{height}. Dashed lines: the anchors.</p>'
        f'{plot}{_shares(verdict)}'
    )


def _size_text(left, right, span, count):
    low, high = (_LOWEST * 2 ** (place * span) for place in (left, right))
    return f'{count:,} objects of {low:.0f} to {high:.0f} pixels'


def _shares(verdict: Verdict) -> str:
    """How many objects of each split are far from all anchors."""
    smallest, largest = min(verdict.expected.anchors), max(verdict.expected.anchors)
    heads = (f'below {smallest / 3:.3g}', f'below {smallest / 2:g}')
    heads += (f'above {2 * largest:g}',)
    rows = []
    for split in verdict.splits:
        sides = measure_boxes(split, verdict.expected).sides
        far = (sides < smallest / 3, sides < smallest / 2, sides > 2 * largest)
        rows.append((split.name, [int(each.sum()) for each in far]))
    return _table('objects', heads, rows, 'Objects far from all anchors')


def _crowding(verdict: Verdict) -> str:
    counts = np.concatenate(
        [np.zeros(0, int), *(split.counts for split in verdict.splits)]
    )
    if not counts.size:
        return '<p>No images.</p>'
    last = max(int(counts.max()), 1)
    numbers, edges = np.histogram(counts, min(_BINS, last + 1), (0, last + 1))
    top = max(numbers.max(), 1)
    columns = []
    for left, right, number in zip(edges[:-1], edges[1:], numbers, strict=True):
        if number:
            low, high = int(np.ceil(left)), int(np.ceil(right)) - 1
            span = f'{low}' if low == high else f'{low} to {high}'
            title = f'{number:,} images with {span} objects'
            share = (left / (last + 1), right / (last + 1))
            columns.append(column(*share, number / top, title))
    step = -(-(last + 1) // 5)
    x_ticks = {(n + 0.5) / (last + 1): f'{n}' for n in range(0, last + 1, step)}
    share = top / len(counts)
    y_ticks = {place: f'{place * share:.0%}' for place in (0, 1 / 3, 2 / 3, 1)}
    plot = unit_plot(
        columns,
        'objects',
        'images',
        'Images by number of objects',
        x_ticks,
        y_ticks,
    )
    return (
        f'{plot}<p>Median {np.median(counts):g}, 99 % of the images have at most '
        f'{np.percentile(counts, 99):.0f}, the most is {counts.max()}; data.max_boxes '
        f'is {verdict.expected.max_boxes}.</p>'
    )


def _examples(verdict: Verdict) -> str:
    """Images of the findings, each under the finding that it is an example of."""
    splits = {split.name: split for split in verdict.splits}
    figures = []
    for finding in verdict.findings:
        for name, row in finding.examples:
            if len(figures) == _MAX_IMAGES:
                break
            figures.append(_figure(splits[name], row, finding))
    shown = ''.join(filter(None, figures))
    if not shown:
        return '<p>No finding has images to show.</p>'
    return (
        '<p>Boxes as annotated, red where the finding is about them.</p>'
        f'<div id="gallery">{shown}</div>'
    )


def _figure(split: CheckedSplit, row: int, finding: Finding) -> str:
    """An image with its boxes as annotated, red where the finding is about them.

    It is empty if the image cannot be read.
    """
    try:
        pixels = split.source.read_image(split.source.records[row])
    except UNUSABLE:
        return ''
    height, width = pixels.shape[:2]
    objects = split.objects
    boxes = []
    for index in np.flatnonzero(objects.rows == row).tolist():
        label, corners = objects.labels[index], objects.boxes[index].reshape(2, 2)
        state = 'crowd' if objects.crowds[index] else 'found'
        if (split.name, index) in finding.objects:
            state = 'background'
        corners = np.stack([corners[0], corners.sum(axis=0)]) / (width, height)
        boxes.append(box('truth', state, label, split.source.classes[label], corners))
    caption = html.escape(image_name(split, row))
    return (
        f'<figure><div class="image" style="--ratio:{width / height:.3f}">'
        f'<img alt="{caption}" width="{width}" height="{height}" '
        f'src="{data_url(pixels)}">{"".join(boxes)}</div>'
        f'<figcaption><span>{caption}</span> <span>{html.escape(finding.text)}</span>'
        '<button type="button" class="enlarge" aria-pressed="false">enlarge</button>'
        '</figcaption></figure>'
    )
