"""The towers over levels side by side in one map equal those over each level alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import level_map, norms, platforms
from atss_jax.models.platforms import by_platform_keeping
from atss_jax.models.towers import LayerWeights, Tower, apply_towers
from tests.support.recipes import relative_error

LANDSCAPE = ((50, 84), (25, 42), (13, 21), (7, 11))
PORTRAIT = tuple((width, height) for height, width in LANDSCAPE)
TINY = ((4, 6), (2, 3), (1, 2), (1, 1))
SMALL = ((7, 10), (4, 5), (2, 3))
VALID = [[(7, 10), (4, 6)], [(4, 5), (2, 3)], [(2, 3), (1, 2)]]


@pytest.fixture
def accelerator(monkeypatch):
    """Programs for this CPU contain the accelerators' functions."""
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.accelerator)
    yield
    jax.clear_caches()


def noise(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(1, 2, shape), jnp.float32)


# Where levels lie --------------------------------------------------------------------


@pytest.mark.parametrize('grids', [LANDSCAPE, PORTRAIT, TINY, SMALL, SMALL[:1]])
def test_levels_do_not_touch(grids):
    owners = level_map.layout_of(grids).owners()
    for level, (height, width) in enumerate(grids):
        rows, columns = np.nonzero(owners == level)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (height, width)
        assert len(rows) == height * width
    # Neighbors, diagonal ones too, are of the same level or of none.
    padded = np.pad(owners, 1, constant_values=-1)
    height, width = owners.shape
    for row, column in itertools.product(range(3), range(3)):
        neighbor = padded[row : row + height, column : column + width]
        assert np.all((neighbor == owners) | (neighbor < 0) | (owners < 0))


def test_few_cells_are_added():
    for grids in (LANDSCAPE, PORTRAIT):
        height, width = level_map.layout_of(grids).shape
        assert height * width < 1.14 * sum(h * w for h, w in grids)


def test_levels_come_back():
    layout = level_map.layout_of(SMALL)
    levels = [noise(i, 2, *grid, 3) for i, grid in enumerate(SMALL)]
    joined = layout.join(levels)
    assert np.all(np.asarray(joined)[:, layout.owners() < 0] == 0)
    for level, back in zip(levels, layout.split(joined), strict=True):
        np.testing.assert_array_equal(back, level)


# Group norm --------------------------------------------------------------------------


def test_group_norm_of_a_map_is_that_of_each_level():
    layout = level_map.layout_of(SMALL)
    sizes = [jnp.array(size) for size in VALID]
    levels = [noise(i, 2, *grid, 8) for i, grid in enumerate(SMALL)]
    scale, bias = noise(8, 8), noise(9, 8)

    def of_map(levels, scale, bias):
        x = layout.join(levels)
        x = level_map.group_norm(x, sizes, scale, bias, layout, 4, 1e-5)
        return layout.split(x)

    def of_levels(levels, scale, bias):
        return tuple(
            norms.group_norm(x, size, scale, bias, 4, 1e-5)
            for x, size in zip(levels, sizes, strict=True)
        )

    results = []
    for function in (of_map, of_levels):
        y, gradient = jax.vjp(function, levels, scale, bias)
        results.append((y, gradient(tuple(jnp.sin(level) for level in y))))
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-5),
        *results,
    )


def test_moments_of_bfloat16_in_one_pass():
    """A mean of twenty times the deviation: bfloat16 itself has steps of an eighth."""
    x = (noise(0, 1, 32, 32, 8) + 40).astype(jnp.bfloat16)
    mean, var = norms.moments_at_once(x, jnp.array([[32, 32]]), 1)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(), rtol=1e-3)


# Towers ------------------------------------------------------------------------------


def towers_of(features):
    def layer(seed, channels):
        kernel = 0.1 * noise(seed, 3, 3, channels, 8)
        return LayerWeights(kernel, noise(seed + 1, 8), noise(seed + 2, 8))

    return {
        f'tower_{seed}': Tower(
            [layer(seed, features), layer(seed + 3, 8)], noise(seed, 3, 3, 8, 5)
        )
        for seed in (10, 20)
    }


def loss_and_gradients(features, sizes, towers):
    """Of the valid cells."""

    def loss(features, towers):
        total = 0.0
        for levels in apply_towers(features, sizes, towers, 4).values():
            for x, size in zip(levels, sizes, strict=True):
                valid = level_map.inside(size, *x.shape[1:3])
                total += (jnp.where(valid, x, 0) ** 2).mean()
        return total

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(features, towers)


def test_towers_side_by_side_equal_those_of_each_level(request):
    grids = ((14, 20), *SMALL)
    sizes = [jnp.array(size) for size in ([(14, 20), (8, 12)], *VALID)]
    features = tuple(noise(i, 2, *grid, 6) for i, grid in enumerate(grids))
    expected = loss_and_gradients(features, sizes, towers_of(6))
    request.getfixturevalue('accelerator')
    result = loss_and_gradients(features, sizes, towers_of(6))
    for ours, theirs in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
        assert relative_error(ours, theirs) < 1e-5
    program = jax.jit(lambda x: apply_towers(x, sizes, towers_of(6), 4)).lower(features)
    lines = program.as_text().splitlines()
    convolutions = [line for line in lines if 'stablehlo.convolution' in line]
    height, width = level_map.layout_of(SMALL).shape
    # Two layers and an output of each tower; those of the largest level are shared.
    assert len([x for x in convolutions if f'<2x{height}x{width}x' in x]) == 6
    assert not [x for x in convolutions if '<2x4x5x' in x or '<2x2x3x' in x]

    # What lies outside of the images has no influence.
    other = [
        jnp.where(level_map.inside(size, *x.shape[1:3]), x, 100)
        for x, size in zip(features, sizes, strict=True)
    ]
    again = loss_and_gradients(tuple(other), sizes, towers_of(6))
    for ours, theirs in zip(*map(jax.tree.leaves, (again, result)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Functions that keep what their gradients need ---------------------------------------


def squares(x, y, count, power):
    return jnp.tanh(x @ y) ** power * count, jnp.sin(x)


def test_gradients_of_large_functions(request):
    x, y, count = noise(0, 3, 4), noise(1, 4, 2), jnp.array(3)
    chosen = functools.partial(
        by_platform_keeping,
        cpu=functools.partial(squares, power=2),
        accelerator=functools.partial(squares, power=3),
    )

    def gradients(function):
        def loss(x, y):
            a, b = function(x, y, count)
            return a.sum() * b.sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, y)

    def compare(power):
        plain = functools.partial(squares, power=power)
        for ours, theirs in zip(
            *map(jax.tree.leaves, (gradients(chosen), gradients(plain))), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)

    compare(2)
    request.getfixturevalue('accelerator')
    compare(3)
