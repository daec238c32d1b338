"""Runs a model over a data set and scores its detections."""

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tqdm

from atss_jax.config.experiment import Experiment
from atss_jax.data.bad_images import NOT_SKIPPED, BadImages
from atss_jax.data.batch import Variant, variants
from atss_jax.data.loader import EvalBatches, prefetch
from atss_jax.data.plan import eval_batches
from atss_jax.data.records import Record, Source
from atss_jax.detection.postprocess import DetectConfig, detect
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.merge import EMPTY, concatenate, merge, without_padding
from atss_jax.models.preprocess import Normalizer
from atss_jax.structures import PREDICT_FIELDS, Batch, Detections

_IN_FLIGHT = 2  # batches that the devices work on while the host reads results

# One batch ---------------------------------------------------------------------------


def make_predict_step(
    model: nn.Module, normalizer: Normalizer, config: DetectConfig
) -> Callable[[Any, Mapping[str, jax.Array]], Detections]:
    """The function from variables and a batch to the detections in each row.

    Map it over devices with `devices.map_rows`.
    """

    def predict_step(variables, batch):
        images = normalizer(batch['image'], batch['image_size'])
        outputs = model.apply(variables, images, batch['image_size'])
        return jax.vmap(lambda *image: detect(*image, config))(
            outputs, batch['image_size'], batch['scale']
        )

    return predict_step


def predict(
    step: Callable[[Batch], Detections],
    batches: Iterable[tuple[list[Any], Batch]],
) -> Iterator[tuple[Any, Detections]]:
    """Runs batches through a detector, a few of them ahead of the reader.

    The devices then work on the next batches while the host reads detections.

    Args:
        step: sends a batch to the devices, without waiting for its detections.
        batches: pairs of a list with a key for each row, None for rows that are only
            padding, and the batch.

    Yields:
        Key and detections (without padding, on the host) of each row that has a key,
        in the order of the batches.
    """
    in_flight = collections.deque()
    for keys, batch in batches:
        inputs = {name: batch[name] for name in PREDICT_FIELDS}
        in_flight.append((keys, step(inputs)))
        if len(in_flight) > _IN_FLIGHT:
            yield from _rows(*in_flight.popleft())
    while in_flight:
        yield from _rows(*in_flight.popleft())


def _rows(keys, detections):
    columns = devices.rows_to_host(detections)
    for row, key in enumerate(keys):
        if key is not None:
            yield key, without_padding(Detections(*(x[row] for x in columns)))


# A whole data set --------------------------------------------------------------------


Draw = Callable[[Source, Record, Detections], np.ndarray]
"""Draws the detections in an image of a source."""


@dataclasses.dataclass
class Evaluator:
    """Scores any weights of one model on one data set.

    Each canvas is compiled once, however often weights are scored.

    Attributes:
        source: images and ground truth.
        bad_images: the images that could not be read so far.
        step: the predict step, mapped over the devices.
        views: the batches of each view.
        detect: NMS of several views.
        workers: number of loading processes.
        mode: how `step` is mapped, see `devices`.
        draw: draws the examples; None: there are none.
    """

    source: Source
    bad_images: BadImages
    step: Callable[[Any, Any], Detections]
    views: list[EvalBatches]
    detect: DetectConfig
    workers: int
    mode: str
    draw: Draw | None = None

    def detections(
        self,
        variables: Any,
        show_progress: bool = False,
        stop: hosts.StopSignal | None = None,
    ) -> dict[int, Detections]:
        """Detections in every image, by image id, in the order of the source.

        Each process runs its rows of every batch; all get the detections of all. An
        image that cannot be read has none, and is counted in `bad_images`.

        Args:
            variables: replicated over the devices.
            show_progress: show a progress bar, on the first process.
            stop: asked before each batch.

        Raises:
            Stopped: `stop` was requested.
            ValueError: more images cannot be read than the config allows.
        """
        total = len(self.views) * len(self.source.records)
        quiet = not (show_progress and devices.is_first())
        with tqdm.tqdm(
            desc='evaluate', total=total, unit='images', disable=quiet
        ) as bar:
            views = [self._one_view(v, variables, bar, stop) for v in self.views]
        self.bad_images.add(devices.all_of(self.bad_images.indices))
        flips = [view.flip for view in self.views]
        records = self.source.records
        return {
            image_id: merge([v[image_id] for v in views], flips, width, self.detect)
            for image_id, width in zip(
                records.image_ids.tolist(), records.sizes[:, 1].tolist(), strict=True
            )
        }

    def _one_view(self, load, variables, bar, stop):
        """Detections in one view of every image, by image id."""

        def step(batch):
            return self.step(variables, devices.shard_rows(batch, self.mode))

        total, by_image = len(load.batches), {}
        batches = self.bad_images.watch(prefetch(load, 0, total, self.workers))
        with contextlib.closing(batches):
            keyed = _with_keys(_with_progress(batches, total, stop))
            for (image_id, is_bad), detections in predict(step, keyed):
                by_image[image_id] = EMPTY if is_bad else detections
                bar.update(jax.process_count())
        hosts.progress('collecting detections of all hosts')
        return _of_all_processes(by_image)

    def score(self, detections: Mapping[int, Detections]) -> coco_metric.Scores:
        """COCO numbers of detections by image id, on all processes."""
        hosts.progress('scoring')
        scores = self._score(detections) if devices.is_first() else None
        fields = devices.from_first(scores and dataclasses.asdict(scores))
        return coco_metric.Scores(**fields)

    def evaluate(
        self, variables: Any, stop: hosts.StopSignal | None = None
    ) -> tuple[dict[str, Any], str]:
        """COCO numbers of weights as for a JSON file, and a table of them to print.

        Arguments and errors are those of `detections`.
        """
        self._last_detections = self.detections(variables, stop=stop)
        scores = self.score(self._last_detections)
        return summary(scores), coco_metric.format_table(scores)

    def examples(self, count: int) -> list[tuple[str, np.ndarray]]:
        """Images with the detections that `evaluate` had last, drawn by `draw`.

        They are spread evenly over the images that have objects; one that cannot be
        read is left out.

        Args:
            count: how many, at most.

        Returns:
            The image id as text, and the (H,W,3) uint8 RGB image.
        """
        if self.draw is None:
            return []
        records = self.source.records
        with_objects = np.flatnonzero(records.counts)
        places = np.linspace(0, len(with_objects), count, endpoint=False).astype(int)
        chosen = with_objects[np.unique(places)] if len(with_objects) else ()
        unreadable = set(self.bad_images.indices.tolist())
        examples = []
        for index in (int(x) for x in chosen if x not in unreadable):
            record = records[index]
            detections = self._last_detections[record.image_id]
            drawn = self.draw(self.source, record, detections)
            examples.append((str(record.image_id), drawn))
        return examples

    @functools.cached_property
    def _ground_truth(self):
        return self.source.ground_truth()

    def _score(self, detections):
        return coco_metric.evaluate(
            self._ground_truth,
            detections,
            self.source.classes,
            self.source.category_ids,
            image_ids=self.source.records.image_ids,
        )


