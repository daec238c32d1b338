"""The Swin Transformer: mmdetection's numbers and names, on any canvas."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models.cost import cost
from atss_jax.models.detector import parameter_count
from atss_jax.models.dyhead import DyHead
from atss_jax.models.swin import SwinTransformer
from atss_jax.training.state import init_variables
from atss_jax.weights import mmdet
from tests.conftest import ROOT
from tests.support.recipes import relative_error
from tests.support.small import on_canvas, random_variables
from tests.support.swin import (
    golden_case,
    golden_images,
    golden_swin,
    golden_swin_state,
    tiny_swin,
)

CASES = [('w7', 'a'), ('w7', 'b'), ('w12', 'a'), ('w12', 'b'), ('abs', 'a')]
LARGE = (384, 512)


@functools.cache
def variables_of(name):
    return mmdet.to_variables(golden_swin_state(name), golden_swin(name))


def placed(name, letter, canvas):
    """The image of a case on its tight canvas or on a larger one, and its size."""
    image = golden_images(name)[letter]['image']
    tight = tuple(-(-side // 128) * 128 for side in image.shape[:2])
    return on_canvas([image], tight if canvas == 'tight' else LARGE)


def check_samples(golden, key, feature):
    """Compares samples of a map with those of mmdet, whose map may be smaller."""
    shape = golden[f'{key}/shape']
    ours = np.asarray(feature).transpose(0, 3, 1, 2)[:, :, : shape[2], : shape[3]]
    assert ours.shape == tuple(shape)
    samples = ours.reshape(-1)[golden[f'{key}/idx']]
    assert relative_error(samples, golden[f'{key}/values']) < 1e-5
    assert ours.std() == pytest.approx(golden[f'{key}/std'], rel=1e-5)


# Golden ------------------------------------------------------------------------------


@functools.cache
def backbone_of(name):
    model = golden_swin(name).backbone
    params = {'params': variables_of(name)['params']['backbone']}
    return functools.partial(jax.jit(model.apply), params)


@pytest.mark.parametrize('canvas', ['tight', 'large'])
@pytest.mark.parametrize(('name', 'letter'), CASES)
def test_backbone_equals_mmdet(name, letter, canvas):
    images, sizes = placed(name, letter, canvas)
    features = backbone_of(name)(images, -(-sizes // 128) * 128)
    for key, feature in zip(('s1', 's2', 's3'), features, strict=True):
        check_samples(golden_images(name)[letter], key, feature)


@functools.cache
def detector_of(name):
    """`(images, sizes) -> HeadOutputs, P3..P7`."""

    def forward(variables, images, sizes):
        outputs, captured = golden_swin(name).apply(
            variables,
            images,
            sizes,
            capture_intermediates=lambda module, _: isinstance(module, DyHead),
            mutable=['intermediates'],
        )
        return outputs, captured['intermediates']['neck_1']['__call__'][0]

    return functools.partial(jax.jit(forward), variables_of(name))


# Half a minute of compiling each.
@pytest.mark.slow
@pytest.mark.parametrize('canvas', ['tight', 'large'])
@pytest.mark.parametrize(('name', 'letter'), CASES)
def test_detector_equals_mmdet(name, letter, canvas):
    golden = golden_images(name)[letter]
    outputs, features = detector_of(name)(*placed(name, letter, canvas))
    for key, feature in zip(('p3', 'p4', 'p5', 'p6', 'p7'), features, strict=True):
        check_samples(golden, key, feature)
    for key, levels in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
        for level, ours in enumerate(levels):
            expected = golden[f'{key}{level}']
            height, width, _ = expected.shape
            assert relative_error(ours[0, :height, :width], expected) < 1e-5


@pytest.mark.parametrize('name', ['w7', 'w12', 'abs'])
def test_names_and_shapes_are_mmdets(name):
    model, state = golden_swin(name), golden_swin_state(name)
    assert parameter_count(model) == golden_case(name)['parameters']
    back = mmdet.to_state_dict(mmdet.to_variables(state, model))
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].tobytes() == np.ascontiguousarray(value).tobytes()
    complete = {k: list(x.shape) for k, x in mmdet.with_indices(back).items()}
    assert complete == golden_case(name)['shapes']


# Canvas ------------------------------------------------------------------------------

# Of two stages with windows of 3 x 3 cells: none of these is made of whole windows.
SIZES = np.array([[64, 96], [32, 64], [96, 32]], np.int32)


def images_of(sizes, canvas, seed=0):
    rng = np.random.default_rng(seed)
    return on_canvas([rng.normal(0, 1, (*size, 3)) for size in sizes], canvas)[0]


def applied(model, seed=0, train=False):
    """`(images, sizes, keys) -> features` of the backbone, with random weights."""
    variables = {'params': random_variables(model, seed)['params']['backbone']}

    @jax.jit
    def apply(images, sizes, keys=None):
        return model.backbone.apply(variables, images, sizes, train, keys)

    return apply


def check_row(together, row, alone):
    """Compares a row of features with those of the image alone."""
    for ours, expected in zip(together, alone, strict=True):
        ours = ours[row, : expected.shape[1], : expected.shape[2]]
        np.testing.assert_allclose(ours, expected[0], atol=2e-5)


def test_positions_of_an_image_of_another_size():
    """Interpolated by the size of the image, whatever the canvas."""
    fields = {'depths': (1, 1), 'use_abs_pos_embed': True, 'pretrain_img_size': 64}
    apply = applied(tiny_swin(**fields))
    images = images_of(SIZES, (96, 128))
    height, width = SIZES[0]
    alone = apply(images[:1, :height, :width], SIZES[:1])
    check_row(apply(images, SIZES), 0, alone)


def test_images_of_several_sizes_share_a_canvas():
    """A batch gives what each image gives alone; its shift wraps around itself."""
    apply = applied(tiny_swin())
    images = images_of(SIZES, (96, 128))
    together = apply(images, SIZES)
    for row in (0, 2):
        height, width = SIZES[row]
        image = images[row : row + 1, :height, :width]
        check_row(together, row, apply(image, SIZES[row : row + 1]))


# Dropping ----------------------------------------------------------------------------

DROPS = {'drop_rate': 0.2, 'attn_drop_rate': 0.3, 'drop_path_rate': 0.5}


@pytest.mark.parametrize(
    'rates', [{'drop_path_rate': 0.5}, pytest.param(DROPS, marks=pytest.mark.slow)]
)
def test_what_is_dropped_depends_on_the_key_alone(rates):
    """Neither on the canvas nor on batch mates."""
    apply = applied(tiny_swin(depths=(2, 1), **rates), train=True)
    keys = jax.random.split(jax.random.key(0), 3)
    images = images_of(SIZES, (96, 128))
    height, width = SIZES[1]
    image = images[1:2, :height, :width]
    alone = apply(image, SIZES[1:2], keys[1:2])
    check_row(apply(images, SIZES, keys), 1, alone)
    others = [apply(image, SIZES[1:2], jax.random.key(n)[None])[1] for n in range(5)]
    assert any(abs(other - alone[1]).max() > 0.1 for other in others)


def test_frozen_stages_drop_nothing():
    images, keys = images_of(SIZES[:1], (64, 96)), jax.random.key(0)[None]
    fields = {'depths': (1, 1), **DROPS, 'attn_drop_rate': 0.0}
    plain = applied(tiny_swin(**fields))(images, SIZES[:1])
    model = tiny_swin(**fields, frozen_stages=1)
    ours = applied(model, train=True)(images, SIZES[:1], keys)
    np.testing.assert_allclose(ours[0], plain[0], atol=1e-5)
    assert abs(ours[1] - plain[1]).max() > 0.1


def test_training_that_drops_needs_keys():
    apply = applied(tiny_swin(drop_path_rate=0.1), train=True)
    with pytest.raises(ValueError, match='keys'):
        apply(images_of(SIZES[:1], (64, 96)), SIZES[:1])


# Type and memory ---------------------------------------------------------------------


def test_bfloat16_is_close():
    """Norms and softmax are float32: 8 bits of precision are lost, not more."""
    model = tiny_swin(drop_path_rate=0.0)
    variables = random_variables(model)
    images = images_of(SIZES, (96, 128))
    exact = jax.jit(model.apply)(variables, images, SIZES)
    half = jax.jit(model.clone(dtype='bfloat16').apply)(variables, images, SIZES)
    for ours, expected in zip(
        jax.tree.leaves(half), jax.tree.leaves(exact), strict=True
    ):
        assert ours.dtype == jnp.float32
        assert relative_error(ours, expected) < 0.05


def gradient_of(model):
    """The compiled gradient of a loss of a backbone by its parameters; its inputs."""
    variables = random_variables(model)['params']['backbone']
    arguments = variables, images_of(SIZES[:1], (64, 96)), jax.random.key(1)[None]

    def loss(params, images, keys):
        sizes = jnp.asarray(SIZES[:1])
        outputs = model.backbone.apply({'params': params}, images, sizes, True, keys)
        return sum((x * jnp.cos(x)).mean() for x in outputs)

    return jax.jit(jax.grad(loss)).lower(*arguments).compile(), arguments


def test_with_cp_starts_from_the_same_parameters():
    plain = init_variables(tiny_swin(), 0)
    saving = init_variables(tiny_swin(with_cp=True), 0)
    assert jax.tree.structure(saving) == jax.tree.structure(plain)
    for x, y in zip(jax.tree.leaves(saving), jax.tree.leaves(plain), strict=True):
        assert isinstance(x, np.ndarray)
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_with_cp_gives_the_same_gradients():
    fields = {'depths': (1, 1), 'drop_path_rate': 0.3}
    plain, arguments = gradient_of(tiny_swin(**fields))
    saving, _ = gradient_of(tiny_swin(**fields, with_cp=True))
    ours, expected = (program(*arguments) for program in (saving, plain))
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * (1e-6 + abs(y).max()))


def kept_for_the_gradient(model, canvas):
    """Bytes of what the forward pass keeps, in addition to the parameters."""
    image = jnp.zeros((1, *canvas, 3)), jnp.array([canvas])
    variables = jax.eval_shape(model.init, jax.random.key(0), *image)

    def pullback(variables):
        return jax.vjp(lambda v: model.apply(v, *image), variables)[1]

    def total(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return total(jax.eval_shape(pullback, variables)) - total(variables)


def test_with_cp_keeps_little_for_the_gradient():
    """Swin-T at 256 x 320: 214 MiB, and 26 with `with_cp`."""
    plain, saving = (
        kept_for_the_gradient(SwinTransformer(with_cp=with_cp), (256, 320))
        for with_cp in (False, True)
    )
    assert saving < plain / 5


@pytest.mark.parametrize('has_all', [True, False])
def test_every_parameter_has_a_gradient(has_all):
    fields = {'patch_norm': has_all, 'qkv_bias': has_all, 'use_abs_pos_embed': has_all}
    model = tiny_swin(**fields, drop_path_rate=0.0, pretrain_img_size=(64, 96))
    program, arguments = gradient_of(model)
    for path, x in jax.tree_util.tree_leaves_with_path(program(*arguments)):
        assert np.isfinite(x).all() and abs(x).max() > 1e-7, path


@pytest.mark.parametrize('with_cp', [False, True])
def test_cost_counts_every_product(with_cp):
    """Linear layers on the cells of the map, attention on those of whole windows."""
    model = tiny_swin(with_cp=with_cp)
    height, width, channels = 64 // 4, 96 // 4, 8
    expected = height * width * 4 * 4 * 3 * channels
    for stage in range(2):
        cells, in_windows = height * width, 9 * -(-height // 3) * -(-width // 3)
        linear = 12 * cells * channels**2  # queries, keys, values, output, FFN
        expected += 2 * (linear + 2 * in_windows * 9 * channels)
        if stage == 0:
            expected += cells // 4 * 4 * channels * 2 * channels
        height, width, channels = height // 2, width // 2, 2 * channels
    assert cost(model, [(64, 96)]).multiply_adds[64, 96]['backbone'] == expected


def test_only_named_fields():
    with pytest.raises(TypeError, match='window'):
        SwinTransformer(window=7)


EXPORT = """
import jax
import numpy as np
from tests.support.small import on_canvas, random_variables
from tests.support.swin import tiny_swin

b, h, w = jax.export.symbolic_shape('b, h, w')
shapes = (
    jax.ShapeDtypeStruct((b, 32 * h, 32 * w, 3), np.float32),
    jax.ShapeDtypeStruct((b, 2), np.int32),
)
for has_positions in (False, True):
    model = tiny_swin(use_abs_pos_embed=has_positions, pretrain_img_size=64)
    variables = random_variables(model)
    forward = jax.jit(lambda images, sizes: model.apply(variables, images, sizes))
    exported = jax.export.export(forward)(*shapes)
    image = np.random.default_rng(0).normal(0, 1, (30, 50, 3))
    batch = on_canvas([image], (64, 96))
    outputs = map(jax.tree.leaves, (exported.call(*batch), forward(*batch)))
    for ours, expected in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
"""


def test_it_can_be_exported_for_any_canvas():
    """Sizes are symbols then: the windows that a map needs are not known.

    In a process without the shape checks of tests, which refuse symbols.
    """
    command = [sys.executable, '-c', EXPORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
