"""Weights, boxes and head outputs that both sides of a comparison get; NumPy arrays."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import assign
from atss_jax.structures import HeadOutputs
from atss_jax.training.state import zero_variables

CLASSES = 80


def random_weights(model, rng: np.random.Generator) -> dict:
    """Variables under which activations keep a size near 1 from layer to layer."""
    zeros = flatten_dict(zero_variables(model))
    return unflatten_dict({k: _random_leaf(k, x, rng) for k, x in zeros.items()})


def _random_leaf(path, zeros, rng):
    leaf, module = path[-1], path[-2]
    z = rng.standard_normal(zeros.shape, np.float32)
    if leaf == 'num_batches_tracked':
        return zeros
    if leaf == 'kernel':
        gain = 2 if path[1] == 'backbone' else 1
        return np.float32((gain / np.prod(zeros.shape[:-1])) ** 0.5) * z
    if leaf == 'var':
        return 1 + np.float32(0.2) * abs(z)
    if leaf == 'scale':
        # Residual branches are smaller than the stream that they are added to.
        return np.float32(0.3 if module == 'bn3' else 1) + np.float32(0.05) * z
    prior = -4.6 if module == 'atss_cls' else 0
    return np.float32(prior) + np.float32(0.1) * z


def random_boxes(
    count: int, canvas: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes within the canvas, sides log-uniform from 16 pixels up; labels."""
    limit = np.array(canvas[::-1])
    sides = np.exp(rng.uniform(np.log(16), np.log(0.75 * limit), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (limit - sides)
    boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
    return boxes, rng.integers(0, CLASSES, count).astype(np.int32)


def _encode(anchors, boxes, stds=(0.1, 0.1, 0.2, 0.2)):
    """Deltas that decode to the boxes."""
    sides, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    moved = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    return np.concatenate([moved / sides, np.log(wanted / sides)], 1) / np.array(stds)


def random_outputs(
    canvas: tuple[int, int],
    objects: int,
    background: float,
    rng: np.random.Generator,
) -> HeadOutputs:
    """Head outputs as of a trained detector that sees so many objects.

    Background logits are normal around `background`, deviation 1. Anchors that ATSS
    assigns to an object speak for its class, and less for another, and for its box, a
    tenth of a standard delta beside it; so each object is found several times.
    """
    anchors = AnchorGenerator()
    grid = anchors.all(canvas)
    boxes, labels = random_boxes(objects, canvas, rng)
    owner = jax.jit(assign, static_argnums=3)(
        boxes, np.ones(objects, bool), np.array(canvas, np.int32), canvas
    )
    own = np.flatnonzero(np.asarray(owner) >= 0)
    owner = np.asarray(owner)[own]
    logits = rng.normal(background, 1, (len(grid), CLASSES))
    logits[own, labels[owner]] = rng.normal(0, 1.5, len(own))
    logits[own, (labels[owner] + 1) % CLASSES] = rng.normal(-2.5, 1, len(own))
    deltas = rng.normal(0, 1, (len(grid), 4))
    deltas[own] = _encode(grid[own], boxes[owner]) + rng.normal(0, 0.1, (len(own), 4))
    centerness = rng.normal(-1, 1, (len(grid), 1))
    centerness[own] += 1.5
    return HeadOutputs(*(_levels(x, canvas) for x in (logits, deltas, centerness)))


def _levels(values, canvas):
    """Splits (A,n) into levels (1,H,W,n)."""
    sizes = AnchorGenerator().grid_sizes(canvas)
    parts = np.split(values.astype(np.float32), np.cumsum([h * w for h, w in sizes]))
    return tuple(
        x.reshape(1, h, w, -1) for x, (h, w) in zip(parts[:-1], sizes, strict=True)
    )
