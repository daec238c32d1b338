"""Numbers about the boxes and classes of a data set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from atss_jax.data.check.checked import CheckedSplit, Expectations


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """Objects and images of a class.

    Attributes:
        name: of the class.
        objects: number of objects by split.
        images: number of images with at least one, by split.
    """

    name: str
    objects: dict[str, int]
    images: dict[str, int]


@dataclasses.dataclass(frozen=True)
class BoxMeasures:
    """Sizes and shapes of the boxes of one split, crowds left out.

    Attributes:
        sides: (M,) sqrt(width * height) in pixels of the resized image.
        shapes: (M,) width / height.
        per_image: (N,) objects per image.
    """

    sides: np.ndarray
    shapes: np.ndarray
    per_image: np.ndarray


def count_classes(splits: Sequence[CheckedSplit]) -> list[ClassCounts]:
    """Counts of each class by split; classes of unlike splits are joined by name."""
    names = list(dict.fromkeys(name for each in splits for name in each.source.classes))
    counts = [ClassCounts(name, {}, {}) for name in names]
    for split in splits:
        objects, classes = split.objects, split.source.classes
        number = np.bincount(objects.labels, minlength=len(classes))
        pairs = np.stack([objects.labels, objects.rows], 1)
        images = np.bincount(np.unique(pairs, axis=0)[:, 0], minlength=len(classes))
        for count in counts:
            if count.name in classes:
                label = classes.index(count.name)
                count.objects[split.name] = int(number[label])
                count.images[split.name] = int(images[label])
            else:
                count.objects[split.name] = count.images[split.name] = 0
    return counts


def measure_boxes(split: CheckedSplit, expected: Expectations) -> BoxMeasures:
    """Measures the boxes of a split that have an area."""
    boxes, rows = split.objects.boxes, split.objects.rows
    is_proper = (boxes[:, 2:] > 0).all(axis=1) & ~split.objects.crowds
    width, height = boxes[is_proper, 2:].T
    scale = resize_factor(split.sizes, expected.img_scale)[rows[is_proper]]
    return BoxMeasures(np.sqrt(width * height) * scale, width / height, split.counts)


def resize_factor(sizes: np.ndarray, img_scale: tuple[int, int]) -> np.ndarray:
    """(N,) by which images of (N,2) sizes are enlarged so that they fit `img_scale`."""
    long, short = max(img_scale), min(img_scale)
    return np.minimum(long / sizes.max(axis=1), short / sizes.min(axis=1))
