"""The names beside boxes: where they hide the least, as large as there is room for.

All names of an image have one size: the largest at which every box has room for its
own. A name that would hide another one, a small object
or most of its own is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atss_jax.drawing.text import MIN_TEXT_PIXELS, Color, Line, fit, ink_on, put

# Of the size in an image with room; tried in turn.
_SIZES = (1.0, 0.85, 0.7, 0.6, 0.5)
# The share that a name may hide: of another object or name, of its own object.
_MOST_HIDDEN, _MOST_OWN = 0.15, 0.5
# Hiding less than this is no reason to look for another spot.
_FREE, _FREE_OWN = 0.05, 0.2


class Tag(NamedTuple):
    """A name and the rectangle, in pixels, that it fills."""

    line: Line
    left: int
    top: int
    width: int
    height: int


def place(
    size: tuple[int, int], boxes: Sequence[Sequence[int]], texts: Sequence[str]
) -> list[Tag | None]:
    """A tag for each box, inside the image; None where there is no room.

    Args:
        size: height and width of the image.
        boxes: (N,4) xyxy in its pixels, right and lower sides exclusive.
        texts: of the boxes; the first one has the first choice.
    """
    best = []
    for share in _SIZES:
        letters = max(MIN_TEXT_PIXELS, share * min(size) / 30)
        tags = _place_all(size, np.array(boxes, float), texts, letters)
        if not best or tags.count(None) < best.count(None):
            best = tags
        if None not in best:
            break
    return best


def draw(canvas: np.ndarray, tag: Tag, color: Color) -> None:
    """Draws a tag in place, filled with `color`."""
    area = canvas[tag.top : tag.top + tag.height, tag.left : tag.left + tag.width]
    area[:] = color
    x, y = max(0, (tag.width - tag.line.width) // 2), tag.height - tag.line.descent
    # On the tag alone: whatever a font does, no ink lands beside it.
    area[:] = put(area.copy(), tag.line, x, y, ink_on(color))


def _place_all(size, boxes, texts, letters):
    pad = max(2, round(letters / 5))
    tags, taken = [], np.zeros((0, 4))
    for k, text in enumerate(texts):
        line = fit(text, letters, size[1] - 2 * pad)
        width = min(line.width + 2 * pad, size[1])
        height = min(line.ascent + line.descent + pad, size[0])
        spot = _choose(_spots(size, boxes[k], width, height), boxes, k, taken)
        if spot is None:
            tags.append(None)
            continue
        tags.append(Tag(line, int(spot[0]), int(spot[1]), width, height))
        taken = np.concatenate([taken, spot[None]])
    return tags


def _spots(size, box, width, height):
    """(M,4) rectangles beside and in a box, all in the image; the best ones first."""
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
    room = np.array([size[1] - width, size[0] - height])
    # Sideways, all are pushed into the image. Up or down, a spot would be in another.
    inside = [(x, y) for x, y in corners if 0 <= y <= room[1]]
    inside = np.array(inside or [(x1, np.clip(y1, 0, room[1]))], float)
    low = np.clip(inside, 0, room)
    return np.concatenate([low, low + np.array([width, height])], 1)


def _choose(spots, boxes, own, taken):
    """The spot that hides the least; None if each hides too much."""
    hidden = _overlaps(spots, boxes) / _areas(boxes)
    own_hidden = hidden[:, own].copy()
    hidden[:, own] = 0
    smaller = np.minimum(_areas(spots)[:, None], _areas(taken))
    names = _overlaps(spots, taken) / smaller
    cost = np.maximum(hidden - _FREE, 0).sum(1) + names.sum(1)
    cost += np.maximum(own_hidden - _FREE_OWN, 0) + 0.01 * np.arange(len(spots))
    if len(boxes) > 1:  # else the image itself is too small
        cost[own_hidden > _MOST_OWN] = np.inf
    cost[np.concatenate([hidden, names], 1).max(1) > _MOST_HIDDEN] = np.inf
    best = cost.argmin()
    return spots[best] if np.isfinite(cost[best]) else None


def _areas(boxes):
    """At least 1, to divide by."""
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)


def _overlaps(a, b):
    """(M,N) pixels that rectangles share."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(high - low, 0).prod(2)
