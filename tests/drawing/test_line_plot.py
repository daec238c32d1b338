"""Line plots: where lines, ticks and gaps lie."""

import numpy as np
import pytest

from atss_jax.drawing import line_plot


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 12, [0, 2, 4, 6, 8, 10, 12]),
        (-3, 110, [0, 20, 40, 60, 80, 100]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert line_plot.ticks(low, high) == pytest.approx(expected)


def test_a_curve_goes_from_corner_to_corner():
    x = np.array([0.0, 10.0])
    image = line_plot.line_plot([(x, np.array([0.0, 100.0]))], 'a')
    rows, columns = np.nonzero((image == line_plot.curve_color(0)).all(2))
    assert columns.min() <= 90 and columns.max() >= 612
    assert rows[columns.argmin()] > rows[columns.argmax()]


def test_curves_on_each_other_are_all_visible():
    line = np.array([0.0, 10.0]), np.array([0.0, 100.0])
    image = line_plot.line_plot([line] * 3, 'a')
    for number in range(3):
        assert (image == line_plot.curve_color(number)).all(2).sum() > 50


def test_the_axis_ends_where_it_is_told_to():
    line = np.array([10.0, 20.0]), np.array([1.0, 2.0])
    image = line_plot.line_plot([line], 'a', x_end=40.0)
    _, columns = np.nonzero((image == line_plot.curve_color(0)).all(2))
    left, right = 86, 640 - 24
    width = right - left
    assert columns.min() == pytest.approx(left + width / 4, abs=3)
    assert columns.max() == pytest.approx(left + width / 2, abs=3)


def test_nan_leaves_a_gap():
    x, y = np.arange(5.0), np.array([1.0, 2, 3, 2, 1])

    def drawn_in_the_middle():
        image = line_plot.line_plot([(x, y)], 'a')
        return (image[:, 340:360] == line_plot.curve_color(0)).all(2).any()

    assert drawn_in_the_middle()
    y[2] = np.nan
    assert not drawn_in_the_middle()


def test_a_plot_of_nothing_says_so():
    none = np.zeros(0)
    image = line_plot.line_plot([(none, none)], 'a')
    assert (image != 255).any()
