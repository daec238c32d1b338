"""Rows of training batches whose pipeline has lists of transforms."""

import contextlib
import warnings
from collections.abc import Generator

import numpy as np

from atss_jax.data.augment.mixing import Pool
from atss_jax.data.augment.objects import largest
from atss_jax.data.augment.sequence import (
    FurtherImages,
    RowSeed,
    apply_after_flip,
    apply_before_resize,
    objects_after_flip,
    sample_before_resize,
)
from atss_jax.data.augment.user_function import FIELD, UserFunction, Where
from atss_jax.data.batch import (
    Pipeline,
    check_capacity,
    ground_truth,
    image_row,
    objects_in,
    read_image,
)
from atss_jax.data.transforms import View
from atss_jax.structures import Batch


def load_augmented(
    pool: Pool, view: View, pipeline: Pipeline, pixels: np.ndarray, seed: RowSeed
) -> Batch:
    """As `batch.load_view`, with the transforms before the resize and after the flip.

    `original_size` is that of the image that the resize gets, of a Mosaic for example.
    Of more objects than `pipeline.max_boxes`, the largest are kept.

    Args:
        pool: the training data, of which further images are taken too.
        view: which record, and what to show of the image that the resize gets.
        pipeline: its transforms, which boxes are kept, and the capacity for boxes.
        pixels: (H,W,3) uint8, which the image is drawn on and which becomes `image`.
        seed: decides what is sampled.

    Raises:
        ValueError: the image alone has more boxes than `pipeline.max_boxes`, a bad
            image, or a bad function of the user.
        OSError: the image cannot be read.
    """
    original = pool.records[view.record]
    check_capacity(original, pipeline.max_boxes)
    if pipeline.before_resize:  # whose sizes are those of the whole image
        image = pool.source.read_image(original)
    else:
        image = read_image(pool.source, original, view, pipeline)
    further = FurtherImages(pool.source, may_skip=pipeline.max_bad_pictures > 0)
    applied = sample_before_resize(pipeline.before_resize, original, seed, pool)[1]
    record, image = apply_before_resize(original, image, applied, further)
    row = image_row(record, image, pixels, view, pipeline.backend)
    objects = objects_in(record, view, pipeline)
    corner = pixels[: view.height, : view.width]
    where = Where(seed.step, seed.row, original, len(pool.source.classes))
    context = seed, pool, where
    image, objects = apply_after_flip(
        pipeline.after_flip, corner, objects, context, further
    )
    if image is not corner:
        corner[:] = image
    if further.bad_index is not None:
        row['skipped'] = np.array(further.bad_index, np.int64)
    if any(isinstance(transform, UserFunction) for transform in pipeline.after_flip):
        dropped = max(len(objects.labels) - pipeline.max_boxes, 0)
        row['dropped'] = np.array(dropped, np.int32)
    return row | ground_truth(largest(objects, pipeline.max_boxes), pipeline.max_boxes)


def count_objects(pool: Pool, view: View, pipeline: Pipeline, seed: RowSeed) -> int:
    """How many objects a row has before those over the capacity go; reads no image.

    What functions of the user add or drop is not counted: they need the image.

    Arguments are those of `load_augmented`.
    """
    original = pool.records[view.record]
    record, _ = sample_before_resize(pipeline.before_resize, original, seed, pool)
    objects = objects_in(record, view, pipeline)
    after = pipeline.after_flip
    return len(objects_after_flip(after, objects, view.shown, seed, pool).labels)


def warn_of_dropped(
    batches: Generator[Batch, None, None], max_boxes: int
) -> Generator[Batch, None, None]:
    """Yields the same batches; warns once if users' functions add too many objects.

    Args:
        batches: of `load_augmented`, or without functions of the user.
        max_boxes: the capacity for boxes.
    """
    has_warned = False
    with contextlib.closing(batches):
        for batch in batches:
            dropped = batch.get('dropped')
            if dropped is not None and dropped.any() and not has_warned:
                has_warned = True
                needed = max_boxes + dropped.max()
                warnings.warn(
                    f'{FIELD}: {(dropped > 0).sum()} of {len(dropped)} images of a '
                    f'batch have more objects than data.max_boxes = {max_boxes}, up to '
                    f'{needed}; they keep the {max_boxes} largest. data.max_boxes = '
                    f'{needed} keeps all of these. Later batches are not reported',
                    stacklevel=2,
                )
            yield batch
