"""Pillow's resize: mmcv's own results, its definition in plain loops, Pillow itself."""

import dataclasses
import math

import numpy as np
import pytest

from atss_jax.data import transforms
from atss_jax.data.batch import Variant, empty_pixels, for_any_image, load_view, place
from atss_jax.data.loader import EvalBatches
from atss_jax.data.pillow_resize import resize
from atss_jax.data.transforms import Jitter, View
from tests.support.batches import PIPELINE, Source, train_batches

PILLOW = dataclasses.replace(PIPELINE, backend='pillow')


def noise(*size):
    random = np.random.default_rng(size)
    return random.integers(0, 256, (*size, 3)).astype(np.uint8)


def resized_row(row, length):
    """A row of numbers by the definition: means weighted by a triangle, rounded."""
    ratio = len(row) / length
    reach = max(ratio, 1.0)
    result = []
    for position in range(length):
        center = (position + 0.5) * ratio
        first = max(int(center - reach + 0.5), 0)
        last = min(int(center + reach + 0.5), len(row))
        weights = [
            max(1 - abs(index + 0.5 - center) / reach, 0.0)
            for index in range(first, last)
        ]
        units = [int(0.5 + weight / sum(weights) * 2**22) for weight in weights]
        total = sum(
            int(x) * unit for x, unit in zip(row[first:last], units, strict=True)
        )
        result.append(min((total + 2**21) >> 22, 255))
    return result


def along(image, axis, length):
    if image.shape[axis] == length:
        return image
    return np.apply_along_axis(resized_row, axis, image, length).astype(np.uint8)


class TestPixels:
    def test_golden(self, golden):
        case = golden('swin/resize_pillow')
        for number in range(5):
            expected = case[f'{number}/out']
            found = resize(case[f'{number}/in'], expected.shape[:2])
            np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize(
        'old, new',
        [
            ((9, 13), (9, 13)),  # unchanged
            ((9, 13), (9, 20)),  # one axis
            ((9, 13), (4, 13)),
            ((9, 13), (17, 25)),  # larger
            ((30, 41), (13, 9)),  # smaller
            ((20, 7), (7, 18)),  # smaller and larger
            ((7, 20), (18, 7)),
            ((1, 1), (3, 2)),
            ((50, 1), (1, 1)),
            ((1, 64), (1, 3)),
        ],
    )
    def test_as_defined(self, old, new):
        image = noise(*old)
        height_first = 0 < old[0] - new[0] > 2 * (old[1] - new[1])
        axes = (0, 1) if height_first else (1, 0)
        expected = image
        for axis in axes:
            expected = along(expected, axis, new[axis])
        found = resize(image, new)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)

    def test_the_order_of_the_axes_matters(self):
        """As from Pillow 13 on: the height first where it shrinks by far more."""
        image = noise(60, 21)
        width_first = along(along(image, 1, 14), 0, 40)
        found = resize(image, (40, 14))  # 20 rows less and 7 columns
        np.testing.assert_array_equal(found, along(along(image, 0, 40), 1, 14))
        assert (found != width_first).any()

    def test_blocks(self):
        """More rows than are computed at once, of different lengths."""
        image = noise(300, 500)
        found = resize(image, (601, 333))
        rows = along(resize(image, (300, 333))[:, 100:102], 0, 601)
        np.testing.assert_array_equal(found[:, 100:102], rows)

    @pytest.mark.parametrize('value', [0, 1, 127, 254, 255])
    def test_a_color_stays(self, value):
        image = np.full((40001, 2, 3), value, np.uint8)
        for size in ((2, 1), (7, 5), (50000, 2)):
            assert (resize(image, size) == value).all()

    def test_another_order_in_memory(self):
        image = noise(30, 20)
        expected = resize(image, (17, 33))
        found = resize(np.asfortranarray(image), (17, 33))
        np.testing.assert_array_equal(found, expected)
        reversed_view = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
        np.testing.assert_array_equal(resize(reversed_view, (17, 33)), expected)

    def test_other_channels_than_bgr_give_the_same(self):
        """mmdet resizes BGR images; channels do not influence each other."""
        image = noise(30, 20)
        found = resize(np.ascontiguousarray(image[..., ::-1]), (17, 33))
        np.testing.assert_array_equal(found[..., ::-1], resize(image, (17, 33)))

    @pytest.mark.torch
    def test_pillow_itself(self):
        from PIL import Image, __version__

        assert int(__version__.split('.')[0]) >= 13
        random = np.random.default_rng(0)
        for case in range(400):
            most = (8, 40, 150, 700)[case % 4]
            image = noise(*random.integers(1, most, 2))
            factor = math.exp(random.uniform(-2, 1))
            size = tuple(max(int(side * factor), 1) for side in image.shape[:2])
            if case % 3 == 0:
                size = tuple(map(int, random.integers(1, most, 2)))
            expected = Image.fromarray(image).resize(size[::-1], Image.BILINEAR)
            np.testing.assert_array_equal(resize(image, size), np.asarray(expected))


class TestRows:
    """Every image on a canvas: of training, of evaluation and of prediction."""

    def check(self, pixels, image, size, flip=False):
        expected = resize(image, size)
        assert (expected != transforms.resize(image, size)).any()
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_array_equal(pixels[: size[0], : size[1]], expected)
        assert not pixels[size[0] :].any() and not pixels[:, size[1] :].any()

    def test_of_training(self):
        batches = train_batches(pipeline=PILLOW)
        source, flips = batches.source, set()
        for step in range(3):
            batch = batches(step)
            for row in range(4):
                view = batches.view(step, row)
                image = source.read_image(source.records[view.record])
                self.check(batch['image'][row], image, view.size, view.flip)
                flips.add(view.flip)
        assert flips == {False, True}

    def test_of_a_window(self):
        pipeline = dataclasses.replace(PILLOW, jitter=Jitter(crop_size=(20, 20)))
        source = Source()
        image = source.read_image(source.records[4])
        view = View(4, (60, 120), 30, 50, 20, 20, False)
        row = load_view(source, view, pipeline, empty_pixels((32, 64)))
        window = resize(image, (60, 120))[30:50, 50:70]
        np.testing.assert_array_equal(row['image'][:20, :20], window)

    def test_of_evaluation(self):
        source = Source()
        batches = EvalBatches(source, PILLOW, [(0, np.array([2, 4]))], (0, 2))
        batch = batches(0)
        for row, index in enumerate((2, 4)):
            image = source.read_image(source.records[index])
            self.check(batch['image'][row], image, (32, 64))

    def test_of_prediction(self):
        image = noise(90, 50)
        for flip in (False, True):
            canvas, row = place(image, Variant(for_any_image(PILLOW), flip))
            assert canvas == (64, 32)
            self.check(row['image'], image, (58, 32), flip)
