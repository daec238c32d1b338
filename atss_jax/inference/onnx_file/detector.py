"""The whole detector as a graph: preprocessing, model, detections."""

import numpy as np

from atss_jax.detection.postprocess import DetectConfig
from atss_jax.inference.onnx_file.atss_head import LevelOutputs, atss_head
from atss_jax.inference.onnx_file.dyhead import dyhead
from atss_jax.inference.onnx_file.fpn import fpn
from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.postprocess import detect
from atss_jax.inference.onnx_file.region import FLOAT, INT64, Region
from atss_jax.inference.onnx_file.resnet import resnet
from atss_jax.inference.onnx_file.swin import swin
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.preprocess import Normalizer
from atss_jax.models.resnet import ResNet
from atss_jax.models.swin import SwinTransformer
from atss_jax.structures import HeadOutputs

HEADS = HeadOutputs._fields
"""Names of the head outputs."""

BACKBONES = {ResNet: resnet, SwinTransformer: swin}
"""Writer of each type of backbone."""

NECKS = {FPN: fpn, DyHead: dyhead}
"""Writer of each type of neck."""


def detector_graph(
    model: ATSS,
    variables,
    normalizer: Normalizer,
    config: DetectConfig | None,
) -> Graph:
    """The graph from a batch of uint8 images to detections or head outputs.

    Args:
        model: the model.
        variables: its parameters and statistics.
        normalizer: normalizes its images.
        config: thresholds, anchors and coder; None: head outputs.

    Raises:
        ValueError: a part of the model cannot be written.
    """
    g = Graph(variables)
    image = g.input('image', np.uint8, ('batch', 'height', 'width', 3))
    size = g.input('image_size', np.int32, ('batch', 2))
    image_size = g.op('Cast', size, to=INT64)
    with g.module('preprocess'):
        canvas = canvas_of(g, image, image_size, model.size_divisor)
        x = normalize(g, normalizer, image, canvas)
    levels = atss(g, model, x, canvas)
    check_all_read(g, model)
    if config is None:
        _output_heads(g, levels, model.bbox_head.num_classes)
    else:
        _output_detections(g, levels, image_size, config)
    return g


def canvas_of(g: Graph, image: Tensor, image_size: Tensor, divisor: int) -> Region:
    """The images (B,H,W,3) on their canvas; sizes are int64."""
    height, width = (g.op('Shape', image, start=i, end=i + 1) for i in (1, 2))
    return Region(g, image_size, height, width, divisor)


def normalize(
    g: Graph, normalizer: Normalizer, image: Tensor, canvas: Region
) -> Tensor:
    """(B,H,W,3) uint8 to (B,3,H,W) float32, zero outside each image."""
    pixels = g.op('Cast', g.transpose(image, 0, 3, 1, 2), to=FLOAT)
    if not normalizer.to_rgb:
        pixels = g.op('Gather', pixels, [2, 1, 0], axis=1)
    mean, std = (
        np.float32(value).reshape(1, 3, 1, 1)
        for value in (normalizer.mean, normalizer.std)
    )
    pixels = g.op('Div', g.op('Sub', pixels, mean), std)
    return canvas.zero_outside(pixels)


def atss(g: Graph, model: ATSS, x: Tensor, canvas: Region) -> list[LevelOutputs]:
    """Head outputs of all levels, as `models/detector.py` computes them.

    Args:
        g: the graph.
        model: the model.
        x: (B,3,H,W) normalized images, zero outside.
        canvas: the images on it.

    Raises:
        ValueError: a part of the model cannot be written.
    """
    region = canvas.rounded_up
    region.has_zeros_outside(x)
    features = _part(g, 'backbone', model.backbone, BACKBONES, x, region)
    is_chain = isinstance(model.neck, tuple)
    for index, neck in enumerate(model.neck if is_chain else (model.neck,)):
        name = f'neck_{index}' if is_chain else 'neck'
        features = _part(g, name, neck, NECKS, features)
    return _part(g, 'bbox_head', model.bbox_head, {ATSSHead: atss_head}, features)


def check_all_read(g: Graph, model: ATSS) -> None:
    """Raises ValueError if the model has parameters that no writer asked for."""
    if unread := g.unread_parameters():
        kinds = [type(part).__name__ for part in (model.backbone, model.bbox_head)]
        raise ValueError(
            f'cannot export {" and ".join(kinds)} to ONNX: what these parameters are '
            f'for is not known: {", ".join(unread[:5])}'
        )


def _part(g, name, module, writers, *inputs):
    """Writes a part of the model by the writer of its type."""
    if type(module) not in writers:
        field = 'neck' if name.startswith('neck') else name
        raise ValueError(
            f'model.{field}: cannot export a {type(module).__name__} to '
            f'ONNX; expected {", ".join(kind.__name__ for kind in writers)}'
        )
    with g.module(name):
        return writers[type(module)](g, module, *inputs)


def _output_detections(g, levels, image_size, config):
    scale = g.input('scale', np.float32, ('batch', 2))
    with g.module('detections'):
        detections = detect(g, levels, image_size, scale, config)
    count = config.max_per_img
    g.output('boxes', detections.boxes, np.float32, ('batch', count, 4))
    g.output('scores', detections.scores, np.float32, ('batch', count))
    g.output('labels', detections.labels, np.int32, ('batch', count))
    g.output('num', detections.num, np.int32, ('batch',))


def _output_heads(g, levels, num_classes):
    """All levels in one list of anchors; the order is that of `HeadOutputs`."""
    shapes = (num_classes,), (4,), ()
    outputs = tuple(zip(*levels, strict=True))[: len(HEADS)]
    for name, tensors, shape in zip(HEADS, outputs, shapes, strict=True):
        joined = g.op('Concat', *tensors, axis=1)
        g.output(name, joined, np.float32, ('batch', 'anchors', *shape))
