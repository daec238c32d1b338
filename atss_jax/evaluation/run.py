"""Runs a model over a source and scores what it finds."""

import collections
import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tqdm

from atss_jax.config.experiment import Experiment
from atss_jax.data.bad_images import NOT_SKIPPED, BadImages
from atss_jax.data.batch import Pipeline, Tta, variants
from atss_jax.data.loader import EvalBatches, prefetch
from atss_jax.data.plan import eval_batches
from atss_jax.data.records import Source
from atss_jax.detection.postprocess import DetectConfig, detect
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.merge import Found, merge
from atss_jax.models.preprocess import Normalizer
from atss_jax.structures import PREDICT_FIELDS, Detections


def make_predict_step(
    model: nn.Module, normalizer: Normalizer, config: DetectConfig
) -> Callable[[Mapping[str, Any], Mapping[str, jax.Array]], Detections]:
    """Variables and a batch to detections of each row; map with `parallel.map_rows`."""

    def predict_step(variables, batch):
        images = normalizer(batch['image'], batch['image_size'])
        outputs = model.apply(variables, images, batch['image_size'])
        return jax.vmap(lambda *one: detect(*one, config))(
            outputs, batch['image_size'], batch['scale']
        )

    return predict_step


_AHEAD = 2  # batches that the device works on while the host reads results


def predict(
    step: Callable, variables: Any, batches: Iterator[dict], mode: str
) -> Iterator[tuple[int, Found]]:
    """(image id, what was found) of every image, in the order of `batches`.

    Args:
        step: a mapped `make_predict_step`.
        variables: replicated over the devices.
        batches: host batches, as from `loader.EvalBatches`.
        mode: of `parallel`.
    """
    waiting = collections.deque()
    for batch in batches:
        inputs = {name: batch[name] for name in PREDICT_FIELDS}
        detections = step(variables, devices.shard_rows(inputs, mode))
        waiting.append((batch, detections))
        if len(waiting) > _AHEAD:
            yield from _rows(*waiting.popleft())
    while waiting:
        yield from _rows(*waiting.popleft())


def _rows(batch, detections):
    boxes, scores, labels, valid = map(devices.rows_to_host, detections)
    for row in np.flatnonzero(batch['row_valid']):
        ok = valid[row] & (batch['skipped'][row] == NOT_SKIPPED)
        found = {'boxes': boxes[row], 'scores': scores[row], 'labels': labels[row]}
        found = {name: values[ok] for name, values in found.items()}
        yield int(batch['image_id'][row]), found


