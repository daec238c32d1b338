"""Soft NMS: by hand, against a plain loop, and against mmcv 2.1.0."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.nms import METHODS, SoftNms, best_boxes, class_wise_soft_nms
from tests.conftest import GOLDEN

_A, _B = (0, 0, 10, 10), (5, 0, 15, 10)  # IoU 1/3
_FAR = (100, 100, 110, 110)
_LINEAR = SoftNms()


def _soft(boxes, scores, labels=None, soft=_LINEAR, threshold=0.3, limit=4):
    """[(box, score, label)] of the detections."""
    count = len(boxes)
    run = jax.jit(class_wise_soft_nms, static_argnums=(4, 5, 6))
    detections = run(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros(count, np.int32) if labels is None else np.array(labels, np.int32),
        np.ones(count, bool),
        threshold,
        soft,
        limit,
    )
    rows = jax.device_get(detections)
    return [
        (tuple(box.tolist()), float(score), int(label))
        for box, score, label, valid in zip(*rows, strict=True)
        if valid
    ]


def _scores(*arguments, **options):
    return [score for _, score, _ in _soft(*arguments, **options)]


def test_linear_takes_the_iou_off():
    expected = pytest.approx([0.9, 0.6 * 2 / 3])
    assert _scores([_A, _B], [0.9, 0.6]) == expected


def test_below_the_threshold_linear_changes_nothing():
    assert _scores([_A, _B], [0.9, 0.6], threshold=0.34) == pytest.approx([0.9, 0.6])


def test_gaussian_lowers_all_that_overlap():
    soft = SoftNms('gaussian', sigma=0.25)
    expected = pytest.approx([0.9, 0.6 * math.exp(-(1 / 9) / 0.25)])
    assert _scores([_A, _B], [0.9, 0.6], soft=soft, threshold=0.99) == expected


def test_naive_removes():
    assert _scores([_A, _B, _FAR], [0.9, 0.6, 0.3], soft=SoftNms('naive')) == (
        pytest.approx([0.9, 0.3])
    )


def test_lowered_boxes_come_later():
    """B falls below the box far away, which was the last."""
    boxes = [box for box, _, _ in _soft([_A, _B, _FAR], [0.9, 0.6, 0.5])]
    assert boxes == [_A, _FAR, _B]


def test_other_classes_are_left_alone():
    assert _scores([_A, _B], [0.9, 0.6], [0, 1]) == pytest.approx([0.9, 0.6])


def test_what_falls_below_the_lowest_score_is_removed():
    assert _scores([_A, _B], [0.9, 0.6], soft=SoftNms(min_score=0.41)) == (
        pytest.approx([0.9])
    )


def test_first_box_stays_whatever_its_score():
    soft = SoftNms(min_score=0.99)
    assert _scores([_A, _FAR], [0.9, 0.8], soft=soft) == pytest.approx([0.9])


@pytest.mark.parametrize('method', METHODS)
def test_boxes_without_area_lower_nothing(method):
    point = (5, 5, 5, 5)
    scores = _scores([point, point, _A], [0.9, 0.8, 0.7], soft=SoftNms(method))
    assert scores == pytest.approx([0.9, 0.8, 0.7])


def _plain(boxes, scores, labels, soft, threshold):
    """Soft NMS of one class after the other, on lists; gives (score, label, index)."""
    results = []
    for label in set(labels):
        rest = [
            [score, index]
            for index, score in enumerate(scores)
            if labels[index] == label
        ]
        while rest:
            best = max(rest, key=lambda pair: (pair[0], -pair[1]))
            rest.remove(best)
            results.append((best[0], label, best[1]))
            for pair in rest:
                iou = _plain_iou(boxes[best[1]], boxes[pair[1]])
                if soft.method == 'gaussian':
                    pair[0] *= math.exp(-(iou**2) / soft.sigma)
                elif iou >= threshold:
                    pair[0] *= 1 - iou if soft.method == 'linear' else 0
            rest = [pair for pair in rest if pair[0] >= soft.min_score]
    return sorted(results, reverse=True)


def _plain_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return common / (sum(areas) - common)


@pytest.mark.parametrize('method', METHODS)
def test_equals_a_plain_loop(method):
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (70, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (70, 2))], 1)
    boxes = boxes.astype(np.float32).astype(float).tolist()
    scores = rng.permutation(np.linspace(0.1, 0.9, 70)).tolist()
    labels = rng.integers(0, 3, 70).tolist()
    soft = SoftNms(method, sigma=0.4, min_score=0.05)
    expected = _plain(boxes, scores, labels, soft, 0.3)
    got = _soft(boxes, scores, labels, soft, 0.3, limit=70)
    assert 20 < len(got) == len(expected)
    for (box, score, label), (its_score, its_label, index) in zip(
        got, expected, strict=True
    ):
        assert (label, box) == (its_label, tuple(boxes[index]))
        assert score == pytest.approx(its_score, abs=1e-6)


@pytest.mark.parametrize('case', range(15))
def test_equals_mmcv(case):
    """The whole list, order included; scores within 1e-6."""
    with np.load(GOLDEN / 'soft_nms.npz') as file:
        arrays = {
            name.partition('/')[2]: file[name]
            for name in file.files
            if name.startswith(f'{case}/')
        }
    config = json.loads(str(arrays['config']))
    threshold = config.pop('iou_threshold')
    detections = class_wise_soft_nms(
        *(jnp.asarray(arrays[name]) for name in ('boxes', 'scores', 'labels')),
        jnp.ones(len(arrays['scores']), bool),
        threshold,
        SoftNms(**config),
        len(arrays['scores']),
    )
    boxes, scores, labels, _ = (x[detections.valid] for x in detections)
    assert len(scores) == len(arrays['out_scores'])
    np.testing.assert_allclose(scores, arrays['out_scores'], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(boxes, arrays['out_boxes'])
    np.testing.assert_array_equal(labels, arrays['out_labels'])


def test_without_nms_the_best_scores():
    boxes = jnp.array([_A, _A, _B, _FAR], jnp.float32)
    scores = jnp.array([0.2, 0.9, 0.5, 0.8], jnp.float32)
    valid = jnp.array([True, True, True, False])
    detections = best_boxes(boxes, scores, jnp.arange(4), valid, 3)
    assert detections.labels.tolist() == [1, 2, 0]
    assert best_boxes(boxes, scores, jnp.arange(4), valid, 6).valid.sum() == 3
