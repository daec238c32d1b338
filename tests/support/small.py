"""Models small enough to compile in seconds, the golden one, and batches for them."""

import functools

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.losses import LossConfig
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import ResNet, stage_channels
from atss_jax.weights import mmdet
from tests.support.recipes import golden_state_dict

BN = {'type': 'BN', 'requires_grad': True}
SYNC_BN = {'type': 'SyncBN', 'requires_grad': True}
GN = {'type': 'GN', 'num_groups': 4, 'requires_grad': True}
LOSS = LossConfig(AnchorGenerator((4, 8), octave_base_scale=4.0))


def small_model(backbone=None, neck=None, head=None):
    """Two stages of an R18, 16 channels, strides 4 and 8; arguments override fields."""
    backbone = {
        'depth': 18,
        'num_stages': 2,
        'out_indices': (0, 1),
        'frozen_stages': -1,
        **(backbone or {}),
    }
    channels = stage_channels(backbone['depth'])
    neck = {
        'in_channels': tuple(channels[i] for i in backbone['out_indices']),
        'out_channels': 16,
        'start_level': 0,
        'num_outs': 2,
        **(neck or {}),
    }
    head = {
        'num_classes': 3,
        'in_channels': 16,
        'feat_channels': 16,
        'stacked_convs': 1,
        'norm_cfg': GN,
        **(head or {}),
    }
    strides = tuple(4 * 2**level for level in range(neck['num_outs']))
    return ATSS(ResNet(**backbone), FPN(**neck), ATSSHead(**head), strides)


def random_variables(model, seed=0):
    """Random variables, none of them exactly 0 or 1; NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if path[-1] == 'num_batches_tracked':
            return np.int32(0)
        if path[-1] in ('scale', 'var'):
            return rng.uniform(0.5, 1.5, shape)
        spread = 0.2 if len(shape) < 2 else np.sqrt(2 / np.prod(shape[:-1]))
        return rng.normal(0, spread, shape)

    shapes = mmdet.variable_shapes(model)
    values = {path: draw(path, shape) for path, shape in shapes.items()}
    return unflatten_dict(
        {
            path: value
            if isinstance(value, np.int32)
            else np.asarray(value, np.float32)
            for path, value in values.items()
        }
    )


def random_batch(seed, sizes, canvas=(64, 64), max_boxes=4):
    """A batch of noise with boxes, one row for each size."""
    rng = np.random.default_rng(seed)
    batch = {
        'image': np.zeros((len(sizes), *canvas, 3), np.uint8),
        'image_size': np.array(sizes, np.int32),
        'gt_boxes': np.zeros((len(sizes), max_boxes, 4), np.float32),
        'gt_labels': rng.integers(0, 3, (len(sizes), max_boxes)).astype(np.int32),
        'gt_valid': np.zeros((len(sizes), max_boxes), bool),
        'gt_ignored': np.zeros((len(sizes), max_boxes), bool),
    }
    for row, (height, width) in enumerate(sizes):
        batch['image'][row, :height, :width] = rng.integers(0, 256, (height, width, 3))
        count = rng.integers(1, max_boxes + 1)
        corner = rng.uniform(0, [width * 0.6, height * 0.6], (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (count, 2))], 1)
        batch['gt_boxes'][row, :count] = np.minimum(boxes, [width, height] * 2)
        batch['gt_valid'][row, :count] = True
    return batch


@functools.cache
def golden_model():
    """R50, 80 classes: the model of the golden files."""
    return ATSS(ResNet(), FPN(), ATSSHead(80))


@functools.cache
def golden_variables():
    """The weights of the golden model."""
    return mmdet.to_variables(golden_state_dict(), golden_model())


GOLDEN_CANVAS = (256, 352)


@functools.cache
def golden_forward():
    """Compiled `(images, sizes) -> HeadOutputs, C2..C5, P3..P7`."""

    def forward(variables, images, sizes):
        outputs, captured = golden_model().apply(
            variables,
            images,
            sizes,
            capture_intermediates=lambda module, _: isinstance(module, ResNet | FPN),
            mutable=['intermediates'],
        )
        features = captured['intermediates']
        backbone, neck = features['backbone'], features['neck']
        return outputs, backbone['__call__'][0], neck['__call__'][0]

    return functools.partial(jax.jit(forward), golden_variables())


def on_canvas(images, canvas=GOLDEN_CANVAS):
    """A batch of float images on a canvas that is zero outside, and their sizes."""
    batch = np.zeros((len(images), *canvas, 3), np.float32)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return batch, np.array([image.shape[:2] for image in images], np.int32)
