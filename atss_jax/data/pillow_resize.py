"""Pillow's bilinear resize, pixel for pixel, in NumPy.

mmdet's `Resize` with `backend='pillow'` calls Pillow. Where an image shrinks, Pillow
averages all the pixels that a new one covers, while OpenCV takes the nearest 2 x 2;
where it grows, both interpolate alike but round differently.

It is written here instead of imported because Pillow 13 resizes some tall images in
another order than earlier versions, so that results would depend on what is installed.
It is not slower: 480 x 640 to 800 x 1067 takes 4 ms here and 7 ms in Pillow, 3000 x
4000 to 800 x 1067 takes 56 ms in both, on one core (OpenCV: 1 ms and 3 ms).

Source: Image.resize of Pillow 13.0.0, which mmcv's `imresize` calls.
"""

import cv2
import numpy as np

_BITS = 22  # of the fraction of a weight: Pillow computes with integers
_BLOCK = 2**17  # values of the result that are computed at once


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at `size`, as Pillow's `Image.resize` with `BILINEAR` makes it.

    Width and height are resized one after the other, and the pixels in between are
    rounded to uint8, so the order matters: the width comes first, unless the height
    shrinks by more than twice as many pixels.

    Args:
        image: (H,W,3) uint8.
        size: height, width of the result.
    """
    lost_height = image.shape[0] - size[0]
    if 0 < lost_height > 2 * (image.shape[1] - size[1]):
        return _resize_width(_resize_height(image, size[0]), size[1])
    return _resize_height(_resize_width(image, size[1]), size[0])


def _resize_width(image, width):
    if image.shape[1] == width:
        return image
    return cv2.transpose(_resize_height(cv2.transpose(image), width))


def _resize_height(image, height):
    """Each row of the result is a weighted mean of neighboring rows of the image."""
    if len(image) == height:
        return image
    rows = image.reshape(len(image), -1)
    first, weights = _weights(len(image), height)
    result = np.empty((height, rows.shape[1]), np.uint8)
    length = max(_BLOCK // rows.shape[1], 1)
    for start in range(0, height, length):
        block = slice(start, start + length)
        result[block] = _weighted_means(rows, first[block], weights[block])
    return result.reshape(height, *image.shape[1:])


def _weighted_means(rows, first, weights):
    """(R,M) int32: row r is the mean of `rows` from `first[r]` on, by `weights[r]`.

    Args:
        rows: (H,M) uint8.
        first: (R,) ascending.
        weights: (R,K) int32, in units of 2**-_BITS.
    """
    first, start = first - first[0], first[0]
    needed = rows[start : start + first[-1] + weights.shape[1]].astype(np.int32)
    total = needed[first]
    total *= weights[:, 0, None]
    total += 1 << (_BITS - 1)
    for k in range(1, weights.shape[1]):
        # After the last row the weights are 0.
        product = needed[np.minimum(first + k, len(needed) - 1)]
        product *= weights[:, k, None]
        total += product
    total >>= _BITS
    if weights.shape[1] > 2**14:  # so many that their rounding could make it 256
        np.minimum(total, 255, out=total)
    return total


def _weights(old, new):
    """The first row that each new row is a mean of, and the weights from there on.

    A weight falls linearly from the center of the new row to 0 at a distance of one
    row, or of one new row if these are wider.

    Returns:
        (new,) integers, and (new, K) int32 in units of 2**-_BITS; 0 outside the image.
    """
    ratio = old / new
    reach = max(ratio, 1.0)
    center = (np.arange(new) + 0.5) * ratio
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((center + reach + 0.5).astype(np.int64), old)
    index = first[:, None] + np.arange((last - first).max())
    weights = 1 - np.abs((index - center[:, None] + 0.5) * (1 / reach))
    weights = np.where(index < last[:, None], np.maximum(weights, 0), 0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds
    return first, (weights / total * (1 << _BITS) + 0.5).astype(np.int32)
