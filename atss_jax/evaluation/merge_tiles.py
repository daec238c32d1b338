"""Detections in the tiles of an image and in the whole of it, as one list."""

from collections.abc import Sequence

import numpy as np

from atss_jax.data.tiles import Tiling, Window
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.evaluation.merge import concatenate, padded_nms
from atss_jax.structures import Detections

_SHORTEST = 1024  # rows; shorter lists are padded to it, to share one program
_EDGE = 0.01  # of the side: what ends so near to the edge of a tile may be cut


def merge_tiles(
    whole: Detections,
    parts: Sequence[tuple[Window, Detections]],
    size: tuple[int, int],
    tiling: Tiling,
    config: DetectConfig,
) -> Detections:
    """Merges the detections in an image and in its tiles.

    Each object is counted where it is seen whole, at the highest resolution. What ends
    at the edge of a tile, inside the image, may be part of an object, and is left out:
    an object that is no larger than the overlap lies whole in another tile. Of the
    whole image those count that are larger than the overlap. One class-wise NMS
    removes what two views have in common.

    Args:
        whole: detections in the whole image, without padding, in original pixels.
        parts: the tiles, and the detections in each, in pixels of the tile.
        size: height, width of the image.
        tiling: how it was cut.
        config: what NMS there is.

    Returns:
        Detections of decreasing score, as many as there are.
    """
    if not parts:
        return whole
    sides = whole.boxes[:, 2:] - whole.boxes[:, :2]
    is_large = sides.max(axis=1, initial=0) > tiling.overlap * tiling.side
    views = [_rows(whole, is_large)]
    for window, detections in parts:
        is_whole = ~_is_cut(detections.boxes, window, size, _EDGE * tiling.side)
        offset = np.array([window.left, window.top] * 2, np.float32)
        moved = detections._replace(boxes=detections.boxes + offset)
        views.append(_rows(moved, is_whole))
    merged = concatenate(views)
    count = len(merged.scores)
    # A power of two, so that lists of all lengths need few programs.
    length = max(_SHORTEST, 1 << max(count - 1, 0).bit_length())
    return padded_nms(merged, length, config, length)


def _rows(detections, chosen):
    return Detections(*(column[chosen] for column in detections))


def _is_cut(boxes, window, size, margin):
    """Whether boxes, in pixels of the tile, end at an edge inside the image."""
    height, width = window.size
    left, top, right, bottom = boxes.T
    return (
        ((left < margin) & (window.left > 0))
        | ((top < margin) & (window.top > 0))
        | ((right > width - margin) & (window.right < size[1]))
        | ((bottom > height - margin) & (window.bottom < size[0]))
    )
