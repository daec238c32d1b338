"""Our side of `mmdet_cpu.py`: calls, each with a function that reads its result."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from atss_jax.detection.assign import assign
from atss_jax.detection.losses import LossConfig, atss_loss
from atss_jax.detection.postprocess import detect
from atss_jax.distributed import devices
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.sgd import sgd
from atss_jax.structures import HeadOutputs
from atss_jax.training.state import create_state, merge, split
from atss_jax.training.step import make_train_step
from atss_jax.weights import mmdet

Work = tuple[Callable[[], Any], Callable[[Any], Any]]


def compiled(function, *arguments):
    """The compiled program, and a call of it with the arguments on the device."""
    arguments = jax.device_put(arguments)
    program = jax.jit(function).lower(*arguments).compile()
    return program, lambda: jax.block_until_ready(program(*arguments))


def normalized(images: np.ndarray) -> np.ndarray:
    """The input of the network for images (B,H,W,3) without padding."""
    size = np.array(images.shape[1:3], np.int32)
    return np.asarray(Normalizer()(images, np.tile(size, (len(images), 1))))


def batch_of(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> dict:
    """A training batch of images (B,H,W,3), their boxes (B,G,4) and labels (B,G)."""
    size = np.array(images.shape[1:3], np.int32)
    return {
        'image': images,
        'image_size': np.tile(size, (len(images), 1)),
        'gt_boxes': boxes,
        'gt_labels': labels,
        'gt_valid': np.ones(labels.shape, bool),
        'gt_ignored': np.zeros(labels.shape, bool),
    }


def forward(model, variables, image) -> Work:
    """Head outputs of one normalized image."""
    size = np.array([image.shape[1:3]], np.int32)
    _, call = compiled(model.apply, variables, image, size)
    return call, lambda outputs: [np.asarray(x) for x in jax.tree.leaves(outputs)]


def training(model, variables, batch) -> Work:
    """Losses and gradients of a batch whose image is already normalized."""
    trained, frozen = split(variables['params'], model)

    def losses_of(trained, frozen, batch_stats, batch):
        state = {'params': merge(trained, frozen), 'batch_stats': batch_stats}
        outputs = model.apply(state, batch['image'], batch['image_size'], train=True)
        return atss_loss(outputs, batch)

    differentiate = jax.value_and_grad(losses_of, has_aux=True)
    _, call = compiled(differentiate, trained, frozen, variables['batch_stats'], batch)

    def result(outputs):
        (_, losses), gradients = outputs
        named = mmdet.to_state_dict({'params': gradients})
        return {name: float(x) for name, x in losses.items()}, named

    return call, result


def train_step(model, variables, batch, rate, max_norm=None) -> Work:
    """Losses of a whole training step, whose images are uint8."""
    optimizer = OptimizerConfig(lr=rate, max_norm=max_norm)
    tx = sgd(optimizer, lambda _: rate)
    step = devices.map_over_devices(
        make_train_step(model, Normalizer(), LossConfig(), optimizer, tx),
        'pmap',
        donate_first=True,
    )
    # A copy: the state is donated and may share memory with these arrays.
    variables = jax.tree.map(np.copy, variables)
    state = devices.replicate(create_state(variables, model, tx))
    batch = devices.shard_rows(batch, 'pmap')

    def call():
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch))
        return metrics

    return call, lambda metrics: (
        {name: float(x) for name, x in metrics.items() if name.startswith('loss_')},
        {},
    )


def _assign(canvas, boxes, valid, size):
    return assign(boxes, valid, size, canvas)


def assignment(boxes, canvas) -> tuple[Work, int]:
    """Index of the box of each anchor; also the bytes of XLA's temporaries."""
    program, call = compiled(
        functools.partial(_assign, canvas),
        boxes,
        np.ones(len(boxes), bool),
        np.array(canvas, np.int32),
    )
    memory = program.memory_analysis().temp_size_in_bytes
    return (call, np.asarray), memory


def detections(outputs, canvas, scale) -> Work:
    """Boxes in the original image, scores and labels of one image."""
    single = HeadOutputs(*(tuple(level[0] for level in levels) for levels in outputs))
    size, scale = np.array(canvas, np.int32), np.array(scale, np.float32)
    _, call = compiled(detect, single, size, scale)

    def result(detections):
        valid = np.asarray(detections.valid)
        return [np.asarray(x)[valid] for x in detections[:3]]

    return call, result
