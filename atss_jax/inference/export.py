"""A detector in one file that needs none of its code: StableHLO, and a page of JSON.

The program takes images on a canvas and gives detections; the page beside it says how
images come on the canvas, and what the labels are called.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from atss_jax.data.batch import Pipeline, Tta
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.evaluation.run import make_predict_step
from atss_jax.inference.load import Trained
from atss_jax.structures import Batch, Detections

SUFFIX = '.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')
_FORMAT = 1


class ExportedDetector(NamedTuple):
    """What `read` finds.

    Attributes:
        step: batch of images, their sizes and scales to detections of each row.
        classes: name of each label.
        pipeline: how images come on a canvas.
        tta: test-time augmentation, if it is asked for.
        detect: NMS of several views; the rest of it is in the program.
        samples_per_gpu: images at a time, where many are to be looked at.
    """

    step: Callable[[Batch], Detections]
    classes: tuple[str, ...]
    pipeline: Pipeline
    tta: Tta
    detect: DetectConfig
    samples_per_gpu: int


def is_exported(path: str | os.PathLike) -> bool:
    """Whether the name is that of an exported detector."""
    return os.fspath(path).endswith(SUFFIX)


def write(
    out: str | os.PathLike, trained: Trained, platforms: Sequence[str] = PLATFORMS
) -> None:
    """Writes `OUT` and, beside it, `OUT.json`.

    The program has the weights in it, normalizes, detects and does NMS. Batch size,
    height and width are free; the latter are multiples of 32.

    Args:
        out: file to write; its name ends in `.stablehlo`.
        trained: what to export; images are prepared as `data.test` says.
        platforms: that the program is for: 'cpu', 'cuda', 'rocm', 'tpu'.

    Raises:
        ValueError: the name ends otherwise, or there is no such platform.
        OSError: the file cannot be written.
    """
    path = pathlib.Path(out)
    if not is_exported(path):
        raise ValueError(f'expected a name that ends in {SUFFIX} or .onnx, got {out}')
    if unknown := set(platforms) - {*PLATFORMS, 'rocm'}:
        raise ValueError(f'no platform {sorted(unknown)}; there are {PLATFORMS}, rocm')
    program = _program(trained, platforms)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    page = _page(trained) | {'sha256': hashlib.sha256(program).hexdigest()}
    _page_path(path).write_text(json.dumps(page, indent=1) + '\n')


def _program(trained, platforms):
    experiment = trained.experiment
    normalizer = experiment.data['test'].normalizer
    step = make_predict_step(experiment.model, normalizer, experiment.detect)

    # A dict, so that the file can be read without this package.
    def detect(batch):
        return step(trained.variables, batch)._asdict()

    b, h, w = jax.export.symbolic_shape('b, h, w')
    batch = {
        'image': jax.ShapeDtypeStruct((b, 32 * h, 32 * w, 3), jnp.uint8),
        'image_size': jax.ShapeDtypeStruct((b, 2), jnp.int32),
        'scale': jax.ShapeDtypeStruct((b, 2), jnp.float32),
    }
    exported = jax.export.export(jax.jit(detect), platforms=tuple(platforms))(batch)
    return bytes(exported.serialize())


def _page(trained) -> dict[str, Any]:
    experiment = trained.experiment
    pipeline, detect = experiment.data['test'].pipeline, experiment.detect
    return {
        'format': _FORMAT,
        'classes': trained.classes,
        'img_scale': pipeline.img_scale,
        'keep_ratio': pipeline.keep_ratio,
        'size_divisor': pipeline.size_divisor,
        'canvases': pipeline.canvases,
        'tta': dataclasses.asdict(experiment.tta),
        'iou_threshold': detect.iou_threshold,
        'max_per_img': detect.max_per_img,
        'samples_per_gpu': experiment.samples_per_gpu,
    }


def _page_path(path):
    return path.with_name(path.name + '.json')


def read(source: str | os.PathLike) -> ExportedDetector:
    """Reads what `write` wrote.

    Raises:
        ValueError: one of the two files is not there, was altered, or is of a later
            version of this package.
    """
    path = pathlib.Path(source)
    beside = _page_path(path)
    for file in (path, beside):
        if not file.is_file():
            raise ValueError(f'no exported detector at {source}: no file {file}')
    try:
        page = json.loads(beside.read_text())
    except ValueError as error:
        raise ValueError(f'{beside}: not a JSON file ({error})') from error
    if not isinstance(page, dict) or page.get('format') != _FORMAT:
        raise ValueError(f'{beside}: not the page of an export of format {_FORMAT}')
    program = path.read_bytes()
    if hashlib.sha256(program).hexdigest() != page['sha256']:
        raise ValueError(f'{path} is not the file that {beside} was written with')
    call = jax.export.deserialize(bytearray(program)).call
    return ExportedDetector(
        step=lambda batch: Detections(**call(batch)),
        classes=tuple(page['classes']),
        pipeline=Pipeline(
            img_scale=tuple(page['img_scale']),
            keep_ratio=page['keep_ratio'],
            size_divisor=page['size_divisor'],
            canvases=_pairs(page['canvases']),
        ),
        tta=Tta(_pairs(page['tta']['img_scales']), page['tta']['flip']),
        detect=DetectConfig(
            iou_threshold=page['iou_threshold'], max_per_img=page['max_per_img']
        ),
        samples_per_gpu=page['samples_per_gpu'],
    )


def _pairs(values):
    """JSON has lists where there were tuples."""
    return None if values is None else tuple(tuple(pair) for pair in values)
