"""Resizes, crops and mirrors images and their boxes, in NumPy and OpenCV.

A `View` says what is shown of an image, and `Jitter` samples views at random. The
functions after them do the work on arrays.

Sizes are (height, width), scales (width, height), as in mmdet. Source:
mmdet.datasets.transforms (Resize, RandomFlip, Pad, RandomChoiceResize, RandomResize,
RandomCrop, FilterAnnotations) and the mmcv functions below them.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from atss_jax.data import pillow_resize
from atss_jax.data.records import Record

BACKENDS = ('cv2', 'pillow')
"""Programs whose bilinear resize an image can be resized like."""

Scale = tuple[int, int]
"""mmdet's `img_scale`: its longer and its shorter side must hold the image's."""


class Flip(enum.IntFlag):
    """How an image is mirrored; False and True are the first two."""

    NONE = 0
    HORIZONTAL = 1  # left to right
    VERTICAL = 2  # top to bottom
    DIAGONAL = 3  # both


_FLIP_CODES = {Flip.HORIZONTAL: 1, Flip.VERTICAL: 0, Flip.DIAGONAL: -1}  # OpenCV's
DIRECTIONS = {flip.name.lower(): flip for flip in _FLIP_CODES}
"""By mmdetection's names."""


class View(NamedTuple):
    """What a row of a batch shows of an image.

    Attributes:
        record: index of the image.
        size: height, width that the whole image is resized to.
        top: first row of the window that is cut out of the resized image.
        left: first column of the window.
        height: number of rows of the window.
        width: number of columns of the window.
        flip: how the window is mirrored.
    """

    record: int
    size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    flip: Flip

    @property
    def shown(self) -> tuple[int, int]:
        """Height, width of the window."""
        return self.height, self.width


