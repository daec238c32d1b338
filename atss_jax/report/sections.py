"""The sections of a report except the images: analysis in, HTML out."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from atss_jax.report.analysis import Analysis
from atss_jax.report.errors import KINDS

_SIZES = {'s': 'small (under 32² px)', 'm': 'medium', 'l': 'large (over 96² px)'}
_MEANING = {
    'classification': 'right place, wrong class',
    'localization': 'right class, overlap 0.1 to 0.5',
    'both': 'wrong class, wrong place',
    'duplicate': 'the object has a better detection',
    'background': 'no object is there',
    'missed': 'no detection is about the object',
    'false positives': 'all wrong detections removed',
    'false negatives': 'undetected objects not counted',
}
_MAX_CONFUSIONS = 10


def show(value: float) -> str:
    """Three digits, or a hyphen for nan, where nothing could be measured."""
    return '-' if math.isnan(value) else f'{value:.3f}'


def summary(analysis: Analysis) -> str:
    """The twelve COCO numbers."""
    cells = [
        f'<div><dt>{name}</dt><dd>{show(value)}</dd></div>'
        for name, value in analysis.scores.summary.items()
    ]
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def class_table(analysis: Analysis) -> str:
    """The numbers of each class, in a table that sorts by any column."""
    names = list(analysis.class_numbers[0])
    head = ''.join(_sortable_heading(name) for name in ['class', *names])
    rows = []
    for name, numbers in zip(analysis.classes, analysis.class_numbers, strict=True):
        cells = ''.join(
            f'<td data-value="{_sort_key(value)}">'
            f'{value if isinstance(value, int) else show(value)}</td>'
            for value in numbers.values()
        )
        escaped = html.escape(name)
        rows.append(f'<tr><th scope="row" data-value="{escaped}">{escaped}</th>{cells}')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="AP by class">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"</tr>".join(rows)}</tr></tbody></table></div>'
    )


def _sortable_heading(name):
    return f'<th scope="col" aria-sort="none"><button type="button">{name}</button>'


def _sort_key(value):
    return '' if math.isnan(value) else f'{value:.6f}'


def curves(analysis: Analysis) -> str:
    """Precision against recall, for all classes or one."""
    recall = np.linspace(0, 1, 101)
    groups, options = [], []
    for label, name in enumerate(['mean over classes', *analysis.classes], start=-1):
        lines = []
        for number, (iou, by_class) in enumerate(analysis.curves.items()):
            precision = _mean(by_class) if label < 0 else by_class[label]
            line = path(recall, precision)
            lines.append(
                f'<path class="line line{number}" d="{line}">'
                f'<title>IoU {iou:g}</title></path>'
            )
        hidden = '' if label < 0 else ' hidden'
        groups.append(f'<g data-curve="{label}"{hidden}>{"".join(lines)}</g>')
        options.append(f'<option value="{label}">{html.escape(name)}</option>')
    plot = unit_plot(groups, 'recall', 'precision', 'Precision by recall')
    key = ''.join(
        f'<li><i class="key line{number}"></i>IoU {iou:g}</li>'
        for number, iou in enumerate(analysis.curves)
    )
    return (
        f'<p><label>Class <select id="curve">{"".join(options)}</select></label></p>'
        f'{plot}<ul class="legend">{key}</ul>'
    )


def _mean(by_class):
    """The mean of (C,101) curves over the classes that have objects."""
    is_measured = ~np.isnan(by_class).any(axis=1)
    return by_class[is_measured].mean(0) if is_measured.any() else np.full(101, np.nan)


def sizes(analysis: Analysis) -> str:
    """AP and AR of small, medium and large objects."""
    rows = [
        (f'{kind} {text}', value, show(value))
        for size, text in _SIZES.items()
        for kind in ('AP', 'AR')
        for value in [analysis.scores.summary[f'{kind}{size}']]
    ]
    return bars(rows, 1)


def errors(analysis: Analysis) -> str:
    """What each kind of error costs."""
    breakdown = analysis.errors
    if math.isnan(breakdown.ap50):
        return '<p>There is no object, so nothing to gain.</p>'
    max_gain = max(breakdown.gains.values(), default=0)

    def gain_bars(*kinds):
        rows = [
            (
                f'{kind}: {_MEANING[kind]}',
                breakdown.gains[kind],
                f'+{breakdown.gains[kind]:.3f} ({breakdown.counts[kind]:,})',
            )
            for kind in kinds
        ]
        return bars(rows, max_gain)

    return (
        f'<p>AP50 is {breakdown.ap50:.3f}. Bars: what it would gain if all errors of a '
        'kind were fixed and no others; in brackets, how many there are. All '
        'detections count, also those of low score.</p>'
        f'{gain_bars(*KINDS)}<p>For comparison:</p>'
        f'{gain_bars("false positives", "false negatives")}'
    )


def calibration(analysis: Analysis) -> str:
    """The share of right detections by score."""
    result = analysis.calibration
    bins = zip(
        result.edges[:-1],
        result.edges[1:],
        result.counts,
        result.scores,
        result.precision,
        strict=True,
    )
    columns = [
        column(
            left,
            right,
            precision,
            f'{count:,} detections, mean score {score:.3f}, {precision:.3f} right',
        )
        for left, right, count, score, precision in bins
        if count
    ]
    diagonal = path(np.array([0, 1]), np.array([0, 1]))
    columns.append(f'<path class="ideal" d="{diagonal}"/>')
    plot = unit_plot(
        columns, 'score', 'share right at IoU 0.5', 'Share of right detections by score'
    )
    return (
        f'{plot}<p>On the dashed line a score is the chance to be right. Expected '
        f'calibration error: {show(result.error)}; '
        f'{int(result.counts.sum()):,} detections.</p>'
    )


def confusion(analysis: Analysis) -> str:
    """The confusion matrix and the most frequent confusions."""
    names = [*analysis.classes, 'background']
    head = ''.join(
        f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in names
    )
    rows = ''.join(
        f'<tr><th scope="row">{html.escape(name)}</th>{_confusion_row(counts)}</tr>'
        for name, counts in zip(names, analysis.confusion, strict=True)
    )
    return (
        f'<p>Detections with a score of {analysis.min_score:g} or more, IoU 0.5. Rows: '
        'true class; columns: detected class. Background: no object there, or no '
        'detection. Shades are shares of the row.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>{_worst_confusions(analysis, names)}'
    )


def _confusion_row(counts):
    total = max(counts.sum(), 1)
    return ''.join(
        f'<td style="--share:{100 * count / total:.0f}%">{count}</td>'
        if count
        else '<td></td>'
        for count in counts.tolist()
    )


def _worst_confusions(analysis, names):
    counts = analysis.confusion[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind='stable')[:_MAX_CONFUSIONS]
    items = [
        f'<li>{html.escape(names[row])} taken for {html.escape(names[column])}: '
        f'{counts[row, column]:,}</li>'
        for row, column in zip(*np.unravel_index(order, counts.shape), strict=True)
        if counts[row, column]
    ]
    return f'<p>Most often confused:</p><ol>{"".join(items)}</ol>' if items else ''


# Charts -------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 12, 46


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The `d` attribute of a line through points in 0..1; a nan leaves a gap."""
    commands, pen_down = [], False
    for point_x, point_y in zip(x, y, strict=True):
        if not np.isfinite(point_y):
            pen_down = False
            continue
        command = 'L' if pen_down else 'M'
        commands.append(f'{command}{_x(point_x):.1f} {_y(point_y):.1f}')
        pen_down = True
    return ''.join(commands)


