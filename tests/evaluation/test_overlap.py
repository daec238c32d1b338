"""Detections matched with objects by their overlap."""

import numpy as np

from atss_jax.evaluation.overlap import match_best_first, pairwise_iou


def test_iou_of_pairs():
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    others = np.array([[0.0, 0, 10, 5], [5, 0, 15, 10], [20, 0, 20, 0]])
    expected = [[1 / 2, 1 / 3, 0], [0, 0, 0]]
    np.testing.assert_allclose(pairwise_iou(boxes, others), expected)


def test_in_a_crowd_the_share_that_lies_inside_counts():
    box, region = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 100, 5]])
    assert pairwise_iou(box, region, np.array([True])) == 0.5


def test_the_best_detection_chooses_first():
    overlap = np.array([[0.6, 0.7], [0.0, 0.9], [0.8, 0.0], [0.5, 0.5]])
    assert match_best_first(overlap).tolist() == [1, -1, 0, -1]
    assert match_best_first(np.zeros((2, 0))).tolist() == [-1, -1]
