"""3x3 convolutions by fewer products equal the plain sum over the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import convolution_cpu, winograd
from tests.support.recipes import relative_error
from tests.support.small import (
    GOLDEN_CANVAS,
    golden_model,
    golden_variables,
    on_canvas,
)


def plain(x, kernel):
    """The sum over the kernel's 9 positions, in double precision."""
    _, height, width, _ = x.shape
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    return sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def plain_gradients(x, kernel, dy):
    """By the definition: each output passes its gradient on to what it has summed."""
    dx = plain(dy, kernel[::-1, ::-1].swapaxes(2, 3))
    _, height, width, _ = x.shape
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    dkernel = [
        np.einsum('bhwc,bhwd->cd', x[:, i : i + height, j : j + width], dy)
        for i in range(3)
        for j in range(3)
    ]
    return dx, np.stack(dkernel).reshape(kernel.shape)


def noise(*shape):
    values = np.random.default_rng(len(shape)).normal(0, 1, shape)
    return jnp.array(values, jnp.float32)


def test_by_hand():
    # One cell of 2: each output is 2 times the tap that lies over the cell.
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(2)
    kernel = jnp.arange(9, dtype=jnp.float32).reshape(3, 3, 1, 1)
    y = winograd.convolve(x, kernel)
    expected = [[16, 14, 12], [10, 8, 6], [4, 2, 0]]
    np.testing.assert_array_equal(y[0, ..., 0], expected)


@pytest.mark.parametrize('size', [(6, 8), (5, 7), (1, 1), (2, 3)])
def test_output_and_gradients(size):
    x, dy, kernel = noise(2, *size, 5), noise(2, *size, 3), noise(3, 3, 5, 3)
    assert relative_error(winograd.convolve(x, kernel), plain(x, kernel)) < 1e-6
    gradients = winograd.gradients(x, kernel, dy)
    for result, expected in zip(gradients, plain_gradients(x, kernel, dy), strict=True):
        assert relative_error(result, expected) < 1e-6


def test_rounding_errors_are_those_of_a_sum():
    x, kernel = noise(1, 16, 16, 64), noise(3, 3, 64, 64)
    expected = plain(x, kernel)
    scale = np.sqrt((expected**2).mean())
    error = np.sqrt(((winograd.convolve(x, kernel) - expected) ** 2).mean()) / scale
    assert error < 1e-6


def test_gradients_that_are_not_finite_stay_so():
    x, kernel = noise(1, 4, 4, 2), noise(3, 3, 2, 2)
    dy = noise(1, 4, 4, 2).at[0, 2, 2, 1].set(jnp.nan)
    assert all(np.isnan(g).any() for g in winograd.gradients(x, kernel, dy))


def test_only_convolutions_with_many_products_are_computed_so(monkeypatch):
    monkeypatch.setattr(convolution_cpu, '_FEWEST_PRODUCTS_FOR_WINOGRAD', 64**3)

    def products(height, channels, side=3, dtype=jnp.float32):
        x = jax.ShapeDtypeStruct((1, height, 8, channels), dtype)
        kernel = jax.ShapeDtypeStruct((side, side, channels, channels), dtype)
        program = jax.make_jaxpr(lambda x, k: convolution_cpu.convolve(x, k, stride=1))(
            x, kernel
        )
        return str(program).count('dot_general')

    assert products(8, 64) == 16
    assert products(7, 64) == 0  # fewer cells
    assert products(32, 32) == 0  # few channels
    assert products(8, 64, side=5) == 0
    assert products(8, 64, dtype=jnp.bfloat16) == 0


@pytest.mark.slow
def test_head_outputs_equal_mmdet(golden, monkeypatch):
    monkeypatch.setattr(convolution_cpu, '_FEWEST_PRODUCTS_FOR_WINOGRAD', 0)
    jax.clear_caches()
    data = golden('forward_a')
    inputs = on_canvas([data['image']], GOLDEN_CANVAS)
    program = jax.jit(golden_model().apply).lower(golden_variables(), *inputs)
    outputs = program.compile()(golden_variables(), *inputs)
    jax.clear_caches()
    for key, levels in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
        for level, ours in enumerate(levels):
            expected = data[f'{key}{level}']
            rows, columns, _ = expected.shape
            assert relative_error(ours[0, :rows, :columns], expected) < 2e-5
