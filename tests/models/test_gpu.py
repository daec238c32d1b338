"""What programs for GPUs alone contain, run on a CPU: it computes the same.

Triton's kernels run in Pallas's interpreter here; that they compile and how fast they
are takes a GPU (benchmarks/gpu_everything.py).
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import norm_sums_gpu, platforms
from atss_jax.models.convolution_accelerator import convolve, convolve_on_gpu
from atss_jax.models.layers import convolve_valid, relu, relu_for_window
from atss_jax.models.norms import group_norm
from atss_jax.models.region import inside, zero_outside
from atss_jax.models.stem import max_pool, max_pool_by_pairs, stem
from atss_jax.structures import ceil_divide
from tests.support.recipes import relative_error
from tests.support.small import random_variables, small_model

SIZE = jnp.array([[13, 21], [7, 15]], jnp.int32)
TRITON = '__gpu$xla.gpu.triton'


@pytest.fixture
def gpu(monkeypatch):
    """Programs for this CPU contain the functions for GPUs."""
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.gpu)
    run = norm_sums_gpu._sum_terms
    monkeypatch.setattr(norm_sums_gpu, '_sum_terms', lambda *a: run(*a[:-1], True))
    yield
    jax.clear_caches()


def noise(seed, shape, dtype=jnp.bfloat16):
    return jnp.array(np.random.default_rng(seed).normal(0, 1, shape), dtype)


def cells(x, size):
    """The valid cells of an image, (n,C) in float64."""
    rows, columns = np.asarray(size)
    return np.asarray(x, np.float64)[:rows, :columns].reshape(-1, x.shape[-1])


# Three programs with a rest; one; and as many channels as a program may have. The
# second grid is smaller than what is said to be valid.
@pytest.mark.parametrize('shape', [(2, 13, 21, 32), (2, 7, 15, 16), (2, 16, 24, 1024)])
def test_sums(shape):
    x = noise(0, shape) + 1
    ours = norm_sums_gpu.sums(x, SIZE, interpret=True)
    for image in range(2):
        valid = cells(x[image], SIZE[image])
        np.testing.assert_allclose(ours[0, image], valid.sum(0), rtol=1e-5)
        np.testing.assert_allclose(ours[1, image], (valid**2).sum(0), rtol=1e-5)


def test_sums_of_gradients():
    """Only valid cells whose output is positive count; not those that are exactly 0."""
    shape = 2, 13, 21, 32
    x, dy = noise(0, shape), noise(1, shape)
    mean, factor = (noise(seed, (2, 32), jnp.float32) for seed in (2, 3))
    bias = noise(4, (32,), jnp.float32)
    x = x.at[:, 0, 0].set(0)
    mean, bias = mean.at[:, 0].set(0), bias.at[0].set(0)
    ours = norm_sums_gpu.gradient_sums(dy, x, SIZE, mean, factor, bias, interpret=True)
    for image in range(2):
        centered = cells(x[image], SIZE[image]) - np.asarray(mean[image], np.float64)
        output = centered * np.asarray(factor[image]) + np.asarray(bias)
        gradient = cells(dy[image], SIZE[image]) * (output > 0)
        expected = gradient.sum(0), (gradient * centered).sum(0)
        np.testing.assert_allclose(ours[:, image], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('channels', 'dtype', 'expected'),
    [
        (256, 'bfloat16', True),
        (256, 'float32', False),
        (96, 'bfloat16', False),
        (8, 'bfloat16', False),
        (2048, 'bfloat16', False),
    ],
)
def test_which_maps_it_suits(channels, dtype, expected):
    map_ = jnp.zeros((1, 4, 4, channels), dtype)
    assert norm_sums_gpu.suits(map_) is expected


def norm_and_relu(x, scale, bias, together):
    if together:
        return group_norm(x, SIZE, scale, bias, 4, 1e-5, True)
    return zero_outside(relu(group_norm(x, SIZE, scale, bias, 4, 1e-5)), SIZE)


def gradients(x, dtype, together):
    scale, bias = noise(1, (32,), jnp.float32), noise(2, (32,), jnp.float32)
    weights = noise(3, x.shape, jnp.float32)

    def loss(*arguments):
        y = norm_and_relu(*arguments, together)
        assert y.dtype == dtype
        return (y * weights).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, scale, bias)


def test_norm_with_relu():
    """As one function or two: the same."""
    x = noise(0, (2, 16, 24, 32), jnp.float32)
    expected, ours = (gradients(x, jnp.float32, together) for together in (False, True))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < 1e-5
    assert_zeros_outside(x)


def assert_zeros_outside(x):
    y = group_norm(x, SIZE, jnp.ones(32), jnp.ones(32), 4, 1e-5, True)
    np.testing.assert_array_equal(y, zero_outside(y, SIZE))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_norm_with_relu_on_a_gpu(gpu, dtype):
    x = noise(0, (2, 16, 24, 32), dtype)
    exact = gradients(x.astype(jnp.float32), jnp.float32, together=False)
    ours = gradients(x, jnp.dtype(dtype), together=True)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        a = np.asarray(a, np.float32)
        assert relative_error(a, b) < (1e-2 if dtype == 'bfloat16' else 1e-5)
    assert_zeros_outside(x)


def lowered(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=('cuda',))


def test_gradients_alone_contain_triton():
    """A detector is exported, and then runs with whatever XLA there is."""
    x, vector = noise(0, (2, 16, 24, 32)), jnp.ones(32)

    def norm(x):
        return norm_and_relu(x, vector, vector, True)

    assert TRITON not in lowered(norm, x).as_text()
    gradient = lowered(jax.grad(lambda x: norm(x).astype(jnp.float32).sum()), x)
    assert gradient.as_text().count(TRITON) == 2


@pytest.mark.parametrize(
    ('features', 'dtype', 'groups', 'computed'),
    [
        (5, 'bfloat16', 1, 8),
        (8, 'bfloat16', 1, 8),
        (13, 'bfloat16', 1, 16),
        (5, 'float32', 1, 5),
        (6, 'bfloat16', 2, 6),
    ],
)
def test_convolutions_of_any_number_of_features(features, dtype, groups, computed):
    channels = 24 // groups
    x = noise(0, (2, 12, 16, 24), dtype)
    kernel = (0.05 * noise(1, (3, 3, channels, features), 'float32')).astype(dtype)

    def loss(x, kernel, convolve):
        y = convolve(x, kernel, 1).astype(jnp.float32)
        return jnp.sin(y).sum(), y

    both = [
        jax.value_and_grad(functools.partial(loss, convolve=way), (0, 1), has_aux=True)
        for way in (convolve_on_gpu, convolve)
    ]
    ours, expected = (jax.jit(way)(x, kernel) for way in both)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert a.shape == b.shape and relative_error(a, b) < 1e-2
    text = lowered(functools.partial(convolve_on_gpu, stride=1), x, kernel).as_text()
    name = {'bfloat16': 'bf16', 'float32': 'f32'}[dtype]
    assert re.search(rf'convolution.*3x3x{channels}x{computed}x{name}>', text)


@pytest.mark.parametrize('stride', [1, 2])
def test_relu_before_a_window(request, stride):
    """A GPU writes zeros next to the valid region alone; a 3x3 gives the same."""
    x, kernel = noise(0, (2, 14, 22, 8), 'float32'), noise(1, (3, 3, 8, 8), 'float32')
    size = jnp.array([[14, 22], [7, 15]])
    valid_out = inside(-(-size // stride), 14 // stride, 22 // stride)

    def loss(x, kernel):
        y = convolve_valid(relu_for_window(x, size), size, kernel, stride, True)
        return jnp.where(valid_out, jnp.sin(y), 0).sum()

    expected = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)
    request.getfixturevalue('gpu')
    ours = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < 1e-5
    y = relu_for_window(x, size)[1]
    assert not y[7, :15].any() and not y[:7, 15].any() and y[8:].any()


def test_maximum_by_pairs():
    """Bit by bit; of equal numbers the same one has the gradient."""
    x = jnp.round(2 * jnp.maximum(noise(0, (2, 12, 16, 8), jnp.float32), 0))
    dy = noise(1, (2, 6, 8, 8), jnp.float32)
    size = jnp.array([[12, 16], [7, 9]])

    def outputs(pool):
        y, gradient = jax.vjp(lambda x: max_pool(x, size, pool), x)
        return y, gradient(dy)[0]

    for a, b in zip(outputs(max_pool_by_pairs), outputs(None), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('sides', [(32, 64), (30, 62)])
def test_stem(request, sides):
    x, kernel = noise(0, (2, *sides, 3), jnp.float32), noise(1, (7, 7, 3, 8), 'float32')
    stored = tuple(noise(seed, (8,), jnp.float32) for seed in (2, 3, 4))
    size = jnp.array([sides, (17, 33)])
    expected = stem(x, size, kernel, stored)
    request.getfixturevalue('gpu')
    ours = stem(x, size, kernel, stored)
    for image, (rows, columns) in enumerate(-(-size // 4)):
        pair = ours[image, :rows, :columns], expected[image, :rows, :columns]
        assert relative_error(*pair) < 1e-5


GN = {'type': 'GN', 'num_groups': 4}
BATCH = {'frozen_stages': -1, 'norm_eval': False}


# Next to the functions for other accelerators, from which those for GPUs differ in
# what this file is about alone.
@pytest.mark.parametrize(
    'backbone',
    [
        pytest.param({}, id='basic'),
        pytest.param({'depth': 50}, id='bottleneck'),
        pytest.param({'depth': 50, 'style': 'caffe', **BATCH}, id='batch statistics'),
        pytest.param({'depth': 50, 'groups': 4, 'base_width': 8}, id='groups'),
        pytest.param(
            {'depth': 50, 'norm_cfg': GN, 'frozen_stages': 0}, id='group norm'
        ),
    ],
)
def test_model_on_a_gpu(request, monkeypatch, backbone):
    """Outputs and gradients of all parameters, on a canvas larger than the images."""
    model = small_model(backbone=backbone)
    variables = random_variables(model)
    images = noise(1, (2, 96, 128, 3), 'float32')
    sizes = jnp.array([[64, 96], [33, 70]])

    def loss(params):
        outputs, _ = model.apply(
            {**variables, 'params': params},
            images,
            sizes,
            train=True,
            mutable=['batch_stats'],
        )
        return sum(
            jnp.where(
                inside(ceil_divide(sizes, 2**level), *x.shape[1:3]), jnp.sin(x), 0
            ).mean()
            for levels in outputs
            for level, x in enumerate(levels, start=3)
        )

    request.getfixturevalue('gpu')
    ours = jax.jit(jax.value_and_grad(loss))(variables['params'])
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.accelerator)
    expected = jax.jit(jax.value_and_grad(loss))(variables['params'])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert relative_error(a, b) < 1e-4
