"""What a config's `pipeline` section says: sizes, canvases, what is drawn."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from atss_jax.data import transforms
from atss_jax.data.bad_images import NONE
from atss_jax.data.plan import Canvas, canvas_of_each, default_canvases, smallest_canvas
from atss_jax.data.records import Record, Source
from atss_jax.data.transforms import Jitter, View, rescale_size, whole


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """mmdet's pipeline values.

    Attributes:
        img_scale: the image is resized to fit (long, short), either way round.
        keep_ratio: if not, it becomes exactly (width, height).
        flip_ratio: share of training images mirrored left to right.
        size_divisor: an image alone would be padded to a multiple of this.
        canvases: (height, width) of the canvases that images may be put on; None: one
            landscape and one portrait canvas that hold any image.
        max_boxes: boxes an image, G; an image with more is an error.
        max_bad_pictures: share of images that may be unreadable; 0: the first one is
            an error. Batches are the same with any share above 0.
        jitter: random scale and crop of training images.
    """

    img_scale: tuple[int, int]
    keep_ratio: bool = True
    flip_ratio: float = 0.0
    size_divisor: int = 32
    canvases: tuple[Canvas, ...] | None = None
    max_boxes: int = 100
    max_bad_pictures: float = 0.0
    jitter: Jitter = Jitter()  # noqa: RUF009, frozen

    def without_jitter(self) -> 'Pipeline':
        """For evaluation: each image whole, at `img_scale`."""
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
        """All of an image at `img_scale`."""
        size = rescale_size(record.size, self.img_scale, self.keep_ratio)
        return whole(index, size, flip)

    def draw(
        self, index: int, record: Record, random: np.random.Generator
    ) -> View | None:
        """A view of an image; None if mmdet would take another image instead."""
        flip = random.random() < self.flip_ratio
        scale = self.jitter.draw_scale(self.img_scale, random)
        size = rescale_size(record.size, scale, self.keep_ratio)
        view = self.jitter.draw_window(index, size, flip, random)
        return view if self.jitter.accepts(record, view) else None


Batch = dict[str, np.ndarray]


def check_room(record: Record, max_boxes: int) -> None:
    """Raises ValueError if an image has more boxes than a batch has room for."""
    count = len(record.labels)
    if count > max_boxes:
        raise ValueError(
            f'image id {record.image_id} ({record.file_name}) has {count} boxes, '
            f'but data.max_boxes = {max_boxes}; raise it to {count} or more'
        )


def load_row(
    source: Source,
    index: int,
    canvas: Canvas,
    pipeline: Pipeline,
    flip: bool = False,
    view: View | None = None,
    out: np.ndarray | None = None,
) -> Batch:
    """One row of a batch (no leading B); names, types and meanings as in `structures`.

    Args:
        source: where the record comes from.
        index: of the record.
        canvas: height, width of the result.
        pipeline: how to resize.
        flip: mirror left to right; not read with a `view`.
        view: what to show of the image; None: all of it at `img_scale`.
        out: (H,W,3) uint8 to draw the image on; None: a new array.

    Raises:
        ValueError: more boxes than `pipeline.max_boxes`, or a bad image.
        OSError: no such image.
    """
    record, room = source.records[index], pipeline.max_boxes
    check_room(record, room)
    view = view or pipeline.whole(index, record, flip)
    out = new_canvas(canvas) if out is None else out
    row = image_row(record, source.read_image(record), out, view)
    boxes, shown = pipeline.jitter.boxes(record, view)
    kept = pipeline.jitter.kept(boxes, shown)
    boxes = boxes[kept]
    if view.flip:
        boxes = transforms.flip_boxes(boxes, view.width)
    return row | {
        'gt_boxes': _pad(boxes.astype(np.float32), room),
        'gt_labels': _pad(record.labels[kept].astype(np.int32), room),
        'gt_valid': np.arange(room) < len(boxes),
        'gt_ignored': _pad(record.ignored[kept], room),
    }


def _pad(values, length):
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def new_canvas(canvas: Canvas) -> np.ndarray:
    """(H,W,3) uint8 to draw a row on; what is in it is not defined."""
    return np.empty((*canvas, 3), np.uint8)


def image_row(
    record: Record, image: np.ndarray, canvas: np.ndarray, view: View
) -> Batch:
    """What a row holds beside the truth.

    Args:
        record: the image's id and size.
        image: (H,W,3) uint8 RGB of that size.
        canvas: (H,W,3) uint8, which the image is drawn on and which becomes `image`.
        view: what to show of the image.
    """
    draw(image, canvas, view)
    return {
        'image': canvas,
        'image_size': np.array(view.shown, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, view.size).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
        'skipped': np.array(NONE, np.int64),
    }


def draw(image: np.ndarray, canvas: np.ndarray, view: View) -> None:
    """Shows an image in the top left corner of a canvas; the rest turns black.

    OpenCV writes to the canvas itself, without an array in between.
    """
    corner = transforms.corner(canvas, view.shown)
    if view.shown == view.size:
        shown = transforms.resize(image, view.size, out=corner)
    else:
        resized = transforms.resize(image, view.size)
        shown = transforms.crop(resized, view.top, view.left, view.shown)
        if not view.flip:
            corner[:] = shown
    if view.flip:
        # After resizing: resized mirror images differ from mirrored resized ones.
        transforms.flip_image(shown, out=corner)


def build_batch(
    count: int, canvas: Canvas, load: Callable[[int, np.ndarray], Batch]
) -> Batch:
    """A batch whose images are drawn where they stay.

    Args:
        count: rows, B.
        canvas: height, width of all.
        load: gives the row of a number from 0, drawn on the canvas given.
    """
    images = np.empty((count, *canvas, 3), np.uint8)
    rows = [load(number, image) for number, image in enumerate(images)]
    names = [name for name in rows[0] if name != 'image']
    return {'image': images} | {n: np.stack([row[n] for row in rows]) for n in names}


@dataclasses.dataclass(frozen=True)
class Tta:
    """Test-time augmentation: every scale, each also mirrored if `flip`.

    Attributes:
        img_scales: as `Pipeline.img_scale`; None: the pipeline's own alone. Their order
            does not matter.
        flip: each scale once more, mirrored left to right.
    """

    img_scales: tuple[tuple[int, int], ...] | None = None
    flip: bool = True


class Variant(NamedTuple):
    """One way to show every image: at which scale, mirrored or not."""

    pipeline: Pipeline
    flip: bool = False


def variants(pipeline: Pipeline, tta: Tta | None) -> tuple[Variant, ...]:
    """The ways to show every image; without test-time augmentation one.

    Source: mmdet's `tta_pipeline`, TestTimeAug of Resize and RandomFlip.
    """
    pipeline = pipeline.without_jitter()
    if tta is None:
        return (Variant(pipeline),)
    scales = sorted(set(tta.img_scales or (pipeline.img_scale,)))
    return tuple(
        Variant(for_any_image(dataclasses.replace(pipeline, img_scale=scale)), flip)
        for scale in scales
        for flip in ((False, True) if tta.flip else (False,))
    )


def for_any_image(pipeline: Pipeline) -> Pipeline:
    """With canvases that hold an image of any shape, beside those that it has."""
    own = pipeline.canvases or ()
    scale, divisor = pipeline.img_scale, pipeline.size_divisor
    room = default_canvases(scale, pipeline.keep_ratio, divisor)
    return dataclasses.replace(pipeline, canvases=tuple(dict.fromkeys((*own, *room))))


def place(image: np.ndarray, variant: Variant) -> tuple[Canvas, Batch]:
    """Canvas and row of an image that no data set lists.

    Args:
        image: (H,W,3) uint8 RGB.
        variant: its pipeline is one of `for_any_image`.
    """
    size = image.shape[:2]
    none = np.zeros(0)
    record = Record(-1, '', size, none, none, none)
    pipeline = variant.pipeline
    view = pipeline.whole(0, record, variant.flip)
    canvas = smallest_canvas(pipeline.all_canvases(), view.size, pipeline.size_divisor)
    return canvas, image_row(record, image, new_canvas(canvas), view)
