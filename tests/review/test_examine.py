"""Which images are examined; `tests/commands/test_doctor.py` examines them."""

import numpy as np
import pytest

from atss_jax.config.data import SetConfig
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.joined import JoinedDataset
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.evaluation.evaluated_image import evaluated_images
from atss_jax.review.examine import with_all_images
from tests.support.doctor_data import no_detections


@pytest.fixture
def coco(small_data):
    """21 images of which some have no object."""
    file, folder = str(small_data / 'train.json'), str(small_data / 'train')
    return SetConfig(
        'data.train', CocoDataset, {'ann_file': file, 'img_prefix': folder}
    )


def test_images_that_training_leaves_out(coco):
    assert len(coco.open().records) == 17
    assert len(with_all_images(coco).open().records) == 21


def test_every_member_of_joined_data(coco, small_data):
    path = str(small_data / 'val.json')
    auto = SetConfig('data.train', AutoDataset, {'path': path, 'split': 'all'})
    members = {'members': (coco, auto), 'classes': None}
    joined = SetConfig('data.train', JoinedDataset, members)
    assert len(joined.open().records) == 17 + 8
    source = with_all_images(joined).open()
    assert len(source.records) == 21 + 9
    detections = no_detections(source.records)
    images = evaluated_images(source.ground_truth(), detections, source.category_ids)
    counts = [np.sum(~image.is_crowd) for image in images]
    assert np.sum(counts) == 2 * (17 + 8) - 2  # two objects each, two crowd regions


def test_generated_images_have_nothing_to_leave_out():
    shapes = SetConfig('data.train', ShapesDataset, {'num_images': 3})
    assert with_all_images(shapes) == shapes
