"""Boxes on half pixels: several anchors are at exactly the same distance.

Integer boxes at half scale, as of BCCD, often have their center on a line of symmetry
of the anchor grid. Then the `topk` nearest anchors are not unique, and mmdetection
takes those that `torch.topk` happens to put first. These tests compute the dense
assignment with several orders of ties: all differences are among ties.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import assign
from tests.conftest import SHARED_DATA

ANCHORS, TOPK = AnchorGenerator(), 9
SIZE, CANVAS = (240, 320), (256, 320)  # BCCD's 480 x 640 at half scale


def lowest_first(distance):
    return np.argsort(distance, 0, kind='stable')[:TOPK]


def highest_first(distance):
    last = len(distance) - 1
    return last - np.argsort(distance[::-1], 0, kind='stable')[:TOPK]


def torch_first(distance):
    """As mmdetection 3.3.0 with PyTorch 2.13.0 on a CPU."""
    import torch

    count = min(TOPK, len(distance))
    return torch.tensor(distance).sqrt().topk(count, 0, largest=False)[1].numpy()


@functools.cache
def grid():
    """Anchors, their centers, and first and last+1 index of each level."""
    anchors = ANCHORS.all(CANVAS)
    ends = np.cumsum([h * w for h, w in ANCHORS.grid_sizes(CANVAS)])
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return anchors, centers, list(zip([0, *ends[:-1]], ends, strict=True))


def dense(boxes, nearest):
    """ATSS over all anchors, which are all valid here: mmdetection's procedure.

    Args:
        boxes: (G,4) float32.
        nearest: from distances (n,G) of a level to the indices (k,G) of the nearest.

    Returns:
        Index of the box of each anchor (-1: none), and (A,G) whether it is a candidate.
    """
    anchors, centers, levels = grid()
    low = np.maximum(anchors[:, None, :2], boxes[:, :2])
    high = np.minimum(anchors[:, None, 2:], boxes[:, 2:])
    intersection = np.maximum(high - low, 0).prod(-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (anchors, boxes)]
    iou = intersection / (areas[0][:, None] + areas[1] - intersection)
    candidates = np.concatenate(
        [first + nearest(distances(boxes)[first:stop]) for first, stop in levels]
    )
    is_candidate = np.zeros(iou.shape, bool)
    np.put_along_axis(is_candidate, candidates, True, 0)
    overlaps = np.take_along_axis(iou, candidates, 0)
    thresholds = overlaps.mean(0) + overlaps.std(0, ddof=1)
    margins = centers[:, None] - boxes[:, :2], boxes[:, 2:] - centers[:, None]
    is_inside = np.minimum(*margins).min(-1) > 0.01
    claims = np.where(is_candidate & is_inside & (iou >= thresholds), iou, -1)
    return np.where(claims.max(1) >= 0, claims.argmax(1), -1), is_candidate


def distances(boxes):
    """(A,G) squared distance of centers; exact, since all are multiples of 1/16."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((grid()[1][:, None] - centers) ** 2).sum(-1)


def is_tied(boxes):
    """(A,G): at exactly the distance of the last candidate of the level."""
    tied = []
    for first, stop in grid()[2]:
        distance = distances(boxes)[first:stop]
        last = np.sort(distance, 0)[:TOPK][-1]
        tied.append(distance == last)
    return np.concatenate(tied)


@functools.cache
def _assign():
    return jax.jit(lambda boxes, valid: assign(boxes, valid, jnp.array(SIZE), CANVAS))


def ours(boxes):
    padded = np.zeros((32, 4), np.float32)
    padded[: len(boxes)] = boxes
    return np.asarray(_assign()(padded, np.arange(32) < len(boxes)))


def compare(images, nearest):
    """(anchors that differ, images with any, positives) under another order of ties.

    Asserts that ours is the dense assignment with the lowest index first, and that each
    anchor that differs is a candidate in one order only, because of a tie.
    """
    different = with_any = positives = 0
    for boxes in images:
        assigned = ours(boxes)
        lowest, before = dense(boxes, lowest_first)
        np.testing.assert_array_equal(assigned, lowest)
        other, after = dense(boxes, nearest)
        differing = np.flatnonzero(assigned != other)
        swapped = (before != after) & is_tied(boxes)
        assert (before != after).sum() == swapped.sum()
        assert swapped[differing].any(1).all()
        different += len(differing)
        with_any += len(differing) > 0
        positives += int((other >= 0).sum())
    return different, with_any, positives


def random_images():
    """As in BCCD: 1 to 24 cells an image, corners on whole pixels, then halved."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        count = rng.integers(1, 25)
        sides = rng.integers(40, 240, (count, 2))
        corner = (rng.random((count, 2)) * ([640, 480] - sides)).astype(int)
        yield np.concatenate([corner, corner + sides], 1).astype(np.float32) / 2


@pytest.fixture(scope='module')
def bccd_images():
    file = SHARED_DATA / 'bccd' / 'annotations' / 'instances_train.json'
    if not file.exists():
        pytest.skip('needs ../shared/data/bccd')
    content = json.loads(file.read_text())
    images = {image['id']: [] for image in content['images'][:160]}
    for annotation in content['annotations']:
        if annotation['image_id'] in images:
            x, y, width, height = annotation['bbox']
            images[annotation['image_id']].append([x, y, x + width, y + height])
    return [np.array(boxes, np.float32) / 2 for boxes in images.values()]


def test_differences_on_random_half_pixels_are_ties():
    different, with_any, positives = compare(random_images(), highest_first)
    assert with_any > 10 and 0 < different < 0.05 * positives


def test_differences_on_bccd_are_ties(bccd_images):
    assert compare(bccd_images, highest_first)[0] == 495


@pytest.mark.torch
def test_differences_from_mmdet_on_bccd(bccd_images):
    """The figure that the docs and `assign` state."""
    assert compare(bccd_images, torch_first) == (141, 58, 18832)
