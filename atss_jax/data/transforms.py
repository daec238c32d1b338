"""Resize, flip and pad: pictures and their boxes, in NumPy and OpenCV.

Sizes are (height, width), scales (width, height), as in mmdet. Source:
mmdet.datasets.transforms (Resize, RandomFlip, Pad) and the mmcv functions below them.
"""

import cv2
import numpy as np


def rescale_size(
    size: tuple[int, int], img_scale: tuple[int, int], keep_ratio: bool = True
) -> tuple[int, int]:
    """The height and width that a picture of `size` is resized to.

    Differs from mmdet: a side never rounds to 0, where OpenCV would fail.

    Args:
        size: height, width.
        img_scale: the longer and the shorter side that must hold the picture, in either
            order; without `keep_ratio`, the exact (width, height).
        keep_ratio: scale both sides alike, as far as `img_scale` allows.

    Raises:
        ValueError: a size or a scale that is not positive.
    """
    if min(*size, *img_scale) <= 0:
        raise ValueError(f'cannot rescale {size} to {img_scale}: not positive')
    if not keep_ratio:
        return img_scale[1], img_scale[0]
    factor = min(max(img_scale) / max(size), min(img_scale) / min(size))
    height, width = (max(int(side * factor + 0.5), 1) for side in size)
    return height, width


def scale_factor(old_size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """(2,) float64: new over old width, then height."""
    return np.array([new_size[1] / old_size[1], new_size[0] / old_size[0]])


def resize(
    image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """The picture at `size` (height, width), bilinear as OpenCV does it.

    Args:
        image: (H,W,3) uint8.
        size: height, width of the result.
        out: array of that size to write to; None: a new one.
    """
    wide_high = size[1], size[0]
    return cv2.resize(image, wide_high, dst=out, interpolation=cv2.INTER_LINEAR)


def resize_boxes(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(G,4) float32 boxes times `scale` (width, height), in float32 as mmdet."""
    return boxes * np.tile(np.asarray(scale, np.float32), 2)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes cut to a picture of `size`; coordinates reach up to width and height.

    No box is removed, not even one that this leaves empty, as in mmdet.
    """
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def crop(image: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """The window of `size` (height, width) whose first pixel is (top, left)."""
    return image[top : top + size[0], left : left + size[1]]


def flip_image(image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The picture mirrored left to right, in `out`, which may be `image`, or anew."""
    return cv2.flip(image, 1, dst=out)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes mirrored left to right in a picture `width` wide."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def corner(canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The top left part of a canvas, to write a picture to; the rest turns black.

    Args:
        canvas: (H,W,3) uint8; what is in it does not matter.
        size: height, width of the picture.

    Raises:
        ValueError: the picture is larger than the canvas.
    """
    height, width = size
    if height > canvas.shape[0] or width > canvas.shape[1]:
        raise ValueError(
            f'picture of height {height}, width {width} does not fit on the canvas of '
            f'height {canvas.shape[0]}, width {canvas.shape[1]}'
        )
    canvas[:height, width:] = 0
    canvas[height:] = 0
    return canvas[:height, :width]
