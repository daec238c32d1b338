"""What flows between the rooms: batches, head outputs, detections; size arithmetic."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

BATCH_AXIS = 'batch'
"""Name of the mapped device axis that the rows of a batch are divided over."""

Batch = dict[str, np.ndarray]
"""Arrays by the names of `BATCH_FIELDS`. A row of a batch has no leading B.

Training batches have all fields; evaluation batches have no `gt_*`. After functions of
the user there is also `dropped`, (B,) int32: how many objects were too many.
"""


class BatchField(NamedTuple):
    """One array of a batch; which programs on the devices read it.

    Attributes:
        shape: letters as in `atss_jax`, and numbers.
        dtype: NumPy type of the elements.
        train: whether the training step reads it.
        predict: whether the prediction step reads it.
    """

    shape: tuple[str | int, ...]
    dtype: type
    train: bool = False
    predict: bool = False


BATCH_FIELDS = {
    # RGB on a canvas, zero outside the image.
    'image': BatchField(('B', 'H', 'W', 3), np.uint8, train=True, predict=True),
    # Height, width of the resized image on the canvas.
    'image_size': BatchField(('B', 2), np.int32, train=True, predict=True),
    # Objects, padded to G: xyxy in pixels of the resized image, label, validity mask.
    'gt_boxes': BatchField(('B', 'G', 4), np.float32, train=True),
    'gt_labels': BatchField(('B', 'G'), np.int32, train=True),
    'gt_valid': BatchField(('B', 'G'), np.bool_, train=True),
    # Crowd regions: never a target (mmdet's `bboxes_ignore`).
    'gt_ignored': BatchField(('B', 'G'), np.bool_, train=True),
    # The id that results are reported under.
    'image_id': BatchField(('B',), np.int64),
    # New over old width, new over old height: maps detections back.
    'scale': BatchField(('B', 2), np.float32, predict=True),
    # Height, width of the image in its file.
    'original_size': BatchField(('B', 2), np.int32),
    # False on rows that only fill the last batch of an evaluation.
    'row_valid': BatchField(('B',), np.bool_),
    # Index of a record whose image could not be read and was replaced here; else -1.
    'skipped': BatchField(('B',), np.int64),
}
TRAIN_FIELDS = tuple(name for name, field in BATCH_FIELDS.items() if field.train)
"""What the training step reads of a batch."""
PREDICT_FIELDS = tuple(name for name, field in BATCH_FIELDS.items() if field.predict)
"""What the prediction step reads of a batch."""


class HeadOutputs(NamedTuple):
    """What the head computes, before sigmoid and before decoding; one entry per level.

    With several anchors per cell (`a` of them) the channels are anchor-major: `a*C`,
    `a*4` and `a`, so that a reshape to `(-1, C)` lists anchors in row, column, anchor
    order. A single image has no leading B.
    """

    cls_logits: tuple[Float[Array, '*B Hl Wl _c'], ...]
    deltas: tuple[Float[Array, '*B Hl Wl _d'], ...]
    centerness: tuple[Float[Array, '*B Hl Wl _a'], ...]


class Detections(NamedTuple):
    """Detected objects of an image, best first; after the last, `valid` is False."""

    boxes: Float[Array, '*B N 4']
    scores: Float[Array, '*B N']
    labels: Int[Array, '*B N']
    valid: Bool[Array, '*B N']


# Size arithmetic ---------------------------------------------------------------------


def round_up(size: Int[Array, '*n'], divisor: int) -> Int[Array, '*n']:
    """The next multiple of `divisor`. Sizes must not be negative."""
    return ceil_divide(size, divisor) * divisor


def ceil_divide(size: Int[Array, '*n'], divisor: int) -> Int[Array, '*n']:
    """Quotient rounded up. Sizes must not be negative.

    XLA repeats this division in every kernel that masks by its result. Of unsigned
    numbers it is a single shift; of signed ones, rounded down, it is ten operations.
    """
    size = jnp.asarray(size)
    cells = (size.astype(jnp.uint32) + (divisor - 1)) // divisor
    return cells.astype(size.dtype)
