"""Loads batches: a single one by its number, or a stream that is loaded in advance.

`TrainBatches` and `EvalBatches` are deterministic callables: the same number gives the
same batch, in any process. `prefetch` lets grain call them in advance, in threads or
worker processes, and yields the batches in order. To resume a stream, it is started at
another number; no other state is needed.

- record: an image and its objects, as annotated
- plan: which records form which batch
- row: an image's place in a batch. The global batch has the rows of all hosts.
- view: the part of an image that a row shows: its scale, crop window and mirroring
- canvas: height, width to which all images of a batch are padded
- bad image: one that cannot be read; see `bad_images`
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import itertools
import traceback
from collections.abc import Generator, Iterator

import grain
import numpy as np
from absl import flags

from atss_jax.data.augment.mixing import Pool
from atss_jax.data.augment.rows import count_objects, load_augmented
from atss_jax.data.augment.sequence import RowSeed, sample_before_resize
from atss_jax.data.bad_images import NOT_SKIPPED, load_or_replace
from atss_jax.data.batch import Pipeline, build_batch, image_row, load_view
from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.plan import Canvas, TrainPlan, smallest_canvas
from atss_jax.data.records import Source
from atss_jax.data.transforms import View
from atss_jax.data.worker import (
    raise_if_killed,
    start_worker,
    stop_signals_blocked,
    wait_until_freed,
)
from atss_jax.structures import BATCH_FIELDS, TRAIN_FIELDS, Batch

_MAX_TRIES = 1000  # mmengine's max_refetch


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Makes any training batch from the number of its step.

    Attributes:
        source: the records.
        plan: which of them form a batch.
        pipeline: how they are loaded.
        rows: range (start, stop) of rows of the global batch that this host loads.
    """

    source: Source
    plan: TrainPlan
    pipeline: Pipeline
    rows: tuple[int, int]

    def __call__(self, step: int) -> Batch:
        """Loads this host's rows of global batch `step`.

        If an image is bad, its row shows another record with the same canvas, chosen at
        random from (seed, step, row); `skipped` then holds the index of the bad one.

        Raises:
            ValueError: an image has too many boxes, or is bad and must not be skipped.
        """
        first, stop = self.rows
        load = functools.partial(self._row, step)
        return build_batch(stop - first, self.canvas(step), load)

    def canvas(self, step: int) -> Canvas:
        """The canvas of a batch: the smallest one that the views of all its rows fit.

        Every host computes it from all rows of the global batch, without reading any
        image, so that all hosts run the program for the same shape.
        """
        largest = self.plan.canvas(step)  # any view of these images fits it
        canvases, divisor = self.pipeline.all_canvases(), self.pipeline.size_divisor
        if not self.pipeline.changes_size or len(canvases) == 1:
            return largest
        rows = range(self.plan.batch_size)
        sizes = [self.view(step, row).shown for row in rows]
        return smallest_canvas(canvases, np.max(sizes, axis=0), divisor) or largest

    def view(self, step: int, row: int) -> View:
        """The view that a row of the global batch shows; its image is not read.

        Raises:
            ValueError: no crop with objects was sampled in `_MAX_TRIES` tries.
        """
        random = self.plan.random(step, row)
        index = int(self.plan.records(step)[row])
        for _ in range(_MAX_TRIES):
            record = self._before_resize(step, row, index)
            view = self.pipeline.sample_view(index, record, random)
            if view is not None:
                return view
            index = self.plan.sample_other(index, random)
        raise ValueError(
            f'{_MAX_TRIES} crops in a row were without any object of wanted size; set '
            'allow_negative_crop=True in data.train.pipeline.random_crop'
        )

    def object_counts(self, rows: int) -> list[int]:
        """Numbers of objects of the first rows of the stream, which may be too many.

        Rows with too many lose some: see `augment.objects.largest`. No image is read.
        """
        counts = []
        for number in range(rows):
            step, row = divmod(number, self.plan.batch_size)
            seed = RowSeed(self.plan.seed, step, row)
            view = self.view(step, row)
            counts.append(count_objects(self.pool, view, self.pipeline, seed))
        return counts

    @functools.cached_property
    def pool(self) -> Pool:
        """Where Mosaic and MixUp take further images from."""
        counts = self.plan.occurrences
        last = None if counts is None else np.cumsum(counts)
        return Pool(self.source, last)

    def _before_resize(self, step, row, index):
        """A record with the size and the objects that the resize gets."""
        record, transforms = self.source.records[index], self.pipeline.before_resize
        if not transforms:
            return record
        seed = RowSeed(self.plan.seed, step, row)
        return sample_before_resize(transforms, record, seed, self.pool)[0]

    def blank(self, step: int) -> Batch:
        """Zeros with the shapes and types of the fields that training on a batch uses.

        With them the training step can be compiled before the batch is loaded.
        """
        height, width = self.canvas(step)
        sizes = {'H': height, 'W': width, 'G': self.pipeline.max_boxes}
        sizes['B'] = self.rows[1] - self.rows[0]
        batch = {}
        for name in TRAIN_FIELDS:
            field = BATCH_FIELDS[name]
            shape = [sizes.get(letter, letter) for letter in field.shape]
            batch[name] = np.zeros(shape, field.dtype)
        return batch

    def _row(self, step, number, pixels):
        """Loads row `number` of this host; its image is written to `pixels`."""
        row = self.rows[0] + number
        planned = self.view(step, row)

        def load(index):
            view = planned
            if index != planned.record:
                view = self._substitute_view(step, row, index, pixels.shape[:2])
                view = view._replace(flip=planned.flip)
            if self.pipeline.before_resize or self.pipeline.after_flip:
                seed = RowSeed(self.plan.seed, step, row)
                return load_augmented(self.pool, view, self.pipeline, pixels, seed)
            return load_view(self.source, view, self.pipeline, pixels)

        if not self.pipeline.max_bad_pictures:
            return load(planned.record)
        substitutes = functools.partial(self.plan.substitutes, step, row)
        return load_or_replace(load, planned.record, substitutes)

    def _substitute_view(self, step, row, index, canvas):
        """A view of record `index` that fits the canvas chosen for the batch."""
        # 3 sets this random stream apart from those of `TrainPlan`, 0 to 2.
        seed = np.random.SeedSequence([self.plan.seed, 3, step, row, index])
        random = np.random.default_rng(seed)
        record = self._before_resize(step, row, index)
        for _ in range(_MAX_TRIES):
            view = self.pipeline.sample_view(index, record, random)
            if view is not None and np.all(np.less_equal(view.shown, canvas)):
                return view
        raise BadImage(f'image id {record.image_id}: no view of it fits {canvas}')


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Makes any evaluation batch from its position in `batches`.

    Its rows have no ground truth: metrics are computed from the annotations themselves,
    so that there is no limit on the number of boxes of an image.

    Attributes:
        source: the records.
        pipeline: how they are loaded.
        batches: index of the canvas, and indices of the records, of each batch, as from
            `plan.eval_batches`; an index of -1 is a row without a record.
        rows: range (start, stop) of rows that this host loads.
        flip: whether every image is mirrored left to right.
    """

    source: Source
    pipeline: Pipeline
    batches: list[tuple[int, np.ndarray]]
    rows: tuple[int, int]
    flip: bool = False

    def __call__(self, position: int) -> Batch:
        """Loads this host's rows of a batch.

        A row without a record has `row_valid` False and repeats the first image of the
        batch. A bad image is replaced by a black one, with its index in `skipped`.
        """
        canvas_index, records = self.batches[position]
        canvas = self.pipeline.all_canvases()[canvas_index]
        rows = records[slice(*self.rows)]

        def load(number, pixels):
            is_valid = rows[number] >= 0
            index = rows[number] if is_valid else records[0]
            return self._row(int(index), pixels) | {'row_valid': np.array(is_valid)}

        return build_batch(len(rows), canvas, load)

    def _row(self, index, pixels):
        record, skipped = self.source.records[index], NOT_SKIPPED
        try:
            image = self.source.read_image(record)
        except UNUSABLE:
            if not self.pipeline.max_bad_pictures:
                raise
            image, skipped = np.zeros((*record.size, 3), np.uint8), index
        view = self.pipeline.whole(index, record, self.flip)
        row = image_row(record, image, pixels, view, self.pipeline.backend)
        return row | {'skipped': np.array(skipped, np.int64)}


# Streams -----------------------------------------------------------------------------

_THREADS = 2  # that load batches, in this process or in each worker
_MIN_SHARED_BYTES = 2**16
"""Workers send arrays of at least this size through shared memory and smaller ones
through a pipe: creating and mapping shared memory takes longer than a small copy."""


def prefetch(
    build: TrainBatches | EvalBatches, start: int, stop: int, workers: int
) -> Generator[Batch, None, None]:
    """Yields batches start to stop - 1 in order, and loads them in advance.

    Args:
        build: makes a batch from its number.
        start: first batch.
        stop: last batch + 1.
        workers: number of worker processes; 0 loads in threads of this process. The
            batches do not depend on it.

    Raises:
        OSError: a worker process was killed. Errors of `build` are raised as well.
    """
    if start >= stop:
        return
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=2 * _THREADS)
    dataset = grain.MapDataset.range(start, stop).map(_Load(build))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        yield from _from_workers(dataset, workers)
    else:
        with contextlib.closing(iter(dataset)) as batches:
            yield from batches


class _Load(grain.transforms.Map):
    """Wraps `build` as a grain transform, called in a thread or a worker process."""

    def __init__(self, build):
        self.build = build

    def map(self, step):
        return self.build(int(step))


def _from_workers(dataset, workers):
    """Yields the elements of a grain dataset, computed in worker processes.

    grain starts the workers with `spawn` on every operating system, so they inherit no
    threads, devices or locks.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
    dataset = grain.experimental.WithOptionsIterDataset(
        dataset, grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
    )
    dataset = dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
        worker_init_fn=start_worker,
    )
    shared_types = set()
    try:
        # Closing stops the workers, even if the reader stops before the end.
        with contextlib.closing(iter(dataset)) as batches:
            with stop_signals_blocked():
                first = iter([next(batches)])  # this starts the workers
            for batch in itertools.chain(first, batches):
                shared_types.update(map(type, batch.values()))
                copies = {name: np.copy(array) for name, array in batch.items()}
                del batch  # frees the memory shared with the worker
                yield copies
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        raise_if_killed(error)
        raise
    finally:
        # After an exception (even StopIteration), reference cycles through its frames
        # may keep shared memory alive. Freeing it only when Python exits is too late.
        gc.collect()
        wait_until_freed(shared_types)


@contextlib.contextmanager
def started(batches: Generator[Batch, None, None]) -> Iterator[Iterator[Batch]]:
    """Starts to load the first batch in a thread, while the caller does other work.

    This hides the seconds that workers take to start. Yields an iterator over all
    batches, the first included; closes the stream at the end of the `with` block.
    """
    with (
        contextlib.closing(batches),
        # Exited first, and waits for the thread: a running generator cannot be closed.
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        first = thread.submit(lambda: list(itertools.islice(batches, 1)))

        def all_batches():
            yield from first.result()
            yield from batches

        yield all_batches()
