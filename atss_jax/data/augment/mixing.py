"""Transforms that show several images as one: mmdetection's Mosaic and MixUp.

A further image that cannot be read, and that data.max_bad_pictures allows, is left out:
its quarter of a Mosaic stays empty, and MixUp changes nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from atss_jax.data.augment.objects import (
    Objects,
    Size,
    inside,
    joined,
    moved,
    of_record,
    scaled,
)
from atss_jax.data.records import Record, Records, Source
from atss_jax.data.transforms import Flip, clip_boxes, flip_boxes, flip_image

Others = Sequence[Record | None]
"""The records of further images; None for one that cannot be read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """The images that further ones are taken from.

    Attributes:
        source: the training data.
        last: (N,) int64, increasing: a record is taken with a probability proportional
            to the difference from its predecessor; None: all alike.
    """

    source: Source
    last: np.ndarray | None = None

    @property
    def records(self) -> Records:
        """All records."""
        return self.source.records

    def pick(self, random: np.random.Generator) -> int:
        """The index of a record, at random."""
        if self.last is None:
            return int(random.integers(len(self.records)))
        number = random.integers(self.last[-1])
        return int(np.searchsorted(self.last, number, side='right'))

    def has_objects(self, index: int) -> bool:
        """Whether a record has any object."""
        return bool(self.records.offsets[index + 1] > self.records.offsets[index])


# Mosaic ------------------------------------------------------------------------------


