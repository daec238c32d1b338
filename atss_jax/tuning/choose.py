"""Chooses the image scale and the anchors for a data set, by trying them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from atss_jax.data.plan import round_up
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.tuning.fit import Choice, Fit, Objects, box_sides, fit

LONG_SIDES = (96, 128, 192, 256, 320, 416, 512, 640, 800, 1024, 1333)
"""Long sides of the images that are tried."""
SMALLEST_SIDE = 16
"""Pixels that nine of ten objects of each class must have at least: two cells of the
finest level, P3."""
BASE_SCALES = (3.0, 4.0, 5.0, 6.0, 8.0)
"""Values of `octave_base_scale` that are tried."""
SCALES_PER_OCTAVE = (1, 2, 3)
"""Values of `scales_per_octave` that are tried."""

_LARGEST_ENLARGEMENT = 2  # of images that are smaller than the scale
_ALIKE = 0.01  # difference in overlap that does not matter
_ALIKE_SCALE = 0.02  # the same for scales, of which the larger costs more
_POOR = 0.25  # overlap of a class for which finer levels are tried
_FEW, _RARE = 5, 0.01  # objects of a class, number and share, that decide nothing


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was chosen, and what was tried.

    Attributes:
        fit: of the choice.
        usual: fit of mmdetection's anchors at the chosen image scale.
        tried: all fits, in the order of the trials.
        smallest_sides: (C,) by class, the side in pixels at the chosen image scale that
            nine of ten objects reach; nan for classes with too few objects.
    """

    fit: Fit
    usual: Fit
    tried: tuple[Fit, ...]
    smallest_sides: np.ndarray


def choose(
    objects: Objects,
    num_classes: int,
    usual: AnchorGenerator,
    img_scale: tuple[int, int] | None = None,
) -> Chosen:
    """Chooses the image scale, then the anchors at this scale.

    The image scale is the smallest at which nine of ten objects of each class are at
    least `SMALLEST_SIDE` pixels wide and high (as square root of the area), and at most
    twice the size of the images, or the first of `LONG_SIDES`. The anchors are those
    with the highest overlap of positive anchors with their objects, as the mean over
    the classes; of anchors that are alike in this, the fewest per cell, and then those
    with the highest overlap as the mean over all objects. Levels finer than P3 cost
    several times as much and are tried only if a class has an overlap below 0.25
    without them.

    Args:
        objects: of the training data.
        num_classes: number of classes.
        usual: mmdetection's anchors.
        img_scale: (long, short), to be kept; None: it is chosen.
    """
    if img_scale is None:
        img_scale = choose_scale(objects, num_classes)
    first = fit(objects, Choice(img_scale, usual))
    anchors = [
        dataclasses.replace(usual, octave_base_scale=base, scales_per_octave=count)
        for count in SCALES_PER_OCTAVE
        for base in BASE_SCALES
    ]
    tried = [first, *_fits(objects, img_scale, anchors, usual)]
    if _worst(best_of(tried, num_classes), num_classes) < _POOR:
        finer = tuple(stride // 2 for stride in usual.strides)
        anchors = [dataclasses.replace(each, strides=finer) for each in anchors]
        tried += _fits(objects, img_scale, anchors, usual)
    return _chosen(objects, num_classes, best_of(tried, num_classes), first, tried)


def choose_scale_alone(
    objects: Objects,
    num_classes: int,
    usual: AnchorGenerator,
    img_scale: tuple[int, int] | None = None,
) -> Chosen:
    """Chooses the image scale for weights that were trained with the usual anchors.

    It is the smallest at which these overlap with their objects about as much as at the
    best one, as the mean over the classes.

    Args:
        objects: of the training data.
        num_classes: number of classes.
        usual: the anchors of the weights.
        img_scale: (long, short), to be kept; None: it is chosen.
    """
    scales = candidate_scales(objects.sizes) if img_scale is None else [img_scale]
    tried = [fit(objects, Choice(scale, usual)) for scale in scales]
    overlaps = [class_mean(each, num_classes) for each in tried]
    best = next(
        each
        for each, overlap in zip(tried, overlaps, strict=True)
        if overlap >= max(overlaps) - _ALIKE_SCALE
    )
    return _chosen(objects, num_classes, best, best, tried)


def _chosen(objects, num_classes, best, usual, tried):
    boxes, _ = objects.resized(best.choice.img_scale)
    sides = smallest_sides(objects, box_sides(boxes), num_classes)
    return Chosen(best, usual, tuple(tried), sides)


def _fits(objects, img_scale, anchors, usual):
    fits = []
    for each in anchors:
        if each != usual:
            fits.append(fit(objects, Choice(img_scale, each)))
    return fits


def best_of(fits: Sequence[Fit], num_classes: int) -> Fit:
    """The fit with the highest overlap as the mean over the classes.

    Of those that are alike it is the one with the coarsest levels, then with the fewest
    anchors per cell, then with the highest overlap as the mean over all objects.
    """
    overlaps = [class_mean(each, num_classes) for each in fits]
    alike = [
        each
        for each, overlap in zip(fits, overlaps, strict=True)
        if overlap >= max(overlaps) - _ALIKE
    ]
    return min(
        alike,
        key=lambda each: (
            -each.choice.anchors.strides[0],
            each.choice.anchors.num_anchors,
            -float(np.mean(each.overlaps)),
        ),
    )


def is_common(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) bool: classes with enough of the objects to decide; all if none has."""
    counts = np.bincount(labels, minlength=num_classes)
    enough = counts >= max(_FEW, _RARE * len(labels))
    return enough if enough.any() else counts > 0


def class_mean(each: Fit, num_classes: int) -> float:
    """Overlap as the mean over the common classes."""
    common = is_common(each.labels, num_classes)
    return float(np.mean(each.class_overlaps(num_classes)[common]))


def _worst(each, num_classes):
    common = is_common(each.labels, num_classes)
    return float(np.min(each.class_overlaps(num_classes)[common]))


# The image scale ----------------------------------------------------------------------


def choose_scale(objects: Objects, num_classes: int) -> tuple[int, int]:
    """(long, short) of the scale, as `choose` says.

    If the objects of a class remain smaller at all scales, it is the largest.
    """
    scales = candidate_scales(objects.sizes)
    for scale in scales:
        boxes, _ = objects.resized(scale)
        sides = smallest_sides(objects, box_sides(boxes), num_classes)
        if np.nanmin(sides) >= SMALLEST_SIDE:
            return scale
    return scales[-1]


def candidate_scales(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Scales (long, short) to try for images of these (N,2) sizes, the smallest first.

    The short side follows the shape of nine of ten images, so that the long side
    decides how large they become.
    """
    long, short = sizes.max(axis=1), sizes.min(axis=1)
    shape = float(np.quantile(short / long, 0.9))
    limit = max(float(np.median(long)) * _LARGEST_ENLARGEMENT, LONG_SIDES[0])
    return [
        (side, min(side, round_up(math.ceil(side * shape), 16)))
        for side in LONG_SIDES
        if side <= limit
    ]


def smallest_sides(objects: Objects, sides: np.ndarray, num_classes: int) -> np.ndarray:
    """(C,) the side that nine of ten objects of each class reach; nan if there are few.

    Args:
        objects: of the data set.
        sides: (N,G) side of each.
        num_classes: number of classes.
    """
    labels, sides = objects.labels[objects.valid], sides[objects.valid]
    common = is_common(labels, num_classes)
    return np.array(
        [
            np.quantile(sides[labels == label], 0.1) if common[label] else np.nan
            for label in range(num_classes)
        ]
    )
