"""Windows, their shift and the bias of positions, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models.window_attention import position_bias
from atss_jax.models.windows import merge, partition, roll_within, shifted_regions
from atss_jax.weights.mmdet import relative_position_index


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize('window_size', [1, 2, 7])
def test_bias_is_the_table_read_at_the_index(window_size):
    table = noise(0, (2 * window_size - 1) ** 2, 3)
    bias = jax.jit(position_bias, static_argnums=1)(table, window_size)
    expected = table[relative_position_index(window_size)].transpose(2, 0, 1)
    np.testing.assert_array_equal(bias, expected)


def test_index_by_hand():
    """Two cells, query below key: two columns, shifted by one row."""
    index = relative_position_index(2)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index[0], [4, 3, 1, 0])
    np.testing.assert_array_equal(index[3], [8, 7, 5, 4])


def test_gradient_of_the_table_adds_up_what_read_it():
    table, up = noise(0, 25, 2), noise(1, 2, 9, 9)
    grad = jax.grad(lambda table: (position_bias(table, 3) * up).sum())(table)
    expected = np.zeros_like(table)
    np.add.at(expected, relative_position_index(3), up.transpose(1, 2, 0))
    np.testing.assert_allclose(grad, expected, atol=1e-5)


def test_windows_and_back():
    x = noise(0, 2, 6, 9, 4)
    windows = partition(jnp.asarray(x), 3)
    assert windows.shape == (2, 2, 3, 9, 4)
    np.testing.assert_array_equal(windows[1, 1, 2], x[1, 3:, 6:].reshape(9, 4))
    np.testing.assert_array_equal(merge(windows, 3), x)


PERIODS = np.array([[6, 9], [3, 6], [9, 3]], np.int32)


def rolled(x, shift):
    """Each image's own region, by NumPy's roll."""
    x = x.copy()
    for row, (height, width) in enumerate(PERIODS):
        region = x[row, :height, :width]
        x[row, :height, :width] = np.roll(region, (-shift, -shift), (0, 1))
    return x


@pytest.mark.parametrize('shift', [1, -1])
def test_roll_wraps_around_each_image(shift):
    x = noise(0, 3, 9, 12, 2)
    for row, (height, width) in enumerate(PERIODS):
        x[row, height:] = x[row, :, width:] = 0
    ours, pullback = jax.vjp(
        lambda x: roll_within(x, jnp.asarray(PERIODS), shift), jnp.asarray(x)
    )
    np.testing.assert_array_equal(ours, rolled(x, shift))
    np.testing.assert_array_equal(pullback(ours)[0], x)


def test_regions_are_apart_where_the_shift_joined_them():
    """mmdet numbers the nine parts of the map; within a window the same differ."""
    window, shift = 3, 1
    regions = shifted_regions(jnp.asarray(PERIODS), (9, 12), window, shift)
    for row, (height, width) in enumerate(PERIODS):
        parts = np.zeros((height, width), int)
        for number, (axis, cut) in enumerate(
            [(0, -window), (0, -shift), (1, -window), (1, -shift)]
        ):
            index = [slice(None), slice(None)]
            index[axis] = slice(cut, None)
            parts[tuple(index)] += 4**number
        parts = parts.reshape(height // 3, 3, width // 3, 3).swapaxes(1, 2)
        parts = parts.reshape(height // 3, width // 3, 9)
        ours = np.asarray(regions[row, : height // 3, : width // 3])
        np.testing.assert_array_equal(
            ours[..., :, None] != ours[..., None, :],
            parts[..., :, None] != parts[..., None, :],
        )