def whole(record: int, size: tuple[int, int], flip: Flip) -> View:
    """The view of a whole image, resized to `size`."""
    return View(record, size, 0, 0, *size, flip)


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Random scale and crop of training images; by default neither.

    Attributes:
        img_scales: scales to sample from instead of `img_scale`; None: none.
        multiscale_mode: 'range': each side between those of two scales; 'value': one of
            the scales.
        ratio_range: smallest and largest factor that `img_scale` is multiplied by;
            None: 1.
        crop_size: (width, height) of a window at a random place; a smaller image stays
            whole; None: no window.
        allow_negative_crop: whether a window may show no box at all; if not, another
            image takes its place.
        min_gt_bbox_wh: boxes in the window stay if wider and higher; None: all stay.
        keep_empty: mmdet's name, which says the opposite: if no box of a window stays,
            another image takes its place.
    """

    img_scales: tuple[Scale, ...] | None = None
    multiscale_mode: str = 'range'
    ratio_range: tuple[float, float] | None = None
    crop_size: tuple[int, int] | None = None
    allow_negative_crop: bool = False
    min_gt_bbox_wh: tuple[float, float] | None = None
    keep_empty: bool = True

    @property
    def changes_size(self) -> bool:
        """Whether an image may be shown at more than one size."""
        random = (self.img_scales, self.ratio_range, self.crop_size)
        return any(value is not None for value in random)

    def sample_scale(self, img_scale: Scale, random: np.random.Generator) -> Scale:
        """The scale of one image, at random."""
        if self.ratio_range is not None:
            low, high = self.ratio_range
            return _times(img_scale, low + (high - low) * random.random())
        if self.img_scales is None:
            return img_scale
        if self.multiscale_mode == 'value':
            return self.img_scales[random.integers(len(self.img_scales))]
        long, short = (sorted(map(side, self.img_scales)) for side in (max, min))
        return (
            int(random.integers(long[0], long[-1], endpoint=True)),
            int(random.integers(short[0], short[-1], endpoint=True)),
        )

    def sample_window(
        self, index: int, size: tuple[int, int], flip: Flip, random: np.random.Generator
    ) -> View:
        """A view of image `index`, which is resized to `size`, at a random place."""
        if self.crop_size is None:
            return whole(index, size, flip)
        height, width = self.cropped(size)
        top = int(random.integers(size[0] - height, endpoint=True))
        left = int(random.integers(size[1] - width, endpoint=True))
        return View(index, size, top, left, height, width, flip)

    def cropped(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height, width of the window in an image of `size`."""
        if self.crop_size is None:
            return size
        return min(size[0], self.crop_size[1]), min(size[1], self.crop_size[0])

    def largest_scales(self, img_scale: Scale) -> tuple[Scale, ...]:
        """Scales one of which makes an image at least as large as any sampled scale."""
        if self.ratio_range is not None:
            return (_times(img_scale, self.ratio_range[1]),)
        if self.img_scales is None:
            return (img_scale,)
        if self.multiscale_mode == 'value':
            return self.img_scales
        return ((max(map(max, self.img_scales)), max(map(min, self.img_scales))),)

    def largest(
        self, size: tuple[int, int], img_scale: Scale, keep_ratio: bool
    ) -> tuple[int, int]:
        """Height, width that no view of an image of `size` exceeds."""
        scales = self.largest_scales(img_scale)
        sizes = [rescale_size(size, scale, keep_ratio) for scale in scales]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        return self.cropped((height, width))

    def boxes(self, record: Record, view: View) -> tuple[np.ndarray, np.ndarray]:
        """(G,4) float32 boxes in pixels of a view before mirroring; (G,) bool: shown.

        Crowds are treated like other boxes. Without a crop no box is dropped, not even
        one that clipping leaves empty.
        """
        boxes = resize_boxes(record.boxes, scale_factor(record.size, view.size))
        boxes = clip_boxes(boxes, view.size)
        if self.crop_size is None:
            return boxes, np.ones(len(boxes), bool)
        corner = np.array([view.left, view.top] * 2, np.float32)
        boxes = clip_boxes(boxes - corner, view.shown)
        x1, y1, x2, y2 = boxes.T
        shown = (x1 < view.width) & (y1 < view.height) & (x2 > 0) & (y2 > 0)
        return boxes, shown

    def kept(self, boxes: np.ndarray, shown: np.ndarray) -> np.ndarray:
        """(G,) bool: boxes of a view that are trained on; arguments as from `boxes`."""
        if self.min_gt_bbox_wh is None:
            return shown
        sides = boxes[:, 2:] - boxes[:, :2]
        return shown & (sides > np.array(self.min_gt_bbox_wh, np.float32)).all(axis=1)

    def accepts(self, record: Record, view: View) -> bool:
        """Whether a view may be trained on; otherwise mmdet takes another image."""
        may_be_refused = self.min_gt_bbox_wh is not None and self.keep_empty
        may_be_refused |= self.crop_size is not None and not self.allow_negative_crop
        if not may_be_refused:
            return True
        boxes, shown = self.boxes(record, view)
        if not shown.any():
            return self.crop_size is None or self.allow_negative_crop
        return not self.keep_empty or bool(self.kept(boxes, shown).any())


def _times(scale, factor):
    """Rounded down, as in mmcv; but no side becomes 0, which OpenCV cannot make."""
    return max(int(scale[0] * factor), 1), max(int(scale[1] * factor), 1)


# Flips -------------------------------------------------------------------------------


def flip_chances(
    ratio: float | Sequence[float], direction: str | Sequence[str]
) -> list[tuple[Flip, float]]:
    """Each flip with its probability, by the rules of mmdetection's RandomFlip.

    Args:
        ratio: a probability, shared equally between several directions, or one for each
            of them.
        direction: a name of `DIRECTIONS`, or several.
    """
    names = [direction] if isinstance(direction, str) else list(direction)
    if not isinstance(ratio, Sequence):
        ratio = [ratio / len(names)] * len(names)
    return [(DIRECTIONS[n], share) for n, share in zip(names, ratio, strict=True)]


def flip_by_chance(chances: Sequence[tuple[Flip, float]], number: float) -> Flip:
    """The flip that a random number from 0 to 1 selects, by the chances of each."""
    total = 0.0
    for flip, chance in chances:
        total += chance
        if number < total:
            return flip
    return Flip.NONE


