"""Rows and batches: decode, resize, flip, pad; and grain to do it ahead of time."""

import dataclasses
import gc
import traceback
from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from atss_jax.data import transforms
from atss_jax.data.augment import View
from atss_jax.data.pipeline import Pipeline
from atss_jax.data.plan import Canvas, TrainPlan, smallest_canvas
from atss_jax.data.records import Source

Batch = dict[str, np.ndarray]

_MAX_TRIES = 1000  # mmengine's max_refetch


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
    source: Source,
    index: int,
    canvas: Canvas,
    pipeline: Pipeline,
    flip: bool = False,
    view: View | None = None,
) -> Batch:
    """One row of a batch (no leading B); names, types and meanings as in `structures`.

    Args:
        source: where the record comes from.
        index: of the record.
        canvas: height, width of the result.
        pipeline: how to resize.
        flip: mirror left to right; not read with a `view`.
        view: what to show of the picture; None: all of it at `img_scale`.

    Raises:
        ValueError: more boxes than `pipeline.max_boxes`, or a bad picture.
        OSError: no such picture.
    """
    record, room = source.records[index], pipeline.max_boxes
    _check_room(record, room)
    view = view or pipeline.whole(index, record, flip)
    row = _load_picture(source, record, canvas, view)
    boxes, shown = pipeline.jitter.boxes(record, view)
    kept = pipeline.jitter.kept(boxes, shown)
    boxes = boxes[kept]
    if view.flip:
        boxes = transforms.flip_boxes(boxes, view.width)
    return row | {
        'gt_boxes': _pad(boxes.astype(np.float32), room),
        'gt_labels': _pad(record.labels[kept].astype(np.int32), room),
        'gt_valid': np.arange(room) < len(boxes),
        'gt_ignored': _pad(record.ignored[kept], room),
    }


def _load_picture(source, record, canvas, view):
    """What a row holds beside the truth."""
    image = transforms.resize(source.read_image(record), view.size)
    image = transforms.crop(image, view.top, view.left, view.shown)
    if view.flip:
        image = transforms.flip_image(image)
    return {
        'image': transforms.pad_to_canvas(image, canvas),
        'image_size': np.array(view.shown, np.int32),
        'image_id': np.array(record.image_id, np.int64),
        'scale': transforms.scale_factor(record.size, view.size).astype(np.float32),
        'original_size': np.array(record.size, np.int32),
        'row_valid': np.array(True),
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
        """This host's rows of global batch `step`."""
        views = [self.view(step, row) for row in range(*self.rows)]
        canvas, source = self.canvas(step), self.source
        return stack(
            [load_row(source, v.record, canvas, self.pipeline, view=v) for v in views]
        )

    def view(self, step: int, row: int) -> View:
        """What a row of the global batch shows.

        Raises:
            ValueError: no picture can be shown as the pipeline wants it.
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
    """

    source: Source
    pipeline: Pipeline
    batches: list[tuple[int, np.ndarray]]
    rows: tuple[int, int]

    def __call__(self, position: int) -> Batch:
        """This host's rows; a row that only fills up has `row_valid` False."""
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
        record = self.source.records[index]
        view = self.pipeline.whole(index, record)
        return _load_picture(self.source, record, canvas, view)


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
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    try:
        yield from _closing(iter(dataset), bool(workers))
    except Exception as error:
        # A failed batch leaves grain's iterator in cycles of frames, and with it memory
        # that workers share with us: freed at interpreter exit is too late.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        raise


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
