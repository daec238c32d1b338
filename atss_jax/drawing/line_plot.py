"""Line plots as images, drawn by OpenCV."""

from collections.abc import Sequence

import cv2
import numpy as np

from atss_jax.drawing import text as lettering

Line = tuple[np.ndarray, np.ndarray]
"""x and y of points, x rising."""

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
_GRID, _INK = (222, 222, 222), (60, 60, 60)
_TEXT = 12  # pixels
_DASH = 14  # pixels of a line in its color, where others lie on it
_LEFT, _RIGHT, _TOP, _BOTTOM = 86, 24, 44, 44


def color(number: int) -> lettering.Color:
    """The color of a line."""
    return _COLORS[number % len(_COLORS)]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers that lie in low..high, evenly spaced."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * next(f for f in (1, 2, 2.5, 5, 10) if f * unit >= rough * (1 - 1e-9))
    first, last = np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9)
    # Plus 0: not -0.
    return (np.arange(first, last + 1) * step + 0.0).tolist()


def line_plot(
    lines: Sequence[Line],
    title: str,
    x_end: float | None = None,
    size: tuple[int, int] = (640, 400),
) -> np.ndarray:
    """Lines over common axes, each in the `color` of its place; nan leaves a gap.

    Where lines lie on each other, their colors take turns.

    Args:
        lines: what to draw; a single point is a dot.
        title: written above.
        x_end: the axis is from 0 to here; None: from the first to the last point.
        size: width, height in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    panel = np.full((size[1], size[0], 3), 255, np.uint8)
    box = (_LEFT, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM)
    _write(panel, title, (box[0], _TOP - 16), 1.2 * _TEXT, size[0] - _LEFT)
    x = np.concatenate([np.zeros(0), *(x for x, _ in lines)])
    y = np.concatenate([np.zeros(0), *(y for _, y in lines)])
    drawn = np.isfinite(y)
    if not drawn.any():
        _write(panel, 'nothing logged', (box[0] + 16, size[1] // 2), _TEXT, size[0])
        return panel
    x_range = (x.min(), x.max()) if x_end is None else (0.0, x_end)
    y_range = _padded(y[drawn])
    _axes(panel, box, x_range, y_range)
    inks = [_polyline(panel.shape[:2], box, line, x_range, y_range) for line in lines]
    y, x = np.indices(panel.shape[:2])
    turn = (3 * x + y) // (3 * _DASH) % len(lines)
    for number, ink in enumerate(inks):
        _blend(panel, ink, color(number))
    for number, ink in enumerate(inks):
        _blend(panel, ink * (turn == number), color(number))
    return panel


def _padded(values):
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or abs(high) / 10 or 1.0
    # What starts near 0 is shown from 0.
    is_near_0 = 0 <= low < 0.3 * high
    return (0.0 if is_near_0 else low - room), high + room


def _axes(panel, box, x_range, y_range):
    left, top, right, bottom = box
    for value in ticks(*y_range):
        y = round(_scale(value, y_range, bottom, top))
        cv2.line(panel, (left, y), (right, y), _GRID, 1)
        text = lettering.fit(f'{value:.6g}', _TEXT, left)
        lettering.put(panel, text, left - text.width - 8, y + 5, _INK)
    for value in ticks(*x_range):
        x = round(_scale(value, x_range, left, right))
        cv2.line(panel, (x, top), (x, bottom), _GRID, 1)
        text = lettering.fit(f'{value:.6g}', _TEXT, right - left)
        lettering.put(panel, text, x - text.width // 2, bottom + 20, _INK)
    cv2.rectangle(panel, (left, top), (right, bottom), _INK, 1)


def _polyline(size, box, line, x_range, y_range):
    """How much of each pixel the line covers, 0 to 255."""
    panel = np.zeros(size, np.uint8)
    left, top, right, bottom = box
    x = _scale(np.asarray(line[0], float), x_range, left, right)
    y = _scale(np.asarray(line[1], float), y_range, bottom, top)
    ends = np.flatnonzero(~np.isfinite(y)) + 1
    for part_x, part_y in zip(np.split(x, ends), np.split(y, ends), strict=True):
        kept = np.isfinite(part_y)
        # In sixteenths of a pixel, for smooth lines.
        points = np.stack([part_x[kept], part_y[kept]], 1)
        if len(points) == 1:
            center = points[0].round().astype(int).tolist()
            cv2.circle(panel, center, 3, 255, -1, cv2.LINE_AA)
        points = (16 * points).round().astype(np.int32)
        cv2.polylines(panel, [points], False, 255, 2, cv2.LINE_AA, 4)
    return panel


def _blend(panel, cover, ink):
    share = cover[..., None] / 255
    panel[:] = np.rint(panel * (1 - share) + np.array(ink) * share)


def _scale(value, from_range, low, high):
    span = from_range[1] - from_range[0]
    share = (value - from_range[0]) / span if span else value * 0 + 0.5
    return low + share * (high - low)


def legend(names: Sequence[str], width: int) -> np.ndarray:
    """A strip of names, each beside its line's color."""
    row = 2 * _TEXT
    strip = np.full((row * len(names), width, 3), 255, np.uint8)
    for number, name in enumerate(names):
        y = row * number + row // 2
        cv2.line(strip, (20, y), (60, y), color(number), 3, cv2.LINE_AA)
        _write(strip, name, (72, y + _TEXT // 2), _TEXT, width - 92)
    return strip


def _write(panel, text, corner, size, room):
    lettering.put(panel, lettering.fit(text, size, room), *corner, _INK)
