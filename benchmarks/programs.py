"""The parts of ATSS that benchmarks compile and time, on generated images and boxes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atss_jax.config.experiment import Experiment
from atss_jax.detection.assign import assign
from atss_jax.detection.losses import atss_loss
from atss_jax.detection.postprocess import detect
from atss_jax.distributed import devices
from atss_jax.training.state import create_state, init_variables
from atss_jax.training.step import make_train_step
from atss_jax.training.update_rule import optimizer_of, rates_by_mult

Canvas = tuple[int, int]


class Program(NamedTuple):
    """A function to compile and call.

    Attributes:
        function: jitted; it reads nothing except its arguments.
        arguments: arrays on the device.
        carries: whether the first result is the first argument of the next call.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    carries: bool = False

    def compile(self) -> jax.stages.Compiled:
        """The program for its arguments."""
        return self.function.lower(*self.arguments).compile()

    def caller(self, compiled: jax.stages.Compiled) -> Callable[[], None]:
        """A call of the compiled program that waits for its result."""
        arguments = list(self.arguments)

        def call():
            result = jax.block_until_ready(compiled(*arguments))
            if self.carries:
                arguments[0] = result[0]

        return call


def example_batch(
    canvas: Canvas, batch_size: int, boxes: int, num_classes: int, capacity: int = 0
) -> dict[str, np.ndarray]:
    """A training batch of noise, whose images fill the canvas.

    Args:
        canvas: height, width.
        batch_size: number of images.
        boxes: number in each image; their sides are log-uniform from 16 pixels to half
            of the canvas.
        num_classes: labels are below it.
        capacity: boxes that each image is padded to, if more than `boxes`.
    """
    random = np.random.default_rng(0)
    limits = np.array(canvas[::-1], float)
    sides = 16 * (limits / 32) ** random.random((batch_size, boxes, 2))
    corners = random.random((batch_size, boxes, 2)) * (limits - sides)
    missing = max(capacity - boxes, 0)
    padding = ((0, 0), (0, missing), (0, 0))
    gt_boxes = np.pad(np.concatenate([corners, corners + sides], -1), padding)
    labels = random.integers(num_classes, size=(batch_size, boxes + missing))
    valid = np.broadcast_to(np.arange(boxes + missing) < boxes, labels.shape)
    return {
        'image': random.integers(256, size=(batch_size, *canvas, 3), dtype=np.uint8),
        'image_size': np.tile(np.array(canvas, np.int32), (batch_size, 1)),
        'gt_boxes': gt_boxes.astype(np.float32),
        'gt_labels': labels.astype(np.int32),
        'gt_valid': valid,
        'gt_ignored': np.zeros_like(valid),
    }


class Programs:
    """The parts of one model, at one canvas, batch size and dtype.

    Args:
        experiment: built from a config.
        canvas: height, width.
        batch_size: images in a batch.
        dtype: 'float32' or 'bfloat16'.
        boxes: number in each image of the batch.
    """

    def __init__(
        self,
        experiment: Experiment,
        canvas: Canvas,
        batch_size: int,
        dtype: str,
        boxes: int = 8,
    ):
        self.experiment, self.canvas = experiment, canvas
        self.model = experiment.model.clone(dtype=dtype)
        self.normalizer = experiment.data['train'].normalizer
        self.num_classes = self.model.bbox_head.num_classes
        capacity = experiment.data['train'].pipeline.max_boxes
        batch = example_batch(canvas, batch_size, boxes, self.num_classes, capacity)
        self.batch = jax.device_put(batch)
        self.variables = jax.device_put(init_variables(self.model, 0))

    @functools.cached_property
    def outputs(self):
        """Head outputs, some hundred of whose scores reach the threshold."""
        outputs = jax.jit(self._outputs)(self.variables, self.batch)
        random = np.random.default_rng(1)
        logits = tuple(
            jax.device_put(random.normal(-5.5, 1, level.shape).astype(np.float32))
            for level in outputs.cls_logits
        )
        return outputs._replace(cls_logits=logits)

    def _outputs(self, variables, batch, train=False):
        images = self.normalizer(batch['image'], batch['image_size'])
        return self.model.apply(variables, images, batch['image_size'], train=train)

    def forward(self) -> Program:
        """From pixels to head outputs."""
        return Program(jax.jit(self._outputs), (self.variables, self.batch))

    def assignment(self, boxes: int) -> Program:
        """The assignment of anchors to boxes, for one image."""
        batch = jax.device_put(example_batch(self.canvas, 1, boxes, self.num_classes))
        fields = 'gt_boxes', 'gt_valid', 'image_size'
        arguments = tuple(batch[name][0] for name in fields)
        loss = self.experiment.loss

        def function(gt_boxes, gt_valid, image_size):
            return assign(
                gt_boxes,
                gt_valid,
                image_size,
                self.canvas,
                anchors=loss.anchors,
                assigner=loss.assigner,
            )

        return Program(jax.jit(function), arguments)

    def losses(self) -> Program:
        """From head outputs to losses, assignment included, and their gradients."""

        def function(outputs, batch):
            return atss_loss(outputs, batch, self.experiment.loss)[0]

        differentiate = jax.jit(jax.value_and_grad(function))
        return Program(differentiate, (self.outputs, self.batch))

    def post_processing(self) -> Program:
        """From head outputs to detections, NMS included."""
        scale = jnp.ones((len(self.batch['image']), 2))

        def function(outputs, sizes, scale):
            config = self.experiment.detect
            return jax.vmap(lambda *image: detect(*image, config))(
                outputs, sizes, scale
            )

        arguments = self.outputs, self.batch['image_size'], scale
        return Program(jax.jit(function), arguments)

    def train_step(self) -> Program:
        """The whole training step, mapped and with a donated state, as in a run."""
        experiment = self.experiment
        optimizer, mode = experiment.optimizer, experiment.parallel
        rates = rates_by_mult(experiment, experiment.auto_scale_lr.base, 1000)
        tx = optimizer_of(experiment, rates)
        step = make_train_step(
            self.model, self.normalizer, experiment.loss, optimizer, tx
        )
        state = create_state(
            self.variables,
            self.model,
            tx,
            accumulates=optimizer.cumulative_iters > 1,
            averages=optimizer.ema_momentum is not None,
        )
        state = devices.replicate(jax.tree.map(np.asarray, state))
        batch = devices.shard_rows(jax.device_get(self.batch), mode)
        step = devices.map_over_devices(step, mode, donate_first=True)
        return Program(step, (state, batch), carries=True)
