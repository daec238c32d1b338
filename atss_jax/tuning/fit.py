"""How well anchors fit the objects of a data set: the assignment, run without a model.

Assigning costs a fraction of a millisecond per image, so settings can be tried.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from atss_jax.data.plan import round_up
from atss_jax.data.records import Records
from atss_jax.data.transforms import rescale_size, scale_factor
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import assign
from atss_jax.detection.boxes import iou

SIZE_BOUNDS = (16, 32, 64, 128, 256)
"""Sides in pixels of the resized image that divide objects into sizes."""

_DIVISOR = 32
_CHUNK = 16  # images per run of the compiled program


class Objects(NamedTuple):
    """Objects of some images of a data set, in pixels of the original images.

    Attributes:
        sizes: (N,2) int32 height, width of each image.
        boxes: (N,G,4) float32 xyxy, padded.
        labels: (N,G) int32.
        valid: (N,G) bool; False for padding and for crowd regions.
    """

    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    valid: np.ndarray

    def resized(self, img_scale: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N,G,4) and sizes (N,2) after the images are resized to fit.

        As in training, boxes are clipped to their images.
        """
        old = [tuple(size) for size in self.sizes.tolist()]
        new = [rescale_size(size, img_scale) for size in old]
        factors = [scale_factor(*pair) for pair in zip(old, new, strict=True)]
        factors = np.tile(np.array(factors, np.float32), 2)
        new = np.array(new, np.int32)
        limits = np.tile(new[:, ::-1], 2).astype(np.float32)
        return np.clip(self.boxes * factors[:, None], 0, limits[:, None]), new


def box_sides(boxes: np.ndarray) -> np.ndarray:
    """Square root of the area of each box, (...) for (...,4)."""
    width, height = np.moveaxis(boxes[..., 2:] - boxes[..., :2], -1, 0)
    return np.sqrt(np.maximum(width, 0) * np.maximum(height, 0))


def sample_objects(records: Records, count: int, seed: int = 0) -> Objects:
    """The objects of `count` images, sampled at random; of all images if fewer.

    Images without objects, or with crowd regions only, are never sampled.
    """
    image_of_each = np.repeat(np.arange(len(records)), records.counts)
    with_objects = np.unique(image_of_each[~records.ignored])
    order = np.random.default_rng(seed).permutation(with_objects)[:count]
    chosen = [records[int(row)] for row in np.sort(order)]
    capacity = max(len(record.labels) for record in chosen)

    def pad(values, fill):
        shape = (capacity - len(values), *values.shape[1:])
        return np.concatenate([values, np.full(shape, fill, values.dtype)])

    return Objects(
        sizes=np.array([record.size for record in chosen], np.int32),
        boxes=np.stack([pad(record.boxes, 0) for record in chosen]),
        labels=np.stack([pad(record.labels, 0) for record in chosen]),
        valid=np.stack([pad(~record.ignored, False) for record in chosen]),
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings to try.

    Attributes:
        img_scale: (long, short) that images are resized to fit into.
        anchors: the anchor grid.
    """

    img_scale: tuple[int, int]
    anchors: AnchorGenerator


def anchor_sides(anchors: AnchorGenerator) -> np.ndarray:
    """(a,) sides of the square anchors of the finest level, in pixels."""
    base = anchors.base_anchors(0)
    return base[:, 2] - base[:, 0]


class SizeRow(NamedTuple):
    """What the assignment makes of the objects of one size.

    Attributes:
        name: the size in pixels, '16 to 32'.
        objects: number of them.
        unassigned: share without any positive anchor.
        positives: mean number of positive anchors.
        levels: (L,) share of the positive anchors on each level.
    """

    name: str
    objects: int
    unassigned: float
    positives: float
    levels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the assignment makes of the objects with some settings.

    Attributes:
        choice: the settings.
        labels: (M,) int32 class of each object.
        sides: (M,) float32 pixels, square root of its area in the resized image.
        positives: (M,) int, number of anchors that are assigned to it.
        overlaps: (M,) float32, mean IoU of these anchors with it; 0 without any.
        by_level: (M,L) int, number of them on each level.
    """

    choice: Choice
    labels: np.ndarray
    sides: np.ndarray
    positives: np.ndarray
    overlaps: np.ndarray
    by_level: np.ndarray

    def class_overlaps(self, num_classes: int) -> np.ndarray:
        """(C,) mean overlap of the objects of each class; nan without objects."""
        counts = np.bincount(self.labels, minlength=num_classes)
        sums = np.bincount(self.labels, self.overlaps, minlength=num_classes)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    @property
    def unassigned(self) -> float:
        """Share of the objects without any positive anchor, which are not learned."""
        return float(np.mean(self.positives == 0))

    def size_rows(self) -> list[SizeRow]:
        """What becomes of the objects of each size, without sizes that none has."""
        bounds = (0, *SIZE_BOUNDS, np.inf)
        rows = []
        for low, high in itertools.pairwise(bounds):
            inside = (self.sides >= low) & (self.sides < high)
            if inside.any():
                positives, on_levels = self.positives[inside], self.by_level[inside]
                rows.append(
                    SizeRow(
                        f'{low} to {high}' if high < np.inf else f'{low} or more',
                        int(inside.sum()),
                        float(np.mean(positives == 0)),
                        float(np.mean(positives)),
                        on_levels.sum(0) / max(on_levels.sum(), 1),
                    )
                )
        return rows


def fit(objects: Objects, choice: Choice) -> Fit:
    """Assigns the objects of all images to the anchors of a choice."""
    boxes, sizes = objects.resized(choice.img_scale)
    side = round_up(int(sizes.max()), _DIVISOR)
    results = []
    for start in range(0, len(boxes), _CHUNK):
        rows = np.arange(start, start + _CHUNK) % len(boxes)
        run = _fit_images(boxes[rows], objects.valid[rows], sizes[rows], choice, side)
        results.append([np.asarray(x)[: len(boxes) - start] for x in run])
    by_level, overlaps = (np.concatenate(x) for x in zip(*results, strict=True))
    valid = objects.valid
    return Fit(
        choice=choice,
        labels=objects.labels[valid],
        sides=box_sides(boxes)[valid],
        positives=by_level.sum(-1)[valid],
        overlaps=overlaps[valid],
        by_level=by_level[valid],
    )


@functools.partial(jax.jit, static_argnames=('choice', 'side'))
def _fit_images(
    boxes: Float[Array, 'N G 4'],
    valid: Bool[Array, 'N G'],
    sizes,
    choice: Choice,
    side: int,
):
    """Positive anchors of each box by level (N,G,L), and their mean IoU (N,G)."""
    anchors, canvas = choice.anchors, (side, side)
    all_anchors = jnp.asarray(anchors.all(canvas))
    counts = [h * w * anchors.num_anchors for h, w in anchors.grid_sizes(canvas)]
    level = np.repeat(np.arange(len(counts)), counts)

    def fit_image(boxes, valid, size):
        index = assign(boxes, valid, size, canvas, anchors=anchors)
        is_positive, row = index >= 0, jnp.maximum(index, 0)
        overlap = jnp.where(is_positive, iou(boxes[row], all_anchors), 0)
        by_level = jnp.zeros((len(boxes), len(counts)), jnp.int32)
        by_level = by_level.at[row, level].add(is_positive)
        sums = jnp.zeros(len(boxes)).at[row].add(overlap)
        return by_level, sums / jnp.maximum(by_level.sum(-1), 1)

    return jax.vmap(fit_image)(boxes, valid, sizes)
