"""A picture on its canvas, with what maps detections back to it."""

import numpy as np

from atss_jax.data import transforms
from atss_jax.data.augment import View
from atss_jax.data.bad_pictures import NONE
from atss_jax.data.plan import Canvas
from atss_jax.data.records import Record

Batch = dict[str, np.ndarray]


def picture_row(record: Record, image: np.ndarray, canvas: Canvas, view: View) -> Batch:
    """What a row holds beside the truth.

    Args:
        record: the picture's id and size.
        image: (H,W,3) uint8 RGB of that size.
        canvas: height, width of the row.
        view: what to show of the picture.
    """
    image = transforms.resize(image, view.size)
    image = transforms.crop(image, view.top, view.left, view.shown)
    if view.flip:
        image = transforms.flip_image(image)
    return {
        'image': transforms.pad_to_canvas(image, canvas),
        'image_size': np.array(view.shown, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, view.size).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
        'skipped': np.array(NONE, np.int64),
    }