_TICKS = {tick: f'{tick:g}' for tick in (0, 0.2, 0.4, 0.6, 0.8, 1)}


def unit_plot(
    content: Sequence[str],
    x_name: str,
    y_name: str,
    description: str,
    x_ticks: Mapping[float, str] = _TICKS,
    y_ticks: Mapping[float, str] = _TICKS,
) -> str:
    """An SVG with axes from 0 to 1 around the elements of `content`.

    The ticks are what stands at some places of the axes.
    """
    lines = [
        f'<path class="grid" d="M{_x(place):.1f} {_y(0):.1f}V{_y(1):.1f}"/>'
        f'<text x="{_x(place):.1f}" y="{_y(0) + 18:.1f}" text-anchor="middle">{text}'
        '</text>'
        for place, text in x_ticks.items()
    ]
    lines += [
        f'<path class="grid" d="M{_x(0):.1f} {_y(place):.1f}H{_x(1):.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{_y(place) + 4:.1f}" text-anchor="end">{text}</text>'
        for place, text in y_ticks.items()
    ]
    middle_x, middle_y = _x(0.5), _y(0.5)
    lines.append(
        f'<text x="{middle_x}" y="{_HEIGHT - 8}" text-anchor="middle">{x_name}</text>'
        f'<text transform="translate(13 {middle_y}) rotate(-90)" text-anchor="middle">'
        f'{y_name}</text>'
    )
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(description)}">{"".join([*lines, *content])}</svg>'
    )


def column(left: float, right: float, height: float, title: str) -> str:
    """A vertical bar of a `unit_plot`, from 0 to `height`, with a tooltip."""
    x, y = _x(left) + 1, _y(height)
    return (
        f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{_x(right) - x - 1:.1f}" '
        f'height="{_y(0) - y:.1f}"><title>{html.escape(title)}</title></rect>'
    )


def bars(rows: Sequence[tuple[str, float, str]], max_value: float) -> str:
    """Horizontal bars as a table: name, value and text; `max_value` has full width."""
    lines = []
    for name, value, text in rows:
        share = value / max_value if np.isfinite(value) and max_value else 0
        lines.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td class="track">'
            f'<span style="width:{100 * share:.1f}%"></span></td>'
            f'<td class="number">{html.escape(text)}</td></tr>'
        )
    return f'<table class="bars">{"".join(lines)}</table>'


def _x(value):
    return _LEFT + value * (_WIDTH - _LEFT - _RIGHT)


def _y(value):
    return _HEIGHT - _BOTTOM - value * (_HEIGHT - _BOTTOM - _TOP)