# Sizes -------------------------------------------------------------------------------


def rescale_size(
    size: tuple[int, int], img_scale: Scale, keep_ratio: bool = True
) -> tuple[int, int]:
    """The height and width that an image of `size` is resized to.

    Differs from mmdet: a side never rounds to 0, where OpenCV would fail.

    Args:
        size: height, width.
        img_scale: the longer and the shorter side that must hold the image, in either
            order; without `keep_ratio`, the exact (width, height).
        keep_ratio: whether both sides are scaled alike.

    Raises:
        ValueError: a size or a scale is not positive.
    """
    if min(*size, *img_scale) <= 0:
        raise ValueError(f'cannot rescale {size} to {img_scale}: not positive')
    if not keep_ratio:
        return img_scale[1], img_scale[0]
    factor = min(max(img_scale) / max(size), min(img_scale) / min(size))
    height, width = (max(int(side * factor + 0.5), 1) for side in size)
    return height, width


def scale_factor(old_size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """(2,) float64: new over old width, new over old height."""
    return np.array([new_size[1] / old_size[1], new_size[0] / old_size[0]])


# Images ------------------------------------------------------------------------------


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    out: np.ndarray | None = None,
    backend: str = 'cv2',
) -> np.ndarray:
    """The image at `size` (height, width), interpolated bilinearly.

    Args:
        image: (H,W,3) uint8.
        size: height, width of the result.
        out: array of that size to write to; None: a new one.
        backend: one of `BACKENDS`, whose pixels the result has.
    """
    if backend == 'pillow':
        resized = pillow_resize.resize(image, size)
        if out is None:
            return resized
        out[:] = resized
        return out
    wide_high = size[1], size[0]
    return cv2.resize(image, wide_high, dst=out, interpolation=cv2.INTER_LINEAR)


def crop(image: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """The window of `size` (height, width) whose first pixel is (top, left)."""
    return image[top : top + size[0], left : left + size[1]]


def flip_image(
    image: np.ndarray, out: np.ndarray | None = None, flip: Flip = Flip.HORIZONTAL
) -> np.ndarray:
    """The image mirrored.

    Args:
        image: (H,W,3) uint8.
        out: array to write to, which may be `image`; None: a new one.
        flip: how to mirror it, at least along one axis.
    """
    return cv2.flip(image, _FLIP_CODES[flip], dst=out)


def corner(canvas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The top left part of a canvas, to write an image to; the rest turns black.

    Args:
        canvas: (H,W,3) uint8, of any content.
        size: height, width of the image.

    Raises:
        ValueError: the image is larger than the canvas.
    """
    height, width = size
    if height > canvas.shape[0] or width > canvas.shape[1]:
        raise ValueError(
            f'image of height {height}, width {width} does not fit on the canvas of '
            f'height {canvas.shape[0]}, width {canvas.shape[1]}'
        )
    canvas[:height, width:] = 0
    canvas[height:] = 0
    return canvas[:height, :width]


# Boxes -------------------------------------------------------------------------------


def resize_boxes(boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(G,4) boxes times `scale` (width, height), in float32 as in mmdet."""
    return boxes * np.tile(np.asarray(scale, np.float32), 2)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes clipped to an image of `size`; coordinates reach up to width and height.

    As in mmdet, no box is removed, not even one that this leaves empty.
    """
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes mirrored left to right in an image `width` pixels wide."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def mirror_boxes(boxes: np.ndarray, size: tuple[int, int], flip: Flip) -> np.ndarray:
    """Boxes mirrored in any direction in an image of `size`."""
    height, width = size
    if flip & Flip.HORIZONTAL:
        boxes = flip_boxes(boxes, width)
    if flip & Flip.VERTICAL:
        # Columns for rows: what is left to right there is top to bottom here.
        turned = flip_boxes(boxes[:, [1, 0, 3, 2]], height)
        boxes = turned[:, [1, 0, 3, 2]]
    return boxes
