"""The algorithms for GPUs and TPUs, run on a CPU: they compute the same as the CPU's.

There the stem's convolution is one over blocks of cells, norms by stored statistics go
into the kernels, and a 1x1 is a convolution. The whole stem has blocks of its own on
TPUs. Which program contains these is tested in `test_platforms.py`.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from atss_jax.models import norms, platforms
from atss_jax.models.convolution import convolve
from atss_jax.models.convolution_accelerator import add_to_channels
from atss_jax.models.cost import cost
from atss_jax.models.layers import relu
from atss_jax.models.stem import stem, to_blocks
from tests.support.recipes import relative_error
from tests.support.small import (
    BN,
    GOLDEN_CANVAS,
    golden_model,
    golden_variables,
    on_canvas,
    random_variables,
    small_model,
)

SIZES = jnp.array([[64, 96], [40, 70]], jnp.int32)


@pytest.fixture
def accelerator(monkeypatch):
    """Programs for this CPU contain the accelerators' functions.

    JAX forgets what it lowered before, and afterwards what it lowered within.
    """
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.accelerator)
    yield
    jax.clear_caches()


@pytest.fixture
def tpu(monkeypatch):
    """Programs for this CPU contain the functions for TPUs."""
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.tpu)
    yield
    jax.clear_caches()


def noise(seed, shape):
    return jnp.array(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def program_of(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text()


# The hardest by default: on a canvas much larger than the image.
@pytest.mark.parametrize(
    ('name', 'canvas', 'platform'),
    [
        ('a', 'large', 'accelerator'),
        pytest.param('a', 'tight', 'accelerator', marks=pytest.mark.slow),
        pytest.param('b', 'large', 'accelerator', marks=pytest.mark.slow),
        pytest.param('b', 'tight', 'accelerator', marks=pytest.mark.slow),
        pytest.param('a', 'large', 'tpu', marks=pytest.mark.slow),
    ],
)
def test_head_outputs_equal_mmdet(request, golden, name, canvas, platform):
    request.getfixturevalue(platform)
    data = golden(f'forward_{name}')
    height, width = (-(-side // 32) * 32 for side in data['image'].shape[:2])
    inputs = on_canvas(
        [data['image']], (height, width) if canvas == 'tight' else GOLDEN_CANVAS
    )
    outputs = jax.jit(golden_model().apply)(golden_variables(), *inputs)
    for key, levels in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
        for level, ours in enumerate(levels):
            expected = data[f'{key}{level}']
            rows, columns, _ = expected.shape
            assert relative_error(ours[0, :rows, :columns], expected) < 2e-5


def loss_and_gradient(backbone):
    model = small_model(backbone=backbone)
    variables = random_variables(model)
    images = noise(1, (2, 96, 128, 3))

    def loss(params):
        outputs = model.apply({**variables, 'params': params}, images, SIZES)
        return sum(jnp.sin(level).mean() for levels in outputs for level in levels)

    return jax.jit(jax.value_and_grad(loss))(variables['params'])


# A ResNeXt has all kinds of convolutions: the stem's, 1x1, 3x3 and grouped ones.
@pytest.mark.parametrize(
    'backbone',
    [
        pytest.param({'norm_cfg': BN}, id='basic', marks=pytest.mark.slow),
        pytest.param({'depth': 50}, id='bottleneck', marks=pytest.mark.slow),
        pytest.param(
            {'depth': 50, 'style': 'caffe'}, id='caffe', marks=pytest.mark.slow
        ),
        pytest.param({'depth': 50, 'groups': 4, 'base_width': 8}, id='resnext'),
    ],
)
def test_gradients_are_those_of_the_cpu(backbone, request):
    value, gradients = jax.device_get(loss_and_gradient(backbone))
    request.getfixturevalue('accelerator')
    other_value, other_gradients = jax.device_get(loss_and_gradient(backbone))
    assert other_value == pytest.approx(value, rel=1e-5)
    other_gradients = flatten_dict(other_gradients)
    for path, gradient in flatten_dict(gradients).items():
        assert relative_error(other_gradients[path], gradient) < 1e-4, path


def test_the_stem_is_a_convolution_over_blocks(request):
    x, kernel = noise(0, (2, 32, 64, 3)), noise(1, (7, 7, 3, 5))
    expected = convolve(x, kernel, 2)
    request.getfixturevalue('accelerator')
    assert '4x4x12x5x' in program_of(lambda x: convolve(x, kernel, 2), x)
    np.testing.assert_allclose(convolve(x, kernel, 2), expected, atol=1e-4)


def whole_stem(images, kernel, stored):
    """Of two images, one of which ends within a block of 4x4 pixels."""
    return stem(images, jnp.array([[32, 64], [19, 45]], jnp.int32), kernel, stored)


@pytest.mark.parametrize(
    ('channels', 'groups', 'together'),
    [
        pytest.param(256, 32, 128, id='16 of 8 channels'),
        pytest.param(64, 16, 64, id='all'),
        pytest.param(192, 3, 64, id='2 of 3 would leave one'),
        pytest.param(260, 2, 130, id='too many channels'),
    ],
)
@pytest.mark.parametrize('stride', [1, 2])
def test_groups_of_few_channels_are_computed_together(
    request, channels, groups, together, stride
):
    x = noise(0, (1, 6, 6, channels))
    kernel = noise(1, (3, 3, channels // groups, 2 * groups)) / channels**0.5

    def loss(x, kernel):
        return jnp.sin(convolve(x, kernel, stride)).sum()

    expected = convolve(x, kernel, stride), jax.grad(loss, (0, 1))(x, kernel)
    request.getfixturevalue('tpu')
    program = program_of(lambda *z: convolve(*z, stride), x, kernel)
    assert f'x{channels}xf32>, tensor<3x3x{together}x' in program
    results = convolve(x, kernel, stride), jax.grad(loss, (0, 1))(x, kernel)
    for ours, reference in zip(*map(jax.tree.leaves, (results, expected)), strict=True):
        assert relative_error(ours, reference) < 1e-5


STEM_ARGUMENTS = (
    noise(0, (2, 32, 64, 3)),
    noise(1, (7, 7, 3, 8)) / 12,
    tuple(noise(seed, 8) for seed in (2, 3, 4)),
)


def test_the_whole_stem_over_blocks(request):
    gradient = jax.grad(lambda *x: jnp.sin(whole_stem(*x)).sum(), (0, 1, 2))
    expected = whole_stem(*STEM_ARGUMENTS), gradient(*STEM_ARGUMENTS)
    request.getfixturevalue('tpu')
    assert '3x3x48x32x' in program_of(whole_stem, *STEM_ARGUMENTS)
    results = whole_stem(*STEM_ARGUMENTS), gradient(*STEM_ARGUMENTS)
    for ours, reference in zip(*map(jax.tree.leaves, (results, expected)), strict=True):
        assert relative_error(ours, reference) < 1e-5


def test_the_whole_stem_over_blocks_in_bfloat16(tpu):
    """Pixels are moved, never changed; sums are taken in float32."""
    images = STEM_ARGUMENTS[0].astype(jnp.bfloat16)
    pixels = images[:, :4, 4:8].reshape(2, 48)
    np.testing.assert_array_equal(to_blocks(images)[:, 0, 1], pixels)
    y = whole_stem(images, *STEM_ARGUMENTS[1:])
    reference = whole_stem(images.astype(jnp.float32), *STEM_ARGUMENTS[1:])
    assert y.dtype == jnp.bfloat16
    assert relative_error(y.astype(jnp.float32), reference) < 0.02


def test_a_canvas_without_whole_blocks(tpu):
    _, kernel, stored = STEM_ARGUMENTS
    y = stem(noise(0, (1, 30, 62, 3)), jnp.array([[30, 62]]), kernel, stored)
    assert y.shape == (1, 8, 16, 8)


@pytest.mark.parametrize('platform', ['accelerator', 'tpu'])
def test_the_cost_is_that_of_the_model_as_written(request, platform):
    model, canvases = small_model(), [(64, 96)]
    expected = cost(model, canvases)
    request.getfixturevalue(platform)
    assert cost(model, canvases) == expected


def test_the_norm_goes_into_the_kernel(accelerator):
    """No map is multiplied: what remains of a norm is a summand."""
    model = small_model(head={'stacked_convs': 0})
    variables = random_variables(model)
    images = jnp.zeros((2, 64, 64, 3))

    def features(images):
        own = {kind: tree['backbone'] for kind, tree in variables.items()}
        return model.backbone.apply(own, images, SIZES)

    lines = program_of(features, images).splitlines()
    products = [line for line in lines if 'stablehlo.multiply' in line]
    assert not [line for line in products if re.search(r'tensor<2x.*xf32>', line)]
    assert [line for line in products if 'tensor<3x3x' in line]


def test_relu():
    x = jnp.array([-2.0, -0.0, 0.0, 3.0, jnp.nan, jnp.inf])
    np.testing.assert_array_equal(relu(x), [0, 0, 0, 3, jnp.nan, jnp.inf])
    gradient = jax.vjp(relu, x)[1](jnp.full(6, 7.0))[0]
    np.testing.assert_array_equal(gradient, [0, 0, 0, 7, 7, 7])


def test_sums_of_bfloat16_are_taken_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    x, summand = jnp.zeros((1, 64, 64, 1), jnp.bfloat16), jnp.zeros(1)
    y, gradient = jax.vjp(add_to_channels, x, summand)
    dx, dsummand = gradient(jnp.ones_like(y))
    assert y.dtype == dx.dtype == jnp.bfloat16 and dsummand.dtype == jnp.float32
    assert dsummand == 64 * 64


def test_moments_of_bfloat16_in_one_pass():
    """A mean of twenty times the deviation: bfloat16 itself has steps of an eighth."""
    x = (2 * noise(0, (1, 32, 32, 8)) + 41).astype(jnp.bfloat16)
    mean, var = norms.moments_at_once(x, jnp.array([[32, 32]]), 1)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(), rtol=1e-3)
