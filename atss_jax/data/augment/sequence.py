"""Lists of transforms, applied to a row in the order of the config.

What is sampled for a row is a function of (seed, step, row) and the size of its image,
so that sizes and boxes are known before any image is read. Each transform of both lists
has random numbers of its own: (seed, 4, step, row, position) for those before the
resize and (seed, 5, step, row, position) for those after the flip.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from atss_jax.data.augment.mixing import Mosaic, Pool
from atss_jax.data.augment.objects import Objects, Size, of_record
from atss_jax.data.augment.user_function import UserFunction, Where
from atss_jax.data.image_file import UNUSABLE
from atss_jax.data.records import Record, Source


class Transform(Protocol):
    """What a transform does; `UserFunction` is the exception and has only `call`."""

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get."""

    def sample(
        self, size: Size, random: np.random.Generator, pool: Pool
    ) -> tuple[Any, tuple[int, ...]]:
        """What is done to an image, None for nothing; indices of further images."""

    def objects(
        self,
        objects: Objects,
        size: Size,
        sampled: Any,
        others: Sequence[Record | None],
    ) -> Objects:
        """The objects of the result."""

    def image(
        self, image: np.ndarray, sampled: Any, others: Sequence[np.ndarray | None]
    ) -> np.ndarray:
        """(H,W,3) uint8: the result."""


class RowSeed(NamedTuple):
    """What decides the random numbers of a row.

    Attributes:
        seed: of the run.
        step: from 0.
        row: of the global batch.
    """

    seed: int
    step: int
    row: int

    def random(self, purpose: int, position: int) -> np.random.Generator:
        """The source of random numbers of one transform."""
        numbers = [self.seed, purpose, self.step, self.row, position]
        return np.random.default_rng(np.random.SeedSequence(numbers))


_BEFORE_RESIZE, _AFTER_FLIP = 4, 5  # `TrainPlan` and the loader have 0 to 3


class Applied(NamedTuple):
    """A transform with what was sampled for a row.

    Attributes:
        transform: one that does something to this row.
        sampled: what its `sample` gave.
        others: indices of the further images.
    """

    transform: Transform
    sampled: Any
    others: tuple[int, ...]


def possible_sizes(transforms: Sequence[Transform], size: Size) -> list[Size]:
    """Sizes that an image of `size` may have before the resize.

    Raises:
        ValueError: a transform would leave nothing of it.
    """
    sizes = [size]
    for transform in transforms:
        sizes = [new for old in sizes for new in transform.sizes(old)]
    return list(dict.fromkeys(sizes))


def may_change_shape(transforms: Sequence[Transform]) -> bool:
    """Whether an upright image may become an oblong one by chance, or the reverse."""
    return any(
        isinstance(transform, Mosaic)
        and 0 < transform.prob < 1
        and transform.img_scale[0] != transform.img_scale[1]
        for transform in transforms
    )


def sample_before_resize(
    transforms: Sequence[Transform], record: Record, seed: RowSeed, pool: Pool
) -> tuple[Record, list[Applied]]:
    """Samples the transforms before the resize; no image is read.

    Returns:
        A record with the size and the objects that the resize gets, and the transforms
        that do anything.
    """
    applied, size, objects = [], record.size, of_record(record)
    for position, transform in enumerate(transforms):
        random = seed.random(_BEFORE_RESIZE, position)
        sampled, others = transform.sample(size, random, pool)
        if sampled is None:
            continue
        applied.append(Applied(transform, sampled, others))
        records = [pool.records[index] for index in others]
        objects = transform.objects(objects, size, sampled, records)
        size = transform.sizes(size)[-1]  # the last is that of a changed image
    return _changed(record, size, objects), applied


def _changed(record, size, objects):
    return dataclasses.replace(record, size=size, **objects._asdict())


class FurtherImages:
    """Reads further images, and notes one that cannot be read.

    Attributes:
        bad_index: of the first one that cannot be read; None: all can.
    """

    def __init__(self, source: Source, may_skip: bool):
        """Starts with none.

        Args:
            source: of the images.
            may_skip: whether one may be left out; otherwise its error is raised.
        """
        self.bad_index: int | None = None
        self._source, self._may_skip = source, may_skip

    def read(
        self, indices: Sequence[int]
    ) -> tuple[list[Record | None], list[np.ndarray | None]]:
        """The records and images of these indices, None for those that are bad."""
        records, images = [], []
        for index in indices:
            record, image = self._source.records[index], None
            with contextlib.suppress(*(UNUSABLE if self._may_skip else ())):
                image = self._source.read_image(record)
            if image is None and self.bad_index is None:
                self.bad_index = index
            records.append(record if image is not None else None)
            images.append(image)
        return records, images


def apply_before_resize(
    record: Record,
    image: np.ndarray,
    applied: Sequence[Applied],
    further: FurtherImages,
) -> tuple[Record, np.ndarray]:
    """The image and the record that the resize gets."""
    objects = of_record(record)
    for transform, sampled, indices in applied:
        records, images = further.read(indices)
        objects = transform.objects(objects, image.shape[:2], sampled, records)
        image = transform.image(image, sampled, images)
    return _changed(record, image.shape[:2], objects), image


def apply_after_flip(
    transforms: Sequence[Transform | UserFunction],
    image: np.ndarray,
    objects: Objects,
    context: tuple[RowSeed, Pool, Where],
    further: FurtherImages,
) -> tuple[np.ndarray, Objects]:
    """The image and the objects that training gets.

    Args:
        transforms: of which none changes the size of an image.
        image: (H,W,3) uint8, resized, cropped and mirrored.
        objects: in its pixels.
        context: what decides random numbers, where further images come from, and what
            the row is.
        further: reads further images.

    Raises:
        BadFunction: a user's function fails.
    """
    seed, pool, where = context
    for position, transform in enumerate(transforms):
        random = seed.random(_AFTER_FLIP, position)
        if isinstance(transform, UserFunction):
            image, objects = transform.call(image, objects, random, where)
            continue
        size = image.shape[:2]
        sampled, indices = transform.sample(size, random, pool)
        if sampled is None:
            continue
        records, images = further.read(indices)
        objects = transform.objects(objects, size, sampled, records)
        image = transform.image(image, sampled, images)
    return image, objects


def objects_after_flip(
    transforms: Sequence[Transform | UserFunction],
    objects: Objects,
    size: Size,
    seed: RowSeed,
    pool: Pool,
) -> Objects:
    """As `apply_after_flip`, without images and without functions of users."""
    for position, transform in enumerate(transforms):
        if isinstance(transform, UserFunction):
            continue
        random = seed.random(_AFTER_FLIP, position)
        sampled, indices = transform.sample(size, random, pool)
        if sampled is not None:
            records = [pool.records[index] for index in indices]
            objects = transform.objects(objects, size, sampled, records)
    return objects
