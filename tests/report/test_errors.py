"""Kinds of errors and what fixing them gains, confusion, calibration, by hand."""

import math

import numpy as np
import pytest

from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.report.analysis import calibrate, confusion_matrix
from atss_jax.report.errors import (
    average_precision,
    breakdown,
    diagnose,
    images_of_results,
    match,
    pairwise_iou,
)

# Side 10 at these places; shifted by 5 of 10 the IoU is 1/3, by 10 it is 0.
BOX = (0, 0, 10, 10)
SHIFTED = (5, 0, 15, 10)
FAR = (50, 50, 60, 60)


def image(objects=(), detections=()):
    """An image from (label, box[, crowd]) and (label, box, score), best first."""
    return EvaluatedImage(
        1,
        np.arange(len(objects)),
        np.array([box for _, box, *_ in objects], float).reshape(-1, 4),
        np.array([label for label, *_ in objects], int),
        np.array([bool(crowd) for _, _, *crowd in objects], bool),
        np.array([box for _, box, _ in detections], float).reshape(-1, 4),
        np.array([label for label, *_ in detections], int),
        np.array([score for *_, score in detections], float),
    )


def analyze(*images, classes=2):
    diagnoses = [diagnose(image) for image in images]
    return breakdown(images, diagnoses, classes), [list(d.kinds) for d in diagnoses]


def gained(result):
    return {kind: round(gain, 6) for kind, gain in result.gains.items() if gain > 0}


class TestKinds:
    @pytest.mark.parametrize(
        ('label', 'box', 'kind'),
        [
            (0, BOX, 'correct'),
            (0, SHIFTED, 'localization'),
            (1, BOX, 'classification'),
            (1, SHIFTED, 'both'),
            (0, FAR, 'background'),
            (0, (0, 0, 20, 10), 'correct'),  # IoU exactly 0.5
            (1, (0, 0, 20, 10), 'classification'),
            (0, (0, 0, 100, 10), 'localization'),  # exactly 0.1
            (1, (0, 0, 100, 10), 'background'),
        ],
    )
    def test_one_detection(self, label, box, kind):
        result = diagnose(image([(0, BOX)], [(label, box, 0.9)]))
        assert list(result.kinds) == [kind]
        is_about = kind in ('correct', 'localization', 'classification')
        assert list(result.gt_index) == [0 if is_about else -1]
        assert list(result.is_missed) == [not is_about]
        assert list(result.is_found) == [kind == 'correct']

    def test_the_second_in_place_is_a_duplicate(self):
        result = diagnose(image([(0, BOX)], [(0, BOX, 0.9), (0, BOX, 0.8)]))
        assert list(result.kinds) == ['correct', 'duplicate']

    def test_without_objects_all_is_background(self):
        assert list(diagnose(image([], [(0, BOX, 0.9)])).kinds) == ['background']

    def test_in_a_crowd_nothing_is_wrong_and_a_crowd_is_never_missed(self):
        crowd = (0, (0, 0, 100, 100), True)
        result = diagnose(image([crowd], [(0, BOX, 0.9), (1, BOX, 0.8)]))
        assert list(result.kinds) == ['ignored', 'background']
        assert not result.is_missed.any()


