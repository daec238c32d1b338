"""The deformable convolution: by hand, against plain loops, and its gradients.

Each for the algorithm of CPUs and GPUs, and for that of TPUs, which runs on a CPU here.
"""

import functools
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from atss_jax.models import deform_conv_tpu, platforms
from atss_jax.models.convolution import convolve
from atss_jax.models.deform_conv import modulated_deform_conv
from atss_jax.models.layers import ConvModule, DeformConv
from atss_jax.models.region import zero_outside
from tests.support.recipes import relative_error


@pytest.fixture(autouse=True, params=['gather', 'tpu'])
def algorithm(request, monkeypatch):
    """What programs for this CPU contain. JAX forgets what it lowered for others."""
    if request.param == 'gather':
        yield
        return
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.tpu)
    # The 48 positions here are five chunks, the last of which is filled with zeros.
    monkeypatch.setattr(deform_conv_tpu, '_CHUNK', 640)
    # The four channels are two parts.
    monkeypatch.setattr(deform_conv_tpu, '_TABLE', 2000)
    yield
    jax.clear_caches()


deform_conv = jax.jit(modulated_deform_conv, static_argnames='stride')
SIZES = np.array([[5, 7], [4, 3]], np.int32)
WHOLE = np.array([[6, 8], [6, 8]], np.int32)


