"""A detector on images of any size: put on canvases, looked at in batches."""

import collections
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from atss_jax.data.batch import Variant, place
from atss_jax.data.plan import Canvas
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.evaluation.merge import Found, merge
from atss_jax.structures import BATCH_AXIS, PREDICT_FIELDS, Batch, Detections

_AHEAD = 2  # batches that the device works on while the host reads results


@dataclasses.dataclass
class Views:
    """An image in all its views, ready for the device.

    Attributes:
        key: whatever the caller knows it by.
        width: of the original image.
        rows: canvas and row of each view.
    """

    key: Any
    width: int
    rows: list[tuple[Canvas, Batch]]


class MappedStep:
    """`step(variables, batch)` as a function of batches, divided over the devices.

    Args:
        step: as from `make_predict_step`.
        variables: NumPy arrays.
        devices: of this process; a batch has a multiple of as many rows.
    """

    def __init__(self, step: Callable, variables: Any, devices: Sequence):
        mesh = Mesh(np.array(devices), (BATCH_AXIS,))
        everywhere, by_row = PartitionSpec(), PartitionSpec(BATCH_AXIS)
        if len(devices) > 1:
            step = jax.shard_map(
                step,
                mesh=mesh,
                in_specs=(everywhere, by_row),
                out_specs=by_row,
                check_vma=False,
            )
        self._step, self._rows = jax.jit(step), NamedSharding(mesh, by_row)
        self._variables = jax.device_put(variables, NamedSharding(mesh, everywhere))

    def __call__(self, batch: Batch) -> Detections:
        """Detections of each row; returns before they are computed."""
        return self._step(self._variables, jax.device_put(batch, self._rows))


def dividing(devices: list, batch_size: int) -> list:
    """As many of the devices as a batch divides by."""
    return devices[: math.gcd(batch_size, len(devices))]


def find_devices(kind: str | None) -> list:
    """This host's devices of a kind.

    Args:
        kind: 'cpu', 'gpu', 'tpu'; None: the best that there are.

    Raises:
        ValueError: there are none.
    """
    try:
        # Other hosts' devices are not ours to use.
        return jax.local_devices(backend=kind)
    except RuntimeError as error:
        raise ValueError(
            f'no {kind or "device"} that JAX can use; it sees '
            f'{sorted({d.platform for d in jax.local_devices()})} ({error})'
        ) from error


class Inference:
    """Finds objects in streams of images. Threads may share it.

    A canvas is compiled when an image first needs it, and never again.

    Args:
        step: batch of images, their sizes and scales to `structures.Detections`.
        variants: the ways in which each image is shown.
        config: NMS of the views together.
        batch_size: rows of every batch.
    """

    def __init__(
        self,
        step: Callable[[Batch], Any],
        variants: Sequence[Variant],
        config: DetectConfig,
        batch_size: int,
    ):
        self.variants, self.config, self.batch_size = variants, config, batch_size
        self._step = step
        # Two threads that need one canvas at once would both compile it.
        self._lock = threading.Lock()

    def prepare(self, key: Any, image: np.ndarray) -> Views:
        """Resizes an image (H,W,3) uint8 RGB for all its views; touches no device."""
        rows = [place(image, variant) for variant in self.variants]
        return Views(key, image.shape[1], rows)

    def run(self, images: Iterable[Views]) -> Iterator[tuple[Any, Found]]:
        """(key, what was found) of every image; images of one shape keep order.

        Batches are filled by canvas; what is left at the end goes in last batches.
        """
        buckets = collections.defaultdict(list)
        waiting, parts = collections.deque(), {}
        for number, image in enumerate(images):
            parts[number] = image, [None] * len(image.rows)
            for view, (canvas, row) in enumerate(image.rows):
                buckets[canvas].append((number, view, row))
                if len(buckets[canvas]) == self.batch_size:
                    waiting.append(self._start(buckets.pop(canvas)))
            image.rows = []
            while len(waiting) > _AHEAD:
                yield from self._finish(waiting.popleft(), parts)
        waiting.extend(self._start(bucket) for bucket in buckets.values())
        for started in waiting:
            yield from self._finish(started, parts)

    def _start(self, bucket):
        """Sends a batch to the device; any row will do to fill it up."""
        rows = [row for _, _, row in bucket]
        rows += rows[-1:] * (self.batch_size - len(rows))
        batch = {name: np.stack([row[name] for row in rows]) for name in PREDICT_FIELDS}
        with self._lock:
            found = self._step(batch)
        return [(number, view) for number, view, _ in bucket], found

    def _finish(self, started, parts):
        """Reads a batch back; yields the images of which all views are there."""
        places, found = started
        boxes, scores, labels, valid = jax.device_get(tuple(found))
        flips = [variant.flip for variant in self.variants]
        for index, (number, view) in enumerate(places):
            ok = valid[index]
            image, views = parts[number]
            views[view] = {
                'boxes': boxes[index][ok],
                'scores': scores[index][ok],
                'labels': labels[index][ok],
            }
            if all(one is not None for one in views):
                del parts[number]
                yield image.key, merge(views, flips, image.width, self.config)
