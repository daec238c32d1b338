"""Charts as inline SVG and HTML: text in, text out; colors are the page's classes."""

import html
from collections.abc import Sequence

import numpy as np

_WIDTH, _HEIGHT = 460, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 12, 46


def path(x: np.ndarray, y: np.ndarray) -> str:
    """The `d` of a line through points in 0..1; it breaks at a nan."""
    parts, pen_down = [], False
    for one_x, one_y in zip(x, y, strict=True):
        if not np.isfinite(one_y):
            pen_down = False
            continue
        parts.append(f'{"L" if pen_down else "M"}{_x(one_x):.1f} {_y(one_y):.1f}')
        pen_down = True
    return ''.join(parts)


def unit_plot(
    content: Sequence[str], x_name: str, y_name: str, description: str
) -> str:
    """An SVG with both axes 0..1 around `content`."""
    lines = []
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = _x(tick), _y(tick)
        lines.append(
            f'<path class="grid" d="M{x:.1f} {_y(0):.1f}V{_y(1):.1f}'
            f'M{_x(0):.1f} {y:.1f}H{_x(1):.1f}"/>'
            f'<text x="{x:.1f}" y="{_y(0) + 18:.1f}" text-anchor="middle">{tick}</text>'
            f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>'
        )
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
    """A bar of a `unit_plot` from 0 up, with a tooltip."""
    x, y = _x(left) + 1, _y(height)
    return (
        f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{_x(right) - x - 1:.1f}" '
        f'height="{_y(0) - y:.1f}"><title>{html.escape(title)}</title></rect>'
    )


def bars(rows: Sequence[tuple[str, float, str]], most: float) -> str:
    """Horizontal bars as a table: name, value out of `most`, what is written."""
    lines = []
    for name, value, text in rows:
        share = 0 if not np.isfinite(value) or not most else value / most
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
