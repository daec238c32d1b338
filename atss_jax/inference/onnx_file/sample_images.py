"""Batches of images to check an exported detector with."""

import os
from collections.abc import Iterator

import cv2
import numpy as np

from atss_jax.data.batch import Pipeline, Variant, for_any_image, place
from atss_jax.data.image_file import read
from atss_jax.inference.input_files import find_files
from atss_jax.structures import PREDICT_FIELDS, Batch

MOST_IMAGES = 20
_SIZES = ((150, 244), (223, 97)), ((181, 130), (120, 192))  # height, width


def batches_of(
    images: str | os.PathLike | None, pipeline: Pipeline, divisor: int
) -> Iterator[Batch]:
    """Batches of two, of unlike sizes where the images are.

    Args:
        images: folder, of which the first 20 images are taken; None: generated images.
        pipeline: how images of the folder are put on a canvas.
        divisor: sides of canvases are multiples of it.

    Raises:
        ValueError: there are no images in the folder, or one cannot be read.
        OSError: the folder does not exist.
    """
    if images is None:
        return _generated(divisor)
    files = [f for f in find_files([os.fspath(images)]) if not f.is_video]
    if not files:
        raise ValueError(f'no images in {images}, only videos: name another folder')
    variant = Variant(for_any_image(pipeline))
    rows = (place(read(file.path), variant) for file in files[:MOST_IMAGES])
    return _in_pairs(rows)


def _in_pairs(rows):
    """Batches of two rows on the same canvas; the last may be twice the same row."""
    waiting = {}
    for canvas, row in rows:
        if canvas in waiting:
            yield _stack(waiting.pop(canvas), row)
        else:
            waiting[canvas] = row
    for row in waiting.values():
        yield _stack(row, row)


def _stack(*rows):
    return {name: np.stack([row[name] for row in rows]) for name in PREDICT_FIELDS}


def _generated(divisor):
    """Two batches on two canvases."""
    random = np.random.default_rng(0)
    for sizes in _SIZES:
        canvas = [
            -(-max(sides) // divisor) * divisor for sides in zip(*sizes, strict=True)
        ]
        image = np.zeros((len(sizes), *canvas, 3), np.uint8)
        for row, (height, width) in zip(image, sizes, strict=True):
            row[:height, :width] = _boxes_on_noise(random, height, width)
        scale = random.uniform(0.5, 2, (len(sizes), 2)).astype(np.float32)
        yield {'image': image, 'image_size': np.array(sizes, np.int32), 'scale': scale}


def _boxes_on_noise(random, height, width):
    """(height,width,3) uint8: smooth noise with filled rectangles of many sizes."""
    noise = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    image = cv2.resize(noise, (width, height))
    for _ in range(12):
        low = random.uniform(0, 0.8, 2)
        high = low + random.uniform(0.05, 0.4, 2)
        (top, left), (bottom, right) = (
            (corner * (height, width)).astype(int) for corner in (low, high)
        )
        image[top:bottom, left:right] = random.integers(0, 256, 3)
    return image
