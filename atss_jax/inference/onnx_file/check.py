"""Runs a detector in JAX and its ONNX file on the same images, and compares."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from atss_jax.detection.postprocess import detect
from atss_jax.distributed import devices
from atss_jax.evaluation.merge import without_padding
from atss_jax.inference.onnx_file.detector import HEADS
from atss_jax.inference.onnx_file.differences import Differences
from atss_jax.inference.onnx_file.runtime import as_detections
from atss_jax.structures import Batch, Detections, HeadOutputs
from atss_jax.training.trained_model import TrainedModel

Outputs = Mapping[str, np.ndarray]
"""Outputs of an ONNX file by name."""


class Shown(NamedTuple):
    """A batch as it was shown to ONNX.

    Attributes:
        rows: the rows of the original batch that it consists of.
        batch: images.
        heads: outputs of the file with head outputs.
        detections: outputs of the file with detections; None: there is none.
    """

    rows: Sequence[int]
    batch: Batch
    heads: Outputs
    detections: Outputs | None


def compare(
    trained: TrainedModel,
    run_heads: Callable[[Batch], Outputs],
    run: Callable[[Batch], Outputs] | None,
    batches: Iterable[Batch],
) -> Differences:
    """The differences between a detector in JAX and in ONNX.

    JAX sees every image on its canvas with its batch mates. ONNX sees it in the same
    way, and also alone on the smallest canvas.

    Args:
        trained: the model.
        run_heads: runs the file with head outputs.
        run: runs the file with detections; None: heads alone are compared.
        batches: images.
    """
    reference, differences = _Reference(trained), Differences()
    with jax.default_device(devices.find_local('cpu')[0]):
        for batch in batches:
            differences.images += len(batch['image'])
            outputs = reference.heads(batch)
            shown = [
                Shown(rows, b, run_heads(b), None if run is None else run(b))
                for rows, b in reference.ways_to_show(batch)
            ]
            _compare_heads(differences, reference, outputs, batch, shown)
            if run is None:
                continue
            detections = reference.detections(outputs, batch)
            _compare_detections(differences, detections, shown)
            # JAX's detections from ONNX's head outputs: nothing but rounding differs.
            outputs = reference.levels(shown[0].heads, batch)
            detections = reference.detections(outputs, batch)
            same_heads = Differences()
            _compare_detections(same_heads, detections, shown[:1])
            differences.unexplained += same_heads.unmatched
    return differences


def _compare_heads(differences, reference, outputs, batch, shown):
    flat = reference.flat(outputs)
    for way in shown:
        for place, row in enumerate(way.rows):
            valid = reference.valid(batch, row)
            valid_shown = reference.valid(way.batch, place)
            for name in HEADS:
                ours = flat[name][row][valid]
                differences.add_heads(ours, way.heads[name][place][valid_shown])


def _compare_detections(differences, detections, shown):
    for way in shown:
        found = as_detections(way.detections)
        for place, row in enumerate(way.rows):
            differences.add_detections(_of_row(detections, row), _of_row(found, place))


def _of_row(detections, row):
    """The detections in one image, without padding, from those of a batch."""
    return without_padding(Detections(*(column[row] for column in detections)))


class _Reference:
    """The model in JAX, in float32."""

    def __init__(self, trained):
        experiment = trained.experiment
        self._model = model = experiment.model.clone(dtype='float32')
        self._variables = trained.variables
        normalizer = experiment.data['test'].normalizer

        @jax.jit
        def heads(variables, batch):
            images = normalizer(batch['image'], batch['image_size'])
            return model.apply(variables, images, batch['image_size'])

        self._heads = heads
        detect_image = functools.partial(detect, config=experiment.detect)
        self._detections = jax.jit(jax.vmap(detect_image))

    def heads(self, batch: Batch) -> HeadOutputs:
        """Head outputs of all levels."""
        with jax.default_matmul_precision('highest'):
            return jax.device_get(self._heads(self._variables, batch))

    def detections(self, outputs: HeadOutputs, batch: Batch) -> Detections:
        """Detections in each row, of the given head outputs."""
        found = self._detections(outputs, batch['image_size'], batch['scale'])
        return jax.device_get(found)

    def flat(self, outputs: HeadOutputs) -> Outputs:
        """Head outputs as the file has them: (B,A,C), (B,A,4), (B,A)."""
        channels = (self._model.bbox_head.num_classes,), (4,), ()
        return {
            name: np.concatenate(
                [x.reshape(len(x), -1, *shape) for x in levels], axis=1
            )
            for name, levels, shape in zip(HEADS, outputs, channels, strict=True)
        }

    def levels(self, flat: Outputs, batch: Batch) -> HeadOutputs:
        """The inverse of `flat`."""
        grids = self._grids(batch['image'].shape[1:3])
        cells = [rows * columns for rows, columns in grids]
        ends = np.cumsum(cells)[:-1] * self._model.bbox_head.num_anchors

        def split(x):
            levels = np.split(x, ends, axis=1)
            return tuple(
                level.reshape(len(x), *grid, -1)
                for level, grid in zip(levels, grids, strict=True)
            )

        return HeadOutputs(*(split(flat[name]) for name in HEADS))

    def valid(self, batch: Batch, row: int) -> np.ndarray:
        """(A,) whether an anchor lies in the valid region of its image."""
        canvas = self._grids(batch['image'].shape[1:3])
        region = self._grids(self._region(batch, row))
        cells = []
        for (height, width), (rows, columns) in zip(canvas, region, strict=True):
            is_row, is_column = np.arange(height) < rows, np.arange(width) < columns
            cells.append((is_row[:, None] & is_column).reshape(-1))
        return np.repeat(np.concatenate(cells), self._model.bbox_head.num_anchors)

    def ways_to_show(self, batch: Batch) -> Iterator[tuple[Sequence[int], Batch]]:
        """(rows, batch): all images, then each alone on the smallest canvas."""
        count = len(batch['image'])
        yield range(count), batch
        for row in range(count):
            height, width = self._region(batch, row)
            alone = {name: values[row : row + 1] for name, values in batch.items()}
            alone['image'] = alone['image'][:, :height, :width]
            yield [row], alone

    def _region(self, batch, row):
        """Height and width of the valid region of an image."""
        divisor = self._model.size_divisor
        return [_ceil(side, divisor) * divisor for side in batch['image_size'][row]]

    def _grids(self, size):
        """Rows and columns of each level."""
        return [
            tuple(_ceil(side, stride) for side in size)
            for stride in self._model.strides
        ]


def _ceil(side, divisor):
    return -(-int(side) // divisor)
