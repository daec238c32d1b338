"""The model: mmdetection's forward pass, what padding must not change, its weights.

Training on the golden weights is compared in `test_golden_training.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from atss_jax.commands import main as commands
from atss_jax.config import build_model, load_config
from atss_jax.detection.losses import atss_loss
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.norms import GroupNorm
from atss_jax.models.resnet import BLOCKS, ResNet, stage_channels
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.state import (
    init_variables,
    is_trained,
    merge,
    split,
    updates_statistics,
)
from atss_jax.training.workdir import config_path
from atss_jax.weights import mmdet
from atss_jax.weights.torch_file import pth
from tests.conftest import GOLDEN, ROOT
from tests.support.recipes import golden_state_dict, relative_error
from tests.support.small import (
    BN,
    GN,
    GOLDEN_CANVAS,
    LOSS,
    SYNC_BN,
    golden_forward,
    golden_model,
    golden_variables,
    on_canvas,
    random_batch,
    random_variables,
    small_model,
)

# Golden ------------------------------------------------------------------------------


@functools.cache
def forward_file(name):
    return dict(np.load(GOLDEN / f'forward_{name}.npz'))


@functools.cache
def forward(name, canvas):
    """Outputs, C2..C5, P3..P7 of one golden image: alone, or on the large canvas."""
    if canvas == 'tight':
        image = forward_file(name)['image']
        size = tuple(-(-side // 32) * 32 for side in image.shape[:2])
        return jax.tree.map(np.asarray, golden_forward()(*on_canvas([image], size)))
    row = 'ab'.index(name)
    return jax.tree.map(lambda x: x[row : row + 1], _both())


@functools.cache
def _both():
    images = [forward_file(name)['image'] for name in 'ab']
    outputs = golden_forward()(*on_canvas(images, GOLDEN_CANVAS))
    return jax.tree.map(np.asarray, outputs)


@pytest.mark.parametrize('canvas', ['tight', 'large'])
@pytest.mark.parametrize('name', 'ab')
def test_head_outputs_equal_mmdet(name, canvas):
    outputs, _, _ = forward(name, canvas)
    for key, levels in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
        for level, ours in enumerate(levels):
            expected = forward_file(name)[f'{key}{level}']
            height, width, _ = expected.shape
            assert relative_error(ours[0, :height, :width], expected) < 2e-5


@pytest.mark.parametrize('canvas', ['tight', 'large'])
@pytest.mark.parametrize('name', 'ab')
def test_features_equal_mmdet(name, canvas):
    _, backbone, neck = forward(name, canvas)
    data = forward_file(name)
    keys = ['c2', 'c3', 'c4', 'c5', 'p3', 'p4', 'p5', 'p6', 'p7']
    for key, feature in zip(keys, [*backbone, *neck], strict=True):
        shape = data[f'{key}/shape']
        ours = feature.transpose(0, 3, 1, 2)[:, :, : shape[2], : shape[3]]
        assert ours.shape == tuple(shape)
        values = data[f'{key}/values']
        samples = ours.reshape(-1)[data[f'{key}/idx']]
        assert relative_error(samples, values) < 2e-5
        assert ours.std() == pytest.approx(data[f'{key}/std'], rel=1e-4)


def test_a_checkpoint_imported_by_the_command_line(tmp_path):
    """mmdet's config and key layout to a workdir, and from it mmdet's outputs."""
    file, workdir = tmp_path / 'epoch_12.pth', str(tmp_path / 'run')
    state = {name: np.asarray(x) for name, x in golden_state_dict().items()}
    pth.save(file, {'meta': {'epoch': 12}, 'state_dict': state})
    config = str(ROOT / 'tests' / 'mmdet_configs' / 'v3_r50.py')
    assert commands.main(['import-mmdet', config, str(file), '--workdir', workdir]) == 0
    model = build_model(load_config(config_path(workdir)))
    assert model == golden_model()
    variables = Checkpoints.open(workdir).restore_variables(model)
    image = forward_file('a')['image']
    inputs = on_canvas([image], GOLDEN_CANVAS)
    outputs, _, _ = golden_forward().func(variables, *inputs)
    expected = forward_file('a')['cls1']
    height, width, _ = expected.shape
    ours = np.asarray(outputs.cls_logits[1][0, :height, :width])
    assert relative_error(ours, expected) < 2e-5


# What must not matter ----------------------------------------------------------------

EXTRA = {'num_outs': 4}
VARIANTS = {
    'stored_statistics': {},
    'batch_statistics': {'backbone': {'norm_cfg': BN, 'norm_eval': False}},
    'frozen_stem': {'backbone': {'norm_eval': False, 'frozen_stages': 1}},
    'sync_bn': {'backbone': {'norm_cfg': SYNC_BN, 'norm_eval': False}},
    'sync_bn_head': {'head': {'norm_cfg': SYNC_BN}},
    'group_norm': {'backbone': {'norm_cfg': GN}},
    'caffe_bottleneck': {
        'backbone': {'depth': 50, 'style': 'caffe', 'norm_eval': False}
    },
    'resnext_bottleneck': {
        'backbone': {'depth': 50, 'groups': 4, 'base_width': 8, 'norm_eval': False}
    },
    'deformable': {
        'backbone': {
            'depth': 50,
            'dcn': {'type': 'DCNv2', 'deform_groups': 2},
            'stage_with_dcn': (False, True),
        },
        'head': {'dcn_on_last_conv': True, 'pred_kernel_size': 1},
    },
    'extra_pooled': {'neck': {**EXTRA, 'add_extra_convs': False}},
    'extra_on_input': {'neck': {**EXTRA, 'add_extra_convs': 'on_input'}},
    'extra_on_lateral': {'neck': {**EXTRA, 'add_extra_convs': 'on_lateral'}},
    'extra_on_output': {'neck': {**EXTRA, 'add_extra_convs': 'on_output'}},
    'two_anchors': {'head': {'num_anchors': 2, 'stacked_convs': 2}},
}
TIGHT, LARGE = (64, 64), (96, 160)
SIZES = [(64, 64), (30, 41), (64, 33)]


def noise(seed, sizes):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (*size, 3)).astype(np.float32) for size in sizes]


@functools.cache
def variant(name):
    """Model, weights, and a compiled training-mode forward pass."""
    model = small_model(**VARIANTS[name])
    variables = random_variables(model)

    def apply(variables, images, sizes):
        return model.apply(
            variables, images, sizes, train=True, mutable=['batch_stats']
        )

    # The mapped axis is what SyncBN reduces over; here of one device.
    mapped = jax.jit(jax.vmap(apply, in_axes=(None, 0, 0), axis_name='batch'))

    def run(images, canvas):
        batch, sizes = on_canvas(images, canvas)
        outputs, updates = mapped(variables, batch[None], sizes[None])
        return jax.tree.map(lambda x: np.asarray(x[0]), (outputs, updates))

    return model, variables, run


def valid_parts(outputs, model, row, size):
    """The cells of one image's valid region, of every output and level."""
    valid = [-(-side // 32) * 32 for side in size]
    return [
        level[row, : -(-valid[0] // stride), : -(-valid[1] // stride)]
        for levels in outputs
        for level, stride in zip(levels, model.strides, strict=True)
    ]


def test_an_image_padded_further_is_a_larger_image_that_ends_in_zeros():
    """`size_divisor` decides only how much of the padding is computed with."""
    model = small_model()
    variables = random_variables(model)
    batch, sizes = map(jnp.asarray, on_canvas(noise(3, [(30, 41)]), (64, 128)))
    further = ATSS(model.backbone, model.neck, model.bbox_head, model.strides, 64)
    outputs = further.apply(variables, batch, sizes)
    expected = model.apply(variables, batch, jnp.full_like(sizes, 64))
    parts = [valid_parts(o, model, 0, (64, 64)) for o in (outputs, expected)]
    for a, b in zip(*parts, strict=True):
        np.testing.assert_array_equal(a, b)
    less = valid_parts(model.apply(variables, batch, sizes), model, 0, (64, 64))
    assert relative_error(less[0], parts[0][0]) > 0.1


def test_predictions_by_1x1_convolutions_are_products():
    """`pred_kernel_size=1` without towers, as DyHead's authors have it."""
    head = ATSSHead(3, 16, stacked_convs=0, feat_channels=16, pred_kernel_size=1)
    features = [jnp.asarray(noise(level, [(6, 5)])[0][None]) for level in range(2)]
    features = tuple(
        jnp.tile(x, 6)[..., :16] + level for level, x in enumerate(features)
    )
    sizes = [jnp.array([[6, 5]]), jnp.array([[4, 5]])]
    variables = head.init(jax.random.key(0), features, sizes)
    variables = jax.tree.map(lambda x: x + 0.5, variables)
    outputs = head.apply(variables, features, sizes)
    scales = [variables['params'][f'scales_{level}']['scale'] for level in range(2)]
    for name, levels in zip(('atss_cls', 'atss_reg', 'atss_centerness'), outputs,
                            strict=True):  # fmt: skip
        layer = variables['params'][name]
        assert layer['kernel'].shape[:2] == (1, 1)
        for x, scale, (height, _), level in zip(
            features, scales, [(6, 5), (4, 5)], levels, strict=True
        ):
            expected = x[0, :height] @ layer['kernel'][0, 0] + layer['bias']
            expected *= scale if name == 'atss_reg' else 1
            assert relative_error(level[0, :height], expected) < 1e-6


@pytest.mark.parametrize('name', VARIANTS)
def test_canvas_does_not_matter(name):
    """Neither for outputs nor for the statistics that training stores."""
    model, variables, run = variant(name)
    images = noise(0, SIZES)
    (small, small_stats), (large, large_stats) = (
        run(images, canvas) for canvas in (TIGHT, LARGE)
    )
    for row, size in enumerate(SIZES):
        parts = [valid_parts(outputs, model, row, size) for outputs in (small, large)]
        for a, b in zip(*parts, strict=True):
            assert a.shape == b.shape
            assert relative_error(b, a) < 1e-5
    statistics = [
        flatten_dict(s.get('batch_stats', {})) for s in (small_stats, large_stats)
    ]
    for path, value in statistics[0].items():
        np.testing.assert_allclose(value, statistics[1][path], rtol=1e-5, atol=1e-6)
    stored = flatten_dict(variables['batch_stats']) if statistics[0] else {}
    moved = {path[:2] for path, x in stored.items() if (x != statistics[0][path]).any()}
    trains = name in ('batch_statistics', 'frozen_stem', 'sync_bn', 'sync_bn_head')
    assert bool(moved) == (trains or 'bottleneck' in name)
    assert ('backbone', 'layer1_0') not in moved or name != 'frozen_stem'
    assert updates_statistics(model) == bool(moved)


# Statistics of the batch are what a batch norm in the head is for.
WITHOUT_BATCH_NORM = [
    name
    for name, variant_ in VARIANTS.items()
    if 'norm_eval' not in str(variant_) and name != 'sync_bn_head'
]


@pytest.mark.parametrize('name', WITHOUT_BATCH_NORM)
def test_batch_mates_do_not_matter(name):
    model, _, run = variant(name)
    images, others = noise(0, SIZES), noise(1, [(9, 64), (64, 64), (1, 1)])
    plain, _ = run(images, TIGHT)
    with_others, _ = run([*others[:1], images[1], *others[2:]], TIGHT)
    parts = [valid_parts(o, model, 1, SIZES[1]) for o in (plain, with_others)]
    for a, b in zip(*parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradients_do_not_depend_on_the_canvas():
    """Through batch statistics, the neck, the head and the losses."""
    model = small_model({'norm_eval': False, 'num_stages': 1, 'out_indices': (0,)})
    variables = random_variables(model)
    sizes = [(32, 32), (15, 20)]
    batch = random_batch(0, sizes, (32, 32))

    @jax.jit
    def gradient(variables, images, batch):
        def loss(params):
            outputs, _ = model.apply(
                {**variables, 'params': params},
                images,
                batch['image_size'],
                train=True,
                mutable=['batch_stats'],
            )
            return atss_loss(outputs, batch, LOSS)[0]

        return jax.value_and_grad(loss)(variables['params'])

    images = noise(2, sizes)
    (small, small_grads), (large, large_grads) = (
        gradient(variables, on_canvas(images, canvas)[0], batch)
        for canvas in ((32, 32), (32, 96))
    )
    assert float(large) == pytest.approx(float(small), rel=1e-5)
    norm = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(small_grads))
    for a, b in zip(*map(jax.tree.leaves, (small_grads, large_grads)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * norm)


def test_bfloat16_computes_close_and_returns_float32():
    model, variables, run = variant('stored_statistics')
    images = noise(0, SIZES)
    exact, _ = run(images, TIGHT)
    half = model.clone(dtype='bfloat16')
    batch, sizes = on_canvas(images, TIGHT)
    outputs = jax.jit(half.apply)(variables, batch, sizes)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(outputs), strict=True):
        assert b.dtype == jnp.float32
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
    assert not np.array_equal(exact.deltas[0], outputs.deltas[0])


def test_inputs_that_do_not_fit_are_refused():
    def shapes(model):
        mmdet.variable_shapes(model)

    with pytest.raises(ValueError, match=r'model\.neck\.in_channels = \(64, 64\)'):
        shapes(small_model(neck={'in_channels': (64, 64)}))
    with pytest.raises(ValueError, match=r'model\.bbox_head\.in_channels = 8'):
        shapes(small_model(head={'in_channels': 8}))


# Weights -----------------------------------------------------------------------------


def detector(depth, style='pytorch', classes=80):
    return ATSS(
        ResNet(depth=depth, style=style),
        FPN(in_channels=stage_channels(depth)),
        ATSSHead(classes),
    )


def norm_names(prefix):
    leaves = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    return [f'{prefix}.{leaf}' for leaf in leaves]


def mmdet_names(depth):
    """mmdetection's names, written down from its modules."""
    names = ['backbone.conv1.weight', *norm_names('backbone.bn1')]
    convs = 2 if depth < 50 else 3
    for stage, blocks in enumerate(BLOCKS[depth]):
        for block in range(blocks):
            prefix = f'backbone.layer{stage + 1}.{block}'
            for conv in range(1, convs + 1):
                names += [f'{prefix}.conv{conv}.weight']
                names += norm_names(f'{prefix}.bn{conv}')
            if block == 0 and (stage > 0 or depth >= 50):
                names += [f'{prefix}.downsample.0.weight']
                names += norm_names(f'{prefix}.downsample.1')
    convs = [f'neck.lateral_convs.{i}.conv' for i in range(3)]
    convs += [f'neck.fpn_convs.{i}.conv' for i in range(5)]
    convs += [f'bbox_head.atss_{name}' for name in ('cls', 'reg', 'centerness')]
    for tower in ('cls_convs', 'reg_convs'):
        names += [f'bbox_head.{tower}.{i}.conv.weight' for i in range(4)]
        convs += [f'bbox_head.{tower}.{i}.gn' for i in range(4)]
    names += [f'{conv}.{leaf}' for conv in convs for leaf in ('weight', 'bias')]
    return names + [f'bbox_head.scales.{i}.scale' for i in range(5)]


@pytest.mark.parametrize('style', ['pytorch', 'caffe'])
@pytest.mark.parametrize('depth', BLOCKS)
def test_names_of_every_depth_are_mmdets(depth, style):
    shapes = mmdet.variable_shapes(detector(depth, style))
    ours = [mmdet.torch_name(path) for path in shapes]
    assert sorted(ours) == sorted(mmdet_names(depth))
    last = 512 if depth < 50 else 2048
    assert shapes['params', 'neck', 'lateral_convs_2', 'conv', 'kernel'][2] == last


def test_shapes_are_those_of_mmdets_checkpoint():
    model, state = golden_model(), golden_state_dict()
    assert set(state) == set(mmdet_names(50))
    back = mmdet.to_state_dict(golden_variables())
    assert {name: x.shape for name, x in back.items()} == {
        name: x.shape for name, x in state.items()
    }
    parameters = sum(x.size for x in jax.tree.leaves(golden_variables()['params']))
    in_torch = sum(
        x.size
        for name, x in state.items()
        if 'running_' not in name and 'num_batches' not in name
    )
    assert parameters == in_torch == 32_295_322
    assert set(flatten_dict(golden_variables())) == set(mmdet.variable_shapes(model))


@functools.cache
def state_dict(depth):
    """Random weights in torch layout, every value its own."""
    rng = np.random.default_rng(depth)
    shapes = {
        mmdet.torch_name(path): shape
        for path, shape in mmdet.variable_shapes(detector(depth)).items()
    }
    return {
        name: np.array(7, np.int64)
        if name.endswith('num_batches_tracked')
        else rng.standard_normal(
            tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape,
            np.float32,
        )
        for name, shape in shapes.items()
    }


# Other depths differ in the number of blocks alone, which the names show.
@pytest.mark.parametrize('style', ['pytorch', 'caffe'])
@pytest.mark.parametrize('depth', [18, 50])
def test_state_dict_round_trip_keeps_every_bit(depth, style):
    state = state_dict(depth)
    back = mmdet.to_state_dict(mmdet.to_variables(state, detector(depth, style)))
    assert set(back) == set(state)
    for name, value in state.items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes()


def test_kernel_layout_by_hand():
    state = state_dict(18)
    variables = mmdet.to_variables(state, detector(18))
    kernel = variables['params']['backbone']['layer2_0']['conv1']['kernel']
    weight = state['backbone.layer2.0.conv1.weight']
    assert kernel.shape == (3, 3, 64, 128) and weight.shape == (128, 64, 3, 3)
    assert kernel[0, 2, 5, 100] == weight[100, 5, 0, 2]
    stats = variables['batch_stats']['backbone']['layer2_0']['downsample_1']
    np.testing.assert_array_equal(
        stats['var'], state['backbone.layer2.0.downsample.1.running_var']
    )


def test_weights_that_do_not_fit_name_everything():
    state = dict(state_dict(18))
    del state['backbone.layer1.0.conv1.weight'], state['bbox_head.scales.2.scale']
    state['backbone.fc.weight'] = state['teacher.x'] = np.zeros(3, np.float32)
    state['bbox_head.atss_cls.bias'] = np.zeros(3, np.float32)
    with pytest.raises(ValueError) as caught:
        mmdet.to_variables(state, detector(18))
    message = str(caught.value)
    missing, extra, shape = message.split(';')[1:]
    assert 'missing' in missing and 'left over' in extra
    assert 'layer1.0.conv1' not in shape  # it is missing, no more
    for name in ('backbone.layer1.0.conv1.weight', 'bbox_head.scales.2.scale'):
        assert name in missing
    for name in ('backbone.fc.weight', 'teacher.x'):
        assert name in extra
    assert 'bbox_head.atss_cls.bias: (3,), the model has (80,)' in shape


def test_counters_may_be_missing():
    """Checkpoints from before PyTorch 0.4.1 have none."""
    state = {
        name: value
        for name, value in state_dict(18).items()
        if not name.endswith('num_batches_tracked')
    }
    back = mmdet.to_state_dict(mmdet.to_variables(state, detector(18)))
    assert back['backbone.bn1.num_batches_tracked'] == 0
    assert set(back) == set(state_dict(18))


# What is trained ---------------------------------------------------------------------


def frozen(**fields):
    model = small_model(**fields)
    params = random_variables(model)['params']
    trained, fixed = split(params, model)
    merged = flatten_dict(merge(trained, fixed))
    assert set(merged) == set(flatten_dict(params))
    return {'.'.join(path) for path in flatten_dict(fixed)}


@pytest.mark.parametrize(
    'stages, parts',
    [
        (-1, []),
        (0, ['conv1', 'bn1']),
        (1, ['conv1', 'bn1', 'layer1_0', 'layer1_1']),
        (2, ['conv1', 'bn1', 'layer1_0', 'layer1_1', 'layer2_0', 'layer2_1']),
    ],
)
def test_frozen_stages(stages, parts):
    names = frozen(backbone={'frozen_stages': stages})
    assert {name.split('.')[1] for name in names} == set(parts)
    assert all(name.startswith('backbone.') for name in names)


def test_norms_without_gradient():
    fixed = {**BN, 'requires_grad': False}
    names = frozen(backbone={'norm_cfg': fixed})
    assert 'backbone.layer2_0.downsample_1.bias' in names
    assert 'backbone.bn1.scale' in names
    assert all(name.split('.')[-1] in ('scale', 'bias') for name in names)
    # The stem's; two in each of four blocks; the short cut of the second stage.
    assert len(names) == 2 * (1 + 2 * 4 + 1)
    names = frozen(head={'norm_cfg': {**GN, 'requires_grad': False}})
    assert names == {
        f'bbox_head.{tower}_0.gn.{leaf}'
        for tower in ('cls_convs', 'reg_convs')
        for leaf in ('scale', 'bias')
    }


def test_scales_and_biases_of_the_head_are_always_trained():
    model = small_model(head={'norm_cfg': {**GN, 'requires_grad': False}})
    for path in [
        ('bbox_head', 'scales_0', 'scale'),
        ('bbox_head', 'atss_cls', 'bias'),
        ('neck', 'fpn_convs_0', 'conv', 'bias'),
    ]:
        assert is_trained(path, model)


# How training starts -----------------------------------------------------------------


def test_initial_values_are_mmdets():
    params = init_variables(small_model(), 0)['params']
    flat = {'.'.join(path): x for path, x in flatten_dict(params).items()}
    # Class probability 0.01, by the prior bias.
    bias = flat['bbox_head.atss_cls.bias']
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), 0.01, rtol=1e-5)
    for name, x in flat.items():
        last_of_block = name.endswith('bn2.scale')
        if name.endswith('.scale'):
            assert (x == (0 if last_of_block else 1)).all(), name
        elif name.endswith('bias') and 'atss_cls' not in name:
            assert (x == 0).all(), name
        elif 'bbox_head' in name and name.endswith('kernel'):
            assert x.std() == pytest.approx(0.01, rel=0.2), name
    kernel = flat['backbone.layer2_1.conv2.kernel']
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)
    kernel = flat['neck.fpn_convs_0.conv.kernel']
    assert np.abs(kernel).max() <= np.sqrt(6 / (9 * 32))
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.1)
    again = init_variables(small_model(), 0)['params']
    other = init_variables(small_model(), 1)['params']
    jax.tree.map(np.testing.assert_array_equal, params, again)
    name = 'bbox_head', 'atss_cls', 'kernel'
    assert (flatten_dict(params)[name] != flatten_dict(other)[name]).all()


