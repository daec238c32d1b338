"""mmdetection's own augmentation: the same samples, images and boxes give the same.

`benchmarks/peers/mmdet_augment.py` made the cases. Images are equal bit for bit with
the OpenCV that they were made with; boxes are, except where matrices are multiplied,
whose rounding depends on the processor.
"""

import cv2
import numpy as np
import pytest

from atss_jax.data.augment.affine import (
    Motion,
    RandomAffine,
    RandomFlip,
    project_boxes,
    warp,
    warp_matrix,
)
from atss_jax.data.augment.color import (
    Distortion,
    PhotoMetricDistortion,
    YOLOXHSVRandomAug,
    distort,
)
from atss_jax.data.augment.mixing import Mix, MixUp, Mosaic
from atss_jax.data.augment.objects import Objects
from atss_jax.data.records import Record
from atss_jax.data.transforms import DIRECTIONS


class Case:
    """One case of the file, with the objects and images in our terms."""

    def __init__(self, arrays, key):
        self._arrays, self._key = arrays, key
        self.sampled = self['sampled']
        self.image = self['image_0']
        self.size = self.image.shape[:2]
        self.objects = self._objects('objects_0')
        self.expected = self._objects('objects')
        count = sum(name.startswith(f'{key}/image_') for name in arrays.files)
        self.images = [self[f'image_{index}'] for index in range(1, count)]
        self.records = [
            Record(index, '', image.shape[:2], *self._objects(f'objects_{index}'))
            for index, image in enumerate(self.images, 1)
        ]

    def __getitem__(self, name):
        return self._arrays[f'{self._key}/{name}']

    def _objects(self, name):
        columns = self[name]
        labels, ignored = columns[:, 4].astype(np.int32), columns[:, 5].astype(bool)
        return Objects(columns[:, :4], labels, ignored)


@pytest.fixture
def cases(golden):
    """Gives the cases of a transform."""
    arrays = golden('augment')

    def of(name):
        keys = {key.rpartition('/')[0] for key in arrays.files if '/' in key}
        found = sorted(key for key in keys if key.startswith(f'{name}/'))
        assert len(found) >= 4
        return [Case(arrays, key) for key in found]

    return of


@pytest.fixture
def same_image(golden):
    """Compares images: bit for bit with the same OpenCV, else to one level."""
    is_same = str(golden('augment')['opencv']) == cv2.__version__

    def compare(ours, theirs):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        difference = np.abs(ours.astype(np.float64) - theirs)
        assert difference.max() <= (0 if is_same else 1)

    return compare


def assert_same_objects(ours, theirs, atol=0.0):
    np.testing.assert_allclose(ours.boxes, theirs.boxes, rtol=0, atol=atol)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.ignored, theirs.ignored)


def test_photometric_distortion(cases, same_image):
    """float32, before it is rounded to a batch's uint8, which is a difference."""
    seen = []
    for case in cases('photo'):
        mode, *rest = case.sampled.tolist()
        flags, values, channels = rest[:5], rest[5:9], tuple(map(int, rest[9:]))
        chosen = [
            value if flag else None
            for value, flag in zip([*values, channels], flags, strict=True)
        ]
        sampled = Distortion(mode == 0, *chosen)
        distorted = distort(case.image, sampled)
        assert distorted.dtype == np.float32
        same_image(distorted[::3, ::3], case['image'])
        rounded = PhotoMetricDistortion().image(case.image, sampled, ())
        np.testing.assert_array_equal(rounded, np.rint(distorted).clip(0, 255))
        seen.append(sampled)
    for column in zip(*seen, strict=True):
        assert len(set(column)) > 1  # with and without each change


def test_hsv(cases, same_image):
    for case in cases('hsv'):
        sampled = tuple(map(int, case.sampled))
        image = YOLOXHSVRandomAug().image(case.image, sampled, ())
        same_image(image, case['image'])


def test_flips(cases, same_image):
    directions = set()
    flip = RandomFlip(0.5)
    for case in cases('flip'):
        (direction,) = case.sampled.tolist()
        directions.add(direction)
        if direction == 'None':
            same_image(case.image, case['image'])
            continue
        sampled = DIRECTIONS[direction]
        same_image(flip.image(case.image, sampled, ()), case['image'])
        objects = flip.objects(case.objects, case.size, sampled, ())
        assert_same_objects(objects, case.expected)
    assert directions == {*DIRECTIONS, 'None'}


AFFINES = (
    RandomAffine(),
    RandomAffine(max_rotate_degree=45, border=(-6, 4), border_val=(10, 120, 230)),
)


def test_affine(cases, same_image):
    for number, case in enumerate(cases('affine')):
        affine = AFFINES[number % 2]
        (size,) = affine.sizes(case.size)
        rotation, scale, shear_x, shear_y, right, down = case.sampled.tolist()
        sampled = Motion(rotation, scale, shear_x, shear_y, right, down)
        matrix = warp_matrix(sampled, size)
        np.testing.assert_allclose(matrix, case['matrix'], rtol=2e-6, atol=1e-6)
        image = warp(case.image, case['matrix'], size, affine.border_val)
        same_image(image, case['image'])
        objects = affine.objects(case.objects, case.size, sampled, ())
        assert_same_objects(objects, case.expected, atol=3e-5)
        # The whole, with our own matrix: interpolation may differ by a level.
        whole = affine.image(case.image, sampled, ()).astype(int)
        assert np.abs(whole - case['image']).max() <= 1


def test_projected_boxes_by_hand():
    """A quarter turn to the right about the corner, and 10 pixels to the right."""
    matrix = np.array([[0, -1, 10], [1, 0, 0], [0, 0, 1]], np.float32)
    boxes = np.array([[1, 2, 4, 3]], np.float32)
    assert project_boxes(boxes, matrix).tolist() == [[7, 1, 8, 4]]


def test_mosaic(cases, same_image):
    mosaic = Mosaic(img_scale=(40, 32))
    for case in cases('mosaic'):
        _, *center = case.sampled.tolist()  # first the number for the probability
        x, y = (int(c * side) for c, side in zip(center, (40, 32), strict=True))
        image = mosaic.image(case.image, (x, y), case.images)
        same_image(image, case['image'])
        objects = mosaic.objects(case.objects, case.size, (x, y), case.records)
        assert_same_objects(objects, case.expected)
        assert case.expected.ignored.any()


def test_mixup(cases, same_image):
    mixup = MixUp(img_scale=(44, 40), ratio_range=(0.5, 1.6))
    flips = set()
    for case in cases('mixup'):
        factor, number, top, left = case.sampled.tolist()
        sampled = Mix(factor, number > mixup.flip_ratio, int(top), int(left))
        flips.add(sampled.is_flipped)
        image = mixup.image(case.image, sampled, case.images)
        same_image(image, case['image'])
        objects = mixup.objects(case.objects, case.size, sampled, case.records)
        assert_same_objects(objects, case.expected)
    assert flips == {False, True}
