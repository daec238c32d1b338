"""What is suggested: by hand for one fault of each kind, and with faults planted."""

import sys

import numpy as np
import pytest

from atss_jax.review.ranking import rank
from tests.conftest import ROOT
from tests.support.reviewed import reviewed

sys.path.insert(0, str(ROOT / 'benchmarks'))

import faults

PLACES = [[10, 10, 40, 40], [60, 10, 90, 40], [10, 60, 40, 90], [60, 60, 90, 90]]


def right_images(count):
    """Images whose annotations are right, and detected with various scores."""
    images = []
    for number in range(count):
        annotations = [
            (10 * number + k, k % 3, box) for k, box in enumerate(PLACES, start=1)
        ]
        score = 0.5 + 0.4 * number / count
        detections = [(label, score, box) for _, label, box in annotations]
        images.append(reviewed(annotations, detections, image_id=100 + number))
    return images


@pytest.fixture(scope='module')
def suggestions():
    """What is suggested about 40 right images and one that has each fault."""
    loose, twin = [60, 16, 90, 46], [10, 60, 40, 88]
    annotations = [
        (901, 1, PLACES[0]),  # class 0
        (902, 1, loose),
        (903, 2, PLACES[2]),
        (904, 2, twin),
    ]
    detections = [
        (1, 0.9, PLACES[1]),
        (0, 0.88, PLACES[0]),
        (2, 0.86, PLACES[2]),
        (0, 0.84, PLACES[3]),
        (1, 0.1, PLACES[0]),
    ]
    faulty = reviewed(annotations, detections, image_id=99)
    return rank([*right_images(40), faulty], num_classes=3)


def test_each_fault_is_suggested_first(suggestions):
    by_kind = {each.kind: each for each in suggestions[:4]}
    assert set(by_kind) == set(faults.KINDS)
    assert {each.image_id for each in suggestions[:4]} == {99}
    missing, loose = by_kind['missing'], by_kind['loose']
    assert missing.annotation_id is None
    assert (missing.label, missing.box) == (0, tuple(PLACES[3]))
    assert (missing.score, missing.iou) == (0.84, 0)
    assert (loose.annotation_id, loose.label) == (902, 1)
    assert loose.box == tuple(PLACES[1])
    assert loose.iou == pytest.approx(24 / 36)
    other = by_kind['class']
    assert (other.annotation_id, other.label) == (901, 0)
    assert (other.score, other.annotated_score, other.iou) == (0.88, 0.1, 1)


def test_of_two_annotations_the_one_that_fits_less_goes(suggestions):
    twice = next(each for each in suggestions if each.kind == 'twice')
    assert (twice.annotation_id, twice.twin_id) == (904, 903)
    assert twice.box == tuple(PLACES[2])
    assert twice.iou == pytest.approx(28 / 30)


def test_they_are_in_order_and_one_for_each_annotation(suggestions):
    probabilities = [each.probability for each in suggestions]
    assert probabilities == sorted(probabilities, reverse=True)
    ids = [each.annotation_id for each in suggestions if each.annotation_id is not None]
    assert len(set(ids)) == len(ids)


def test_right_annotations_give_no_evidence():
    """Detections that are equal to the annotations leave nothing to suggest."""
    assert rank(right_images(5), num_classes=3) == []


def test_nothing_to_review():
    assert rank([], num_classes=3) == []
    assert rank([reviewed([], [])], num_classes=3) == []


def test_planted_faults_come_first_with_a_good_detector():
    """The detector finds all that was annotated before, up to 5 % of a side."""
    content = {
        'images': [{'id': k, 'width': 100, 'height': 100} for k in range(100)],
        'categories': [{'id': k} for k in range(3)],
        'annotations': [
            {
                'id': 4 * k + place,
                'image_id': k,
                'category_id': (k + place) % 3,
                'bbox': [box[0], box[1], 30, 30],
                'area': 900,
            }
            for k in range(100)
            for place, box in enumerate(PLACES)
        ],
    }
    faulty, planted = faults.plant(content, 0.05, seed=1)
    rng = np.random.default_rng(0)
    images = [_image(content, faulty, k, rng) for k in range(100)]
    suggestions = rank(images, num_classes=3)
    is_hit = faults.hits(suggestions, planted, (0, 1, 2))
    assert is_hit[: len(planted)].mean() > 0.95


def _image(content, faulty, image_id, rng):
    def of_image(rows):
        return [row for row in rows if row['image_id'] == image_id]

    def corners(row):
        x, y, width, height = row['bbox']
        return [x, y, x + width, y + height]

    detections = [
        (row['category_id'], score, corners(row) + rng.uniform(-1.5, 1.5, 4))
        for row, score in zip(
            of_image(content['annotations']), (0.9, 0.8, 0.7, 0.6), strict=True
        )
    ]
    annotations = [
        (row['id'], row['category_id'], corners(row))
        for row in of_image(faulty['annotations'])
    ]
    return reviewed(annotations, detections, image_id=image_id)
