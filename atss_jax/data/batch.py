"""Rows of batches: an image resized, mirrored, put on a canvas, with its objects.

`Pipeline` says how, in mmdet's terms; `load_view` makes a row of a training batch,
`image_row` one without objects, and `build_batch` a batch of them. `variants` are the
ways to show each image at evaluation: one, or several for test-time augmentation.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atss_jax.data import transforms
from atss_jax.data.augment.objects import Objects
from atss_jax.data.augment.sequence import Transform, may_change_shape, possible_sizes
from atss_jax.data.augment.user_function import UserFunction
from atss_jax.data.bad_images import NOT_SKIPPED
from atss_jax.data.plan import (
    Canvas,
    canvas_of_sizes,
    default_canvases,
    smallest_canvas,
)
from atss_jax.data.records import Record, Source
from atss_jax.data.transforms import (
    Flip,
    Jitter,
    View,
    flip_by_chance,
    flip_chances,
    rescale_size,
    whole,
)
from atss_jax.structures import Batch


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """How images are loaded: the values of a config's `pipeline` and `data` sections.

    Attributes:
        img_scale: the image is resized to fit (long, short), either way round.
        keep_ratio: if not, it becomes exactly (width, height).
        flip_ratio: fraction of training images that are mirrored; with several
            directions, one for each, or of all together.
        flip_direction: 'horizontal' (left to right), 'vertical' or 'diagonal' (both),
            or a tuple of several, of which an image is mirrored in one at most.
        size_divisor: an image alone would be padded to a multiple of this.
        canvases: (height, width) of the canvases that images may be put on; None: one
            landscape and one portrait canvas that hold any image.
        max_boxes: capacity for boxes per image, G; an image with more is an error.
        max_bad_pictures: share of images that may be unreadable; with 0 the first one
            is an error. Batches are the same with any share above 0.
        jitter: random scale and crop of training images.
        backend: 'cv2' or 'pillow': images have the pixels of its bilinear resize.
        reduced_decoding: whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their
            size where that is not below the size that they are resized to. Pixels then
            differ.
        before_resize: transforms of training images as loaded, in this order: None, or
            a tuple of sections that each have a `type` and mmdetection's arguments.
        after_flip: as `before_resize`, of images that are resized, cropped and
            mirrored; a function of yours is one of them.
    """

    img_scale: tuple[int, int]
    keep_ratio: bool = True
    flip_ratio: float | tuple[float, ...] = 0.0
    size_divisor: int = 32
    canvases: tuple[Canvas, ...] | None = None
    max_boxes: int = 100
    max_bad_pictures: float = 0.0
    jitter: Jitter = Jitter()  # noqa: RUF009, frozen
    backend: str = 'cv2'
    flip_direction: str | tuple[str, ...] = 'horizontal'
    reduced_decoding: bool = False
    before_resize: tuple[Transform, ...] = ()
    after_flip: tuple[Transform | UserFunction, ...] = ()

    def without_jitter(self) -> 'Pipeline':
        """For evaluation: each image whole, at `img_scale`, not mirrored or changed."""
        neutral = {'flip_ratio': 0.0, 'flip_direction': 'horizontal'}
        lists = {'before_resize': (), 'after_flip': ()}
        return dataclasses.replace(self, jitter=Jitter(), **neutral, **lists)

    @property
    def changes_size(self) -> bool:
        """Whether an image may be shown at more than one size, or not at its own."""
        return self.jitter.changes_size or bool(self.before_resize)

    def all_canvases(self) -> tuple[Canvas, ...]:
        """The canvases, given or by default."""
        if self.canvases is not None:
            return self.canvases
        canvases = default_canvases(
            self.img_scale, self.keep_ratio, self.size_divisor, self.jitter
        )
        if not may_change_shape(self.before_resize):
            return canvases
        both = tuple(max(sides) for sides in zip(*canvases, strict=True))
        return tuple(dict.fromkeys((*canvases, both)))

    def canvas_index(self, source: Source) -> np.ndarray:
        """(N,) index of the canvas of each record, which holds any view of its image.

        Raises:
            ValueError: an image fits none of the canvases, or nothing is left of it.
        """

        def largest(size):
            sizes = [
                self.jitter.largest(new, self.img_scale, self.keep_ratio)
                for new in possible_sizes(self.before_resize, size)
            ]
            return tuple(max(sides) for sides in zip(*sizes, strict=True))

        return canvas_of_sizes(
            source.records,
            self.all_canvases(),
            largest,
            self.size_divisor,
            self.img_scale,
        )

    def whole(self, index: int, record: Record, flip: Flip = Flip.NONE) -> View:
        """The view of all of an image at `img_scale`."""
        size = rescale_size(record.size, self.img_scale, self.keep_ratio)
        return whole(index, size, flip)

    def sample_view(
        self, index: int, record: Record, random: np.random.Generator
    ) -> View | None:
        """A random view of an image; None if mmdet would take another image instead."""
        chances = flip_chances(self.flip_ratio, self.flip_direction)
        flip = flip_by_chance(chances, random.random())
        scale = self.jitter.sample_scale(self.img_scale, random)
        size = rescale_size(record.size, scale, self.keep_ratio)
        view = self.jitter.sample_window(index, size, flip, random)
        return view if self.jitter.accepts(record, view) else None


# Rows --------------------------------------------------------------------------------


def load_row(
    source: Source, index: int, canvas: Canvas, pipeline: Pipeline, flip: bool = False
) -> Batch:
    """Loads a row that shows all of an image at `img_scale`; see `load_view`.

    Args:
        source: where the record comes from.
        index: of the record.
        canvas: height, width.
        pipeline: how to resize.
        flip: whether to mirror the image left to right.
    """
    view = pipeline.whole(index, source.records[index], flip)
    return load_view(source, view, pipeline, empty_pixels(canvas))


def load_view(
    source: Source, view: View, pipeline: Pipeline, pixels: np.ndarray
) -> Batch:
    """Loads one row of a training batch, with all of `structures.BATCH_FIELDS`.

    Args:
        source: where the record comes from.
        view: which record, and what to show of its image.
        pipeline: says which boxes are kept, and the capacity for boxes.
        pixels: (H,W,3) uint8, which the image is drawn on and which becomes `image`.

    Raises:
        ValueError: more boxes than `pipeline.max_boxes`, or a bad image.
        OSError: the image cannot be read.
    """
    record = source.records[view.record]
    check_capacity(record, pipeline.max_boxes)
    image = read_image(source, record, view, pipeline)
    row = image_row(record, image, pixels, view, pipeline.backend)
    return row | ground_truth(objects_in(record, view, pipeline), pipeline.max_boxes)


def read_image(
    source: Source, record: Record, view: View, pipeline: Pipeline
) -> np.ndarray:
    """The image of a record, to be resized for a view; raises what the source does."""
    if pipeline.reduced_decoding:
        return source.read_image(record, view.size)
    return source.read_image(record)


def objects_in(record: Record, view: View, pipeline: Pipeline) -> Objects:
    """The objects of a record that training gets, in pixels of a view."""
    boxes, shown = pipeline.jitter.boxes(record, view)
    kept = pipeline.jitter.kept(boxes, shown)
    boxes = transforms.mirror_boxes(boxes[kept], view.shown, view.flip)
    return Objects(boxes.astype(np.float32), record.labels[kept], record.ignored[kept])


def ground_truth(objects: Objects, capacity: int) -> Batch:
    """The fields of a row that hold its objects, padded to `capacity`."""
    return {
        'gt_boxes': _pad(objects.boxes, capacity),
        'gt_labels': _pad(objects.labels.astype(np.int32), capacity),
        'gt_valid': np.arange(capacity) < len(objects.labels),
        'gt_ignored': _pad(objects.ignored, capacity),
    }


def check_has_objects(source: Source) -> None:
    """Raises ValueError if there is no object to learn in any image."""
    if source.records.ignored.all():
        counts = [f'{number} {reason}' for reason, number in source.untrained.items()]
        raise ValueError(
            f'data.train: none of its {len(source.records)} images has an object to '
            f'learn. Annotations by reason: {"; ".join(counts) or "there are none"}. '
            'Correct data.train.ann_file, or data.train.classes'
        )


def check_box_counts(source: Source, max_boxes: int) -> None:
    """Raises ValueError if an image has more boxes than a batch has capacity for."""
    counts = source.records.counts
    if len(counts):
        check_capacity(source.records[int(counts.argmax())], max_boxes)


def check_capacity(record: Record, max_boxes: int) -> None:
    """Raises ValueError if this image has more boxes than a batch has capacity for."""
    count = len(record.labels)
    if count > max_boxes:
        raise ValueError(
            f'image id {record.image_id} ({record.file_name}) has {count} boxes, '
            f'but data.max_boxes = {max_boxes}; raise it to {count} or more'
        )


def _pad(values, length):
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def image_row(
    record: Record, image: np.ndarray, pixels: np.ndarray, view: View, backend: str
) -> Batch:
    """A row without ground truth, for evaluation and prediction.

    Args:
        record: the image's id and size.
        image: (H,W,3) uint8 RGB of that size, or smaller as of `Source.read_image`.
        pixels: (H,W,3) uint8, which the image is drawn on and which becomes `image`.
        view: what to show of the image.
        backend: as `Pipeline.backend`.
    """
    draw_view(image, pixels, view, backend)
    return {
        'image': pixels,
        'image_size': np.array(view.shown, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, view.size).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
        'skipped': np.array(NOT_SKIPPED, np.int64),
    }


def empty_pixels(canvas: Canvas) -> np.ndarray:
    """(H,W,3) uint8 array of undefined content, to draw an image on."""
    return np.empty((*canvas, 3), np.uint8)


def draw_view(image: np.ndarray, pixels: np.ndarray, view: View, backend: str) -> None:
    """Draws a view in the top left corner of `pixels`; the rest turns black.

    OpenCV writes there directly where it can, to save a copy. `backend` is that of
    `Pipeline`.
    """
    corner = transforms.corner(pixels, view.shown)
    if view.shown == view.size:
        shown = transforms.resize(image, view.size, corner, backend)
    else:
        resized = transforms.resize(image, view.size, backend=backend)
        shown = transforms.crop(resized, view.top, view.left, view.shown)
        if not view.flip:
            corner[:] = shown
    if view.flip:
        # After resizing: a resized mirror image differs from a mirrored resized one.
        transforms.flip_image(shown, corner, Flip(view.flip))


def build_batch(
    count: int,
    canvas: Canvas,
    load: Callable[[int, np.ndarray], Batch],
    memory: np.ndarray | None = None,
) -> Batch:
    """Stacks rows to a batch; images are drawn directly in the batch's array.

    Args:
        count: number of rows, B.
        canvas: height, width of all rows.
        load: `load(number, pixels)` makes row `number`, from 0, on the given pixels.
        memory: (bytes,) uint8 of any content, whose beginning the images take; None:
            new memory.
    """
    shape = count, *canvas, 3
    images = np.empty(shape, np.uint8) if memory is None else images_in(memory, shape)
    rows = [load(number, image) for number, image in enumerate(images)]
    names = [name for name in rows[0] if name != 'image']
    return {'image': images} | {n: np.stack([row[n] for row in rows]) for n in names}


def images_in(memory: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The images of a batch, of `shape`, at the beginning of a (bytes,) uint8 array."""
    return memory[: math.prod(shape)].reshape(shape)


