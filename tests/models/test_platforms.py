"""Programs contain the algorithms of the platform that they are lowered for.

Whatever machine traces them: JAX is also told that it is on another one.
"""

import re

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxlib.mlir.passmanager import PassManager

from atss_jax.config import build_experiment
from atss_jax.inference import export
from atss_jax.models.platforms import by_platform
from atss_jax.training.state import init_variables
from atss_jax.training.trained_model import TrainedModel
from tests.conftest import ROOT
from tests.support.small import random_variables, small_model
from tests.support.small_run import small_config

PLATFORMS = ('cpu', 'cuda', 'tpu')


@pytest.fixture(params=['cpu', 'gpu', 'tpu'])
def machine(request, monkeypatch):
    """The machine that traces, as JAX reports it."""
    jax.clear_caches()
    monkeypatch.setattr(jax, 'default_backend', lambda: request.param)
    yield
    jax.clear_caches()


def operations(program):
    """Which algorithms a StableHLO text contains."""
    convolutions = re.findall(r'stablehlo.convolution.*', program)
    products = re.findall(r'stablehlo.dot_general.*', program)
    # Except for those that separate the columns of the stem's blocks.
    products = [x for x in products if 'contracting_dims = [0] x [4]' not in x]
    return {
        'blocks of 2x2': any('x12xf32>, tensor<4x4x12x' in x for x in convolutions),
        'blocks of 4x4': any('x48xf32>, tensor<3x3x48x' in x for x in convolutions),
        '1x1 convolutions': any('xf32>, tensor<1x1x' in line for line in convolutions),
        'products': bool(products),
        'gathered windows': 'stablehlo.gather' in program,
    }


EXPECTED = {
    'cpu': {
        'blocks of 2x2': False,
        'blocks of 4x4': False,
        '1x1 convolutions': False,
        'products': True,
        'gathered windows': True,
    },
    'cuda': {
        'blocks of 2x2': True,
        'blocks of 4x4': False,
        '1x1 convolutions': True,
        'products': False,
        'gathered windows': False,
    },
    'tpu': {
        'blocks of 2x2': False,
        'blocks of 4x4': True,
        '1x1 convolutions': True,
        'products': False,
        'gathered windows': False,
    },
}


def part_of(exported, platform, *arguments):
    """What an exported program contains for one of its platforms, as StableHLO."""
    traced = jax.jit(exported.call).trace(*arguments)
    module = traced.lower(lowering_platforms=(platform,)).compiler_ir()
    with module.context:
        # Twice: branches can be chosen only after the first calls are resolved.
        passes = 'inline,sccp,canonicalize,' * 2 + 'symbol-dce'
        PassManager.parse(f'builtin.module({passes})').run(module.operation)
    program = str(module)
    assert 'stablehlo.case' not in program
    return program


def forward(images, sizes):
    model = small_model()
    outputs = model.apply(random_variables(model), images, sizes)
    return tuple(outputs)


FORWARD_ARGUMENTS = (
    jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 2), jnp.int32),
)


@pytest.mark.parametrize('platform', PLATFORMS)
def test_forward_for_one_platform(machine, platform):
    lowered = jax.jit(forward).trace(*FORWARD_ARGUMENTS)
    program = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert operations(program) == EXPECTED[platform]


def test_forward_for_all_platforms(machine):
    exported = jax.export.export(jax.jit(forward), platforms=PLATFORMS)
    exported = exported(*FORWARD_ARGUMENTS)
    for platform in PLATFORMS:
        program = part_of(exported, platform, *FORWARD_ARGUMENTS)
        assert operations(program) == EXPECTED[platform]


def test_an_exported_detector(machine, tmp_path, monkeypatch):
    """Sizes are symbolic: no map is known to be small enough for gathered windows."""
    # The shape checks of the tests do not know symbolic sizes.
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
    experiment = build_experiment(small_config(tmp_path))
    variables = init_variables(experiment.model, 0)
    path = tmp_path / 'model.stablehlo'
    export.write(path, TrainedModel(experiment, variables, ('a', 'b', 'c')), PLATFORMS)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == PLATFORMS
    batch = {
        'image': jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8),
        'image_size': jax.ShapeDtypeStruct((1, 2), jnp.int32),
        'scale': jax.ShapeDtypeStruct((1, 2), jnp.float32),
    }
    for platform in PLATFORMS:
        contained = operations(part_of(exported, platform, batch))
        for name in ('blocks of 2x2', 'blocks of 4x4', '1x1 convolutions'):
            assert contained[name] == EXPECTED[platform][name], (platform, name)
        assert contained['products'] or platform != 'cpu'
    # XLA for this CPU sees no conditional.
    compiled = jax.jit(exported.call).lower(batch).compile().as_text()
    assert '4,4,12,64]' not in compiled and '3,3,48,256]' not in compiled


@pytest.mark.parametrize('platform', PLATFORMS)
def test_training_step_for_one_platform(machine, platform):
    """Its backward pass too: no gradient goes through the other platform's way."""
    model = small_model()
    variables = random_variables(model)

    def loss(params, images, sizes):
        outputs = model.apply({**variables, 'params': params}, images, sizes, True)
        return sum(level.sum() for levels in outputs for level in levels)

    traced = jax.jit(jax.grad(loss)).trace(variables['params'], *FORWARD_ARGUMENTS)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert operations(program) == EXPECTED[platform]


def test_nothing_asks_for_the_platform_of_this_machine():
    for path in (ROOT / 'atss_jax').rglob('*.py'):
        assert 'default_backend' not in path.read_text(), path


# The switch itself -------------------------------------------------------------------


def double(x, y):
    return by_platform(
        x, y, cpu=lambda x, y: 2 * x * y, accelerator=lambda x, y: 2 * y * x
    )


def test_gradients_for_some_operands_only():
    x, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    np.testing.assert_array_equal(jax.grad(lambda x: double(x, y).sum())(x), 2 * y)
    np.testing.assert_array_equal(jax.grad(lambda y: double(x, y).sum())(y), 2 * x)
    both = jax.grad(lambda x, y: double(x, y).sum(), (0, 1))(x, y)
    np.testing.assert_array_equal(both, (2 * y, 2 * x))
    np.testing.assert_array_equal(jax.grad(lambda x: 0 * double(x, x).sum())(x), 0 * x)


def test_mapped_and_not_jitted():
    x, y = jnp.arange(6.0).reshape(3, 2), jnp.array([3.0, 4.0])
    expected = 2 * x * y
    np.testing.assert_array_equal(jax.vmap(double, (0, None))(x, y), expected)
    gradient = jax.grad(lambda x: jax.vmap(double, (0, None))(x, y).sum())(x)
    np.testing.assert_array_equal(gradient, 2 * jnp.broadcast_to(y, (3, 2)))
    np.testing.assert_array_equal(double(x, jnp.broadcast_to(y, (3, 2))), expected)
