"""Batches of the plan; and grain to build them ahead of time."""

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

from atss_jax.data.bad_images import NONE, load_or_replace
from atss_jax.data.batch import (
    Batch,
    Pipeline,
    build_batch,
    check_room,
    image_row,
    load_row,
)
from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.plan import Canvas, TrainPlan, smallest_canvas
from atss_jax.data.records import Source
from atss_jax.data.transforms import View
from atss_jax.data.worker import (
    check_workers,
    deaf_children,
    live_with_parent,
    wait_until_freed,
)

_MAX_TRIES = 1000  # mmengine's max_refetch
_SHARED_BYTES = 2**16
"""Arrays of a batch from this size on pass through shared memory, smaller ones through
a pipe: to make and map a segment takes longer than to copy them."""


def check_box_counts(source: Source, max_boxes: int) -> None:
    """Raises ValueError if an image has more boxes than a batch has room for."""
    counts = source.records.counts
    if len(counts):
        check_room(source.records[int(counts.argmax())], max_boxes)


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """Builds any training batch from its step, alone.

    Attributes:
        source: the records.
        plan: which of them form a batch.
        pipeline: how they are loaded.
        rows: first and last+1 row of the global batch that this host loads.
    """

    source: Source
    plan: TrainPlan
    pipeline: Pipeline
    rows: tuple[int, int]

    def __call__(self, step: int) -> Batch:
        """This host's rows of global batch `step`.

        A row whose image is bad is filled by another record of the same canvas, which
        (seed, step, row) decide; `skipped` then has the index of the bad one, else -1.
        """
        first, stop = self.rows
        load = functools.partial(self._row, step)
        return build_batch(stop - first, self.canvas(step), load)

    def blank(self, step: int) -> Batch:
        """Zeros in the shapes and types of batch `step`, to compile a program by."""
        rows, room = self.rows[1] - self.rows[0], self.pipeline.max_boxes
        return {
            'image': np.zeros((rows, *self.canvas(step), 3), np.uint8),
            'image_size': np.zeros((rows, 2), np.int32),
            'gt_boxes': np.zeros((rows, room, 4), np.float32),
            'gt_labels': np.zeros((rows, room), np.int32),
            'gt_valid': np.zeros((rows, room), bool),
            'gt_ignored': np.zeros((rows, room), bool),
        }

    def _row(self, step, number, out):
        row, canvas = self.rows[0] + number, out.shape[:2]
        own = self.view(step, row)

        def load(index):
            is_own = index == own.record
            view = own if is_own else self._stand_in(step, row, own, index, canvas)
            return load_row(
                self.source, index, canvas, self.pipeline, view=view, out=out
            )

        if not self.pipeline.max_bad_pictures:
            return load(own.record)
        others = functools.partial(self.plan.substitutes, step, row)
        return load_or_replace(load, own.record, others)

    def _stand_in(self, step, row, own, index, canvas):
        """A view of another record, which fits the canvas that the batch has."""
        seed = np.random.SeedSequence([self.plan.seed, 3, step, row, index])
        random, record = np.random.default_rng(seed), self.source.records[index]
        for _ in range(_MAX_TRIES):
            view = self.pipeline.draw(index, record, random)
            if view is not None and np.all(np.less_equal(view.shown, canvas)):
                return view._replace(flip=own.flip)
        raise BadImage(f'image id {record.image_id}: no view of it fits {canvas}')

    def view(self, step: int, row: int) -> View:
        """What a row of the global batch shows.

        Raises:
            ValueError: no image can be shown as the pipeline wants it.
        """
        random = self.plan.random(step, row)
        index = int(self.plan.records(step)[row])
        for _ in range(_MAX_TRIES):
            view = self.pipeline.draw(index, self.source.records[index], random)
            if view is not None:
                return view
            index = self.plan.another(index, random)
        raise ValueError(
            f'{_MAX_TRIES} crops in a row were without any object of wanted size; set '
            'allow_negative_crop=True in data.train.pipeline.random_crop'
        )

    def canvas(self, step: int) -> Canvas:
        """The canvas of a batch: the smallest that holds what all its rows show.

        Drawn before anything is loaded, and by each host for all rows, so that all
        hosts run one program.
        """
        largest = self.plan.canvas(step)
        canvases, divisor = self.pipeline.all_canvases(), self.pipeline.size_divisor
        if not self.pipeline.jitter.changes_size or len(canvases) == 1:
            return largest
        rows = range(self.plan.batch_size)
        shown = [self.view(step, row).shown for row in rows]
        return smallest_canvas(canvases, np.max(shown, axis=0), divisor) or largest


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Builds any evaluation batch from its position.

    Attributes:
        source: the records.
        pipeline: how they are loaded.
        batches: canvas and records of each batch, as from `plan.eval_batches`.
        rows: first and last+1 row that this host loads.
        flip: mirror every image left to right.
    """

    source: Source
    pipeline: Pipeline
    batches: list[tuple[int, np.ndarray]]
    rows: tuple[int, int]
    flip: bool = False

    def __call__(self, position: int) -> Batch:
        """This host's rows; a row that only fills up has `row_valid` False.

        A bad image is a black one, and `skipped` has the index of its record.
        """
        canvas_index, records = self.batches[position]
        canvas = self.pipeline.all_canvases()[canvas_index]
        own, blank = records[slice(*self.rows)], None

        def load(number, out):
            nonlocal blank
            if own[number] >= 0:
                return self._row(int(own[number]), out)
            # Any image will do to fill up with: what is found in it is dropped.
            if blank is None:
                blank = self._row(int(records[0]), out)
            else:
                out[:] = blank['image']
            return blank | {'row_valid': np.array(False)}

        return build_batch(len(own), canvas, load)

    def _row(self, index, out):
        # Without truth, which evaluation reads from the annotations: images to be
        # scored may have any number of boxes.
        record, bad = self.source.records[index], NONE
        try:
            image = self.source.read_image(record)
        except UNUSABLE:
            if not self.pipeline.max_bad_pictures:
                raise
            image, bad = np.zeros((*record.size, 3), np.uint8), index
        view = self.pipeline.whole(index, record, self.flip)
        row = image_row(record, image, out, view)
        return row | {'skipped': np.array(bad, np.int64)}


class _Load(grain.transforms.Map):
    """What grain runs: a batch builder, in a thread or a worker process."""

    def __init__(self, build):
        self.build = build

    def map(self, step):
        return self.build(int(step))


def prefetch(
    build: TrainBatches | EvalBatches, start: int, stop: int, workers: int
) -> Generator[Batch, None, None]:
    """Batches start..stop-1 in order, loaded ahead.

    Args:
        build: makes a batch from its number.
        start: first batch.
        stop: last batch + 1.
        workers: worker processes; 0 loads in threads of this one. The batches are the
            same with any number.

    Raises:
        OSError: a worker process was killed; beside whatever `build` raises.
    """
    if start >= stop:
        return
    threads = 2
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = grain.MapDataset.range(start, stop).map(_Load(build))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        dataset = grain.experimental.WithOptionsIterDataset(
            dataset, grain.experimental.DatasetOptions(min_shm_size=_SHARED_BYTES)
        )
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=live_with_parent,
        )
    shared = set()
    try:
        yield from _closing(iter(dataset), bool(workers), shared)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        check_workers(error)
        raise
    finally:
        # Errors, StopIteration too, leave memory shared with workers in cycles of
        # frames, and at interpreter exit it is too late.
        gc.collect()
        wait_until_freed(shared)


@contextlib.contextmanager
def started(batches: Generator[Batch, None, None]) -> Iterator[Iterator[Batch]]:
    """The same batches; a thread waits for the first while the caller does other work.

    Workers take seconds to start. They are stopped when the context ends.
    """
    with (
        contextlib.closing(batches),
        # Left first: what runs cannot be closed.
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        first = thread.submit(lambda: list(itertools.islice(batches, 1)))

        def each():
            yield from first.result()
            yield from batches

        yield each()


def _closing(iterator, copy, kinds):
    """Batches, until there are no more or the reader goes away.

    Args:
        iterator: of grain.
        copy: whether the arrays lie in memory shared with a worker.
        kinds: set to which the types of these arrays are added.
    """
    try:
        with deaf_children() if copy else contextlib.nullcontext():
            first = iter([next(iterator)])  # this starts the workers
        for batch in itertools.chain(first, iterator):
            own = {name: np.copy(x) for name, x in batch.items()} if copy else batch
            kinds.update(map(type, batch.values()))
            del batch
            yield own
    finally:
        # Stops the workers, also when the reader goes away before the end.
        iterator.close()
