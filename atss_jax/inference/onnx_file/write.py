"""Writes a detector as an ONNX file, after it was compared with JAX."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from atss_jax.data.records import Source
from atss_jax.files.atomic import check_file_writable, write_bytes
from atss_jax.inference.exported import page_of
from atss_jax.inference.onnx_file import smaller
from atss_jax.inference.onnx_file.check import compare
from atss_jax.inference.onnx_file.detector import detector_graph
from atss_jax.inference.onnx_file.differences import Differences
from atss_jax.inference.onnx_file.graph import to_model
from atss_jax.inference.onnx_file.runtime import (
    FORMAT,
    SUFFIX,
    is_onnx,
    library,
    open_session,
    runner,
)
from atss_jax.inference.onnx_file.sample_images import batches_of
from atss_jax.structures import Batch
from atss_jax.training.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class Options:
    """What is written, and how it is checked.

    Attributes:
        heads: head outputs in place of detections.
        images: folder of images to compare with JAX on; None: generated images.
        half: weights in float16; computed in float32.
        int8: weights and activations in 8 bits.
        calibrate: number of training images that set the ranges of the activations.
        force: write a file that has lost more AP than `smaller.MOST_LOSS`, or whose AP
            cannot be measured.

    Raises:
        ValueError: they do not go together.
    """

    heads: bool = False
    images: str | os.PathLike | None = None
    half: bool = False
    int8: bool = False
    calibrate: int = 100
    force: bool = False

    def __post_init__(self):
        if self.half and self.int8:
            raise ValueError('half and int8 are both set: choose one of them')
        if self.heads and self.is_smaller:
            raise ValueError('heads does not go with half and int8: it has no AP')
        if self.calibrate < 1:
            raise ValueError(f'calibrate = {self.calibrate}: expected 1 or more')

    @property
    def is_smaller(self) -> bool:
        """Whether the file has other numbers than the model."""
        return self.half or self.int8


def write(
    out: str | os.PathLike,
    trained: TrainedModel,
    options: Options = Options(),
    tell: Callable[[str], None] = lambda line: None,
) -> Differences:
    """Writes the file, once it gives what the model gives in JAX.

    Args:
        out: file to write; its name ends in `.onnx`.
        trained: the model; images are prepared as `data.test` says.
        options: what to write.
        tell: called with a line about each step that takes long, and what it gave.

    Returns:
        The differences of the float file from JAX.

    Raises:
        ValueError: the name ends otherwise, or as for `checked_content`.
        OSError: the file cannot be written, or images cannot be read.
    """
    path = pathlib.Path(out).expanduser()
    if not is_onnx(path):
        raise ValueError(f'expected a name that ends in {SUFFIX}, got {out}')
    check_file_writable(path)  # comparing takes long
    content, differences = checked_content(trained, options, tell)
    write_bytes(path, content)
    return differences


def checked_content(
    trained: TrainedModel,
    options: Options = Options(),
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[bytes, Differences]:
    """The content of a file, which gives what the model gives in JAX.

    Batch size, height and width are free; height and width must be multiples of the
    model's `size_divisor`. Normalization, masks of the padding, and NMS are in the
    file. The AP of a smaller file is measured on `data.test`, and that of the float
    file too.

    Args:
        trained: the model; images are prepared as `data.test` says.
        options: what the file has in it.
        tell: as for `write`.

    Returns:
        The content, and the differences of the float file from JAX.

    Raises:
        ValueError: a library is not installed, a part of the model cannot be exported,
            or the file gives other outputs than JAX, or has lost too much AP.
        OSError: images cannot be read.
    """
    for name in ('onnx', 'onnxruntime'):
        library(name)
    data = _open_data(trained, options)  # comparing takes long
    content = serialize(trained, options.heads)
    tell('comparing with JAX, for which the model is compiled first')
    differences = _compare(trained, content, options)
    tell(differences.text(options.heads))
    if problem := differences.problem():
        raise ValueError(
            f'nothing was written, since ONNX gives other outputs than JAX: {problem}. '
            'This is a mistake in atss-jax, or the weights multiply rounding errors'
        )
    if options.is_smaller:
        content = _made_smaller(trained, content, data, options, tell)
    return content, differences


def serialize(trained: TrainedModel, heads: bool, half: bool = False) -> bytes:
    """The content of the file, which onnx has checked.

    Raises:
        ValueError: a part of the model cannot be exported.
    """
    experiment = trained.experiment
    graph = detector_graph(
        experiment.model,
        trained.variables,
        experiment.data['test'].normalizer,
        None if heads else experiment.detect,
    )
    if half:
        smaller.halve_weights(graph)
    model = to_model(graph, _properties(trained, heads))
    content = model.SerializeToString()
    library('onnx').checker.check_model(content, full_check=True)
    return content


def _properties(trained, heads) -> Mapping[str, str]:
    """What stands in the file next to the graph, each value as JSON."""
    detect = trained.experiment.detect
    page: dict[str, Any] = {
        'format': FORMAT,
        'outputs': 'heads' if heads else 'detections',
        **page_of(trained),
        'score_thr': detect.score_thr,
    }
    return {name: json.dumps(value) for name, value in page.items()}


def _compare(trained, content, options):
    """Compares the file with JAX, and another one with its head outputs."""
    test, model = trained.experiment.data['test'], trained.experiment.model
    batches = batches_of(options.images, test.pipeline, model.size_divisor)
    run = runner(open_session(content, 'cpu'))
    if options.heads:
        return compare(trained, run, None, batches)
    run_heads = runner(open_session(serialize(trained, heads=True), 'cpu'))
    return compare(trained, run_heads, run, batches)


class _Data(NamedTuple):
    """What smaller files are made and measured with.

    Attributes:
        calibration: images that set the ranges of activations; None: not needed.
        test: the data set to measure AP on; None: it is not measured.
    """

    calibration: Iterable[Batch] | None
    test: Source | None


def _open_data(trained, options):
    calibration = test = None
    if options.int8:
        calibration = smaller.calibration_batches(trained, options.calibrate)
    if options.is_smaller:
        test = _open_test(trained, options.force)
    return _Data(calibration, test)


def _made_smaller(trained, content, data, options, tell):
    """The content of the smaller file, whose AP was measured."""
    source = data.test
    if options.int8:
        tell(f'setting the ranges of 8 bits with {options.calibrate} training images')
        new = smaller.quantize(content, data.calibration)
    else:
        new = serialize(trained, heads=False, half=True)
    kind = 'int8' if options.int8 else 'half'
    sizes = f'{len(content) / 2**20:.1f} MiB float, {len(new) / 2**20:.1f} MiB {kind}'
    if source is None:
        tell(f'{sizes}; AP was not measured, since data.test cannot be opened')
        return new
    images = len(source.records)
    tell(f'measuring AP on {images} images, with both files')
    before, after = (
        smaller.average_precision(x, trained, source) for x in (content, new)
    )
    tell(f'{sizes}; AP on {images} images: {before:.4f} float, {after:.4f} {kind}')
    if not before - after <= smaller.MOST_LOSS and not options.force:
        raise ValueError(
            f'the {kind} file has lost {before - after:.4f} AP, and at most '
            f'{smaller.MOST_LOSS} is accepted; --force (in Python, force=True) writes '
            'it all the same'
        )
    return new


def _open_test(trained, force):
    """The data set to measure AP on; None if it cannot be opened, with `force`."""
    try:
        return smaller.open_test(trained)
    except (ValueError, OSError) as error:
        if force:
            return None
        raise ValueError(
            f'the AP of the smaller file cannot be measured: {error}. Set '
            'data.test, or write the file all the same with --force (in Python, '
            'force=True)'
        ) from error