def make_evaluator(
    experiment: Experiment,
    source: Source,
    split: str,
    tta: bool = False,
    draw: Draw | None = None,
) -> Evaluator:
    """The evaluator of a config's model, over all devices.

    Args:
        experiment: the config as objects.
        source: the images.
        split: 'train', 'val' or 'test': how images are loaded; never augmented.
        tta: show each image in the views of `test_cfg.tta`.
        draw: draws the examples of the evaluator; None: it has none.
    """
    data = experiment.data[split]
    step = make_predict_step(
        experiment.detection_model, data.normalizer, experiment.detect
    )
    shown = variants(data.pipeline.without_jitter(), experiment.tta if tta else None)
    return Evaluator(
        source,
        BadImages(source, data.pipeline.max_bad_pictures),
        devices.map_rows(step, experiment.parallel),
        batches_of_views(
            source, shown, experiment.samples_per_gpu * jax.device_count()
        ),
        experiment.detect,
        experiment.workers_per_gpu * jax.local_device_count(),
        experiment.parallel,
        draw,
    )


def batches_of_views(
    source: Source, shown: Sequence[Variant], batch_size: int
) -> list[EvalBatches]:
    """The batches of each view of the images of a source.

    Args:
        source: the images.
        shown: the views.
        batch_size: number of rows, over all processes.
    """
    rows = devices.local_rows(batch_size)
    return [
        EvalBatches(
            source,
            pipeline,
            eval_batches(pipeline.canvas_index(source), batch_size),
            rows,
            flip,
        )
        for pipeline, flip in shown
    ]


def _with_progress(batches, total, stop):
    canvases = set()
    for number, batch in enumerate(batches, start=1):
        if stop is not None and stop.requested():
            raise hosts.Stopped(f'in evaluation batch {number} of {total}')
        canvas = batch['image'].shape[1:3]
        may_compile = canvas not in canvases
        canvases.add(canvas)
        hosts.progress(
            f'evaluation batch {number} of {total}',
            hosts.COMPILING if may_compile else 0.0,
        )
        yield batch


def _with_keys(batches):
    """(keys, batch): image id and whether the image is bad, None for padding rows."""
    for batch in batches:
        bad = batch['skipped'] != NOT_SKIPPED
        keys = zip(batch['image_id'].tolist(), bad.tolist(), strict=True)
        valid = batch['row_valid'].tolist()
        yield [k if v else None for k, v in zip(keys, valid, strict=True)], batch


def _of_all_processes(by_image):
    """The images of all processes; a collective."""
    return images_of(devices.gather(columns_of(by_image)))


def columns_of(by_image: Mapping[int, Detections]) -> dict[str, np.ndarray]:
    """The detections of several images as long columns, with ids and counts."""
    columns = concatenate(list(by_image.values()))._asdict()
    columns['ids'] = np.array(list(by_image), np.int64)
    columns['counts'] = np.array([len(d.valid) for d in by_image.values()], int)
    return columns


def images_of(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[int, Detections]:
    """Detections by image id, from the columns of each process."""
    merged = {}
    for part in parts:
        columns = dict(part)
        ids, counts = columns.pop('ids').tolist(), columns.pop('counts')
        ends = np.cumsum(counts)
        for image_id, start, end in zip(ids, ends - counts, ends, strict=True):
            rows = {name: column[start:end] for name, column in columns.items()}
            merged[image_id] = Detections(**rows)
    return merged


# Results -----------------------------------------------------------------------------


def to_results(
    detections: Mapping[int, Detections], category_ids: tuple[int, ...]
) -> list[dict]:
    """Detections by image id as COCO results."""
    return [
        result
        for image_id, (boxes, scores, labels, _) in detections.items()
        for result in coco_metric.coco_results(
            image_id, boxes, scores, labels, category_ids
        )
    ]


def summary(scores: coco_metric.Scores) -> dict[str, Any]:
    """The twelve COCO numbers and AP by class for a JSON file; null where undefined."""

    def plain(values):
        return {k: None if math.isnan(v) else float(v) for k, v in values.items()}

    return {**plain(scores.summary), 'per_class': plain(scores.per_class)}
