"""Weights, boxes and head outputs for both sides of a comparison, as NumPy arrays."""

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import assign
from atss_jax.structures import HeadOutputs
from atss_jax.training.state import zero_variables

CLASSES = 80


def random_weights(model, rng: np.random.Generator) -> dict:
    """Random variables that keep the scale of activations near 1 in every layer."""
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
        # Residual branches are smaller than what they are added to.
        return np.float32(0.3 if module == 'bn3' else 1) + np.float32(0.05) * z
    prior = -4.6 if module == 'atss_cls' else 0
    return np.float32(prior) + np.float32(0.1) * z


def random_boxes(
    count: int,
    canvas: tuple[int, int],
    rng: np.random.Generator,
    classes: int = CLASSES,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes within the canvas, with log-uniform sides of at least 16 pixels; labels."""
    limit = np.array(canvas[::-1])
    sides = np.exp(rng.uniform(np.log(16), np.log(0.75 * limit), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (limit - sides)
    boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
    return boxes, rng.integers(0, classes, count).astype(np.int32)


def _encode(anchors, boxes, stds=(0.1, 0.1, 0.2, 0.2)):
    """Deltas that decode to the boxes, one for each anchor."""
    anchor_sides, sides = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    deltas = np.concatenate([shift / anchor_sides, np.log(sides / anchor_sides)], 1)
    return deltas / np.array(stds)


def random_outputs(
    canvas: tuple[int, int],
    objects: int,
    background: float,
    rng: np.random.Generator,
) -> HeadOutputs:
    """Head outputs like those of a trained detector on an image with `objects` objects.

    Background logits are normal with mean `background` and standard deviation 1.
    Anchors that ATSS assigns to an object have high logits for its class, lower ones
    for another class, and deltas of its box with noise of a tenth of a standard delta,
    so that each object is detected several times.
    """
    anchors = AnchorGenerator()
    grid = anchors.all(canvas)
    boxes, labels = random_boxes(objects, canvas, rng)
    assigned_box = jax.jit(assign, static_argnums=3)(
        boxes, np.ones(objects, bool), np.array(canvas, np.int32), canvas
    )
    positive = np.flatnonzero(np.asarray(assigned_box) >= 0)
    assigned_box = np.asarray(assigned_box)[positive]
    logits = rng.normal(background, 1, (len(grid), CLASSES))
    logits[positive, labels[assigned_box]] = rng.normal(0, 1.5, len(positive))
    other_labels = (labels[assigned_box] + 1) % CLASSES
    logits[positive, other_labels] = rng.normal(-2.5, 1, len(positive))
    deltas = rng.normal(0, 1, (len(grid), 4))
    encoded = _encode(grid[positive], boxes[assigned_box])
    deltas[positive] = encoded + rng.normal(0, 0.1, encoded.shape)
    centerness = rng.normal(-1, 1, (len(grid), 1))
    centerness[positive] += 1.5
    return HeadOutputs(*(_levels(x, canvas) for x in (logits, deltas, centerness)))


def _levels(values, canvas):
    """Splits (A,n) into levels (1,H,W,n)."""
    sizes = AnchorGenerator().grid_sizes(canvas)
    levels = np.split(values.astype(np.float32), np.cumsum([h * w for h, w in sizes]))
    return tuple(
        x.reshape(1, h, w, -1) for x, (h, w) in zip(levels[:-1], sizes, strict=True)
    )
