"""Tiles: overlapping windows of large images, each of them an image of its own."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atss_jax.data.records import Record, Records, Source


class Window(NamedTuple):
    """A part of an image, in pixels: rows top:bottom, columns left:right."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height, width."""
        return self.bottom - self.top, self.right - self.left

    def of(self, image: np.ndarray) -> np.ndarray:
        """This part of an (H,W,3) image."""
        return image[self.top : self.bottom, self.left : self.right]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Attributes:
        side: height and width of a tile, in pixels of the original image.
        overlap: by which neighbors overlap at least, as a share of the side.

    Raises:
        ValueError: the side is no positive integer, or the overlap not in [0, 1).
    """

    side: int
    overlap: float = 0.2

    def __post_init__(self):
        if not isinstance(self.side, numbers.Integral) or self.side < 1:
            raise ValueError(
                f'tiles of {self.side!r} pixels: expected a whole number, 1 or more'
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(
                f'tiles overlap by {self.overlap}: expected a share of their side, at '
                'least 0 and less than 1'
            )

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The tiles of an image, row by row; none if it fits into one.

        They are all of the same size, and spread evenly over the image.

        Args:
            size: height, width of the image.
        """
        height, width = (min(length, self.side) for length in size)
        windows = [
            Window(top, left, top + height, left + width)
            for top in self._starts(size[0])
            for left in self._starts(size[1])
        ]
        return windows if len(windows) > 1 else []

    def _starts(self, length):
        rest = length - self.side
        if rest <= 0:
            return [0]
        steps = math.ceil(rest / max(int(self.side * (1 - self.overlap)), 1))
        return [round(rest * i / steps) for i in range(steps + 1)]


class TiledSource:
    """The tiles of the images of a source, as images without objects.

    The last image that was read is kept, since its tiles are read one after the other.

    Args:
        source: the images.
        tiling: how they are cut.
        left_out: rows of images that get no tiles.

    Attributes:
        records: those of the tiles; `image_id` counts them.
        windows: of each tile.
        parents: row of each tile's image in the records of `source`.
    """

    untrained: dict[str, int]

    def __init__(self, source: Source, tiling: Tiling, left_out: Sequence[int] = ()):
        self.classes, self.category_ids = source.classes, source.category_ids
        self.untrained = {}
        self.windows: list[Window] = []
        self.parents: list[int] = []
        excluded = {int(row) for row in left_out}
        for row, size in enumerate(source.records.sizes.tolist()):
            windows = [] if row in excluded else tiling.windows(tuple(size))
            self.windows += windows
            self.parents += [row] * len(windows)
        self._source, self._last = source, (-1, np.zeros((0, 0, 3), np.uint8))
        names = source.records.file_names
        none = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
        self.records = Records.from_list(
            [
                Record(number, str(names[parent]), window.size, *none)
                for number, (parent, window) in enumerate(
                    zip(self.parents, self.windows, strict=True)
                )
            ]
        )

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of a tile; raises what the source does."""
        parent = self.parents[record.image_id]
        row, image = self._last
        if row != parent:
            image = self._source.read_image(self._source.records[parent])
            self._last = parent, image
        return self.windows[record.image_id].of(image)

    def ground_truth(self) -> dict:
        """That of the whole images."""
        return self._source.ground_truth()
