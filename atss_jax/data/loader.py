"""Rows and batches: decode, resize, flip, pad; and grain to do it ahead of time."""

import dataclasses
import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from atss_jax.data import transforms
from atss_jax.data.bad_pictures import NONE, load_or_replace
from atss_jax.data.pictures import UNUSABLE
from atss_jax.data.plan import Canvas, TrainPlan, canvas_of_each, default_canvases
from atss_jax.data.records import Source

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """mmdet's pipeline values.

    Attributes:
        img_scale: the picture is resized to fit (long, short), either way round.
        keep_ratio: if not, it becomes exactly (width, height).
        flip_ratio: share of training pictures mirrored left to right.
        size_divisor: a picture alone would be padded to a multiple of this.
        canvases: (height, width) of the canvases that pictures may be put on; None: one
            landscape and one portrait canvas that hold any picture.
        max_boxes: boxes a picture, G; a picture with more is an error.
        max_bad_pictures: share of pictures that may be unreadable; 0: the first one is
            an error. Batches are the same with any share above 0.
    """

    img_scale: tuple[int, int]
    keep_ratio: bool = True
    flip_ratio: float = 0.0
    size_divisor: int = 32
    canvases: tuple[Canvas, ...] | None = None
    max_boxes: int = 100
    max_bad_pictures: float = 0.0

    def all_canvases(self) -> tuple[Canvas, ...]:
        """The canvases, given or by default."""
        if self.canvases is not None:
            return self.canvases
        return default_canvases(self.img_scale, self.keep_ratio, self.size_divisor)

    def canvas_index(self, source: Source) -> np.ndarray:
        """(N,) canvas of each record of `source`."""
        return canvas_of_each(
            source.records,
            self.all_canvases(),
            self.img_scale,
            self.keep_ratio,
            self.size_divisor,
        )


def check_box_counts(source: Source, max_boxes: int) -> None:
    """Raises ValueError if a picture has more boxes than a batch has room for."""
    counts = source.records.counts
    if len(counts):
        _check_room(source.records[int(counts.argmax())], max_boxes)


def _check_room(record, max_boxes):
    count = len(record.labels)
    if count > max_boxes:
        raise ValueError(
            f'image id {record.image_id} ({record.file_name}) has {count} boxes, '
            f'but data.max_boxes = {max_boxes}; raise it to {count} or more'
        )


def load_row(
    source: Source, index: int, canvas: Canvas, pipeline: Pipeline, flip: bool
) -> Batch:
    """One row of a batch (no leading B); names, types and meanings as in `structures`.

    Args:
        source: where the record comes from.
        index: of the record.
        canvas: height, width of the result.
        pipeline: how to resize.
        flip: mirror left to right.

    Raises:
        ValueError: more boxes than `pipeline.max_boxes`, or a bad picture.
        OSError: no such picture.
    """
    record, room = source.records[index], pipeline.max_boxes
    _check_room(record, room)
    row = _picture_row(record, source.read_image(record), canvas, pipeline, flip)
    new = row['image_size']
    boxes = transforms.resize_boxes(record.boxes, row['scale'])
    boxes = transforms.clip_boxes(boxes, tuple(new))
    if flip:
        boxes = transforms.flip_boxes(boxes, new[1])
    return row | {
        'gt_boxes': _pad(boxes.astype(np.float32), room),
        'gt_labels': _pad(record.labels.astype(np.int32), room),
        'gt_valid': np.arange(room) < len(boxes),
        'gt_ignored': _pad(record.ignored, room),
    }


def _picture_row(record, image, canvas, pipeline, flip):
    """What a row holds beside the truth."""
    new = transforms.rescale_size(record.size, pipeline.img_scale, pipeline.keep_ratio)
    image = transforms.resize(image, new)
    if flip:
        image = transforms.flip_image(image)
    return {
        'image': transforms.pad_to_canvas(image, canvas),
        'image_size': np.array(new, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, new).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
        'skipped': np.array(NONE, np.int64),
    }


def _pad(values, length):
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def stack(rows: list[Batch]) -> Batch:
    """Rows to a batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


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

        A row whose picture is bad is filled by another record of the same canvas, which
        (seed, step, row) decide; `skipped` then has the index of the bad one, else -1.
        """
        return stack([self._row(step, row) for row in range(*self.rows)])

    def _row(self, step, row):
        own = int(self.plan.records(step)[row])
        flip = self.plan.random(step, row).random() < self.pipeline.flip_ratio

        def load(index):
            canvas = self.plan.canvas(step)
            return load_row(self.source, index, canvas, self.pipeline, flip)

        if not self.pipeline.max_bad_pictures:
            return load(own)
        return load_or_replace(load, own, lambda: self.plan.substitutes(step, row))


@dataclasses.dataclass(frozen=True)
class EvalBatches:
    """Builds any evaluation batch from its position.

    Attributes:
        source: the records.
        pipeline: how they are loaded.
        batches: canvas and records of each batch, as from `plan.eval_batches`.
        rows: first and last+1 row that this host loads.
    """

    source: Source
    pipeline: Pipeline
    batches: list[tuple[int, np.ndarray]]
    rows: tuple[int, int]

    def __call__(self, position: int) -> Batch:
        """This host's rows; a row that only fills up has `row_valid` False.

        A bad picture is a black one, and `skipped` has the index of its record.
        """
        canvas_index, records = self.batches[position]
        canvas = self.pipeline.all_canvases()[canvas_index]
        rows, blank = [], None
        for record in records[slice(*self.rows)]:
            # Any picture will do to fill up with: what is found in it is dropped.
            if record < 0:
                blank = blank or self._row(int(records[0]), canvas)
                rows.append({**blank, 'row_valid': np.array(False)})
            else:
                rows.append(self._row(int(record), canvas))
        return stack(rows)

    def _row(self, index, canvas):
        # Without truth, which evaluation reads from the annotations: pictures to be
        # scored may have any number of boxes.
        record, bad = self.source.records[index], NONE
        try:
            image = self.source.read_image(record)
        except UNUSABLE:
            if not self.pipeline.max_bad_pictures:
                raise
            image, bad = np.zeros((*record.size, 3), np.uint8), index
        row = _picture_row(record, image, canvas, self.pipeline, flip=False)
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
    """
    if start >= stop:
        return
    threads = 2
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    dataset = grain.MapDataset.range(start, stop).map(_Load(build))
    dataset = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=_live_with_parent,
        )
    try:
        yield from _closing(iter(dataset), bool(workers))
    except Exception as error:
        # A failed batch leaves grain's iterator in cycles of frames, and with it memory
        # that workers share with us: freed at interpreter exit is too late.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise


def _live_with_parent(number, count):
    """A worker outlives signals to stop, which its parent still needs data for.

    But not the parent itself: one that is killed cannot tell its workers.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_leave_after, args=(os.getppid(),), daemon=True).start()


def _leave_after(parent):
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def _closing(iterator, copy):
    try:
        for batch in iterator:
            # Out of the shared memory, for the same reason.
            own = {name: np.copy(x) for name, x in batch.items()} if copy else batch
            del batch
            yield own
    finally:
        # Stops the workers, also when the reader goes away before the end.
        iterator.close()
