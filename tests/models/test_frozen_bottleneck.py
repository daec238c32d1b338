"""Frozen bottlenecks as TPUs compute them, run on a CPU: they equal the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models import platforms
from atss_jax.models.frozen_bottleneck import Weights, frozen_bottleneck

PLANES, FEATURES = 4, 16
SHAPES = ((1, PLANES), (3, PLANES), (1, FEATURES))


def random_layer(rng, size, channels, features):
    def draw(low, high, *shape):
        return jnp.array(rng.uniform(low, high, shape), jnp.float32)

    vectors = draw(-1, 1, features), draw(0.5, 1.5, features), draw(-1, 1, features)
    return Weights(draw(-0.5, 0.5, size, size, channels, features), *vectors)


def block(channels, width, sizes):
    """Features, sizes, convolutions and shortcut of a block."""
    rng = np.random.default_rng(0)
    layers, inputs = [], channels
    for size, features in SHAPES:
        layers.append(random_layer(rng, size, inputs, features))
        inputs = features
    shortcut = None
    if channels != FEATURES:
        shortcut = random_layer(rng, 1, channels, FEATURES)
    x = jnp.array(rng.uniform(0, 1, (len(sizes), 6, width, channels)), jnp.float32)
    return x, jnp.array(sizes, jnp.int32), layers, shortcut


@pytest.fixture
def on_tpu(monkeypatch):
    """Programs for this CPU contain the functions for TPUs."""
    jax.clear_caches()
    monkeypatch.setattr(platforms, 'function_on_cpu', lambda x: x.tpu)
    yield
    jax.clear_caches()


# Sizes in the middle of a pair of columns, an odd canvas, an image of one column.
@pytest.mark.parametrize('channels', [PLANES, FEATURES])
@pytest.mark.parametrize('width', [8, 7])
def test_blocks_for_tpus_equal_the_plain_ones(channels, width, request):
    sizes = [(6, width), (4, 5), (6, 4), (3, 1)]
    arguments = block(channels, width, sizes)
    expected = np.asarray(frozen_bottleneck(*arguments))
    plain = jax.jit(frozen_bottleneck).lower(*arguments).as_text()
    request.getfixturevalue('on_tpu')
    result = np.asarray(frozen_bottleneck(*arguments))
    assert jax.jit(frozen_bottleneck).lower(*arguments).as_text() != plain
    for ours, theirs, (rows, columns) in zip(result, expected, sizes, strict=True):
        ours, theirs = ours[:rows, :columns], theirs[:rows, :columns]
        np.testing.assert_allclose(ours, theirs, atol=2e-6, rtol=1e-5)


def test_what_lies_outside_an_image_has_no_influence(on_tpu):
    for channels in (PLANES, FEATURES):
        x, size, *layers = block(channels, 8, [(4, 5)])
        noise = jnp.full_like(x, 100).at[:, :4, :5].set(x[:, :4, :5])
        result = frozen_bottleneck(noise, size, *layers)[:, :4, :5]
        expected = frozen_bottleneck(x, size, *layers)[:, :4, :5]
        np.testing.assert_array_equal(result, expected)
