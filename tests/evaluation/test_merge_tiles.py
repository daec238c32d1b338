"""Detections in tiles and in the whole image become one list."""

import numpy as np

from atss_jax.data.tiles import Tiling
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.evaluation.merge_tiles import merge_tiles
from atss_jax.structures import Detections

_SIZE = (100, 180)
_TILING = Tiling(100, 0.2)  # two tiles: columns 0 to 100 and 80 to 180
_LEFT, _RIGHT = _TILING.windows(_SIZE)


def _detections(*rows):
    """Of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    labels = table[:, 5].astype(np.int32)
    return Detections(table[:, :4], table[:, 4], labels, np.ones(len(table), bool))


def _merged(whole=(), left=(), right=()):
    parts = [(_LEFT, _detections(*left)), (_RIGHT, _detections(*right))]
    merged = merge_tiles(_detections(*whole), parts, _SIZE, _TILING, DetectConfig())
    return np.column_stack([merged.boxes, merged.scores, merged.labels]).round(3)


def test_without_tiles_nothing_changes():
    whole = _detections((0, 0, 5, 5, 0.9, 0), (0, 0, 5, 5, 0.8, 0))
    assert merge_tiles(whole, [], _SIZE, _TILING, DetectConfig()) is whole


def test_tiles_are_moved_to_their_place():
    merged = _merged(right=[(40, 10, 50, 20, 0.5, 2)])
    np.testing.assert_allclose(merged, [[120, 10, 130, 20, 0.5, 2]], atol=1e-6)


def test_object_on_a_seam_counts_once():
    """Columns 70 to 90: whole in the left tile, cut by the edge of the right one.

    The cut part has the higher score.
    """
    merged = _merged(left=[(70, 10, 90, 20, 0.6, 0)], right=[(0, 10, 10, 20, 0.9, 0)])
    np.testing.assert_allclose(merged, [[70, 10, 90, 20, 0.6, 0]], atol=1e-6)


def test_object_in_the_overlap_counts_once():
    """Columns 85 to 95 are whole in both tiles; the better box stays."""
    merged = _merged(left=[(85, 10, 95, 20, 0.6, 0)], right=[(5, 10, 15, 20, 0.9, 0)])
    np.testing.assert_allclose(merged, [[85, 10, 95, 20, 0.9, 0]], atol=1e-6)


def test_two_classes_at_one_place_both_stay():
    merged = _merged(left=[(85, 10, 95, 20, 0.6, 1)], right=[(5, 10, 15, 20, 0.9, 0)])
    assert merged[:, 5].tolist() == [0, 1]


def test_large_object_is_that_of_the_whole_image():
    """Columns 40 to 140 are larger than the overlap of 20: cut in both tiles."""
    merged = _merged(
        whole=[(40, 10, 140, 60, 0.5, 0)],
        left=[(40, 10, 100, 60, 0.9, 0)],
        right=[(0, 10, 60, 60, 0.9, 0)],
    )
    np.testing.assert_allclose(merged, [[40, 10, 140, 60, 0.5, 0]], atol=1e-6)


def test_small_object_is_that_of_a_tile():
    """The box of the whole image is too rough for NMS to know it for the same."""
    merged = _merged(whole=[(44, 14, 56, 26, 0.9, 0)], left=[(40, 10, 50, 20, 0.5, 0)])
    np.testing.assert_allclose(merged, [[40, 10, 50, 20, 0.5, 0]], atol=1e-6)


def test_edge_of_the_image_cuts_nothing_off():
    merged = _merged(left=[(0, 0, 10, 100, 0.5, 0)], right=[(90, 0, 100, 9, 0.4, 0)])
    assert merged[:, :4].tolist() == [[0, 0, 10, 100], [170, 0, 180, 9]]


def test_all_objects_stay_however_many():
    """Beyond the lengths of one program, and beyond `max_per_img`."""
    x, y = np.meshgrid(np.arange(0, 76, 2.0), np.arange(0, 96, 2.0))
    corners = np.stack([x.ravel(), y.ravel()], 1)
    rows = np.column_stack(
        [corners, corners + 1, np.linspace(0.9, 0.1, len(corners)), 0 * corners[:, 0]]
    )
    merged = _merged(left=rows, whole=[(0, 0, 90, 90, 0.05, 0)])
    assert len(merged) == len(rows) + 1
    assert (np.diff(merged[:, 4]) <= 0).all()
