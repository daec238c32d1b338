"""The rules by which the image scale and the anchors are chosen, worked by hand."""

import dataclasses

import numpy as np
import pytest

from atss_jax.data.transforms import rescale_size
from atss_jax.tuning import choose as module
from atss_jax.tuning.choose import (
    LONG_SIDES,
    best_of,
    candidate_scales,
    choose,
    choose_scale,
    choose_scale_alone,
    class_mean,
    is_common,
    smallest_sides,
)
from atss_jax.tuning.fit import box_sides
from tests.support.tuning import USUAL, fit_of, joined, squares

VGA = (480, 640)


def with_anchors(base, scales=1, strides=USUAL.strides):
    return dataclasses.replace(
        USUAL,
        octave_base_scale=float(base),
        scales_per_octave=scales,
        strides=strides,
    )


FINER = with_anchors(8, strides=(4, 8, 16, 32, 64))


# The image scale ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'side, scale',
    [
        (200, (96, 80)),  # 96 / 640 * 200 = 30; 72 rounded up to 80 limits nothing
        (107, (96, 80)),  # 16.05
        (106, (128, 96)),  # 15.9 there
        (40, (256, 192)),  # exactly 16
        (39, (320, 240)),
        (32, (320, 240)),  # exactly 16
        (20, (512, 384)),
        (16, (640, 480)),
        (10, (1024, 768)),
        (5, (1024, 768)),  # 1333 is more than twice 640, and 8 pixels are the most
    ],
)
def test_the_smallest_scale_at_which_objects_are_large_enough(side, scale):
    assert choose_scale(squares(VGA, side), 1) == scale


def test_one_object_in_ten_may_be_smaller():
    # The tenth part of 21 objects lies at the third smallest, of 23 after it.
    large = squares(VGA, 160, 19)
    assert choose_scale(joined(large, squares(VGA, 20, 2)), 1) == (96, 80)
    assert choose_scale(joined(large, squares(VGA, 20, 4)), 1) == (512, 384)


def test_each_class_counts_if_it_has_enough_objects():
    large = squares(VGA, 160, 100)
    assert choose_scale(joined(large, squares(VGA, 20, 4, label=1)), 2) == (96, 80)
    assert choose_scale(joined(large, squares(VGA, 20, 5, label=1)), 2) == (512, 384)


def test_if_all_classes_are_rare_all_count():
    few = joined(squares(VGA, 160, 4), squares(VGA, 20, 1, label=1))
    assert choose_scale(few, 3) == (512, 384)


@pytest.mark.parametrize(
    'size, scales',
    [
        ((480, 640), [(96, 80), (128, 96), (192, 144), (256, 192), (320, 240)]),
        ((640, 480), [(96, 80), (128, 96), (192, 144), (256, 192), (320, 240)]),
        ((1080, 1920), [(96, 64), (128, 80), (192, 112), (256, 144), (320, 192)]),
        ((500, 500), [(96, 96), (128, 128), (192, 192), (256, 256), (320, 320)]),
    ],
)
def test_candidates_have_the_shape_of_the_images(size, scales):
    candidates = candidate_scales(np.array([size] * 3))
    assert candidates[:5] == scales
    assert all(min(scale) % 16 == 0 for scale in candidates[1:-1])
    for scale in candidates:  # the long side decides
        assert max(rescale_size(size, scale)) == scale[0]


@pytest.mark.parametrize(
    'size, largest',
    [((20, 10), 96), ((100, 50), 192), ((664, 400), 1024), ((667, 400), 1333)],
)
def test_images_are_enlarged_to_twice_their_size_at_most(size, largest):
    sides = [scale[0] for scale in candidate_scales(np.array([size]))]
    assert sides == [side for side in LONG_SIDES if side <= largest]


def test_one_odd_image_does_not_decide_the_shape():
    sizes = np.array([[480, 640]] * 20 + [[640, 640]])
    assert (320, 240) in candidate_scales(sizes)
    sizes = np.array([[480, 640]] * 20 + [[640, 640]] * 20)
    assert (320, 320) in candidate_scales(sizes)


def test_smallest_sides():
    objects = joined(
        *(squares(VGA, side, 1) for side in range(10, 21)),
        squares(VGA, 5, 1, label=1),
        squares(VGA, 7, 9, label=3),
    )
    sides = smallest_sides(objects, box_sides(objects.boxes), 4)
    np.testing.assert_array_equal(sides, [11, np.nan, np.nan, 7])


# The anchors --------------------------------------------------------------------------


def test_common_classes():
    def common(*counts):
        return is_common(np.repeat(np.arange(len(counts)), counts), 4).tolist()

    assert common(5, 4, 0) == [True, False, False, False]
    assert common(1000, 10, 11) == [True, False, True, False]  # 1 % are 10.21
    assert common(4, 0, 1) == [True, False, True, False]