class Patch(NamedTuple):
    """Where one of four images goes.

    Attributes:
        size: height, width that the image is resized to.
        ratio: factor of its boxes.
        target: first and last+1 row, first and last+1 column in the mosaic.
        top: first row of the image that is shown.
        left: first column of the image that is shown.
    """

    size: Size
    ratio: float
    target: tuple[int, int, int, int]
    top: int
    left: int


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """Shows four images around a common corner, each resized to fit `img_scale`.

    The result is twice as wide and high as `img_scale`. The first image is the row's
    own, at the top left; the others are sampled from all training images.

    Attributes:
        img_scale: width, height that each of the four images is resized to fit.
        center_ratio_range: where the common corner is, as a multiple of `img_scale`.
        pad_val: gray value where no image is.
        prob: probability; otherwise the image stays alone.

    Source: mmdet.datasets.transforms.Mosaic in a MultiImageMixDataset.
    """

    img_scale: tuple[int, int] = (640, 640)
    center_ratio_range: tuple[float, float] = (0.5, 1.5)
    pad_val: float = 114.0
    prob: float = 1.0

    @property
    def size(self) -> Size:
        """Height, width of the result."""
        return 2 * self.img_scale[1], 2 * self.img_scale[0]

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get."""
        if self.prob == 1:
            return (self.size,)
        return (size, self.size) if self.prob else (size,)

    def sample(self, size, random: np.random.Generator, pool: Pool):
        """The corner (x, y), at random, and indices of three further images."""
        if random.random() >= self.prob:
            return None, ()
        others = tuple(pool.pick(random) for _ in range(3))
        corner = [random.uniform(*self.center_ratio_range) for _ in range(2)]
        x, y = (int(c * side) for c, side in zip(corner, self.img_scale, strict=True))
        return (x, y), others

    def objects(self, objects: Objects, size: Size, sampled, others: Others) -> Objects:
        """The objects of all four images that the result shows."""
        given = [(objects, size)] + [
            record and (of_record(record), record.size) for record in others
        ]
        shown = []
        for quarter, item in enumerate(given):
            if item is not None:
                patch = self.patch(quarter, sampled, item[1])
                top, _, left, _ = patch.target
                part = scaled(item[0], patch.ratio)
                shown.append(moved(part, left - patch.left, top - patch.top))
        together = joined(shown)
        boxes = clip_boxes(together.boxes, self.size)
        return inside(together.with_boxes(boxes), self.size)

    def image(self, image: np.ndarray, sampled, others) -> np.ndarray:
        """(H,W,3) uint8: the mosaic; `others` are three images, None if bad."""
        mosaic = np.full((*self.size, 3), self.pad_val, np.uint8)
        for quarter, part in enumerate([image, *others]):
            if part is not None:
                patch = self.patch(quarter, sampled, part.shape[:2])
                first_row, stop_row, first_column, stop_column = patch.target
                height, width = stop_row - first_row, stop_column - first_column
                resized = cv2.resize(part, patch.size[::-1])
                rows = slice(patch.top, patch.top + height)
                columns = slice(patch.left, patch.left + width)
                target = mosaic[first_row:stop_row, first_column:stop_column]
                target[:] = resized[rows, columns]
        return mosaic

    def patch(self, quarter: int, corner: tuple[int, int], size: Size) -> Patch:
        """Where an image of `size` goes.

        Args:
            quarter: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
            corner: x, y of the common corner.
            size: of the image.
        """
        ratio = min(self.img_scale[1] / size[0], self.img_scale[0] / size[1])
        # One pixel at least, which OpenCV needs.
        height, width = (max(int(side * ratio), 1) for side in size)
        x, y = corner
        top, bottom, first_row = _along(quarter < 2, y, height, self.size[0])
        left, right, first_column = _along(quarter % 2 == 0, x, width, self.size[1])
        target = (top, bottom, left, right)
        return Patch((height, width), ratio, target, first_row, first_column)


def _along(is_before, corner, length, limit):
    """First and last+1 place in the mosaic, and first place shown, along one axis."""
    if is_before:  # the image ends at the corner
        start = max(corner - length, 0)
        return start, corner, length - (corner - start)
    return corner, min(corner + length, limit), 0


# MixUp -------------------------------------------------------------------------------


class Mix(NamedTuple):
    """What is sampled for an image.

    Attributes:
        factor: of the size of the other image.
        is_flipped: whether the other image is mirrored left to right.
        top: first row of the other image that is shown.
        left: first column of the other image that is shown.
    """

    factor: float
    is_flipped: bool
    top: int
    left: int


@dataclasses.dataclass(frozen=True)
class MixUp:
    """Adds another image: the mean of both, with the objects of both.

    Attributes:
        img_scale: width, height that the other image is resized to fit.
        ratio_range: smallest and largest factor of its size after that.
        flip_ratio: probability that it is not mirrored, as in mmdetection's code.
        pad_val: gray value where it does not reach.
        max_iters: so many images are tried to find one with objects; if the last has
            none either, the image stays alone.

    Source: mmdet.datasets.transforms.MixUp in a MultiImageMixDataset.
    """

    img_scale: tuple[int, int] = (640, 640)
    ratio_range: tuple[float, float] = (0.5, 1.5)
    flip_ratio: float = 0.5
    pad_val: float = 114.0
    max_iters: int = 15

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get: its own."""
        return (size,)

    def sample(self, size: Size, random: np.random.Generator, pool: Pool):
        """How the other image is shown, and its index, at random."""
        for _ in range(self.max_iters):
            index = pool.pick(random)
            if pool.has_objects(index):
                break
        else:
            return None, ()
        factor = random.uniform(*self.ratio_range)
        is_flipped = random.random() > self.flip_ratio
        spare = [old - new for old, new in zip(self._scaled(factor), size, strict=True)]
        # The last possible place is never taken, as in mmdetection.
        top, left = (int(random.integers(n)) if n > 0 else 0 for n in spare)
        return Mix(factor, is_flipped, top, left), (index,)

    def _scaled(self, factor):
        """Height, width of the other image with its padding."""
        return tuple(max(int(side * factor), 1) for side in self.img_scale[::-1])

    def _ratio(self, size):
        """Factor that makes an image of `size` fit `img_scale`."""
        return min(self.img_scale[1] / size[0], self.img_scale[0] / size[1])

    def objects(
        self, objects: Objects, size: Size, sampled: Mix, others: Others
    ) -> Objects:
        """The objects of both images that the result shows."""
        (other,) = others
        if other is None:
            return objects
        scaled_size = self._scaled(sampled.factor)
        added = of_record(other)
        added = scaled(added, self._ratio(other.size) * sampled.factor)
        boxes = clip_boxes(added.boxes, scaled_size)
        if sampled.is_flipped:
            boxes = flip_boxes(boxes, scaled_size[1])
        added = moved(added.with_boxes(boxes), -sampled.left, -sampled.top)
        added = added.with_boxes(clip_boxes(added.boxes, size))
        return inside(joined([objects, added]), size)

    def image(self, image: np.ndarray, sampled: Mix, others) -> np.ndarray:
        """(H,W,3) uint8: the mean of the image and the one of `others`, None if bad."""
        (other,) = others
        if other is None:
            return image
        ratio = self._ratio(other.shape[:2])
        height, width = (max(int(side * ratio), 1) for side in other.shape[:2])
        # In float64 and rounded down, as in mmdetection.
        padded = np.full((*self.img_scale[::-1], 3), self.pad_val, np.float64)
        padded[:height, :width] = cv2.resize(other, (width, height))
        padded = cv2.resize(padded, self._scaled(sampled.factor)[::-1])
        if sampled.is_flipped:
            padded = flip_image(padded, flip=Flip.HORIZONTAL)
        window = np.full(image.shape, np.uint8(self.pad_val))
        shown = padded[sampled.top :, sampled.left :][: image.shape[0]]
        shown = shown[:, : image.shape[1]]
        window[: shown.shape[0], : shown.shape[1]] = shown.astype(np.uint8)
        # Half of the sum, rounded down: exact in integers.
        return ((image.astype(np.uint16) + window) // 2).astype(np.uint8)
