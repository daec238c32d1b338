"""Windows, their shift, the bias of positions and attention, against plain NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import platforms, window_attention_tpu
from atss_jax.models.region import zero_outside
from atss_jax.models.swin import SwinBlock
from atss_jax.models.window_attention import (
    ShiftWindowMSA,
    attend,
    position_bias,
)
from atss_jax.models.windows import (
    Attention,
    merge,
    partition,
    roll_within,
    shifted_regions,
)
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


# Attention ---------------------------------------------------------------------------

SIZES = np.array([[9, 14], [5, 8], [11, 13]], np.int32)
CANVAS = (11, 14)


def plain_attention(x, kernel, positions, bias, shift, num_heads, scale):
    """One image, window by window and head by head; x (h,w,C), windows of 4 x 4."""
    height, width, channels = x.shape
    padded = np.zeros((-(-height // 4) * 4, -(-width // 4) * 4, channels))
    padded[:height, :width] = x
    # Numbers of the cells that were rolled around the edge, as in `rolled`.
    parts = np.zeros(padded.shape[:2], int)
    if shift:
        parts[-shift:] += 1
        parts[:, -shift:] += 2
    padded = np.roll(padded, (-shift, -shift), (0, 1))
    qkv = padded @ kernel + (0 if bias is None else bias)
    result = np.zeros_like(padded)
    for top in range(0, padded.shape[0], 4):
        for left in range(0, padded.shape[1], 4):
            window = np.s_[top : top + 4, left : left + 4]
            part = parts[window].reshape(-1)
            cells = qkv[window].reshape(16, 3, num_heads, -1)
            outputs = []
            for head in range(num_heads):
                query, key, value = cells[:, :, head].swapaxes(0, 1)
                logits = scale * query @ key.T + positions[head]
                logits -= 100 * (part[:, None] != part[None])
                weights = np.exp(logits - logits.max(-1, keepdims=True))
                weights /= weights.sum(-1, keepdims=True)
                outputs.append(weights @ value)
            result[window] = np.concatenate(outputs, -1).reshape(4, 4, channels)
    return np.roll(result, (shift, shift), (0, 1))[:height, :width]


def case(num_heads, channels, has_bias):
    """Images with anything outside their valid region, and parameters."""
    x = noise(0, 3, *CANVAS, channels)
    kernel = noise(1, channels, 3 * channels) / channels**0.5
    arrays = [x, kernel, noise(2, num_heads, 16, 16)]
    return arrays + [noise(3, 3 * channels)] * has_bias


def function_of(module_function, num_heads, shift):
    attention = Attention(4, shift, num_heads, 0.3)

    def function(x, *weights):
        return module_function(attention, x, jnp.asarray(SIZES), *weights)

    return function


@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize(('num_heads', 'has_bias'), [(1, True), (3, False)])
@pytest.mark.parametrize('function', [attend, window_attention_tpu.attend])
def test_attention_by_hand(function, num_heads, has_bias, shift):
    arrays = case(num_heads, 6, has_bias)
    ours = jax.jit(function_of(function, num_heads, shift))(*arrays)
    x, kernel, positions, *bias = (x.astype(float) for x in arrays)
    for row, (height, width) in enumerate(SIZES):
        expected = plain_attention(
            x[row, :height, :width],
            kernel,
            positions,
            bias[0] if bias else None,
            shift,
            num_heads,
            0.3,
        )
        np.testing.assert_allclose(ours[row, :height, :width], expected, atol=1e-5)


@pytest.mark.parametrize(
    ('chunk', 'num_heads', 'channels', 'has_bias', 'shift'),
    [
        (2**24, 2, 8, False, 0),
        (2**24, 6, 192, True, 2),
        (1, 6, 192, False, 2),
        (2**15, 8, 256, True, 2),
    ],
)
def test_programs_for_tpus_attend_alike(
    monkeypatch, chunk, num_heads, channels, has_bias, shift
):
    """With all windows at once, with one at a time, and with some."""
    monkeypatch.setattr(window_attention_tpu, '_CHUNK', chunk)
    arrays = case(num_heads, channels, has_bias)
    up = noise(4, *arrays[0].shape)
    for row, (height, width) in enumerate(SIZES):
        up[row, height:] = up[row, :, width:] = 0

    def with_gradients(function):
        function = function_of(function, num_heads, shift)

        @jax.jit
        def apply(up, *arrays):
            y, pullback = jax.vjp(function, *arrays)
            return y * (up != 0), pullback(up)

        return apply(up, *arrays)

    y, gradients = with_gradients(window_attention_tpu.attend)
    expected, expected_gradients = with_gradients(attend)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ('num_heads', 'channels', 'heads'),
    [(6, 192, 6), (12, 384, 4), (48, 1536, 4), (3, 96, 3), (4, 512, 1), (9, 288, 9)],
)
def test_heads_that_fill_rows(num_heads, channels, heads):
    assert window_attention_tpu.heads_of_a_row(num_heads, channels) == heads


@pytest.mark.parametrize(
    ('windows', 'heads', 'cells', 'expected'),
    [
        (1161, 6, 144, 9),  # 18 would fit
        (361, 6, 144, 18),  # 19 would not; 21 chunks, with 17 windows of zeros
        (20, 4, 144, 20),  # 28 would fit
        (30, 4, 144, 15),  # two chunks alike
        (5, 64, 576, 1),  # not even one fits
    ],
)
def test_windows_of_a_chunk(windows, heads, cells, expected):
    """144 cells take 256 numbers of 4 bytes for each cell and head."""
    chosen = window_attention_tpu.windows_of_a_chunk(windows, heads, cells)
    assert chosen == expected


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('shift', [0, 2])
def test_modules_in_programs_for_tpus(monkeypatch, shift, with_cp):
    """With a scale that matters, and gradients of the parameters and the input."""
    monkeypatch.setattr(window_attention_tpu, '_CHUNK', 2**15)
    fields = {'channels': 16, 'num_heads': 2, 'window_size': 4, 'shift': shift}
    fields['qk_scale'] = 2.0
    plain = SwinBlock(fields, 8)
    block = nn.remat(SwinBlock)(fields, 8) if with_cp else plain
    x, size = jnp.asarray(noise(0, 3, *CANVAS, 16)), jnp.asarray(SIZES)
    variables = jax.eval_shape(plain.init, jax.random.key(0), x, size)
    leaves, structure = jax.tree.flatten(variables)
    leaves = [noise(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(structure, leaves)

    def loss(variables, x):
        y = zero_outside(block.apply(variables, x, size), size)
        return (y**2).mean()

    def results(of):
        monkeypatch.setattr(platforms, 'function_on_cpu', of)
        jax.clear_caches()
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)

    ours = jax.tree.leaves(results(lambda functions: functions.tpu))
    others = jax.tree.leaves(results(lambda functions: functions.cpu))
    jax.clear_caches()
    for one, other in zip(ours, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_which_programs_have_chunks(platform):
    """Those for TPUs, unless attention weights are dropped."""
    x = jnp.zeros((1, 8, 8, 8))
    size = jnp.full((1, 2), 8)
    keys = jax.random.split(jax.random.key(0), 1)

    def has_chunks(rate):
        block = ShiftWindowMSA(8, 2, 4, shift=2, attn_drop_rate=rate)
        variables = jax.eval_shape(block.init, jax.random.key(0), x, size)
        traced = jax.jit(block.apply).trace(variables, x, size, keys)
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        # Rows are written into the shifted map, and chunks into the result.
        return 'stablehlo.dynamic_update_slice' in program

    assert has_chunks(0.0) == (platform == 'tpu')
    assert not has_chunks(0.5)
