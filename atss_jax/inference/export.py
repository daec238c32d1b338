"""A detector as a StableHLO program that needs none of this code, and a JSON page.

The program takes images on a canvas and returns detections. The page next to it says
how images are put on a canvas, and names the labels.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from atss_jax.evaluation.run import make_predict_step
from atss_jax.files.atomic import (
    check_file_writable,
    read_given_json,
    write_bytes,
    write_json,
)
from atss_jax.inference.exported import ExportedDetector, page_of, with_page
from atss_jax.structures import Detections
from atss_jax.training.trained_model import TrainedModel

SUFFIX = '.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')
_FORMATS = (1, 2)  # the first has no `backend`


def is_exported(path: str | os.PathLike) -> bool:
    """Whether a path is that of an exported detector, by its suffix."""
    return os.fspath(path).endswith(SUFFIX)


def write(
    out: str | os.PathLike, trained: TrainedModel, platforms: Sequence[str] = PLATFORMS
) -> None:
    """Writes the program to `OUT` and its page to `OUT.json`.

    The program contains the weights, normalization and NMS. Batch size, height and
    width are free; height and width must be multiples of the model's `size_divisor`,
    which is 32 by default.

    Args:
        out: file to write; its name ends in `.stablehlo`.
        trained: the model; images are prepared as `data.test` says.
        platforms: platforms that the program runs on: 'cpu', 'cuda', 'rocm', 'tpu'.

    Raises:
        ValueError: the name ends otherwise, or there is no such platform.
        OSError: the file cannot be written.
    """
    path = pathlib.Path(out).expanduser()
    if not is_exported(path):
        raise ValueError(
            f'expected a name that ends in .onnx, {SUFFIX} or .html, got {out}'
        )
    if unknown := set(platforms) - {*PLATFORMS, 'rocm'}:
        raise ValueError(f'no platform {sorted(unknown)}; there are {PLATFORMS}, rocm')
    check_file_writable(path)  # compiling takes long
    program = _program(trained, platforms)
    write_bytes(path, program)
    page = {'format': _FORMATS[-1]} | page_of(trained)
    page['sha256'] = hashlib.sha256(program).hexdigest()
    write_json(_page_path(path), page, indent=1)


def _program(trained, platforms):
    experiment = trained.experiment
    normalizer = experiment.data['test'].normalizer
    step = make_predict_step(experiment.detection_model, normalizer, experiment.detect)

    # A dict, since Detections would need this package to read the file.
    def detect(batch):
        return step(trained.variables, batch)._asdict()

    divisor = experiment.model.size_divisor
    b, h, w = jax.export.symbolic_shape('b, h, w')
    batch = {
        'image': jax.ShapeDtypeStruct((b, divisor * h, divisor * w, 3), jnp.uint8),
        'image_size': jax.ShapeDtypeStruct((b, 2), jnp.int32),
        'scale': jax.ShapeDtypeStruct((b, 2), jnp.float32),
    }
    exported = jax.export.export(jax.jit(detect), platforms=tuple(platforms))(batch)
    return bytes(exported.serialize())


def _page_path(path):
    return path.with_name(path.name + '.json')


def read(source: str | os.PathLike) -> ExportedDetector:
    """Reads a detector that `write` wrote.

    Raises:
        ValueError: one of the two files is missing, was changed, or is of a later
            version of this package.
    """
    path = pathlib.Path(source).expanduser()
    page_path = _page_path(path)
    for file in (path, page_path):
        if not file.is_file():
            raise ValueError(f'no exported detector at {source}: no file {file}')
    page = read_given_json(page_path)
    if not isinstance(page, dict) or page.get('format') not in _FORMATS:
        raise ValueError(
            f'{page_path}: not the page of an export of format {_FORMATS[0]} to '
            f'{_FORMATS[-1]}'
        )
    program = path.read_bytes()
    if hashlib.sha256(program).hexdigest() != page['sha256']:
        raise ValueError(f'{path} is not the file that {page_path} was written with')
    call = jax.export.deserialize(bytearray(program)).call
    return with_page(lambda batch: Detections(**call(batch)), page, page_path)
