"""Charts as inline SVG and HTML text; the page's style sheet gives the colors."""

import html
from collections.abc import Sequence

import numpy as np

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


def unit_plot(
    content: Sequence[str], x_name: str, y_name: str, description: str
) -> str:
    """An SVG with axes from 0 to 1 around the elements of `content`."""
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
