"""Lines of text in images: measured, shrunk to their room, drawn by OpenCV.

OpenCV 5 brings fonts for most scripts; OpenCV 4 knows ASCII only and puts question
marks for the rest. A class name that the installed OpenCV cannot draw appears as
`class 17`, its label, never as question marks.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
# Nobody can read smaller text (ascent, in pixels).
MIN_TEXT_PIXELS = 8
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Color = tuple[int, int, int]


class Line(NamedTuple):
    """A line of text and its size in pixels above and below the base line."""

    text: str
    scale: float
    weight: int
    width: int
    ascent: int
    descent: int


def fit(text: str, size: float, room: int) -> Line:
    """Measures a line of `size` pixels, made smaller where it would exceed `room`."""
    weight = 1 if size < 20 else 2
    scale = size / cv2.getTextSize('Ag', FONT, 1, 1)[0][1]
    (width, _), _ = cv2.getTextSize(text, FONT, scale, weight)
    scale *= min(1, max(room, 1) / max(width, 1))
    (width, _), _ = cv2.getTextSize(text, FONT, scale, weight)
    (_, ascent), descent = cv2.getTextSize('Ag', FONT, scale, weight)
    return Line(text, scale, weight, width, ascent, descent)


def put(canvas, line: Line, x: int, y: int, ink: Color) -> np.ndarray:
    """Draws a line in place, its base line starting at x, y."""
    return cv2.putText(
        canvas, line.text, (x, y), FONT, line.scale, ink, line.weight, cv2.LINE_AA
    )


def ink_on(background: Color) -> Color:
    """Black on light colors, white on dark ones."""
    luminance = np.dot(background, (0.299, 0.587, 0.114))
    return BLACK if luminance > 140 else WHITE


def class_text(name: str, label: int) -> str:
    """The name of a class if OpenCV can draw all of it, else its label."""
    return name if all(map(_has_glyph, name)) else f'class {label}'


@functools.cache
def _has_glyph(char: str) -> bool:
    """Whether OpenCV draws a character, rather than a question mark for each byte."""
    if char.isascii():
        return True
    stands_for = ('?' * count for count in range(len(char.encode()) + 1))
    drawn, *others = (
        put(np.zeros((48, 128), np.uint8), Line(text, 1, 1, 0, 0, 0), 8, 36, WHITE)
        for text in (char, *stands_for)
    )
    return not any(np.array_equal(drawn, other) for other in others)