def largest_batch(count: int, canvases: Sequence[Canvas]) -> int:
    """Bytes of `count` images on the largest canvas."""
    return count * max(height * width for height, width in canvases) * 3


# Ways to show images at evaluation ---------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tta:
    """Test-time augmentation: every scale, each also mirrored if `flip`.

    Attributes:
        img_scales: as `Pipeline.img_scale`, in any order; None: the pipeline's own.
        flip: whether each scale is also shown mirrored left to right.
    """

    img_scales: tuple[tuple[int, int], ...] | None = None
    flip: bool = True


class Variant(NamedTuple):
    """One way to show every image: at which scale, mirrored or not."""

    pipeline: Pipeline
    flip: bool = False


def variants(pipeline: Pipeline, tta: Tta | None) -> tuple[Variant, ...]:
    """The ways to show every image; a single one without test-time augmentation.

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
    """The pipeline with additional canvases, so that an image of any shape fits one."""
    canvases = pipeline.canvases or ()
    scale, divisor = pipeline.img_scale, pipeline.size_divisor
    general = default_canvases(scale, pipeline.keep_ratio, divisor)
    return dataclasses.replace(
        pipeline, canvases=tuple(dict.fromkeys((*canvases, *general)))
    )


def place(image: np.ndarray, variant: Variant) -> tuple[Canvas, Batch]:
    """The canvas and the row of an image that belongs to no data set.

    Args:
        image: (H,W,3) uint8 RGB.
        variant: how to show it; its pipeline is one of `for_any_image`.
    """
    size = image.shape[:2]
    none = np.zeros(0)
    record = Record(-1, '', size, none, none, none)
    pipeline = variant.pipeline
    view = pipeline.whole(0, record, variant.flip)
    canvas = smallest_canvas(pipeline.all_canvases(), view.size, pipeline.size_divisor)
    pixels = empty_pixels(canvas)
    return canvas, image_row(record, image, pixels, view, pipeline.backend)
