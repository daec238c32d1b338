"""The sections of a report's page but for the images: analysis in, HTML out."""

import html
import math

import numpy as np

from atss_jax.report import charts
from atss_jax.report.analysis import Analysis
from atss_jax.report.errors import KINDS

_SIZES = {'s': 'small (under 32² px)', 'm': 'medium', 'l': 'large (over 96² px)'}
_MEANING = {
    'classification': 'in place, wrong class',
    'localization': 'right class, overlap 0.1 to 0.5',
    'both': 'wrong class, out of place',
    'duplicate': 'the object has a better detection',
    'background': 'nothing is there',
    'missed': 'object that nothing points to',
    'false positives': 'all wrong detections removed',
    'false negatives': 'all objects not found forgiven',
}
_MOST_CONFUSED = 10


def show(value: float) -> str:
    """Three digits, or a hyphen where there was nothing to measure."""
    return '-' if math.isnan(value) else f'{value:.3f}'


def summary(analysis: Analysis) -> str:
    """The twelve COCO numbers."""
    cells = [
        f'<div><dt>{name}</dt><dd>{show(value)}</dd></div>'
        for name, value in analysis.scores.summary.items()
    ]
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def class_table(analysis: Analysis) -> str:
    """Numbers of each class, a table that sorts by any column."""
    names = list(analysis.class_numbers[0])
    head = ''.join(_sortable(name) for name in ['class', *names])
    rows = []
    for name, numbers in zip(analysis.classes, analysis.class_numbers, strict=True):
        cells = ''.join(
            f'<td data-value="{_key(value)}">'
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


def _sortable(name):
    return f'<th scope="col" aria-sort="none"><button type="button">{name}</button>'


def _key(value):
    return '' if math.isnan(value) else f'{value:.6f}'


def curves(analysis: Analysis) -> str:
    """Precision against recall, of all classes or one."""
    recall = np.linspace(0, 1, 101)
    groups, options = [], []
    for label, name in enumerate(['mean over classes', *analysis.classes], start=-1):
        lines = []
        for number, (iou, of_class) in enumerate(analysis.curves.items()):
            own = _mean(of_class) if label < 0 else of_class[label]
            lines.append(
                f'<path class="line line{number}" d="{charts.path(recall, own)}">'
                f'<title>IoU {iou:g}</title></path>'
            )
        hidden = '' if label < 0 else ' hidden'
        groups.append(f'<g data-curve="{label}"{hidden}>{"".join(lines)}</g>')
        options.append(f'<option value="{label}">{html.escape(name)}</option>')
    plot = charts.unit_plot(groups, 'recall', 'precision', 'Precision by recall')
    key = ''.join(
        f'<li><i class="key line{number}"></i>IoU {iou:g}</li>'
        for number, iou in enumerate(analysis.curves)
    )
    return (
        f'<p><label>Class <select id="curve">{"".join(options)}</select></label></p>'
        f'{plot}<ul class="legend">{key}</ul>'
    )


def _mean(of_class):
    measured = ~np.isnan(of_class).any(axis=1)
    return of_class[measured].mean(0) if measured.any() else np.full(101, np.nan)


def sizes(analysis: Analysis) -> str:
    """AP and AR of small, medium and large objects."""
    rows = [
        (f'{kind} {text}', value, show(value))
        for size, text in _SIZES.items()
        for kind in ('AP', 'AR')
        for value in [analysis.scores.summary[f'{kind}{size}']]
    ]
    return charts.bars(rows, 1)


def errors(analysis: Analysis) -> str:
    """What each kind of error costs."""
    found = analysis.errors
    most = max([found.gains[kind] for kind in found.gains], default=0)

    def rows(kinds):
        return [
            (
                f'{kind}: {_MEANING[kind]}',
                found.gains[kind],
                f'+{found.gains[kind]:.3f} ({found.counts[kind]:,})',
            )
            for kind in kinds
        ]

    if math.isnan(found.ap50):
        return '<p>There is no object, so nothing to gain.</p>'
    return (
        f'<p>AP50 is {found.ap50:.3f}. Bars: what it would gain if all errors of a '
        'kind were mended and nothing else; in brackets, how many there are. All '
        'detections count, also those of low score.</p>'
        f'{charts.bars(rows(KINDS), most)}'
        '<p>For comparison:</p>'
        f'{charts.bars(rows(("false positives", "false negatives")), most)}'
    )


def calibration(analysis: Analysis) -> str:
    """Share of right detections by score."""
    found = analysis.calibration
    bins = zip(
        found.edges[:-1],
        found.edges[1:],
        found.counts,
        found.scores,
        found.precision,
        strict=True,
    )
    columns = [
        charts.column(
            left,
            right,
            share,
            f'{count:,} detections, mean score {mean:.3f}, {share:.3f} right',
        )
        for left, right, count, mean, share in bins
        if count
    ]
    diagonal = charts.path(np.array([0, 1]), np.array([0, 1]))
    columns.append(f'<path class="ideal" d="{diagonal}"/>')
    plot = charts.unit_plot(
        columns, 'score', 'share right at IoU 0.5', 'Share of right detections by score'
    )
    return (
        f'{plot}<p>On the dashed line a score is the chance to be right. Expected '
        f'calibration error: {show(found.error)}; '
        f'{int(found.counts.sum()):,} detections.</p>'
    )


def confusion(analysis: Analysis) -> str:
    """The matrix and the most frequent confusions."""
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
        'what is there; columns: what was detected. Background: nothing there, or '
        'nothing detected. Shades are shares of the row.</p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">'
        f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>{_most_confused(analysis, names)}'
    )


def _confusion_row(counts):
    total = max(counts.sum(), 1)
    return ''.join(
        f'<td style="--share:{100 * count / total:.0f}%">{count}</td>'
        if count
        else '<td></td>'
        for count in counts.tolist()
    )


def _most_confused(analysis, names):
    between = analysis.confusion[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind='stable')[:_MOST_CONFUSED]
    lines = [
        f'<li>{html.escape(names[row])} taken for {html.escape(names[column])}: '
        f'{between[row, column]:,}</li>'
        for row, column in zip(*np.unravel_index(order, between.shape), strict=True)
        if between[row, column]
    ]
    return f'<p>Most often confused:</p><ol>{"".join(lines)}</ol>' if lines else ''