class TestGains:
    def test_all_of_a_wrong_class(self):
        result, kinds = analyze(
            image([(0, BOX), (1, FAR)], [(1, BOX, 0.9), (0, FAR, 0.8)])
        )
        assert kinds == [['classification'] * 2]
        assert result.ap50 == 0
        # Neither object is missed, but forgiving both leaves wrong detections: AP 0.
        assert gained(result) == {'classification': 1}
        assert result.counts['classification'] == 2 and result.counts['missed'] == 0
        assert result.counts['false negatives'] == 2

    def test_all_shifted(self):
        result, _ = analyze(image([(0, BOX)], [(0, SHIFTED, 0.9)]))
        assert result.ap50 == 0 and gained(result) == {'localization': 1}

    def test_duplicates(self):
        """Right 0.9, again 0.8, right 0.7: precision 1 to recall 0.5, then 2/3."""
        detections = [(0, BOX, 0.9), (0, BOX, 0.8), (0, FAR, 0.7)]
        result, kinds = analyze(image([(0, BOX), (0, FAR)], detections))
        assert kinds == [['correct', 'duplicate', 'correct']]
        before = (51 + 50 * 2 / 3) / 101
        assert result.ap50 == pytest.approx(before)
        assert result.gains['duplicate'] == pytest.approx(1 - before)
        assert result.gains['false positives'] == pytest.approx(1 - before)
        assert set(gained(result)) == {'duplicate', 'false positives'}

    def test_no_detections(self):
        result, _ = analyze(image([(0, BOX), (1, FAR)]), image())
        assert result.ap50 == 0 and result.counts['missed'] == 2
        assert gained(result) == {'missed': 1, 'false negatives': 1}

    def test_half_missed(self):
        """Precision 1 to recall 0.5: 51 of 101 recalls."""
        result, _ = analyze(image([(0, BOX), (0, FAR)], [(0, BOX, 0.9)]))
        assert result.ap50 == pytest.approx(51 / 101)
        assert result.gains['missed'] == pytest.approx(50 / 101)

    def test_a_detection_of_the_background(self):
        """A wrong one before the right one: precision 1/2 everywhere."""
        result, _ = analyze(image([(0, BOX)], [(0, FAR, 0.9), (0, BOX, 0.8)]))
        assert result.ap50 == pytest.approx(0.5)
        assert gained(result) == {'background': 0.5, 'false positives': 0.5}

    def test_wrong_in_both(self):
        objects, detections = [(0, BOX), (1, FAR)], [(1, SHIFTED, 0.9), (1, FAR, 0.8)]
        result, kinds = analyze(image(objects, detections))
        assert kinds == [['both', 'correct']]
        assert result.ap50 == pytest.approx(0.25)  # class 0: 0, class 1: 1/2
        assert result.gains['both'] == pytest.approx(0.25)
        assert result.gains['missed'] == pytest.approx(0.5)  # class 0: nothing left

    def test_a_fixed_error_matches_an_object_once(self):
        """The better one of two shifted boxes is fixed, the other removed."""
        detections = [(0, SHIFTED, 0.9), (0, SHIFTED, 0.8)]
        result, _ = analyze(image([(0, BOX)], detections))
        assert gained(result) == {'localization': 1}
        # A detection matches the object already: both are removed.
        detections = [(0, SHIFTED, 0.9), (0, BOX, 0.8), (0, SHIFTED, 0.7)]
        result, _ = analyze(image([(0, BOX)], detections))
        assert result.ap50 == pytest.approx(0.5)
        assert result.gains['localization'] == pytest.approx(0.5)

    def test_no_objects_at_all(self):
        result, _ = analyze(image([], [(0, BOX, 0.9)]))
        assert math.isnan(result.ap50)

    def test_ap_of_nothing_to_find(self):
        assert average_precision(np.zeros(0, bool), 0) == 1
        assert average_precision(np.zeros(1, bool), 0) == 0
        assert average_precision(np.zeros(0, bool), 3) == 0


class TestConfusion:
    def test_by_hand(self):
        objects = [(0, BOX), (1, FAR), (0, (200, 0, 210, 10))]
        detections = [
            (0, BOX, 0.9),  # right
            (0, FAR, 0.8),  # 0 where a 1 is
            (1, (300, 0, 310, 10), 0.7),  # nothing there
            (0, (200, 0, 210, 10), 0.2),  # below the score: missed
        ]
        matrix = confusion_matrix([image(objects, detections)], 2, 0.3)
        assert matrix.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]

    def test_the_right_answer_comes_first(self):
        detections = [(1, BOX, 0.9), (0, BOX, 0.8)]
        matrix = confusion_matrix([image([(0, BOX)], detections)], 2, 0.3)
        assert matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]

    def test_crowds_do_not_count(self):
        objects = [(0, (0, 0, 100, 100), True)]
        matrix = confusion_matrix([image(objects, [(0, BOX, 0.9)])], 2, 0.3)
        assert not matrix.any()