def test_group_norm_keeps_its_digits_where_the_mean_is_large():
    x = np.random.default_rng(0).normal(300, 1, (1, 8, 8, 32)).astype(np.float32)
    norm, size = GroupNorm(num_groups=4), jnp.array([[8, 8]])
    variables = norm.init(jax.random.key(0), jnp.asarray(x), size)
    groups = x.astype(np.float64).reshape(64, 4, 8)
    expected = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(
        groups.var((0, 2), keepdims=True) + 1e-5
    )
    ours = np.asarray(norm.apply(variables, jnp.asarray(x), size)).reshape(64, 4, 8)
    assert np.abs(ours - expected).max() < 2e-4


def test_half_precision_weights_become_float32():
    model = ATSS(
        ResNet(18), FPN((64, 128, 256, 512), 32), ATSSHead(3, 32, feat_channels=32)
    )
    shapes = {
        p: np.zeros(s, np.float16) for p, s in mmdet.variable_shapes(model).items()
    }
    state_dict = mmdet.to_state_dict(unflatten_dict(shapes))
    variables = flatten_dict(mmdet.to_variables(state_dict, model))
    wrong = {p: v.dtype for p, v in variables.items() if v.dtype != np.float32}
    assert {path[-1] for path in wrong} == {'num_batches_tracked'}
