"""Traces of objects in a video, and identities next to boxes."""

import numpy as np
import pytest

from atss_jax.drawing.boxes import class_color, draw_boxes
from atss_jax.drawing.traces import Traces


def canvas(size=(120, 200)):
    return np.full((*size, 3), 128, np.uint8)


def box(x, y):
    """A box of 20 x 20 pixels around a center."""
    return [x - 10, y - 10, x + 10, y + 10]


def drawn(traces):
    """The pixels that traces change, (H,W) bool."""
    image = canvas()
    traces.draw(image)
    return (image != 128).any(axis=2)


def test_a_line_through_the_last_centers():
    traces = Traces(5)
    for k in range(20):
        traces.add(np.array([box(10 + 8 * k, 60)]), np.array([3]))
    rows, columns = np.nonzero(drawn(traces))
    assert abs(rows - 60).max() <= 2
    # From the center of the 15th frame to that of the 20th.
    assert columns.min() == pytest.approx(122, abs=2)
    assert columns.max() == pytest.approx(162, abs=2)
    image = canvas()
    traces.draw(image)
    color = np.array(class_color(3))
    assert abs(image[60, 160] - color.astype(int)).max() < 20
    # Old parts are pale: halfway between the image and the color.
    assert abs(image[60, 126] - (color + 128) / 2).max() < 40


def test_an_object_that_is_gone_is_forgotten():
    traces = Traces(3)
    for k in range(4):
        traces.add(np.array([box(20 + 10 * k, 30)]), np.array([1]))
    assert drawn(traces).any()
    nothing = np.zeros((0, 4)), np.zeros(0, int)
    for _ in range(4):
        traces.add(*nothing)
    assert not drawn(traces).any() and not traces._centers


def test_one_center_and_no_identity_draw_nothing():
    traces = Traces(10)
    traces.add(np.array([box(20, 30), box(80, 80)]), np.array([5, -1]))
    traces.add(np.array([box(90, 80)]), np.array([-1]))
    assert not drawn(traces).any()


def test_identities_have_colors_and_are_written():
    boxes = np.array([box(40, 60), box(150, 60)], float)
    arguments = canvas(), boxes, np.array([0, 0]), ('a',), np.array([0.9, 0.8])
    plain = draw_boxes(*arguments)
    assert (plain[70, 32] == plain[70, 142]).all()
    tracked = draw_boxes(*arguments, np.array([7, -1]))
    assert tuple(tracked[60, 30]) == class_color(7)
    assert len(set(tracked[60, 140].tolist())) == 1  # gray
    longer = draw_boxes(*arguments, np.array([123456, -1]))
    tags = [(image != 128).any(axis=2).sum() for image in (plain, tracked, longer)]
    assert tags[0] < tags[1] < tags[2]
