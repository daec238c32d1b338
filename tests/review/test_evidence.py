"""The evidence for each kind of fault, worked by hand."""

import numpy as np
import pytest

from atss_jax.evaluation.overlap import pairwise_iou
from atss_jax.review import evidence
from atss_jax.review.evidence import compare
from tests.support.reviewed import reviewed

LEFT, RIGHT = [10, 10, 30, 30], [50, 50, 90, 90]


@pytest.fixture
def two_objects():
    """Object 1 as detected, object 2 of another class; an object without annotation."""
    return compare(
        reviewed(
            [(1, 0, LEFT), (2, 1, RIGHT)],
            [
                (0, 0.9, LEFT),
                (0, 0.8, RIGHT),
                (1, 0.7, [10, 60, 30, 80]),
                (0, 0.3, [12, 60, 32, 80]),  # the same place
                (1, 0.1, RIGHT),
                (1, 0.05, LEFT),
            ],
        ),
        num_classes=2,
    )


def test_each_object_has_a_detection_of_its_class(two_objects):
    assert two_objects.detection_of.tolist() == [0, 4]
    assert two_objects.class_scores.tolist() == [[0.9, 0.05], [0.8, 0.1]]


def test_missing(two_objects):
    rows = evidence.unannotated(two_objects)
    assert rows.tolist() == [2]
    assert evidence.missing_evidence(two_objects, rows).tolist() == [0.7]
    # Without its annotation, object 1 would have a detection of 0.9 at no annotation.
    assert evidence.rehearsed_missing(two_objects).tolist() == [0.9, 0.1]


def test_missing_next_to_an_annotation():
    """An IoU of 1/3 with an annotation takes a third of the score; one of 1/2 all."""
    comparison = compare(
        reviewed(
            [(1, 0, [0, 0, 10, 10])],
            [(0, 0.9, [5, 0, 15, 10]), (0, 0.8, [0, 0, 10, 5])],
        ),
        num_classes=1,
    )
    rows = evidence.unannotated(comparison)
    assert rows.tolist() == [0]
    assert evidence.missing_evidence(comparison, rows) == pytest.approx([0.6])


def test_nothing_is_missing_in_a_crowd_or_at_a_category_that_is_not_learned():
    region, other = [0, 0, 50, 50], [60, 60, 80, 80]
    comparison = compare(
        reviewed(
            [(1, 0, region), (2, -1, other)],
            [(0, 0.9, [5, 5, 15, 15]), (0, 0.8, other), (0, 0.7, [80, 0, 90, 9])],
            crowd=[1],
        ),
        num_classes=1,
    )
    assert evidence.unannotated(comparison).tolist() == [2]
    assert comparison.is_suspect.tolist() == [False, False]
    assert comparison.detection_of.tolist() == [-1, -1]


def test_class(two_objects):
    labels = two_objects.image.gt_labels
    result = evidence.class_evidence(two_objects.class_scores, labels)
    np.testing.assert_allclose(result, [0.05 - 0.9, 0.8 - 0.1])
    rng = np.random.default_rng(0)  # of two classes there is one other
    result = evidence.rehearsed_class(two_objects, rng)
    np.testing.assert_allclose(result, [0.9 - 0.05, 0.1 - 0.8])


def test_a_single_class_is_never_wrong():
    comparison = compare(reviewed([(1, 0, LEFT)], [(0, 0.9, LEFT)]), num_classes=1)
    assert evidence.class_evidence(comparison.class_scores, np.array([0])) == [-0.9]
    assert evidence.rehearsed_class(comparison, np.random.default_rng(0)).size == 0


def test_loose():
    box = [0, 0, 20, 10]
    annotations = [(1, 0, box), (2, 0, LEFT), (3, 1, RIGHT)]
    detections = [(0, 0.6, [0, 0, 10, 10]), (0, 0.5, LEFT)]
    comparison = compare(reviewed(annotations, detections), num_classes=2)
    result = evidence.loose_evidence(comparison, comparison.image.gt_boxes)
    np.testing.assert_allclose(result, [0.6 * 0.5, 0, 0])  # 3: nothing means it
    rehearsed = evidence.rehearsed_loose(comparison, np.random.default_rng(0))
    assert 0.1 < rehearsed[1] < 0.4 and rehearsed[2] == 0


def test_twice():
    pair = [(1, 0, [0, 0, 10, 10]), (2, 0, [0, 0, 10, 8]), (3, 1, [0, 0, 10, 9])]
    first, second = (0, 0.9, [0, 0, 10, 10]), (0, 0.2, [0, 0, 10, 8])
    comparison = compare(reviewed(pair, [first]), num_classes=2)
    np.testing.assert_allclose(evidence.twice_evidence(comparison), [0.8, 0.8, 0])
    comparison = compare(reviewed(pair, [first, second]), num_classes=2)
    expected = [0.8 * 0.8, 0.8 * 0.8, 0]
    np.testing.assert_allclose(evidence.twice_evidence(comparison), expected)


def test_twice_rehearsed():
    """A second annotation would be the one that the second detection means."""
    detections = [(0, 0.9, LEFT), (0, 0.4, [10, 10, 30, 29])]
    comparison = compare(reviewed([(1, 0, LEFT)], detections), num_classes=1)
    alone = compare(reviewed([(1, 0, LEFT)], detections[:1]), num_classes=1)
    values = [
        evidence.rehearsed_twice(each, np.random.default_rng(0))
        for each in (comparison, alone)
    ]
    np.testing.assert_allclose(values[0], values[1] * 0.6)


def test_an_image_without_annotations_or_detections():
    for image in (reviewed([], []), reviewed([(1, 0, LEFT)], [])):
        comparison, rng = compare(image, num_classes=3), np.random.default_rng(0)
        count = len(image.gt_labels)
        assert evidence.unannotated(comparison).size == 0
        assert evidence.rehearsed_missing(comparison).tolist() == [0] * count
        assert evidence.rehearsed_loose(comparison, rng).tolist() == [0] * count
        assert len(evidence.rehearsed_twice(comparison, rng)) == count
        assert evidence.twice_evidence(comparison).tolist() == [0] * count
        assert len(evidence.rehearsed_class(comparison, rng)) == count


def test_jittered_boxes_overlap_as_the_comment_says():
    boxes = np.tile([[10.0, 20, 40, 80]], (4000, 1))
    for deviation, expected in ((0.2, 0.55), (0.08, 0.78)):
        moved = evidence.jittered(boxes, deviation, np.random.default_rng(0))
        overlap = np.median(pairwise_iou(boxes[:1], moved))
        assert overlap == pytest.approx(expected, abs=0.01)
        assert (moved[:, 2:] > moved[:, :2]).all()
