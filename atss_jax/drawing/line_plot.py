"""Line plots as images, drawn by OpenCV."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from atss_jax.drawing.text import Color, fit_text, put_text

Curve = tuple[np.ndarray, np.ndarray]
"""x and y of points, x rising; y is nan where there is no value."""

_COLORS = (
    (7, 87, 186),
    (200, 70, 10),
    (20, 130, 70),
    (150, 40, 160),
    (190, 20, 60),
    (20, 140, 160),
    (120, 100, 20),
    (90, 90, 90),
)
_GRID_COLOR, _TEXT_COLOR = (222, 222, 222), (60, 60, 60)
_TEXT_SIZE = 12  # pixels
_DASH = 14  # length in pixels of a curve's own color where it lies on others
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 24, 44, 44


class _Axes(NamedTuple):
    """The frame of a plot in pixels, and the ranges of values along its sides."""

    left: int
    top: int
    right: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value):
        return _scale(value, self.x_range, self.left, self.right)

    def y(self, value):
        return _scale(value, self.y_range, self.bottom, self.top)


def curve_color(number: int) -> Color:
    """The color of a curve, by its position among the curves."""
    return _COLORS[number % len(_COLORS)]


def ticks(low: float, high: float, max_steps: int = 6) -> list[float]:
    """Round numbers in low..high, evenly spaced, at most `max_steps` + 1 of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max_steps
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(f for f in (1, 2, 2.5, 5, 10) if f * unit >= rough * (1 - 1e-9))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # Adding 0 turns -0 into 0.
    return (np.arange(first, last + 1) * step + 0.0).tolist()


def line_plot(
    curves: Sequence[Curve],
    title: str,
    x_end: float | None = None,
    size: tuple[int, int] = (640, 400),
) -> np.ndarray:
    """Draws curves over common axes, each in its `curve_color`.

    A nan leaves a gap. Where curves lie on each other, their colors alternate.

    Args:
        curves: what to draw; a curve of a single point is a dot.
        title: written above.
        x_end: the axis is from 0 to here; None: from the first to the last point.
        size: width and height in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    width, height = size
    panel = np.full((height, width, 3), 255, np.uint8)
    _write(panel, title, (_LEFT, _TOP - 16), 1.2 * _TEXT_SIZE, width - _LEFT)
    x = np.concatenate([np.zeros(0), *(x for x, _ in curves)])
    y = np.concatenate([np.zeros(0), *(y for _, y in curves)])
    is_finite = np.isfinite(y)
    if not is_finite.any():
        corner = (_LEFT + 16, height // 2)
        _write(panel, 'nothing logged', corner, _TEXT_SIZE, width)
        return panel
    x_range = (x.min(), x.max()) if x_end is None else (0.0, x_end)
    y_range = _padded_range(y[is_finite])
    axes = _Axes(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM, x_range, y_range)
    _draw_axes(panel, axes)
    covers = [_cover(panel.shape[:2], axes, curve) for curve in curves]
    row, column = np.indices(panel.shape[:2])
    turn = (3 * column + row) // (3 * _DASH) % len(curves)
    for number, cover in enumerate(covers):
        _blend(panel, cover, curve_color(number))
    for number, cover in enumerate(covers):
        _blend(panel, cover * (turn == number), curve_color(number))
    return panel


def legend(names: Sequence[str], width: int) -> np.ndarray:
    """A strip of names, each next to a stroke in the color of its curve."""
    row = 2 * _TEXT_SIZE
    strip = np.full((row * len(names), width, 3), 255, np.uint8)
    for number, name in enumerate(names):
        y = row * number + row // 2
        cv2.line(strip, (20, y), (60, y), curve_color(number), 3, cv2.LINE_AA)
        _write(strip, name, (72, y + _TEXT_SIZE // 2), _TEXT_SIZE, width - 92)
    return strip


def _padded_range(values):
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or abs(high) / 10 or 1.0
    # Values that start near 0 are shown from 0.
    is_near_0 = 0 <= low < 0.3 * high
    return (0.0 if is_near_0 else low - margin), high + margin


def _draw_axes(panel, axes):
    left, top, right, bottom = axes[:4]
    for value in ticks(*axes.y_range):
        y = round(axes.y(value))
        cv2.line(panel, (left, y), (right, y), _GRID_COLOR, 1)
        line = fit_text(f'{value:.6g}', _TEXT_SIZE, left)
        put_text(panel, line, left - line.width - 8, y + 5, _TEXT_COLOR)
    for value in ticks(*axes.x_range):
        x = round(axes.x(value))
        cv2.line(panel, (x, top), (x, bottom), _GRID_COLOR, 1)
        line = fit_text(f'{value:.6g}', _TEXT_SIZE, right - left)
        put_text(panel, line, x - line.width // 2, bottom + 20, _TEXT_COLOR)
    cv2.rectangle(panel, (left, top), (right, bottom), _TEXT_COLOR, 1)


def _cover(shape, axes, curve):
    """How much of each pixel the curve covers, 0 to 255."""
    panel = np.zeros(shape, np.uint8)
    x = axes.x(np.asarray(curve[0], float))
    y = axes.y(np.asarray(curve[1], float))
    gaps = np.flatnonzero(~np.isfinite(y)) + 1
    for piece_x, piece_y in zip(np.split(x, gaps), np.split(y, gaps), strict=True):
        is_finite = np.isfinite(piece_y)
        points = np.stack([piece_x[is_finite], piece_y[is_finite]], 1)
        if len(points) == 1:
            center = points[0].round().astype(int).tolist()
            cv2.circle(panel, center, 3, 255, -1, cv2.LINE_AA)
        # In sixteenths of a pixel, for smooth lines.
        points = (16 * points).round().astype(np.int32)
        cv2.polylines(panel, [points], False, 255, 2, cv2.LINE_AA, 4)
    return panel


def _blend(panel, cover, color):
    opacity = cover[..., None] / 255
    panel[:] = np.rint(panel * (1 - opacity) + np.array(color) * opacity)


def _scale(value, value_range, low, high):
    span = value_range[1] - value_range[0]
    share = (value - value_range[0]) / span if span else value * 0 + 0.5
    return low + share * (high - low)


def _write(panel, text, corner, size, max_width):
    put_text(panel, fit_text(text, size, max_width), *corner, _TEXT_COLOR)
