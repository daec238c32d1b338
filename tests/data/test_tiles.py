"""Tiles: which windows of an image they are, and what is read."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atss_jax.data.records import Record, Records
from atss_jax.data.tiles import TiledSource, Tiling, Window


def test_two_by_three_tiles():
    windows = Tiling(100, 0.2).windows((180, 260))
    lefts, tops = [0, 80, 160], [0, 80]
    assert windows == [Window(t, x, t + 100, x + 100) for t in tops for x in lefts]


def test_image_that_fits_into_a_tile_has_none():
    assert Tiling(100).windows((100, 100)) == []
    assert Tiling(100).windows((30, 99)) == []


def test_image_that_is_long_in_one_direction():
    """The other side of the tiles is that of the image."""
    assert Tiling(100, 0.0).windows((40, 200)) == [
        Window(0, 0, 40, 100),
        Window(0, 100, 40, 200),
    ]


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(8, 200), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap(height, width, side, overlap):
    windows = Tiling(side, overlap).windows((height, width))
    if height <= side and width <= side:
        assert windows == []
        return
    covered = np.zeros((height, width), bool)
    for window in windows:
        assert window.size == (min(height, side), min(width, side))
        window.of(covered)[:] = True
    assert covered.all()
    lefts = sorted({window.left for window in windows})
    for left, following in itertools.pairwise(lefts):
        assert left + side - following >= int(overlap * side) - 1


@pytest.mark.parametrize(
    ('side', 'overlap', 'problem'),
    [
        (0, 0.2, 'tiles of 0 pixels: expected a whole number, 1 or more'),
        (64.5, 0.2, r'tiles of 64\.5 pixels: expected a whole number'),
        (10, 1.0, r'tiles overlap by 1\.0: expected a share'),
        (10, -0.1, r'tiles overlap by -0\.1: expected a share'),
    ],
)
def test_impossible_tiles_are_refused(side, overlap, problem):
    with pytest.raises(ValueError, match=problem):
        Tiling(side, overlap)


class _Source:
    """Three images of noise, two of which need tiles; it notes what is read."""

    classes, category_ids = ('a',), (7,)

    def __init__(self):
        none = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
        sizes = (8, 20), (10, 10), (20, 10)
        self.records = Records.from_list(
            [
                Record(11 + row, f'{row}.png', size, *none)
                for row, size in enumerate(sizes)
            ]
        )
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        self.reads = []

    def read_image(self, record):
        self.reads.append(record.image_id)
        return self.images[record.image_id - 11]


def test_tiles_of_a_source():
    source = _Source()
    tiled = TiledSource(source, Tiling(10, 0.0))
    assert tiled.parents == [0, 0, 2, 2]
    assert tiled.records.sizes.tolist() == [[8, 10], [8, 10], [10, 10], [10, 10]]
    parts = [tiled.read_image(tiled.records[i]) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts[:2], 1), source.images[0])
    np.testing.assert_array_equal(np.concatenate(parts[2:], 0), source.images[2])
    assert source.reads == [11, 13], 'each image is read once'


def test_images_that_are_left_out_have_no_tiles():
    tiled = TiledSource(_Source(), Tiling(10, 0.0), left_out=[0])
    assert tiled.parents == [2, 2]
