"""The objects of an image on their way through transforms, by mmdetection's rules.

All coordinates are float32, as in mmdetection, whose boxes are torch tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atss_jax.data.records import Record

Size = tuple[int, int]
"""Height, width in pixels."""


class Objects(NamedTuple):
    """Boxes with their labels; crowd regions are among them.

    Attributes:
        boxes: (G,4) float32 xyxy in pixels of the image.
        labels: (G,) int32.
        ignored: (G,) bool, crowd regions.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray

    def where(self, mask: np.ndarray) -> 'Objects':
        """The objects that a mask (G,) bool or an array of indices selects."""
        return Objects(self.boxes[mask], self.labels[mask], self.ignored[mask])

    def with_boxes(self, boxes: np.ndarray) -> 'Objects':
        """The same objects with other boxes."""
        return self._replace(boxes=boxes.astype(np.float32))


def of_record(record: Record) -> Objects:
    """The objects of a record."""
    return Objects(record.boxes, record.labels, record.ignored)


def joined(several: Sequence[Objects]) -> Objects:
    """All objects, in order."""
    return Objects(*(np.concatenate(columns) for columns in zip(*several, strict=True)))


def scaled(objects: Objects, ratio: float) -> Objects:
    """All boxes times a ratio."""
    return objects.with_boxes(objects.boxes * np.float32(ratio))


def moved(objects: Objects, right: float, down: float) -> Objects:
    """All boxes moved by so many pixels."""
    return objects.with_boxes(objects.boxes + np.array([right, down] * 2, np.float32))


def inside(objects: Objects, size: Size) -> Objects:
    """The objects that overlap an image of `size`; to touch it is not enough."""
    height, width = size
    x1, y1, x2, y2 = objects.boxes.T
    return objects.where((x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0))


def largest(objects: Objects, count: int) -> Objects:
    """At most `count` objects, in their order.

    If there are more, crowd regions are dropped first, and then the smallest boxes.
    """
    if len(objects.labels) <= count:
        return objects
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    by_preference = np.lexsort((-sides.prod(axis=1), objects.ignored))
    return objects.where(np.sort(by_preference[:count]))
