"""Lines of text in images: measured, shrunk to the width they may take, and drawn.

OpenCV 5 brings fonts for most scripts. OpenCV 4 knows ASCII only and draws question
marks for the rest. A class name that the installed OpenCV cannot draw appears as
`class 17`, with its label, never as question marks.
"""

import functools
from collections.abc import Sequence
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


# Names next to boxes ------------------------------------------------------------------

# Text sizes that are tried in turn, as shares of the size in an uncrowded image.
_SIZES = (1.0, 0.85, 0.7, 0.6, 0.5)
# The share that a tag may hide of another object or tag, and of its own object.
_MAX_HIDDEN, _MAX_OWN_HIDDEN = 0.15, 0.5
# Hiding less than this is no reason to look for another place.
_FREE_HIDDEN, _FREE_OWN_HIDDEN = 0.05, 0.2


class Tag(NamedTuple):
    """A line of text and the rectangle, in pixels, that it fills."""

    line: TextLine
    left: int
    top: int
    width: int
    height: int


def place_tags(
    image_size: tuple[int, int], boxes: Sequence[Sequence[int]], texts: Sequence[str]
) -> list[Tag | None]:
    """A tag for each box, inside the image; None where no place is free.

    Args:
        image_size: height and width.
        boxes: (N,4) xyxy in pixels of the image, right and lower sides exclusive.
        texts: one for each box; earlier boxes choose their places first.
    """
    best = []
    for share in _SIZES:
        text_size = max(MIN_TEXT_PIXELS, share * min(image_size) / 30)
        tags = _place_all(image_size, np.array(boxes, float), texts, text_size)
        if not best or tags.count(None) < best.count(None):
            best = tags
        if None not in best:
            break
    return best


def draw_tag(canvas: np.ndarray, tag: Tag, color: Color) -> None:
    """Draws a tag in place, filled with `color`."""
    area = canvas[tag.top : tag.top + tag.height, tag.left : tag.left + tag.width]
    area[:] = color
    x, y = max(0, (tag.width - tag.line.width) // 2), tag.height - tag.line.descent
    # Drawn on the tag alone: whatever a font does, no ink lands next to it.
    lettered = area.copy()
    put_text(lettered, tag.line, x, y, text_color_on(color))
    area[:] = lettered


def _place_all(image_size, boxes, texts, text_size):
    padding = max(2, round(text_size / 5))
    tags, taken = [], np.zeros((0, 4))
    for index, text in enumerate(texts):
        line = fit_text(text, text_size, image_size[1] - 2 * padding)
        width = min(line.width + 2 * padding, image_size[1])
        height = min(line.ascent + line.descent + padding, image_size[0])
        places = _places(image_size, boxes[index], width, height)
        place = _choose(places, boxes, index, taken)
        if place is None:
            tags.append(None)
            continue
        tags.append(Tag(line, int(place[0]), int(place[1]), width, height))
        taken = np.concatenate([taken, place[None]])
    return tags


def _places(image_size, box, width, height):
    """(M,4) rectangles next to a box and in it, all in the image; preferred first."""
    (x1, y1), (x2, y2) = np.maximum(box[:2], 0), box[2:]
    corners = [
        (x1, y1 - height),
        (x1, y1),
        (x1, y2),
        (x2 - width, y1 - height),
        (x2 - width, y2),
        (x2, y1),
        (x1 - width, y1),
        (x2, y2 - height),
        (x1 - width, y2 - height),
    ]
    limits = np.array([image_size[1] - width, image_size[0] - height])
    # Sideways, all are pushed into the image. Moved up or down, one would coincide
    # with another, so those are dropped.
    inside = [(x, y) for x, y in corners if 0 <= y <= limits[1]]
    inside = np.array(inside or [(x1, np.clip(y1, 0, limits[1]))], float)
    corners = np.clip(inside, 0, limits)
    return np.concatenate([corners, corners + np.array([width, height])], 1)


def _choose(places, boxes, index, taken):
    """The place of the tag of box `index` that hides least; None if all hide too much.

    Args:
        places: (M,4) rectangles to choose from.
        boxes: (N,4) all boxes.
        index: which of `boxes` the tag belongs to.
        taken: (T,4) rectangles of the tags placed so far.
    """
    hidden = _overlaps(places, boxes) / _areas(boxes)
    own_hidden = hidden[:, index].copy()
    hidden[:, index] = 0
    smaller = np.minimum(_areas(places)[:, None], _areas(taken))
    hidden_tags = _overlaps(places, taken) / smaller
    cost = np.maximum(hidden - _FREE_HIDDEN, 0).sum(1) + hidden_tags.sum(1)
    cost += np.maximum(own_hidden - _FREE_OWN_HIDDEN, 0) + 0.01 * np.arange(len(places))
    if len(boxes) > 1:  # A single box keeps its tag, however small the image is.
        cost[own_hidden > _MAX_OWN_HIDDEN] = np.inf
    cost[np.concatenate([hidden, hidden_tags], 1).max(1) > _MAX_HIDDEN] = np.inf
    best = cost.argmin()
    return places[best] if np.isfinite(cost[best]) else None


def _areas(boxes):
    """(N,) areas in pixels, at least 1 so that they can be divided by."""
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)


def _overlaps(a, b):
    """(M,N) pixels that rectangles share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(high - low, 0).prod(2)
