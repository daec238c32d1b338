"""A detector as one web page, which runs in the browser without any network."""

import base64
import gzip
import html
import importlib.resources
import json
import os
import string
from collections.abc import Sequence
from typing import NamedTuple

from atss_jax.drawing.boxes import class_color
from atss_jax.files.atomic import write_text
from atss_jax.report import web_runtime


class WebDetector(NamedTuple):
    """A detector that a page is made of.

    Attributes:
        name: heading of the page.
        model: an ONNX file as `atss export` writes it, with detections inside.
        classes: name of each label.
        img_scale: images are resized to fit (long side, short side).
        keep_ratio: if not, they become exactly (width, height).
        backend: 'cv2' or 'pillow', whose bilinear resize they get.
        size_divisor: height and width that the model takes are multiples of it.
        description: a sentence about the detector, plain text.
    """

    name: str
    model: bytes
    classes: Sequence[str]
    img_scale: tuple[int, int]
    keep_ratio: bool
    backend: str
    size_divisor: int
    description: str = ''


def write_detector_page(path: str | os.PathLike, detector: WebDetector) -> int:
    """Writes the page; gives its size in bytes.

    Raises:
        ConnectionError: onnxruntime-web cannot be downloaded.
        OSError: the page cannot be written.
    """
    text = page(detector, web_runtime.load())
    write_text(path, text)
    return len(text)


def page(detector: WebDetector, runtime: web_runtime.WebRuntime) -> str:
    """The whole page."""
    folder = importlib.resources.files('atss_jax.report') / 'assets'
    files = {
        kind: (folder / f'detector.{kind}').read_text(encoding='utf-8')
        for kind in ('html', 'css', 'js')
    }
    worker = (folder / 'detector_worker.js').read_text(encoding='utf-8')
    return string.Template(files['html']).substitute(
        title=html.escape(detector.name),
        description=html.escape(detector.description),
        version=web_runtime.VERSION,
        style=files['css'],
        script=files['js'],
        details=_json(_details(detector)),
        worker=_packed(f'{runtime.script}\n{worker}'.encode()),
        wasm=_packed(runtime.wasm),
        model=_packed(detector.model),
    )


def _details(detector):
    """What the page's script must know of the detector."""
    return {
        'classes': list(detector.classes),
        'colors': [
            f'rgb({", ".join(map(str, class_color(label)))})'
            for label in range(len(detector.classes))
        ],
        'imgScale': list(detector.img_scale),
        'keepRatio': detector.keep_ratio,
        'backend': detector.backend,
        'sizeDivisor': detector.size_divisor,
    }


def _json(value):
    """JSON that may stand in a script element, whatever its strings are."""
    return json.dumps(value).replace('<', '\\u003c')


def _packed(content: bytes) -> str:
    """Bytes as text of a page; the same ones always give the same text."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
