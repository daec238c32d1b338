"""What `input.py` times in this process: OpenCV alone, and the loader's stages."""

import time
from collections.abc import Callable

import cv2
import numpy as np

from atss_jax.data import image_file, image_header, transforms
from atss_jax.data.loader import TrainBatches

STAGES = ('read', 'check the header', 'decode to RGB', 'pad', 'resize', 'mirror')


def processor_seconds(call: Callable[[], object]) -> float:
    """Processor time of a call, in seconds."""
    began = time.process_time()
    call()
    return time.process_time() - began


class Bare:
    """OpenCV alone: file contents in memory, decoded and resized into new arrays."""

    def __init__(self, batches: TrainBatches):
        records, pipeline = batches.source.records, batches.pipeline
        self._work = [
            (
                np.fromfile(record.file_name, np.uint8),
                pipeline.whole(0, record).size[::-1],
            )
            for record in (records[index] for index in range(len(records)))
        ]

    def __call__(self) -> float:
        """Loads every image once and returns the seconds it took."""
        return processor_seconds(self._load)

    def _load(self):
        for content, size in self._work:
            cv2.resize(cv2.imdecode(content, cv2.IMREAD_COLOR), size)


class Stages:
    """The stages of loading the rows of batches, each timed by itself."""

    def __init__(self, batches: TrainBatches):
        self._batches = batches
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def _timed(self, stage, call, *arguments, **named):
        began = time.process_time()
        result = call(*arguments, **named)
        self.seconds[stage] += time.process_time() - began
        return result

    def batch(self, step: int) -> None:
        """Loads all rows of a batch."""
        rows, canvas = range(*self._batches.rows), self._batches.canvas(step)
        images = np.empty((len(rows), *canvas, 3), np.uint8)
        for row, image in zip(rows, images, strict=True):
            self._row(self._batches.view(step, row), image)

    def _row(self, view, image):
        record = self._batches.source.records[view.record]
        name, timed = record.file_name, self._timed
        content = timed('read', image_file.file_content, name)
        timed('check the header', image_header.read, content)
        decoded = timed(
            'decode to RGB', image_file.decode, content, record.size, name, ''
        )
        corner = timed('pad', transforms.corner, image, view.shown)
        backend = self._batches.pipeline.backend
        timed('resize', transforms.resize, decoded, view.size, corner, backend)
        if view.flip:
            timed('mirror', transforms.flip_image, corner, out=corner)


def stage_rows(batches: TrainBatches, rounds: int) -> list[list[str]]:
    """Rows of a table: milliseconds per image and share of each stage."""
    plan = batches.plan
    count = rounds * plan.steps_per_epoch * plan.batch_size
    stages, whole = Stages(batches), 0.0
    for step in range(rounds * plan.steps_per_epoch):
        stages.batch(step)
        whole += processor_seconds(lambda step=step: batches(step))
    seconds = stages.seconds
    seconds['decode to RGB'] -= seconds['check the header']  # decoding checks it too
    seconds['boxes, random numbers, other'] = whole - sum(seconds.values())
    rows = [*seconds.items(), ('all', whole)]
    return [[name, f'{1e3 * s / count:.2f} ms', f'{s / whole:.0%}'] for name, s in rows]
