"""Loads batches: a single one by its number, or a stream that is loaded in advance.

`TrainBatches` and `EvalBatches` are deterministic callables: the same number gives the
same batch, in any process. `prefetch` calls them in advance, in threads or worker
processes, and yields the batches in order. To resume a stream, it is started at
another number; no other state is needed.

- record: an image and its objects, as annotated
- plan: which records form which batch
- row: an image's place in a batch. The global batch has the rows of all hosts.
- view: the part of an image that a row shows: its scale, crop window and mirroring
- canvas: height, width to which all images of a batch are padded
- bad image: one that cannot be read; see `bad_images`
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Generator, Iterator
from typing import Protocol

import numpy as np

from atss_jax.data.augment.mixing import Pool
from atss_jax.data.augment.rows import count_objects, load_augmented
from atss_jax.data.augment.sequence import RowSeed, sample_before_resize
from atss_jax.data.bad_images import NOT_SKIPPED, load_or_replace
from atss_jax.data.batch import (
    Pipeline,
    build_batch,
    image_row,
    images_in,
    largest_batch,
    load_view,
    read_image,
)
from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.plan import Canvas, TrainPlan, smallest_canvas
from atss_jax.data.records import Source
from atss_jax.data.slots import Memory, Slots, keep_freed_memory
from atss_jax.data.transforms import View
from atss_jax.data.worker import Workers, without_images
from atss_jax.files.read_ahead import usable_cores
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

    def __call__(self, step: int, memory: np.ndarray | None = None) -> Batch:
        """Loads this host's rows of global batch `step`.

        If an image is bad, its row shows another record with the same canvas, chosen at
        random from (seed, step, row); `skipped` then holds the index of the bad one.

        Args:
            step: number of the batch.
            memory: (bytes,) uint8, at least `image_bytes`, for the images; None: new
                memory.

        Raises:
            ValueError: an image has too many boxes, or is bad and must not be skipped.
        """
        first, stop = self.rows
        load = functools.partial(self._row, step)
        return build_batch(stop - first, self.canvas(step), load, memory)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images of the largest batch."""
        first, stop = self.rows
        return largest_batch(stop - first, self.pipeline.all_canvases())

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

    def __call__(self, position: int, memory: np.ndarray | None = None) -> Batch:
        """Loads this host's rows of a batch; arguments as of `TrainBatches`.

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

        return build_batch(len(rows), canvas, load, memory)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images of the largest batch."""
        first, stop = self.rows
        return largest_batch(stop - first, self.pipeline.all_canvases())

    def _row(self, index, pixels):
        record, skipped = self.source.records[index], NOT_SKIPPED
        view = self.pipeline.whole(index, record, self.flip)
        try:
            image = read_image(self.source, record, view, self.pipeline)
        except UNUSABLE:
            if not self.pipeline.max_bad_pictures:
                raise
            image, skipped = np.zeros((*record.size, 3), np.uint8), index
        row = image_row(record, image, pixels, view, self.pipeline.backend)
        return row | {'skipped': np.array(skipped, np.int64)}


# Streams -----------------------------------------------------------------------------

_MAX_THREADS = 8
_AHEAD = 3  # batches per worker that are loaded or wait for the reader
_KEPT = 3
"""Batches that the reader has in use: the steps whose inputs have not yet been sent to
a device, or, on a CPU, that are not done. If it keeps more, it is given copies."""


def thread_count() -> int:
    """Number of threads that load if there are no workers: one per core, at most 8."""
    return min(max(usable_cores(), 2), _MAX_THREADS)


class Builder(Protocol):
    """`TrainBatches` or `EvalBatches`."""

    image_bytes: int

    def __call__(self, number: int, memory: np.ndarray | None = None) -> Batch:
        """Makes batch `number`, with its images in `memory` if that is given."""


def prefetch(
    build: Builder, start: int, stop: int, workers: int
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
    workers = min(workers, stop - start)  # to start more would take time for nothing
    count = workers or thread_count()
    ahead = min(_AHEAD * count if workers else count + 2, stop - start)
    memory = Memory(ahead + _KEPT, build.image_bytes, shared=workers > 0)
    loader = Workers() if workers else _Threads()
    with contextlib.closing(loader):
        loader.start(count, build, memory)
        stream = _Stream(loader, Slots(memory), iter(range(start, stop)))
        for _ in range(ahead):
            stream.submit()
        for _ in range(start, stop):
            yield stream.next()


class _Stream:
    """Batches in order, loaded into slots by threads or workers."""

    def __init__(self, loader, slots, numbers):
        self._loader, self._slots, self._numbers = loader, slots, numbers
        self._pending = collections.deque()

    def submit(self):
        """Begins to load a further batch, if there is one."""
        for number in itertools.islice(self._numbers, 1):
            slot, memory = self._slots.take()
            self._loader.submit(number, slot)
            self._pending.append((number, memory))

    def next(self):
        """The next batch, as soon as it is loaded."""
        batch = self._loaded()
        if self._slots.all_taken:  # the reader keeps many batches
            batch |= {'image': batch['image'].copy()}
        self.submit()
        return batch

    def _loaded(self):
        number, memory = self._pending.popleft()
        batch = self._loader.result(number)
        return {'image': images_in(memory, batch.pop('image'))} | batch


class _Threads:
    """Loads batches in threads of this process; methods as those of `Workers`."""

    def start(self, count, build, memory):
        self._build, self._memory, self._futures = build, memory, {}
        self._pool = concurrent.futures.ThreadPoolExecutor(count)
        keep_freed_memory()

    def submit(self, number, slot):
        memory = self._memory.slot(slot)
        self._futures[number] = self._pool.submit(
            without_images, self._build, number, memory
        )

    def result(self, number):
        return self._futures.pop(number).result()

    def close(self):
        self._pool.shutdown(cancel_futures=True)


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
