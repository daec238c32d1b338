"""The relatives of the R50: mmdetection's forward pass, their names, their padding."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.convolution import convolve
from atss_jax.models.detector import ATSS, parameter_count
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import ResNet
from atss_jax.training.initial import initial_variables
from atss_jax.weights import mmdet
from atss_jax.weights.torch_file import pth
from tests.conftest import GOLDEN
from tests.support.recipes import golden_state_dict, relative_error
from tests.support.small import on_canvas, random_variables, small_model

DCN = {'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}
CANVASES = ('tight', 'large')
MODELS = {
    'dcn': (ResNet(dcn=DCN, stage_with_dcn=(False, True, True, True)), FPN(), 4),
    'x101_32x8d': (ResNet(101, groups=32, base_width=8), FPN(), 4),
    'x101_64x4d': (ResNet(101, groups=64, base_width=4), FPN(), 4),
    'dyhead': (ResNet(), (FPN(), DyHead()), 0),
}
PARAMETERS = {
    'dcn': 33_166_585,
    'x101_32x8d': 95_529_626,
    'x101_64x4d': 90_193_562,
    'dyhead': 39_071_682,
}
# Minutes of compiling and computing on two cores.
SLOW = [(name, canvas) for name in ('x101_32x8d', 'x101_64x4d') for canvas in CANVASES]
SLOW += [('dyhead', 'large')]  # test_dyhead.py has a small one
SLOW += [('dcn', 'tight')]  # the large canvas has the same cells, and padding
CASES = [
    pytest.param(*case, marks=pytest.mark.slow) if case in SLOW else case
    for case in itertools.product(MODELS, CANVASES)
]
LARGE = (256, 320)


def model_of(name):
    backbone, neck, stacked_convs = MODELS[name]
    return ATSS(backbone, neck, ATSSHead(80, stacked_convs=stacked_convs))


@functools.cache
def golden(name):
    return dict(np.load(GOLDEN / 'family' / name / 'forward_a.npz'))


@functools.cache
def shapes_of(name):
    return json.loads((GOLDEN / 'family' / name / 'state_dict_shapes.json').read_text())


@functools.cache
def compiled(name):
    """`(images, sizes) -> HeadOutputs, C2..C5, P3..P7`."""
    model = model_of(name)
    variables = mmdet.to_variables(golden_state_dict(shapes_of(name)), model)
    last = 'neck_1' if isinstance(model.neck, tuple) else 'neck'

    def forward(variables, images, sizes):
        outputs, captured = model.apply(
            variables,
            images,
            sizes,
            capture_intermediates=lambda module, _: isinstance(
                module, ResNet | FPN | DyHead
            ),
            mutable=['intermediates'],
        )
        features = captured['intermediates']
        backbone, neck = features['backbone'], features[last]
        return outputs, (*backbone['__call__'][0], *neck['__call__'][0])

    return functools.partial(jax.jit(forward), variables)


@functools.cache
def forward(name, canvas):
    image = golden(name)['image']
    size = tuple(-(-side // 32) * 32 for side in image.shape[:2])
    batch = on_canvas([image], size if canvas == 'tight' else LARGE)
    return jax.tree.map(np.asarray, compiled(name)(*batch))


# Golden ------------------------------------------------------------------------------


@pytest.mark.parametrize(('name', 'canvas'), CASES)
def test_head_outputs_equal_mmdet(name, canvas):
    outputs, _ = forward(name, canvas)
    for key, levels in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
        for level, ours in enumerate(levels):
            expected = golden(name)[f'{key}{level}']
            height, width, _ = expected.shape
            assert relative_error(ours[0, :height, :width], expected) < 1e-4


@pytest.mark.parametrize(('name', 'canvas'), CASES)
def test_features_equal_mmdet(name, canvas):
    _, features = forward(name, canvas)
    keys = ['c2', 'c3', 'c4', 'c5', 'p3', 'p4', 'p5', 'p6', 'p7']
    for key, feature in zip(keys, features, strict=True):
        shape = golden(name)[f'{key}/shape']
        ours = feature.transpose(0, 3, 1, 2)[:, :, : shape[2], : shape[3]]
        assert ours.shape == tuple(shape)
        samples = ours.reshape(-1)[golden(name)[f'{key}/idx']]
        assert relative_error(samples, golden(name)[f'{key}/values']) < 1e-4
        assert ours.std() == pytest.approx(golden(name)[f'{key}/std'], rel=1e-4)


# Names -------------------------------------------------------------------------------


@pytest.mark.parametrize('name', MODELS)
def test_names_and_shapes_are_mmdets(name):
    """Every parameter and statistic, to our variables and back, bit for bit."""
    model, wanted = model_of(name), shapes_of(name)
    assert parameter_count(model) == PARAMETERS[name]
    shapes = {
        mmdet.torch_name(path): (shape[3], shape[2], shape[0], shape[1])
        if len(shape) == 4
        else shape
        for path, shape in mmdet.variable_shapes(model).items()
    }
    assert shapes == {key: tuple(shape) for key, shape in wanted.items()}


@pytest.mark.parametrize('name', ['dcn', 'dyhead'])
def test_state_dict_round_trip_keeps_every_bit(name):
    state = golden_state_dict(shapes_of(name))
    back = mmdet.to_state_dict(mmdet.to_variables(state, model_of(name)))
    assert set(back) == set(state)
    for key, value in state.items():
        assert back[key].tobytes() == np.ascontiguousarray(value).tobytes()


# ResNeXt -----------------------------------------------------------------------------


def test_grouped_convolution_equals_one_of_each_group():
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(0, 1, (2, 7, 9, 12)), jnp.float32)
    kernel = jnp.array(rng.normal(0, 1, (3, 3, 4, 6)), jnp.float32)
    for stride in (1, 2):
        parts = [
            convolve(x[..., 4 * g : 4 * g + 4], kernel[..., 2 * g : 2 * g + 2], stride)
            for g in range(3)
        ]
        expected = np.concatenate(parts, axis=-1)
        assert relative_error(convolve(x, kernel, stride), expected) < 1e-5


# How training starts -----------------------------------------------------------------


def test_offsets_start_at_zero_with_pretrained_weights(tmp_path):
    """No classifier's file has them."""
    model = small_model(
        {
            'depth': 50,
            'num_stages': 1,
            'out_indices': (0,),
            'groups': 2,
            'dcn': DCN,
            'stage_with_dcn': (True,),
        },
        {'num_outs': 2},
        {'dcn_on_last_conv': True},
    )
    state = mmdet.to_state_dict(random_variables(model))
    backbone = {
        name.removeprefix('backbone.'): value
        for name, value in state.items()
        if name.startswith('backbone.') and 'conv_offset' not in name
    }
    pth.save(tmp_path / 'x.pth', backbone)
    loaded = initial_variables(model, 0, str(tmp_path / 'x.pth'), None)
    loaded = mmdet.to_state_dict(loaded)
    for name, value in backbone.items():
        np.testing.assert_array_equal(loaded[f'backbone.{name}'], value)
    offset = 'layer1.0.conv2.conv_offset'
    assert not loaded[f'backbone.{offset}.weight'].any()
    assert not loaded[f'backbone.{offset}.bias'].any()
    # The head's are sampled, as mmdet samples all its convolutions.
    assert loaded['bbox_head.cls_convs.0.conv.conv_offset.weight'].std() > 0.005
    # mmdet does not zero the last norm of a ResNeXt's blocks.
    plain = mmdet.to_state_dict(initial_variables(model, 0, None, None))
    assert (plain['backbone.layer1.0.bn3.weight'] == 1).all()
