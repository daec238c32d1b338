"""DyHead's parts against plain loops; the whole is compared in test_family.py."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import platforms
from atss_jax.models.dyhead import DyHead, DyReLU, stretch
from atss_jax.models.region import inside
from atss_jax.models.reread import reread
from tests.support.recipes import relative_error

SIZES = np.array([[4, 6], [5, 3]], np.int32)
SMALL = np.array([[2, 3], [3, 2]], np.int32)


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.fixture(params=['cpu', 'tpu'])
def algorithm(request, monkeypatch):
    """Programs for this CPU contain what those for another platform contain."""
    jax.clear_caches()
    which = operator.attrgetter(request.param)
    monkeypatch.setattr(platforms, 'function_on_cpu', which)
    yield
    jax.clear_caches()


def test_reread_by_hand(algorithm):
    """Two channels of 2 x 2 cells, read as maps of 1 x 2: the first four numbers."""
    x = jnp.array([[[0, 10], [1, 11]], [[2, 12], [3, 13]]], jnp.float32)[None]
    result = reread(x, jnp.array([[2, 2]]), jnp.array([[1, 2]]), (1, 2))
    np.testing.assert_array_equal(result[0, 0], [[0, 2], [1, 3]])


# Sizes in which lines of the result begin anywhere in a line, and at its end; the whole
# canvas; one cell.
@pytest.mark.parametrize(
    ('sizes', 'others'),
    [
        (SIZES, SMALL),
        ([[6, 8], [6, 7]], [[3, 4], [3, 4]]),
        ([[1, 1], [1, 5]], [[1, 1], [1, 3]]),
        ([[5, 1], [2, 8]], [[3, 1], [1, 4]]),
        ([[6, 8], [3, 3]], [[3, 4], [3, 3]]),
    ],
)
def test_reread_is_pytorchs_memory_read_with_another_shape(algorithm, sizes, others):
    x, weight = noise(0, 2, 6, 8, 5), noise(1, 2, 3, 4, 5)

    def read(x):
        y = reread(x, jnp.array(sizes), jnp.array(others), (3, 4))
        return jnp.where(inside(jnp.array(others), 3, 4), y, 0)

    result = read(jnp.asarray(x))
    gradient = jax.grad(lambda x: (read(x) * weight).sum())(jnp.asarray(x))
    for row, ((h, w), (small_h, small_w)) in enumerate(zip(sizes, others, strict=True)):
        memory = x[row, :h, :w].transpose(2, 0, 1).ravel()
        count = 5 * small_h * small_w
        expected = memory[:count].reshape(5, small_h, small_w)
        ours = result[row, :small_h, :small_w].transpose(2, 0, 1)
        np.testing.assert_array_equal(ours, expected)
        memory[:] = 0
        memory[:count] = weight[row, :small_h, :small_w].transpose(2, 0, 1).ravel()
        expected = np.zeros((6, 8, 5), np.float32)
        expected[:h, :w] = memory.reshape(5, h, w).transpose(1, 2, 0)
        np.testing.assert_array_equal(gradient[row], expected)


def interpolated(x, height, width):
    """(h,w,C) at another size, corner on corner, in a loop over the new cells."""
    y = np.zeros((height, width, x.shape[-1]))
    for i, j in np.ndindex(height, width):
        row = i * (x.shape[0] - 1) / max(height - 1, 1)
        column = j * (x.shape[1] - 1) / max(width - 1, 1)
        for p, q in np.ndindex(*x.shape[:2]):
            share = max(1 - abs(row - p), 0) * max(1 - abs(column - q), 0)
            y[i, j] += share * x[p, q]
    return y


@pytest.mark.parametrize('small', [SMALL, [[1, 1], [3, 1]]])
def test_stretch_equals_loops_and_reads_no_padding(small):
    x = noise(1, 2, 3, 4, 5)
    for row, (height, width) in enumerate(small):
        x[row, height:] = x[row, :, width:] = np.nan
    result = stretch(jnp.asarray(x), jnp.array(small), jnp.asarray(SIZES), (6, 8))
    for row, ((h, w), (small_h, small_w)) in enumerate(zip(SIZES, small, strict=True)):
        expected = interpolated(x[row, :small_h, :small_w], h, w)
        np.testing.assert_allclose(result[row, :h, :w], expected, atol=1e-5)


def test_stretch_to_one_cell_takes_the_first():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    result = stretch(x, jnp.array([[2, 2]]), jnp.array([[1, 1]]), (1, 1))
    assert result.tolist() == [[[[0]]]]


def test_dynamic_relu_by_hand():
    """With zero weights only biases choose the lines: y = max(2x + 1/2, -x)."""
    module, size = DyReLU(4), jnp.array([[2, 2]])
    x = jnp.linspace(-2, 2, 16).reshape(1, 2, 2, 4)
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x, size))
    # hard_sigmoid(b) = (b + 3) / 6: 1, 1, 0 and 1/2 make slopes 2 and -1.
    bias = jnp.repeat(jnp.array([3.0, 3.0, -3.0, 0.0]), 4)
    params['params']['conv2']['conv']['bias'] = bias
    expected = np.maximum(2 * x + 0.5, -x)
    np.testing.assert_allclose(module.apply(params, x, size), expected, rtol=1e-6)


# The whole ---------------------------------------------------------------------------


@functools.cache
def small_head():
    """One block on three levels of 16 channels, its weights, a compiled pass."""
    module = DyHead(16, 16, num_blocks=1, zero_init_offset=False)
    features = tuple(jnp.zeros((1, n, n, 16)) for n in (4, 2, 1))
    sizes = [jnp.array([[n, n]]) for n in (4, 2, 1)]
    shapes = jax.eval_shape(module.init, jax.random.key(0), features, sizes)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes
    )
    return params, jax.jit(functools.partial(module.apply, params))


def test_neither_canvas_nor_padding_matters():
    """Levels of 5 x 3, 3 x 2, 2 x 1 valid cells, alone and on a larger canvas."""
    _, run = small_head()
    sizes = [jnp.array([size]) for size in ([5, 3], [3, 2], [2, 1])]
    tight = [jnp.asarray(noise(i, 1, *size[0], 16)) for i, size in enumerate(sizes)]
    room = [((0, 0), (0, a), (0, b), (0, 0)) for a, b in ((3, 5), (1, 2), (0, 1))]
    loose = [
        jnp.pad(x, pad, constant_values=1e4) for x, pad in zip(tight, room, strict=True)
    ]
    expected, outputs = run(tuple(tight), sizes), run(tuple(loose), sizes)
    for ours, x in zip(outputs, expected, strict=True):
        height, width = x.shape[1:3]
        assert relative_error(ours[:, :height, :width], x) < 1e-5


def test_batch_mates_do_not_matter():
    _, run = small_head()
    grids = [(8, 8), (4, 4), (2, 2)]
    features = [jnp.asarray(noise(i, 2, *grid, 16)) for i, grid in enumerate(grids)]
    sizes = [jnp.array([[n, n], [n - n // 2, n]]) for n in (8, 4, 2)]
    both = run(tuple(features), sizes)
    alone = run(tuple(x[1:] for x in features), [size[1:] for size in sizes])
    for x, y, size in zip(both, alone, sizes, strict=True):
        part = np.s_[: size[1][0], : size[1][1]]
        np.testing.assert_allclose(x[1][part], y[0][part], rtol=1e-4, atol=1e-5)


def test_every_weight_has_a_gradient():
    """Those of the third level's `high` too, whose offsets belong to the second."""
    params, _ = small_head()
    module = DyHead(16, 16, num_blocks=1, zero_init_offset=False)
    sizes = [jnp.array([size]) for size in ([6, 8], [3, 4], [2, 2])]
    features = tuple(jnp.asarray(noise(7, 1, *size[0], 16)) for size in sizes)

    def loss(params):
        outputs = module.apply(params, features, sizes)
        return sum((x * jnp.cos(x)).sum() for x in outputs)

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all() and gradient.any(), path