def case(seed, groups=1, deform_groups=1, stride=1, spread=2.0, canvas=(6, 8)):
    """Noise for everything, on two images that are smaller than the canvas."""
    rng = np.random.default_rng(seed)
    height, width = (-(-side // stride) for side in canvas)

    def noise(*shape):
        return rng.normal(0, 1, shape).astype(np.float32)

    return {
        'x': noise(2, *canvas, 4),
        'offset': spread * noise(2, height, width, 18 * deform_groups),
        'mask': rng.uniform(0, 1, (2, height, width, 9 * deform_groups)).astype('f4'),
        'kernel': noise(3, 3, 4 // groups, 6),
        'size': SIZES,
        'stride': stride,
    }


def oracle(x, offset, mask, kernel, size, stride=1):
    """One loop for each index of the definition, in float64; sums over four cells."""
    x, offset, mask, kernel = (np.asarray(z) for z in (x, offset, mask, kernel))
    taps = [(i, j) for i in range(3) for j in range(3)]
    batch, height, width, channels = mask.shape
    deform_groups = channels // 9
    inputs, outputs = kernel.shape[2:]
    per_group = outputs // (x.shape[-1] // inputs)
    y = np.zeros((batch, height, width, outputs))

    def cell(b, row, column, c):
        ok = 0 <= row < size[b][0] and 0 <= column < size[b][1]
        return float(x[b, row, column, c]) if ok else 0.0

    for b, r, s, o, i in np.ndindex(*y.shape, inputs):
        c = o // per_group * inputs + i
        group = c // (x.shape[-1] // deform_groups)
        for t, (down, across) in enumerate(taps):
            dy, dx = offset[b, r, s, 18 * group + 2 * t : 18 * group + 2 * t + 2]
            row = r * stride + down - 1 + float(dy)
            column = s * stride + across - 1 + float(dx)
            top, left = math.floor(row), math.floor(column)
            value = sum(
                (1 - abs(row - p)) * (1 - abs(column - q)) * cell(b, p, q, c)
                for p in (top, top + 1)
                for q in (left, left + 1)
            )
            weight = kernel[down, across, i, o]
            y[b, r, s, o] += value * mask[b, r, s, 9 * group + t] * weight
    return y


def test_one_sample_by_hand():
    """The middle tap alone, shifted by a quarter of a cell down and half one right."""
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)  # 0 1 2 / 3 4 5
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(2)
    offset = jnp.zeros((1, 2, 3, 18)).at[..., 8].set(0.25).at[..., 9].set(0.5)
    mask = jnp.full((1, 2, 3, 9), 0.5)
    y = deform_conv(x, offset, mask, kernel, jnp.array([[2, 3]]))
    # Rows: 3/4 of one and 1/4 of the next; the last of a row is half outside.
    expected = [[0.5 + 0.75, 1.5 + 0.75, (2 + 0.75) / 2]]
    expected += [[0.75 * 3.5, 0.75 * 4.5, 0.75 * 5 / 2]]
    np.testing.assert_allclose(y[0, ..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    'fields',
    [
        {},
        {'stride': 2},
        {'groups': 2},
        {'deform_groups': 2},
        {'groups': 2, 'deform_groups': 4, 'stride': 2},
        {'spread': 100.0},
        {'spread': 0.0},
    ],
    ids=str,
)
def test_equals_plain_loops(fields):
    arguments = case(0, **fields)
    assert relative_error(deform_conv(**arguments), oracle(**arguments)) < 1e-5


def test_on_cell_borders():
    """Whole and half offsets: positions on cells, and just beyond the last ones."""
    arguments = case(1)
    arguments['offset'] = np.round(2 * arguments['offset']) / 2
    assert relative_error(deform_conv(**arguments), oracle(**arguments)) < 1e-5
    x, offset = jnp.ones((1, 3, 3, 1)), np.zeros((1, 3, 3, 18), np.float32)
    kernel, mask = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1), jnp.ones((1, 3, 3, 9))
    for dy, expected in [(-1, [0, 1, 1]), (-0.5, [0.5, 1, 1]), (2.5, [0.5, 0, 0])]:
        offset[..., 8] = dy
        y = deform_conv(x, offset, mask, kernel, jnp.array([[3, 3]]))
        np.testing.assert_allclose(y[0, :, 1, 0], expected)


@pytest.mark.parametrize('far', [-1e30, -40.0, 40.0, 1e30])
def test_far_outside_is_nothing_and_has_no_gradient(far):
    arguments = case(2, spread=0)
    arguments['offset'] = arguments['offset'] + np.float32(far)

    def total(offset):
        return (deform_conv(**{**arguments, 'offset': offset}) ** 2).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(arguments['offset'])
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('stride', [1, 2])
def test_without_offsets_it_is_the_ordinary_convolution(stride, groups):
    arguments = case(3, spread=0, stride=stride, groups=groups)
    arguments['mask'] = np.ones_like(arguments['mask'])
    arguments['size'] = WHOLE
    x, kernel = (jnp.asarray(arguments[name]) for name in ('x', 'kernel'))
    expected = convolve(x, kernel, stride)
    assert relative_error(deform_conv(**arguments), expected) < 1e-5


@pytest.mark.parametrize('name', ['x', 'offset', 'mask', 'kernel'])
def test_gradients_equal_finite_differences(name):
    with jax.enable_x64(True):
        arguments = {
            key: value.astype(np.float64) if np.ndim(value) == 4 else value
            for key, value in case(4, groups=2, deform_groups=2, stride=2).items()
        }
        rng = np.random.default_rng(5)
        weight = rng.normal(0, 1, (2, 3, 4, 6))
        step = 1e-3

        @jax.jit
        def total(value):
            return (deform_conv(**{**arguments, name: value}) * weight).sum()

        at = arguments[name]
        gradient = np.asarray(jax.jit(jax.grad(total))(at))
        # Linear between two cells, and so exact, but not across one.
        smooth = np.abs(at - np.round(at)) > 2 * step
        places = [p for p in np.ndindex(at.shape) if name != 'offset' or smooth[p]]
        for place in [places[k] for k in rng.choice(len(places), 12, replace=False)]:
            moved = [np.array(at), np.array(at)]
            moved[0][place] += step
            moved[1][place] -= step
            slope = (total(moved[0]) - total(moved[1])) / (2 * step)
            assert gradient[place] == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


def test_the_canvas_does_not_matter():
    """Neither its size nor what stands outside the valid region."""
    arguments = case(6)
    plain = deform_conv(**arguments)
    room = [(0, 0), (0, 3), (0, 5), (0, 0)]
    larger = {
        name: np.pad(arguments[name], room, constant_values=9)
        for name in ('x', 'offset', 'mask')
    }
    for row, (height, width) in enumerate(SIZES):
        larger['x'][row, height:] = larger['x'][row, :, width:] = np.nan
    padded = deform_conv(**{**arguments, **larger})
    for row, (height, width) in enumerate(SIZES):
        part = np.s_[row, :height, :width]
        np.testing.assert_allclose(padded[part], plain[part], rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_positions_exact():
    arguments = case(7)
    half = {**arguments, 'x': jnp.asarray(arguments['x'], jnp.bfloat16)}
    y = deform_conv(**half)
    assert y.dtype == jnp.bfloat16
    assert relative_error(y.astype(jnp.float32), oracle(**arguments)) < 0.02


# The layer ---------------------------------------------------------------------------


def test_the_layer_starts_as_half_an_ordinary_convolution():
    """Offsets 0, masks sigmoid(0); the kernel as mmcv draws it."""
    x = jnp.asarray(case(8)['x'])
    layer, size = DeformConv(6, groups=2), jnp.asarray(WHOLE)
    variables = layer.init(jax.random.key(0), x, size)
    kernel = variables['params']['kernel']
    assert kernel.shape == (3, 3, 2, 6)
    limit = 1 / np.sqrt(4 * 9)
    assert 0.8 * limit < np.abs(kernel).max() <= limit
    expected = convolve(x, kernel, 1) / 2
    assert relative_error(layer.apply(variables, x, size), expected) < 1e-5


def test_offsets_come_before_masks():
    """27 channels of `conv_offset`: 9 pairs (dy, dx), then 9 masks."""
    x, size = jnp.asarray(case(9)['x']), jnp.asarray(SIZES)
    layer = DeformConv(6, offset_init=jax.nn.initializers.normal(0.1))
    variables = layer.init(jax.random.key(1), x, size)
    params = variables['params']
    valid = zero_outside(x, size)
    where = convolve(valid, params['conv_offset']['kernel'], 1)
    where = np.asarray(where + params['conv_offset']['bias'])
    mask = 1 / (1 + np.exp(-where[..., 18:]))
    expected = oracle(x, where[..., :18], mask, params['kernel'], SIZES)
    assert relative_error(layer.apply(variables, x, size), expected) < 1e-5


def test_a_conv_module_initializes_offsets_as_mmdets_head_does():
    norm_cfg = {'type': 'GN', 'num_groups': 2, 'requires_grad': True}
    normal = jax.nn.initializers.normal(0.01)
    module = ConvModule(6, norm_cfg=norm_cfg, kernel_init=normal, deformable=True)
    x = jnp.asarray(case(0)['x'])
    params = module.init(jax.random.key(0), x, jnp.asarray(SIZES))['params']
    assert set(params) == {'conv', 'gn'}
    offset = params['conv']['conv_offset']
    assert offset['kernel'].shape == (3, 3, 4, 27)
    assert offset['kernel'].std() == pytest.approx(0.01, rel=0.1)
    assert not offset['bias'].any()


# Programs for other platforms --------------------------------------------------------


def test_exported_for_every_platform_and_any_canvas(monkeypatch):
    # The shape checks of the tests do not know symbolic sizes.
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
    arguments = case(0)
    del arguments['stride']
    height, width = jax.export.symbolic_shape('h, w')
    shapes = {
        name: jax.ShapeDtypeStruct(
            value.shape
            if name in ('kernel', 'size')
            else (2, height, width, value.shape[-1]),
            value.dtype,
        )
        for name, value in arguments.items()
    }
    platforms = ('cpu', 'cuda', 'tpu')
    exported = jax.export.export(jax.jit(modulated_deform_conv), platforms=platforms)
    program = exported(**shapes)
    assert relative_error(program.call(**arguments), oracle(**arguments)) < 1e-5


# Memory ------------------------------------------------------------------------------


@pytest.mark.parametrize('algorithm', ['gather'], indirect=True)
def test_memory_is_that_of_one_tap():
    """In features; the four corners of all nine taps would be 36 alone."""
    shape = (1, 64, 64, 64)
    x, size = jnp.zeros(shape), jnp.array([[64, 64]])
    arguments = (
        x,
        jnp.zeros((*shape[:3], 18)),
        jnp.zeros((*shape[:3], 9)),
        jnp.zeros((3, 3, 64, 64)),
    )

    def loss(x, offset, mask, kernel):
        return (modulated_deform_conv(x, offset, mask, kernel, size) ** 2).sum()

    def held(function):
        compiled = jax.jit(function).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes / x.nbytes

    forward = functools.partial(modulated_deform_conv, size=size)
    assert held(forward) < 6
    assert held(jax.grad(loss, argnums=(0, 1, 2, 3))) < 20
