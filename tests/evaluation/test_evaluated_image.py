"""Annotations and detections of each image next to each other, by hand."""

import numpy as np

from atss_jax.evaluation.evaluated_image import evaluated_images
from atss_jax.structures import Detections

BOXES = np.array([[0, 0, 10, 20], [5, 5, 6, 7]], np.float32)
DETECTIONS = Detections(
    BOXES, np.array([0.75, 0.5], np.float32), np.array([1, 0]), np.array([True, True])
)
NOTHING = Detections(*(column[:0] for column in DETECTIONS))
GROUND_TRUTH = {
    'annotations': [
        {'id': 31, 'image_id': 2, 'category_id': 9, 'bbox': [1, 2, 3, 4]},
        {'id': 30, 'image_id': 1, 'category_id': 7, 'bbox': [0, 0, 5, 5]},
        {'id': 32, 'image_id': 2, 'category_id': 8, 'bbox': [5, 6, 7, 8], 'iscrowd': 1},
    ]
}


def test_each_image_has_its_annotations_and_detections():
    images = evaluated_images(GROUND_TRUTH, {2: DETECTIONS, 3: NOTHING}, (7, 9))
    assert [image.image_id for image in images] == [2, 3]
    both, neither = images
    assert both.annotation_ids.tolist() == [31, 32]
    assert both.gt_boxes.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]
    assert both.gt_labels.tolist() == [1, -1]  # category 8 is none of the detector's
    assert both.is_crowd.tolist() == [False, True]
    assert both.boxes.tolist() == BOXES.tolist() and both.boxes.dtype == np.float64
    assert both.labels.tolist() == [1, 0] and both.scores.tolist() == [0.75, 0.5]
    assert neither.gt_boxes.shape == neither.boxes.shape == (0, 4)


def test_above_a_score():
    (image,) = evaluated_images(GROUND_TRUTH, {2: DETECTIONS}, (7, 9))
    confident = image.above(0.6)
    assert confident.labels.tolist() == [1] and confident.boxes.shape == (1, 4)
    assert confident.annotation_ids.tolist() == [31, 32]
    assert image.above(0.5).scores.tolist() == [0.75, 0.5]
