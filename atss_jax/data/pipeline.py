"""What a config's `pipeline` section says: sizes, canvases, what is drawn."""

import dataclasses

import numpy as np

from atss_jax.data.augment import Jitter, View, whole
from atss_jax.data.plan import Canvas, canvas_of_each, default_canvases
from atss_jax.data.records import Record, Source
from atss_jax.data.transforms import rescale_size


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """mmdet's pipeline values.

    Attributes:
        img_scale: the picture is resized to fit (long, short), either way round.
        keep_ratio: if not, it becomes exactly (width, height).
        flip_ratio: share of training pictures mirrored left to right.
        size_divisor: a picture alone would be padded to a multiple of this.
        canvases: (height, width) of the canvases that pictures may be put on; None: one
            landscape and one portrait canvas that hold any picture.
        max_boxes: boxes a picture, G; a picture with more is an error.
        jitter: random scale and crop of training pictures.
    """

    img_scale: tuple[int, int]
    keep_ratio: bool = True
    flip_ratio: float = 0.0
    size_divisor: int = 32
    canvases: tuple[Canvas, ...] | None = None
    max_boxes: int = 100
    jitter: Jitter = Jitter()  # noqa: RUF009, frozen

    def without_jitter(self) -> 'Pipeline':
        """For evaluation: each picture whole, at `img_scale`."""
        return dataclasses.replace(self, flip_ratio=0.0, jitter=Jitter())

    def all_canvases(self) -> tuple[Canvas, ...]:
        """The canvases, given or by default."""
        if self.canvases is not None:
            return self.canvases
        return default_canvases(
            self.img_scale, self.keep_ratio, self.size_divisor, self.jitter
        )

    def canvas_index(self, source: Source) -> np.ndarray:
        """(N,) canvas of each record of `source`, which holds any view of it."""
        return canvas_of_each(
            source.records,
            self.all_canvases(),
            self.img_scale,
            self.keep_ratio,
            self.size_divisor,
            self.jitter,
        )

    def whole(self, index: int, record: Record, flip: bool = False) -> View:
        """All of a picture at `img_scale`."""
        size = rescale_size(record.size, self.img_scale, self.keep_ratio)
        return whole(index, size, flip)

    def draw(
        self, index: int, record: Record, random: np.random.Generator
    ) -> View | None:
        """A view of a picture; None if mmdet would take another picture instead."""
        flip = random.random() < self.flip_ratio
        scale = self.jitter.draw_scale(self.img_scale, random)
        size = rescale_size(record.size, scale, self.keep_ratio)
        view = self.jitter.draw_window(index, size, flip, random)
        return view if self.jitter.accepts(record, view) else None
