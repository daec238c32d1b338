"""Anchors: equal to mmdetection's, in its order, and as worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.anchors import AnchorGenerator
from tests.support import oracles

DEFAULT = AnchorGenerator()
RETINA = AnchorGenerator((8, 16), (0.5, 1.0, 2.0), 4.0, 3)
CENTERED = AnchorGenerator(center_offset=0.5)


def test_first_cell_by_hand():
    # Side 8 strides, centered on the corner of the image, not on the cell's middle.
    np.testing.assert_array_equal(DEFAULT.grid(0, 1, 1), [[-32, -32, 32, 32]])
    np.testing.assert_array_equal(DEFAULT.grid(4, 1, 1), [[-512, -512, 512, 512]])


def test_in_the_middle_of_the_cell_by_hand():
    np.testing.assert_array_equal(CENTERED.grid(0, 1, 1), [[-28, -28, 36, 36]])
    np.testing.assert_array_equal(CENTERED.grid(4, 1, 1), [[-448, -448, 576, 576]])


def test_columns_before_rows_by_hand():
    np.testing.assert_array_equal(
        DEFAULT.grid(1, 2, 2),
        [
            [-64, -64, 64, 64],
            [-48, -64, 80, 64],
            [-64, -48, 64, 80],
            [-48, -48, 80, 80],
        ],
    )


def test_ratio_is_height_over_width_by_hand():
    generator = AnchorGenerator((8,), ratios=(4.0, 0.25), octave_base_scale=2.0)
    np.testing.assert_array_equal(
        generator.grid(0, 1, 1), [[-4, -16, 4, 16], [-16, -4, 16, 4]]
    )


def test_ratios_are_listed_before_scales_by_hand():
    generator = AnchorGenerator(
        (8,), ratios=(1.0, 4.0), octave_base_scale=2.0, scales_per_octave=2
    )
    r = np.float32(2**0.5)
    expected = [
        [-8, -8, 8, 8],
        [-8 * r, -8 * r, 8 * r, 8 * r],
        [-4, -16, 4, 16],
        [-4 * r, -16 * r, 4 * r, 16 * r],
    ]
    np.testing.assert_allclose(generator.base_anchors(0), expected, rtol=1e-7)
    assert generator.num_anchors == 4


def test_center_offset_moves_anchors_by_strides():
    moved = AnchorGenerator(center_offset=0.5)
    np.testing.assert_array_equal(moved.grid(1, 2, 3), DEFAULT.grid(1, 2, 3) + 8)


@pytest.mark.parametrize('level', range(5))
def test_equals_mmdet(golden, level):
    size = [(5, 7), (3, 4), (2, 2), (1, 1), (1, 1)][level]
    ours = DEFAULT.grid(level, *size)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, golden('anchors')[f'default/{level}'])


@pytest.mark.parametrize('level, size', [(0, (3, 4)), (1, (2, 2))])
def test_retina_anchors_equal_mmdet(golden, level, size):
    ours = RETINA.grid(level, *size)
    np.testing.assert_array_equal(ours, golden('anchors')[f'retina/{level}'])


@pytest.mark.parametrize('generator', [DEFAULT, RETINA, CENTERED])
def test_some_anchors_by_index(generator):
    for level, (height, width) in enumerate(generator.grid_sizes((70, 50))):
        grid = generator.grid(level, height, width)
        index = np.random.default_rng(0).permutation(len(grid))
        anchors = generator.at(level, jnp.asarray(index), width)
        np.testing.assert_array_equal(anchors, grid[index])


@pytest.mark.parametrize('generator', [DEFAULT, RETINA, CENTERED])
def test_all_lists_levels_rows_columns_as_a_plain_loop(generator):
    canvas = (64, 160)
    expected = oracles.all_anchors(
        canvas,
        generator.strides,
        generator.ratios,
        generator.octave_base_scale,
        generator.scales_per_octave,
        generator.center_offset,
    )
    np.testing.assert_allclose(
        generator.all(canvas), [anchor[3] for anchor in expected], atol=1e-5
    )


def test_grid_sizes_round_up():
    assert DEFAULT.grid_sizes((800, 1344)) == [
        (100, 168),
        (50, 84),
        (25, 42),
        (13, 21),
        (7, 11),
    ]
    assert len(DEFAULT.all((800, 1344))) == 16800 + 4200 + 1050 + 273 + 77
