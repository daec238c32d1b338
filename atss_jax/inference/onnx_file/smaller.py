"""Smaller files: weights in 16 bits, or all in 8 bits, and the AP that is left."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from atss_jax.config.experiment import open_sources
from atss_jax.data.batch import Variant, for_any_image, place
from atss_jax.data.records import Source
from atss_jax.evaluation.run import make_evaluator
from atss_jax.inference.onnx_file.graph import CONSTANTS, PRODUCER, Graph, Node
from atss_jax.inference.onnx_file.region import FLOAT
from atss_jax.inference.onnx_file.runtime import (
    as_detections,
    library,
    open_session,
    runner,
)
from atss_jax.structures import PREDICT_FIELDS, Batch
from atss_jax.training.trained_model import TrainedModel

MOST_LOSS = 0.01
"""Average precision that a smaller file may lose."""

_IN_FLOAT = ('bbox_head/atss_', 'offset', 'preprocess')
"""Parts of the names of layers that are not quantized: the last, and those that say
where to read."""


def halve_weights(graph: Graph) -> None:
    """Stores kernels in float16; a runtime makes float32 of them when it loads.

    Anchors and the mean of images are no kernels: they stay as they are.
    """
    casts = []
    for name, value in list(graph.initializers.items()):
        is_kernel = value.dtype == np.float32 and value.ndim >= 2
        if not is_kernel or name.startswith(CONSTANTS):
            continue
        del graph.initializers[name]
        half = f'{name}/half'
        graph.initializers[half] = value.astype(np.float16)
        casts.append(Node('Cast', f'{name}/Cast', (half,), (name,), {'to': FLOAT}))
    graph.nodes[:0] = casts


def quantize(content: bytes, batches: Iterable[Batch]) -> bytes:
    """Weights and activations of convolutions and linear layers in 8 bits.

    Args:
        content: of the file in float32.
        batches: images, of which the ranges of the activations are taken.
    """
    onnx = library('onnx')
    library('onnxruntime')
    from onnxruntime import quantization

    model = onnx.load_from_string(content)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    float_names = [
        node.name
        for node in model.graph.node
        if any(part in node.name for part in _IN_FLOAT)
    ]
    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        path = pathlib.Path(folder) / 'int8.onnx'
        quantization.quantize_static(
            model,
            path,
            _Reader(batches),
            op_types_to_quantize=['Conv', 'MatMul'],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            nodes_to_exclude=float_names,
            # Of products only those with weights, not those of attention.
            extra_options={'MatMulConstBOnly': True},
        )
        quantized = onnx.load(path)
    quantized.producer_name = PRODUCER
    onnx.helper.set_model_props(quantized, properties)
    return quantized.SerializeToString()


@contextlib.contextmanager
def _without_warnings():
    """Quantization advises a step that does nothing for graphs that are lean."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


class _Reader:
    """Batches, as onnxruntime's calibration asks for them."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch."""
        return next(self._batches, None)


def calibration_batches(trained: TrainedModel, count: int) -> Iterator[Batch]:
    """Images of `data.train`, spread over the data set, as the test shows them.

    The data set is opened at once, and each image read when its turn comes.

    Raises:
        ValueError: the data set cannot be opened.
        OSError: the same.
    """
    experiment = trained.experiment
    source = open_sources(experiment, ('train',), trained.classes)['train']
    pipeline = experiment.data['test'].pipeline.without_jitter()
    variant = Variant(for_any_image(pipeline))
    total = len(source.records)
    indices = np.unique(np.linspace(0, total, min(count, total), endpoint=False))
    return (_batch(source, int(index), variant) for index in indices)


def _batch(source, index, variant):
    """A batch of one image."""
    _, row = place(source.read_image(source.records[index]), variant)
    return {name: row[name][None] for name in PREDICT_FIELDS}


def open_test(trained: TrainedModel) -> Source:
    """The images and ground truth of `data.test`.

    Raises:
        ValueError: they cannot be opened.
        OSError: the same.
    """
    return open_sources(trained.experiment, ('test',), trained.classes)['test']


def average_precision(content: bytes, trained: TrainedModel, source: Source) -> float:
    """AP of a file on a data set, run by onnxruntime."""
    run = runner(open_session(content))

    def step(variables: Any, batch: Any) -> Any:
        return as_detections(run(jax.device_get(batch)))

    evaluator = make_evaluator(trained.experiment, source, 'test')
    # In this mode a batch stays one array, without an axis of devices.
    evaluator = dataclasses.replace(evaluator, step=step, mode='shard_map')
    detections = evaluator.detections(None, sys.stdout.isatty())
    return evaluator.score(detections).summary['AP']
