"""Lines of text in images: measured, shrunk to the width they may take, and drawn.

OpenCV 5 brings fonts for most scripts. OpenCV 4 knows ASCII only and draws question
marks for the rest. A class name that the installed OpenCV cannot draw appears as
`class 17`, with its label, never as question marks.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
# Smaller text (ascent, in pixels) is not legible.
MIN_TEXT_PIXELS = 8
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Color = tuple[int, int, int]


class TextLine(NamedTuple):
    """A line of text, its font scale, and its size in pixels.

    `ascent` and `descent` are the heights above and below the baseline.
    """

    text: str
    scale: float
    thickness: int
    width: int
    ascent: int
    descent: int


def fit_text(text: str, size: float, max_width: float) -> TextLine:
    """Measures text with capitals `size` pixels high, or less where it is too wide."""
    thickness = 1 if size < 20 else 2
    scale = size / cv2.getTextSize('Ag', FONT, 1, 1)[0][1]
    (width, _), _ = cv2.getTextSize(text, FONT, scale, thickness)
    scale *= min(1, max(max_width, 1) / max(width, 1))
    (width, _), _ = cv2.getTextSize(text, FONT, scale, thickness)
    (_, ascent), descent = cv2.getTextSize('Ag', FONT, scale, thickness)
    return TextLine(text, scale, thickness, width, ascent, descent)


def put_text(canvas: np.ndarray, line: TextLine, x: int, y: int, color: Color) -> None:
    """Draws a line in place; its baseline starts at (x, y)."""
    cv2.putText(
        canvas, line.text, (x, y), FONT, line.scale, color, line.thickness, cv2.LINE_AA
    )


def text_color_on(background: Color) -> Color:
    """Black on light colors, white on dark ones."""
    luminance = np.dot(background, (0.299, 0.587, 0.114))
    return BLACK if luminance > 140 else WHITE


def class_text(name: str, label: int) -> str:
    """The name of a class if OpenCV can draw all of it, otherwise its label."""
    return name if all(map(_has_glyph, name)) else f'class {label}'


@functools.cache
def _has_glyph(char: str) -> bool:
    """Whether OpenCV draws a character, rather than a question mark for each byte."""
    if char.isascii():
        return True
    fallbacks = ['?' * count for count in range(len(char.encode()) + 1)]
    return not any(np.array_equal(_drawn(char), _drawn(text)) for text in fallbacks)


def _drawn(text: str) -> np.ndarray:
    canvas = np.zeros((48, 128), np.uint8)
    put_text(canvas, TextLine(text, 1, 1, 0, 0, 0), 8, 36, WHITE)
    return canvas