class TestCalibration:
    def test_by_hand(self):
        scores = np.array([1.0, 0.92, 0.5, 0.55, 0.58, 0.1])
        correct = np.array([1, 1, 1, 0, 0, 0], bool)
        result = calibrate(scores, correct)
        assert result.counts.tolist() == [0, 1, 0, 0, 0, 3, 0, 0, 0, 2]
        assert result.precision[[1, 5, 9]] == pytest.approx([0, 1 / 3, 1])
        assert result.scores[[1, 5, 9]] == pytest.approx([0.1, 1.63 / 3, 0.96])
        gaps = 0.1 + 3 * (1.63 / 3 - 1 / 3) + 2 * 0.04
        assert result.error == pytest.approx(gaps / 6)

    def test_nothing(self):
        result = calibrate(np.zeros(0), np.zeros(0, bool))
        assert math.isnan(result.error) and np.isnan(result.precision).all()


def random_ground_truth_and_results(seed):
    """Objects, some crowds, and detections near the objects, in 12 images."""
    random = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(12):
        for _ in range(random.integers(6)):
            corner, size = random.uniform(0, 300, 2), random.uniform(8, 120, 2)
            box = [*corner.tolist(), *size.tolist()]
            label = int(random.integers(3))
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': label + 5,
                    'bbox': box,
                    'area': box[2] * box[3],
                    'iscrowd': int(random.random() < 0.15),
                }
            )
            for _ in range(random.integers(4)):
                spread = random.normal(0, 0.12, 4) * size.tolist()[0]
                moved = np.maximum(np.array(box) + spread, 1)
                other = int(random.integers(3)) if random.random() < 0.3 else label
                results.append(
                    {
                        'image_id': image_id,
                        'bbox': moved.tolist(),
                        'category_id': other + 5,
                        'score': float(random.random()),
                    }
                )
    images = [{'id': i, 'height': 500, 'width': 500} for i in range(12)]
    categories = [{'id': i + 5, 'name': str(i)} for i in range(3)]
    ground_truth = {
        'images': images,
        'annotations': annotations,
        'categories': categories,
    }
    return ground_truth, results


@pytest.mark.parametrize('seed', range(5))
def test_ap50_is_that_of_pycocotools(seed):
    ground_truth, results = random_ground_truth_and_results(seed)
    images = images_of_results(ground_truth, results, (5, 6, 7), range(12))
    result = breakdown(images, [diagnose(p) for p in images], 3)
    scores = coco_metric.evaluate(ground_truth, results, ('a', 'b', 'c'), (5, 6, 7))
    assert result.ap50 == pytest.approx(scores.summary['AP50'], abs=1e-12)
    kinds = np.concatenate([diagnose(p).kinds for p in images])
    right = np.isin(kinds, ('correct', 'ignored')).sum()
    assert result.counts['false positives'] + right == len(results)


def test_only_a_hundred_of_a_class_count():
    ground_truth = {'annotations': []}
    results = [
        {'image_id': 1, 'category_id': 5, 'bbox': [0, 0, 1, 1], 'score': i / 200}
        for i in range(120)
    ]
    (limited,) = images_of_results(ground_truth, results, (5,), [1])
    assert len(limited.scores) == 100 and limited.scores[-1] == 20 / 200


def test_other_categories_are_left_out():
    here = {'image_id': 1, 'bbox': [0, 0, 1, 1]}
    annotations = [{'id': i, 'category_id': i, **here} for i in (5, 6)]
    results = [{'category_id': i, 'score': 0.5, **here} for i in (6, 5)]
    ground_truth = {'annotations': annotations}
    (known,) = images_of_results(ground_truth, results, (6,), [1])
    assert known.annotation_ids.tolist() == [6]
    assert known.gt_labels.tolist() == known.labels.tolist() == [0]


def test_best_first_takes_the_largest_overlap():
    objects = [(0, BOX), (0, (1, 0, 11, 10))]
    detections = [(0, (1, 0, 11, 10), 0.9), (0, (1, 0, 11, 10), 0.8)]
    assert match(image(objects, detections)).gt_index.tolist() == [1, 0]


def test_overlap_with_a_crowd_is_of_the_detection():
    boxes, detections = np.array([[0.0, 0, 100, 100]]), np.array([[0.0, 0, 10, 10]])
    assert pairwise_iou(detections, boxes, np.array([True])).item() == 1
    assert pairwise_iou(detections, boxes, np.array([False])).item() == 0.01
    empty = np.zeros((1, 4))
    assert pairwise_iou(empty, empty, np.array([False])).item() == 0