class Evaluator:
    """Scores models on one source; compiles once a canvas, however often it is called.

    Args:
        model: the detector.
        detect_config: thresholds and NMS.
        source: images and truth.
        pipeline: how images are loaded.
        normalizer: how the device prepares them.
        batch_size: of all devices together.
        workers: loading processes.
        mode: of `parallel`.
        tta: test-time augmentation, if any.
    """

    def __init__(
        self,
        model: nn.Module,
        detect_config: DetectConfig,
        source: Source,
        pipeline: Pipeline,
        normalizer: Normalizer,
        batch_size: int,
        workers: int,
        mode: str,
        tta: Tta | None = None,
    ):
        self.source, self.mode, self.workers = source, mode, workers
        self._detect_config, self.uses_tta = detect_config, tta is not None
        step = make_predict_step(model, normalizer, detect_config)
        self._step = devices.map_rows(step, mode)
        rows = devices.local_rows(batch_size)
        self._passes = []
        for view, flip in variants(pipeline, tta):
            batches = eval_batches(view.canvas_index(source), batch_size)
            self._passes.append(EvalBatches(source, view, batches, rows, flip))
        self.bad_images = BadImages(source, pipeline.max_bad_pictures)
        self._ground_truth = None

    def detections(
        self,
        variables: Any,
        show_progress: bool = False,
        stop: hosts.StopSignal | None = None,
    ) -> dict[int, Found]:
        """What is found in every image, by image id, in the source's order.

        Each process looks at its rows of every batch; all get what all have found.
        Nothing is found in an image that cannot be read; `bad_images` counts them.

        Args:
            variables: replicated over the devices.
            show_progress: a progress bar, on the first process.
            stop: asked before each batch.

        Raises:
            Stopped: `stop` said so.
        """
        quiet = not (show_progress and devices.is_first())
        total = len(self._passes) * len(self.source.records)
        with tqdm.tqdm(
            desc='evaluate', total=total, unit='images', disable=quiet
        ) as bar:
            views = [self._one_pass(p, variables, bar, stop) for p in self._passes]
        self.bad_images.add(devices.all_of(self.bad_images.indices))
        flips = [one.flip for one in self._passes]
        widths = self.source.records.sizes[:, 1].tolist()
        return {
            int(id_): merge(
                [view[int(id_)] for view in views], flips, width, self._detect_config
            )
            for id_, width in zip(self.source.records.image_ids, widths, strict=True)
        }

    def _one_pass(self, load, variables, bar, stop):
        """What is found in one view of every image, by image id."""
        total = len(load.batches)
        batches = prefetch(load, 0, total, self.workers)
        batches = self.bad_images.watch(batches)
        found = {}
        with contextlib.closing(batches):
            counted = _with_progress(batches, total, stop)
            for image_id, one in predict(self._step, variables, counted, self.mode):
                found[image_id] = one
                bar.update(jax.process_count())
        hosts.progress('collecting detections of all hosts')
        return _from_all(found)

    def evaluate(
        self, variables: Any, stop: hosts.StopSignal | None = None
    ) -> tuple[dict[str, Any], str]:
        """COCO numbers of weights as for a JSON file, and a table of them to print.

        Arguments and errors are those of `detections`.
        """
        scores = self.score(self.detections(variables, stop=stop))
        return summary(scores), coco_metric.format_table(scores)

    def score(self, found: Mapping[int, Found]) -> coco_metric.Scores:
        """COCO numbers of detections; the first process scores, all get the numbers."""
        hosts.progress('scoring')
        scores = self._score(found) if devices.is_first() else None
        fields = devices.from_first(scores and dataclasses.asdict(scores))
        return coco_metric.Scores(**fields)

    def _score(self, found):
        if self._ground_truth is None:
            self._ground_truth = self.source.ground_truth()
        return coco_metric.evaluate(
            self._ground_truth,
            to_results(found, self.source.category_ids),
            self.source.classes,
            self.source.category_ids,
            image_ids=self.source.records.image_ids,
        )


def _with_progress(batches, total, stop):
    for number, batch in enumerate(batches, start=1):
        if stop is not None and stop.requested():
            raise hosts.Stopped(f'in evaluation batch {number} of {total}')
        hosts.progress(f'evaluation batch {number} of {total}')
        yield batch


def _from_all(found):
    """The union over all processes of images by id."""
    empty = {
        'boxes': np.zeros((0, 4), np.float32),
        'scores': np.zeros(0, np.float32),
        'labels': np.zeros(0, np.int32),
    }
    columns = {
        name: np.concatenate([none, *(one[name] for one in found.values())])
        for name, none in empty.items()
    }
    columns['ids'] = np.array(list(found), np.int64)
    columns['counts'] = np.array([len(one['labels']) for one in found.values()], int)
    merged = {}
    for part in devices.gather(columns):
        ends = np.cumsum(part['counts'])
        for image_id, count, end in zip(part['ids'], part['counts'], ends, strict=True):
            own = slice(end - count, end)
            merged[int(image_id)] = {name: part[name][own] for name in empty}
    return merged


def to_results(found: Mapping[int, Found], category_ids: tuple[int, ...]) -> list[dict]:
    """Detections as COCO results."""
    return [
        result
        for image_id, one in found.items()
        for result in coco_metric.coco_results(
            image_id, one['boxes'], one['scores'], one['labels'], category_ids
        )
    ]


def summary(scores: coco_metric.Scores) -> dict[str, Any]:
    """Numbers for a JSON file: the twelve, and AP by class; null where undefined."""

    def plain(values):
        return {k: None if math.isnan(v) else float(v) for k, v in values.items()}

    return {**plain(scores.summary), 'per_class': plain(scores.per_class)}


def write_json(path: str | pathlib.Path, value: Any) -> None:
    """Writes JSON through a temporary file, so that none is ever half written."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def make_evaluator(
    experiment: Experiment, source: Source, split: str, tta: bool = False
) -> Evaluator:
    """The evaluator that a config describes, over all devices; with TTA if `tta`."""
    data = experiment.data[split]
    return Evaluator(
        experiment.model,
        experiment.detect,
        source,
        data.pipeline.without_jitter(),
        data.normalizer,
        experiment.samples_per_gpu * jax.device_count(),
        experiment.workers_per_gpu * jax.local_device_count(),
        experiment.parallel,
        experiment.tta if tta else None,
    )
