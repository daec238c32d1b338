"""GELU, layer norm and dropout, against their formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from atss_jax.models.linear import Linear, drop_path, dropout, fold, gelu
from atss_jax.models.norms import layer_norm


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def test_gelu_is_exact():
    x = jnp.linspace(-5, 5, 41)
    expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(gelu(x), expected, atol=1e-6)
    own = jax.grad(lambda x: jax.nn.gelu(x, approximate=False).sum())
    ours = jax.grad(lambda x: gelu(x).sum())
    np.testing.assert_allclose(ours(x), own(x), atol=1e-6)


def test_layer_norm_and_its_gradient():
    x, scale, bias, up = (
        noise(0, 3, 5, 16) + 7,
        noise(1, 16),
        noise(2, 16),
        noise(3, 16),
    )

    def plain(x, scale, bias):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    def ours(x, scale, bias):
        return layer_norm(x, scale, bias, 1e-5)

    arguments = tuple(map(jnp.asarray, (x, scale, bias)))
    np.testing.assert_allclose(ours(*arguments), plain(*arguments), atol=1e-5)
    for one, other in zip(
        *(
            jax.grad(lambda *a, f=f: (f(*a) ** 2 * up).sum(), (0, 1, 2))(*arguments)
            for f in (ours, plain)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * abs(other).max())


def test_bfloat16_in_and_out_float32_in_between():
    """Large means: in bfloat16 the variance would be lost."""
    x = jnp.asarray(noise(0, 4, 64) + 30, jnp.bfloat16)
    ours = layer_norm(x, jnp.ones(64), jnp.zeros(64), 1e-5)
    exact = layer_norm(x.astype(jnp.float32), jnp.ones(64), jnp.zeros(64), 1e-5)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), exact, atol=0.02)
    assert gelu(x).dtype == jnp.bfloat16


def test_linear_is_a_product_and_a_bias():
    x = jnp.asarray(noise(0, 2, 3, 4))
    layer = Linear(5)
    variables = layer.init(jax.random.key(0), x)
    kernel = np.asarray(variables['params']['kernel'])
    assert kernel.shape == (4, 5)
    np.testing.assert_allclose(layer.apply(variables, x), x @ kernel, atol=1e-6)
    assert 'bias' not in Linear(5, use_bias=False).init(jax.random.key(0), x)['params']


def test_dropout_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.ones((2, 20, 30, 40))
    ours = np.asarray(dropout(x, 0.25, keys))
    values = np.unique(ours)
    np.testing.assert_allclose(values, [0, 4 / 3], rtol=1e-6)
    assert abs(ours.mean() - 1) < 0.02
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, keys) is x


def test_drop_path_drops_whole_images():
    keys = jax.random.split(jax.random.key(1), 400)
    ours = np.asarray(drop_path(jnp.ones((400, 2, 3)), 0.4, keys))
    assert (ours == ours[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(ours), [0, 1 / 0.6], rtol=1e-6)
    assert abs(ours.mean() - 1) < 0.15
    other = drop_path(jnp.ones((400, 2, 3)), 0.4, fold(keys, 1))
    assert 100 < (np.asarray(other) != ours).any((1, 2)).sum() < 300
