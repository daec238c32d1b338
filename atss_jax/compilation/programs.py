"""The programs of a config, lowered for the chips of a topology without any arrays."""

from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Lowered

from atss_jax.config.experiment import Experiment
from atss_jax.data.plan import Canvas
from atss_jax.distributed import devices
from atss_jax.evaluation.run import make_predict_step
from atss_jax.structures import (
    BATCH_AXIS,
    BATCH_FIELDS,
    PREDICT_FIELDS,
    TRAIN_FIELDS,
)
from atss_jax.training.setup import mapped_train_step
from atss_jax.training.state import TrainState, create_state, split
from atss_jax.training.update_rule import optimizer_of, rates_by_mult
from atss_jax.weights import mmdet

# A step reads its learning rate from a table of all steps. How many the run has is
# known from the data only, which need not be there; those of COCO's 117,266 images.
_IMAGES = 117_266

# `pmap` compiles for the devices of this process only. The function is the same.
_MODE = 'shard_map'

PROGRAMS = ('train', 'detect')
"""Names of the programs: the training step, and detection with NMS."""


def lowered(
    name: str, experiment: Experiment, mesh: Mesh, canvas: Canvas, samples: int
) -> Lowered:
    """A program of `PROGRAMS` as `train` and `eval` run it, for the chips of a mesh.

    Args:
        name: of the program.
        experiment: what the config describes.
        mesh: the chips, as by `mesh_of`.
        canvas: height and width of the images.
        samples: number of images per chip.
    """
    function = {'train': _training, 'detect': _detection}[name]
    return function(experiment, mesh, canvas, samples)


def largest_canvas(experiment: Experiment, name: str) -> Canvas:
    """The canvas for which a program needs most: that with most pixels."""
    split_name = {'train': 'train', 'detect': 'val'}[name]
    canvases = experiment.data[split_name].pipeline.all_canvases()
    return max(canvases, key=lambda canvas: canvas[0] * canvas[1])


def trained_bytes(experiment: Experiment) -> int:
    """Bytes of the gradients of all parameters that are trained, in float32."""
    params = _shapes(experiment)['params']
    trained, _ = split(params, experiment.model)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trained))


def _training(experiment, mesh, canvas, samples):
    batch_size = samples * mesh.size
    steps_per_epoch = max(1, _IMAGES // batch_size)
    rates = rates_by_mult(experiment, batch_size, steps_per_epoch)
    tx = optimizer_of(experiment, rates)
    total_steps = steps_per_epoch * experiment.total_epochs
    step = mapped_train_step(experiment, tx, total_steps, _MODE, mesh)
    state = _on_every_chip(_state(experiment, tx), mesh)
    boxes = experiment.data['train'].pipeline.max_boxes
    return step.lower(state, _batch(TRAIN_FIELDS, mesh, canvas, samples, boxes))


def _detection(experiment, mesh, canvas, samples):
    normalizer = experiment.data['val'].normalizer
    step = make_predict_step(experiment.detection_model, normalizer, experiment.detect)
    variables = _on_every_chip(_shapes(experiment), mesh)
    batch = _batch(PREDICT_FIELDS, mesh, canvas, samples, boxes=0)
    return devices.map_rows(step, _MODE, mesh).lower(variables, batch)


def _shapes(experiment) -> dict[str, Any]:
    """Shapes and types of parameters and statistics."""
    return unflatten_dict(
        {
            path: jax.ShapeDtypeStruct(
                shape, 'int32' if path[-1] == 'num_batches_tracked' else 'float32'
            )
            for path, shape in mmdet.variable_shapes(experiment.model).items()
        }
    )


def _state(experiment, tx) -> TrainState:
    """Shapes and types of the state before the first step."""
    accumulates = experiment.optimizer.cumulative_iters > 1
    state = create_state(_shapes(experiment), experiment.model, tx, accumulates)
    averages = experiment.optimizer.ema_momentum is not None
    return state.replace(ema=state.params if averages else None)


def _on_every_chip(tree, mesh):
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _batch(
    names: tuple[str, ...], mesh: Mesh, canvas: Canvas, samples: int, boxes: int
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch, divided over the chips."""
    sizes = {'B': samples * mesh.size, 'H': canvas[0], 'W': canvas[1], 'G': boxes}
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
    batch = {}
    for name in names:
        field = BATCH_FIELDS[name]
        shape = tuple(sizes.get(letter, letter) for letter in field.shape)
        batch[name] = jax.ShapeDtypeStruct(shape, field.dtype, sharding=sharding)
    return batch
