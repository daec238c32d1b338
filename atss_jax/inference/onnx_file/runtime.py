"""Runs ONNX files by onnxruntime, and reads those that this package wrote."""

import importlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from atss_jax.files.kind import describe_file
from atss_jax.inference.exported import ExportedDetector, with_page
from atss_jax.inference.onnx_file.graph import PRODUCER
from atss_jax.structures import Batch, Detections

SUFFIX = '.onnx'
FORMAT = 1
"""Number of the form of inputs, outputs and properties; a later form has a later one.
"""

NEWEST_NEEDED = 'onnxruntime>=1.25'
"""The first that has every operation that is written."""

PROVIDERS = {'cpu': 'CPUExecutionProvider', 'gpu': 'CUDAExecutionProvider'}


def is_onnx(path: str | os.PathLike) -> bool:
    """Whether a path is that of an ONNX file, by its suffix."""
    return os.fspath(path).endswith(SUFFIX)


def library(name: str) -> ModuleType:
    """The library `onnx` or `onnxruntime`.

    Raises:
        ValueError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f'ONNX files need the library {name}, which is not installed: '
            f"pip install 'atss-jax[onnx]' ({error})"
        ) from error


def read(source: str | os.PathLike, device: str | None = None) -> ExportedDetector:
    """Reads a detector that `atss export --out=NAME.onnx` wrote.

    Args:
        source: the file.
        device: 'cpu' or 'gpu'; None: the GPU if this onnxruntime can use one.

    Raises:
        ValueError: no such file; not written by this package, for head outputs, of a
            later version, or damaged; or no such device.
    """
    path = pathlib.Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f'no exported detector at {source}: no such file')
    session = open_session(path, device)
    page = _page(session, path)
    run = runner(session)
    return with_page(lambda batch: as_detections(run(batch)), page, path)


def as_detections(outputs: Mapping[str, np.ndarray]) -> Detections:
    """The detections of a batch from the outputs of a file."""
    rows = np.arange(outputs['scores'].shape[1])
    valid = rows < outputs['num'][:, None]
    return Detections(outputs['boxes'], outputs['scores'], outputs['labels'], valid)


def runner(session: Any) -> Callable[[Batch], dict[str, np.ndarray]]:
    """The function from a batch to the outputs of a session, by name."""
    inputs = [port.name for port in session.get_inputs()]
    outputs = [port.name for port in session.get_outputs()]

    def run(batch: Batch) -> dict[str, np.ndarray]:
        values = session.run(None, {name: np.asarray(batch[name]) for name in inputs})
        return dict(zip(outputs, values, strict=True))

    return run


def open_session(source: pathlib.Path | bytes, device: str | None = None) -> Any:
    """An onnxruntime session of a file, or of its content.

    Raises:
        ValueError: the file is no ONNX file or is cut off, or no such device.
    """
    ort = library('onnxruntime')
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only
    model = source if isinstance(source, bytes) else os.fspath(source)
    try:
        return ort.InferenceSession(model, options, providers=_providers(ort, device))
    except _loading_errors() as error:
        if isinstance(source, bytes):
            raise
        raise ValueError(
            f'{source} cannot be read by onnxruntime {ort.__version__}: '
            f'{_reason(source, error)} ({_first_line(error)})'
        ) from error


def _reason(path, error):
    if type(error).__name__ == 'NotImplemented':
        return f'it needs a newer one: pip install {NEWEST_NEEDED!r}'
    return describe_file(path) or 'it is no ONNX file, or was cut off'


def _loading_errors():
    """What onnxruntime raises for files that it cannot read; all are Exceptions."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = 'InvalidProtobuf', 'InvalidGraph', 'InvalidArgument', 'Fail'
    return tuple(getattr(state, n) for n in (*names, 'NotImplemented', 'NoModel'))


def _first_line(error):
    return str(error).strip().splitlines()[0][:200]


def _providers(ort, device):
    available = ort.get_available_providers()
    if device is None:
        return [p for p in reversed(PROVIDERS.values()) if p in available]
    provider = PROVIDERS.get(device)
    if provider not in available:
        raise ValueError(
            f'onnxruntime {ort.__version__} cannot use the device {device!r}; it has '
            f'{available}. For NVIDIA GPUs: pip install onnxruntime-gpu'
        )
    return [provider]


def _page(session, path):
    """The properties of a file that this package wrote."""
    meta = session.get_modelmeta()
    properties = meta.custom_metadata_map
    if meta.producer_name != PRODUCER or 'format' not in properties:
        raise ValueError(
            f'{path} was not written by atss export, but by '
            f'{meta.producer_name or "a program that does not say its name"}: it lacks '
            'the names of the classes and the sizes of images'
        )
    try:
        page = {name: json.loads(text) for name, text in properties.items()}
    except ValueError as error:
        raise ValueError(
            f'{path}: its properties are not JSON ({error}): it was changed after atss '
            'export wrote it; export again'
        ) from error
    if not isinstance(page['format'], int) or page['format'] > FORMAT:
        raise ValueError(
            f'{path} is of format {page["format"]!r}, and this version reads up to '
            f'{FORMAT}: install a newer atss-jax'
        )
    outputs = page.get('outputs')
    if outputs == 'heads':
        raise ValueError(
            f'{path} was written with --heads and gives no detections: export again '
            'without it'
        )
    if outputs != 'detections':
        raise ValueError(
            f"{path}: its property outputs is {outputs!r}, expected 'detections': it "
            'was changed after atss export wrote it; export again'
        )
    return page
