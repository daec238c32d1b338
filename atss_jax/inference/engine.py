"""A detector on a stream of images of any size: canvases, batches, views."""

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from atss_jax.data.batch import Variant, place
from atss_jax.data.plan import Canvas
from atss_jax.data.tiles import Tiling, Window
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.evaluation.merge import merge
from atss_jax.evaluation.merge_tiles import merge_tiles
from atss_jax.evaluation.run import predict
from atss_jax.structures import PREDICT_FIELDS, Batch, Detections


@dataclasses.dataclass
class Views:
    """An image in all its views, ready for the device.

    Attributes:
        key: the caller's key of the image.
        size: height, width of the original image.
        rows: canvas and batch row of each view of the whole image, then of each tile.
        tiling: how it is cut into tiles; None: it is not.
        windows: its tiles.
    """

    key: Any
    size: tuple[int, int]
    rows: Iterable[tuple[Canvas, Batch]]
    tiling: Tiling | None
    windows: list[Window]


class Inference:
    """Detects objects in streams of images. Threads may share one.

    A program is compiled when the first image needs its canvas, and only then.

    Args:
        step: sends a batch of images, their sizes and scales to the devices.
        variants: the views in which each image is shown.
        config: NMS of several views.
        batch_size: number of rows of every batch.
    """

    def __init__(
        self,
        step: Callable[[Batch], Detections],
        variants: Sequence[Variant],
        config: DetectConfig,
        batch_size: int,
    ):
        self.variants, self.config, self.batch_size = variants, config, batch_size
        self._step = step
        # Without it, two threads that need a new canvas at once would both compile.
        self._lock = threading.Lock()

    def prepare(
        self, key: Any, image: np.ndarray, tiling: Tiling | None = None
    ) -> Views:
        """Resizes an image, (H,W,3) uint8 RGB, for all its views; uses no device.

        Tiles are resized one by one when their turn comes, so that memory does not grow
        with their number.
        """
        size = image.shape[:2]
        windows = [] if tiling is None else tiling.windows(size)
        rows = [place(image, variant) for variant in self.variants]
        of_tiles = (
            place(window.of(image), variant)
            for window in windows
            for variant in self.variants
        )
        return Views(key, size, itertools.chain(rows, of_tiles), tiling, windows)

    def run(self, images: Iterable[Views]) -> Iterator[tuple[Any, Detections]]:
        """Key and detections (without padding) of every image.

        Images of one canvas keep their order. A batch is run as soon as it is full;
        at the end the remaining images fill up their last batches.
        """
        waiting = {}  # by number of the image: its views, detections so far
        batches = self._batches(images, waiting)
        for (number, view), detections in predict(self._locked_step, batches):
            image, by_view = waiting[number]
            by_view[view] = detections
            if len(by_view) == len(self.variants) * (1 + len(image.windows)):
                del waiting[number]
                yield image.key, self._merge(image, by_view)

    def _merge(self, image, by_view):
        """The detections of an image, of those in its views by their number."""
        flips = [variant.flip for variant in self.variants]
        widths = [image.size[1], *(window.size[1] for window in image.windows)]
        whole, *in_tiles = (
            merge(
                [by_view[len(flips) * part + view] for view in range(len(flips))],
                flips,
                width,
                self.config,
            )
            for part, width in enumerate(widths)
        )
        parts = list(zip(image.windows, in_tiles, strict=True))
        return merge_tiles(whole, parts, image.size, image.tiling, self.config)

    def _locked_step(self, batch):
        with self._lock:
            return self._step(batch)

    def _batches(self, images, waiting):
        """Batches of one canvas each, with (image number, view) as the rows' keys."""
        by_canvas = collections.defaultdict(list)
        for number, image in enumerate(images):
            waiting[number] = image, {}
            rows, image.rows = image.rows, ()
            for view, (canvas, row) in enumerate(rows):
                by_canvas[canvas].append(((number, view), row))
                if len(by_canvas[canvas]) == self.batch_size:
                    yield self._batch(by_canvas.pop(canvas))
        for keyed_rows in by_canvas.values():
            yield self._batch(keyed_rows)

    def _batch(self, keyed_rows):
        """(keys, batch), padded with copies of the last row."""
        keys, rows = map(list, zip(*keyed_rows, strict=True))
        padding = self.batch_size - len(rows)
        rows += rows[-1:] * padding
        batch = {name: np.stack([row[name] for row in rows]) for name in PREDICT_FIELDS}
        return keys + [None] * padding, batch