def test_mean_over_classes():
    result = fit_of({0: [0.2] * 50, 1: [0.6] * 5, 2: [0.9] * 4})
    assert class_mean(result, 3) == pytest.approx(0.4)


def test_the_highest_overlap_wins():
    fits = [
        fit_of({0: [0.4] * 9, 1: [0.4] * 9}),
        fit_of({0: [0.3] * 9, 1: [0.6] * 9}, with_anchors(4, 3)),
        fit_of({0: [0.5] * 9, 1: [0.3] * 9}, with_anchors(4)),
    ]
    assert best_of(fits, 2) is fits[1]
    # The mean over the classes, not over the objects.
    fits = [
        fit_of({0: [0.6] * 90, 1: [0.1] * 5}),
        fit_of({0: [0.4] * 90, 1: [0.4] * 5}),
    ]
    assert best_of(fits, 2) is fits[1]


def test_of_alike_fits_the_cheapest_wins():
    finer = fit_of({0: [0.509] * 9}, FINER)
    three = fit_of({0: [0.507] * 9}, with_anchors(4, 3))
    lower = fit_of({0: [0.501] * 9}, with_anchors(4))
    higher = fit_of({0: [0.502] * 9}, with_anchors(5))
    worse = fit_of({0: [0.498] * 9}, with_anchors(6))
    fits = [finer, three, lower, higher, worse]
    assert best_of(fits, 1) is higher
    assert best_of(fits[:3], 1) is lower
    assert best_of(fits[:2], 1) is three
    assert best_of([finer, worse], 1) is finer
    # Of equal ones the first: mmdetection's anchors are tried first.
    same = fit_of({0: [0.502] * 9})
    assert best_of([same, higher], 1) is same


@pytest.fixture
def few_anchors(monkeypatch):
    """Tries four kinds of anchors: each is a program to compile."""
    monkeypatch.setattr(module, 'BASE_SCALES', (4.0, 8.0))
    monkeypatch.setattr(module, 'SCALES_PER_OCTAVE', (1, 2))


def test_all_anchors_are_tried_once(few_anchors):
    # Objects of 32 pixels around centers: an anchor of 4 strides of P3 is equal to
    # them; twice as many anchors have no higher overlap.
    chosen = choose(squares((96, 128), 32), 1, USUAL, img_scale=(128, 96))
    assert [each.choice.anchors for each in chosen.tried] == [
        USUAL,
        with_anchors(4),
        with_anchors(4, 2),
        with_anchors(8, 2),
    ]
    assert chosen.usual is chosen.tried[0]
    assert {each.choice.img_scale for each in chosen.tried} == {(128, 96)}
    assert chosen.fit is best_of(chosen.tried, 1) is chosen.tried[1]
    assert chosen.smallest_sides.tolist() == [32]


def test_finer_levels_are_tried_if_a_class_has_a_low_overlap(few_anchors):
    # Objects of 10 pixels have 100 / 32**2 in common with the smallest anchor.
    chosen = choose(squares((96, 128), 10), 1, USUAL, img_scale=(128, 96))
    strides = [each.choice.anchors.strides[0] for each in chosen.tried]
    assert strides == [8] * 4 + [4] * 4
    assert chosen.fit.choice.anchors.strides == (4, 8, 16, 32, 64)


def test_the_scale_alone_for_a_trained_detector():
    # At twice the size of the images the objects are as large as the smallest anchor.
    objects = squares((96, 128), 32)
    chosen = choose_scale_alone(objects, 1, USUAL)
    assert {each.choice.anchors for each in chosen.tried} == {USUAL}
    scales = [each.choice.img_scale for each in chosen.tried]
    assert scales == [(96, 80), (128, 96), (192, 144), (256, 192)]
    assert chosen.fit is chosen.usual is chosen.tried[3]


def test_of_alike_scales_the_smallest():
    # Objects of 64 pixels are anchors in the images as they are. At half their size
    # again no anchor is like them, at twice their size those of the next level are.
    chosen = choose_scale_alone(squares((96, 128), 64), 1, USUAL)
    overlaps = [class_mean(each, 1) for each in chosen.tried]
    assert overlaps[1] == pytest.approx(overlaps[3], abs=0.02)
    assert chosen.fit is chosen.tried[1]


def test_a_scale_that_is_given_is_kept():
    objects = squares((96, 128), 64)
    chosen = choose_scale_alone(objects, 1, USUAL, img_scale=(128, 96))
    assert [each.choice.img_scale for each in chosen.tried] == [(128, 96)]
