"""Weights on disk: `.safetensors` files and the content of mmdet's checkpoints."""

import functools
import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import ResNet, stage_channels
from atss_jax.weights import (
    mmdet,
    mmdet_checkpoint,
    mmdet_momentum,
    safetensors,
    torchvision,
)
from atss_jax.weights.mmdet_checkpoint import Checkpoint
from atss_jax.weights.torch_file import pth
from tests.conftest import GOLDEN
from tests.support.recipes import golden_state_dict
from tests.support.small import small_model

# .safetensors -------------------------------------------------------------------------

DTYPES = ['f4', 'f8', 'f2', ml_dtypes.bfloat16, 'i8', 'i4', 'i2', 'i1', 'u1', '?']


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'weights.safetensors'


@pytest.mark.parametrize('dtype', DTYPES)
def test_names_types_and_bits_are_kept(file, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    arrays = {
        'a.b.weight': array,
        'scalar': array[1, 1],
        'empty': array[:0],
        'transposed': array.T,
        'strided': array[:, ::2],
    }
    safetensors.save(file, arrays, {'classes': '["é"]'})
    found, text = safetensors.load(file)
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert found[name].tobytes() == value.tobytes()
    assert text == {'format': 'pt', 'classes': '["é"]'}


def test_the_layout_of_the_file(file):
    """Length of the header, the header in JSON, the bytes: as the format says."""
    safetensors.save(file, {'x': np.array([1, 2], '<f4')})
    data = file.read_bytes()
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    assert header['x'] == {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
    assert data[8 + length :] == np.array([1, 2], '<f4').tobytes()


def test_prefix_of_parallel_training_is_dropped(file):
    safetensors.save(file, {'module.a': np.zeros(1), 'module.b': np.ones(1)})
    assert set(safetensors.state_dict(file)) == {'a', 'b'}


@pytest.mark.parametrize(
    'spoil',
    [
        lambda data: b'',
        lambda data: data[:5],
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data + b'more',
        lambda data: b'\xff' * 8 + data[8:],
        lambda data: data[:8] + b'x' * (len(data) - 8),
        lambda data: b'PK\x03\x04' + data,
    ],
)
def test_damaged_files_are_named(file, spoil):
    safetensors.save(file, {'x': np.arange(9.0)})
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match='not a safetensors file, or a damaged') as e:
        safetensors.load(file)
    assert str(file) in str(e.value)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_permissions_follow_the_umask(tmp_path, suffix):
    path = tmp_path / f'w{suffix}'
    before = os.umask(0o027)
    try:
        mmdet_checkpoint.save(path, Checkpoint({'x': np.zeros(3, np.float32)}))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [path.name]


def test_what_cannot_be_read_or_written(file, tmp_path):
    with pytest.raises(FileNotFoundError, match='weights'):
        safetensors.load(file)
    with pytest.raises(IsADirectoryError):
        safetensors.load(tmp_path)
    with pytest.raises(ValueError, match='cannot write'):
        safetensors.save(file, {'x': np.zeros(3, np.complex128)})
    assert list(tmp_path.iterdir()) == []
    safetensors.save(file, {})
    with pytest.raises(ValueError, match='no weights'):
        safetensors.state_dict(file)


# Round trips --------------------------------------------------------------------------


def random_state_dict(model, seed=0):
    """Random bits of float32 in torch's layout, except the counters."""
    rng = np.random.default_rng(seed)

    def random_value(path, shape):
        if path[-1] == 'num_batches_tracked':
            return np.int32(rng.integers(1000))
        return rng.random(shape, np.float32)

    shapes = mmdet.variable_shapes(model)
    values = {path: random_value(path, shape) for path, shape in shapes.items()}
    return {
        mmdet.torch_name(path): mmdet._to_torch_layout(path, np.asarray(value))
        for path, value in values.items()
    }


SLOW = [pytest.mark.slow]


@pytest.mark.parametrize(
    ('depth', 'style'),
    [
        (18, 'pytorch'),
        (50, 'caffe'),
        pytest.param(34, 'pytorch', marks=SLOW),
        pytest.param(50, 'pytorch', marks=SLOW),
        pytest.param(101, 'pytorch', marks=SLOW),
        pytest.param(101, 'caffe', marks=SLOW),
        pytest.param(152, 'pytorch', marks=SLOW),
    ],
)
def test_every_depth_through_files_and_variables(tmp_path, depth, style):
    """Torch names to a file, to variables and back, bit for bit."""
    neck = FPN(in_channels=stage_channels(depth))
    model = ATSS(ResNet(depth=depth, style=style), neck, ATSSHead(80))
    state = random_state_dict(model, depth)
    for suffix in ('.pth', '.safetensors'):
        path = tmp_path / f'w{suffix}'
        mmdet_checkpoint.save(path, Checkpoint(state, classes=('a', 'b')))
        found = mmdet_checkpoint.load(path)
        path.unlink()
        back = mmdet.to_state_dict(mmdet.to_variables(found.weights, model))
        assert found.classes == ('a', 'b')
        assert set(back) == set(state)
        for name, value in state.items():
            assert back[name].dtype == value.dtype and back[name].shape == value.shape
            assert back[name].tobytes() == value.tobytes(), name


# mmdet's checkpoints ------------------------------------------------------------------


@functools.cache
def small_state():
    """Weights of a small detector, momentum of all but its stem, in mmdet's order."""
    state = random_state_dict(small_model())
    names = mmdet_momentum.registration_order(state)
    return {name: state[name] for name in names}


def buffers(names, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.random(small_state()[name].shape, np.float32) for name in names}


def parameters():
    """In the order of the state dict, which is that of torch's `parameters()`."""
    buffer = ('running_mean', 'running_var', 'num_batches_tracked')
    return [name for name in small_state() if not name.endswith(buffer)]


def write(tmp_path, **content):
    path = tmp_path / 'epoch_1.pth'
    pth.save(path, {'meta': {}, 'state_dict': small_state(), **content})
    return path


@pytest.mark.parametrize(
    'meta',
    [
        {'CLASSES': ('a', 'b')},
        {'dataset_meta': {'classes': ('a', 'b'), 'palette': [(1, 2, 3)]}},
        {'dataset_meta': {'CLASSES': ['a', 'b']}, 'CLASSES': ('old', 'names')},
    ],
)
def test_classes_in_every_form(tmp_path, meta):
    found = mmdet_checkpoint.load(write(tmp_path, meta={**meta, 'iter': 77}))
    assert found.classes == ('a', 'b') and found.step == 77


def test_a_checkpoint_that_says_little(tmp_path):
    found = mmdet_checkpoint.load(write(tmp_path))
    assert (found.classes, found.step, found.unaveraged) == (None,) * 3
    with pytest.raises(
        ValueError, match=r'epoch_1\.pth: no optimizer in the checkpoint'
    ):
        mmdet_checkpoint.load(tmp_path / 'epoch_1.pth', momentum=True)


def test_registration_order_is_that_of_mmdetection():
    """The golden names were listed by mmdetection's own `state_dict()`."""
    names = list(golden_state_dict())
    assert mmdet_momentum.registration_order(sorted(names)) == names
    for file in (GOLDEN / 'family').glob('*/state_dict_shapes.json'):
        names = list(json.loads(file.read_text()))
        assert mmdet_momentum.registration_order(sorted(names)) == names
    with pytest.raises(ValueError, match="position of 'offset'"):
        mmdet_momentum.registration_order(['backbone.conv1.offset.weight'])


def optimizer(names, buffer, groups=1):
    """What torch's SGD saves for parameters of these names."""
    state = {
        i: {'momentum_buffer': buffer[name]}
        for i, name in enumerate(names)
        if name in buffer
    }
    indices = list(range(len(names)))
    parts = [indices] if groups == 1 else [[index] for index in indices]
    hyper = {'lr': 0.02, 'momentum': 0.9, 'weight_decay': 1e-4, 'nesterov': False}
    return {'state': state, 'param_groups': [hyper | {'params': p} for p in parts]}


def test_momentum_by_index_with_frozen_parameters_among_them(tmp_path):
    names = parameters()
    trained = [name for name in names if not name.startswith('backbone.conv1')]
    buffer = buffers(trained)
    path = write(tmp_path, optimizer=optimizer(names, buffer))
    found = mmdet_checkpoint.load(path, momentum=True)
    assert list(found.momentum) == trained
    for name, value in buffer.items():
        np.testing.assert_array_equal(found.momentum[name], value)
    assert found.group['lr'] == 0.02 and 'params' not in found.group


def test_momentum_with_frozen_parameters_left_out(tmp_path):
    """As mmengine does with `paramwise_cfg`: a group for each trained parameter."""
    trained = [name for name in parameters() if not name.startswith('backbone.bn1')]
    buffer = buffers(trained)
    path = write(tmp_path, optimizer=optimizer(trained, buffer, groups=len(trained)))
    found = mmdet_checkpoint.load(path, momentum=True, trained=trained)
    np.testing.assert_array_equal(found.momentum[trained[0]], buffer[trained[0]])
    assert list(found.momentum) == trained
    with pytest.raises(ValueError, match='parameters, the weights have'):
        mmdet_checkpoint.load(path, momentum=True)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda o: o.update(state={}), 'no momentum'),
        (lambda o: o['param_groups'][0]['params'].pop(), 'parameters, the weights'),
        (lambda o: o['state'].update({1: o['state'][0]}), 'momentum 1 has the shape'),
        (lambda o: o.pop('param_groups'), 'no optimizer'),
        (lambda o: o['state'].update({0: 5}), 'not the state_dict'),
    ],
)
def test_an_optimizer_that_does_not_fit(tmp_path, spoil, message):
    broken = optimizer(parameters(), buffers(parameters()))
    spoil(broken)
    with pytest.raises(ValueError, match=message):
        mmdet_checkpoint.load(write(tmp_path, optimizer=broken), momentum=True)


def test_momentum_out_and_in_again(tmp_path):
    path, buffer = tmp_path / 'w.pth', buffers(parameters()[5:])
    group = {'lr': 0.01, 'momentum': 0.9, 'weight_decay': 1e-4}
    shuffled = dict(sorted(small_state().items()))
    saved = Checkpoint(shuffled, momentum=buffer, group=group, step=7)
    mmdet_checkpoint.save(path, saved)
    found = mmdet_checkpoint.load(path, momentum=True)
    assert found.step == 7 and found.group['lr'] == 0.01
    assert found.momentum.keys() == buffer.keys()
    for name, value in buffer.items():
        assert found.momentum[name].tobytes() == value.tobytes()
    index = parameters().index(parameters()[5])
    raw = pth.load(path)['optimizer']
    assert min(raw['state']) == index == 5
    assert raw['param_groups'][0]['params'] == list(range(len(parameters())))


# AdamW --------------------------------------------------------------------------------


def adamw(names, updates=6, groups=1):
    """What torch's AdamW saves for parameters of these names."""
    means, squares = buffers(names, 1), buffers(names, 2)
    state = {
        i: {'step': updates, 'exp_avg': means[name], 'exp_avg_sq': squares[name]}
        for i, name in enumerate(names)
    }
    indices = list(range(len(names)))
    parts = [indices] if groups == 1 else [[index] for index in indices]
    hyper = {'lr': 5e-5, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.05}
    return {'state': state, 'param_groups': [hyper | {'params': p} for p in parts]}


@pytest.mark.parametrize('updates', [6, np.array(6, np.float32)])
def test_the_state_of_adamw(tmp_path, updates):
    """Before torch 1.12 the number of updates was an integer, now it is a tensor."""
    path = write(tmp_path, optimizer=adamw(parameters(), updates))
    found = mmdet_checkpoint.load(path, momentum=True)
    assert found.updates == 6 and type(found.updates) is int
    assert found.group['betas'] == (0.9, 0.999) and found.settings is None
    for seed, arrays in ((1, found.momentum), (2, found.squares)):
        assert list(arrays) == parameters()
        for name, value in buffers(parameters(), seed).items():
            np.testing.assert_array_equal(arrays[name], value)


def test_adamw_out_and_in_again(tmp_path):
    names = parameters()[5:]
    means, squares = buffers(names, 1), buffers(names, 2)
    group = {'lr': 0.001, 'betas': (0.8, 0.95), 'eps': 1e-6, 'weight_decay': 0.05}
    saved = Checkpoint(
        *(small_state(), None, means, group), step=22, squares=squares, updates=11
    )
    mmdet_checkpoint.save(tmp_path / 'w.pth', saved)
    found = mmdet_checkpoint.load(tmp_path / 'w.pth', momentum=True)
    assert (found.updates, found.step) == (11, 22)
    assert {name: found.group[name] for name in group} == group
    for arrays, expected in ((found.momentum, means), (found.squares, squares)):
        assert arrays.keys() == expected.keys()
        assert all(
            arrays[name].tobytes() == x.tobytes() for name, x in expected.items()
        )
    raw = pth.load(tmp_path / 'w.pth')['optimizer']
    assert min(raw['state']) == 5
    assert raw['state'][5]['step'].shape == () and len(raw['param_groups']) == 1


def test_a_group_for_each_trained_parameter(tmp_path):
    """As mmengine makes them with `paramwise_cfg`; the stem is frozen."""
    trained = [name for name in parameters() if not name.startswith('backbone.bn1')]
    decays = {name: 0.01 * i for i, name in enumerate(trained)}
    saved = Checkpoint(
        small_state(),
        momentum=buffers(trained, 1),
        squares=buffers(trained, 2),
        updates=3,
        group={'lr': 5e-5, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0.05},
        settings={name: {'weight_decay': decay} for name, decay in decays.items()},
    )
    mmdet_checkpoint.save(tmp_path / 'w.pth', saved)
    raw = pth.load(tmp_path / 'w.pth')['optimizer']
    assert [group['params'] for group in raw['param_groups']] == [
        [index] for index in range(len(trained))
    ]
    found = mmdet_checkpoint.load(tmp_path / 'w.pth', True, trained)
    assert {
        name: settings['weight_decay'] for name, settings in found.settings.items()
    } == decays
    assert all(settings['lr'] == 5e-5 for settings in found.settings.values())
    np.testing.assert_array_equal(
        found.momentum[trained[-1]], saved.momentum[trained[-1]]
    )


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda state: state[3].update(step=5), r'AdamW made \[5, 6\] updates'),
        (lambda state: state[3].update(step=np.ones(2)), 'for all of them'),
        (lambda state: state[3].update(step=np.nan), 'for all of them'),
        (lambda state: state[3].pop('step'), 'the same number for all of them'),
        (
            lambda state: state[3].pop('exp_avg_sq'),
            'exp_avg or exp_avg_sq, but not both',
        ),
        (lambda state: state[3].update(max_exp_avg_sq=0), 'AdamW with amsgrad'),
        (lambda state: state[1].update(exp_avg=state[0]['exp_avg']), 'momentum 1 has'),
    ],
)
def test_adamw_that_cannot_be_continued(tmp_path, spoil, message):
    broken = adamw(parameters())
    spoil(broken['state'])
    with pytest.raises(ValueError, match=message):
        mmdet_checkpoint.load(write(tmp_path, optimizer=broken), momentum=True)


def test_averages_of_mmengine(tmp_path):
    """There `state_dict` is the average, next to the weights under training."""
    raw = {name: value + 1 for name, value in small_state().items()}
    beside = {f'module.{name}': value for name, value in raw.items()}
    beside['steps'] = np.array(5, np.int64)
    found = mmdet_checkpoint.load(write(tmp_path, ema_state_dict=beside))
    for name, value in small_state().items():
        np.testing.assert_array_equal(found.weights[name], value)
        np.testing.assert_array_equal(found.unaveraged[name], raw[name])
    again = tmp_path / 'again.pth'
    mmdet_checkpoint.save(again, found)
    back = mmdet_checkpoint.load(again)
    assert back.unaveraged.keys() == back.weights.keys() == small_state().keys()
    name = parameters()[0]
    np.testing.assert_array_equal(back.unaveraged[name], raw[name])


def test_averages_of_mmdet_2x(tmp_path):
    weights = small_state()
    ours = [name for name in parameters() if name.startswith('backbone.')]
    beside = {'ema_' + n.replace('.', '_'): weights[n] + 1 for n in ours}
    path = write(tmp_path, state_dict={**weights, **beside})
    found = mmdet_checkpoint.load(path)
    assert found.weights.keys() == weights.keys()
    assert mmdet_checkpoint.state_dict(path).keys() == weights.keys()
    for name, value in weights.items():
        plus = 1 if name in ours else 0
        np.testing.assert_array_equal(found.weights[name], value)
        np.testing.assert_array_equal(found.unaveraged[name], value + plus)
    path = write(tmp_path, state_dict={**weights, 'ema_of_nothing': np.zeros(1)})
    with pytest.raises(ValueError, match=r'ema_of_nothing'):
        mmdet_checkpoint.load(path)


def test_a_safetensors_file_holds_only_weights(tmp_path):
    file = tmp_path / 'w.safetensors'
    full = Checkpoint(small_state(), momentum=buffers(parameters()))
    with pytest.raises(ValueError, match=r'only a \.pth'):
        mmdet_checkpoint.save(file, full)
    mmdet_checkpoint.save(file, Checkpoint(small_state()))
    with pytest.raises(ValueError, match='has no momentum'):
        mmdet_checkpoint.load(file, momentum=True)
    assert mmdet_checkpoint.load(file).classes is None


def test_a_backbone_from_a_safetensors_file(tmp_path):
    file, ones = tmp_path / 'r.safetensors', np.ones((2, 3), np.float16)
    safetensors.save(file, {'conv1.weight': ones, 'fc.bias': np.zeros(5)})
    found = torchvision.backbone_weights(file, ['conv1.weight'])
    assert set(found) == {'conv1.weight'}
    np.testing.assert_array_equal(found['conv1.weight'], ones)
    with pytest.raises(ValueError, match=r'lacks conv2\.weight'):
        torchvision.backbone_weights(file, ['conv1.weight', 'conv2.weight'])


def test_momentum_as_a_tree_of_variables():
    model = small_model()
    shapes = {
        path: shape
        for path, shape in mmdet.variable_shapes(model).items()
        if path[0] == 'params'
    }
    tree = mmdet.fit(buffers(parameters()), shapes, 'momentum')
    back = mmdet.to_state_dict(tree)
    for name, value in buffers(parameters()).items():
        assert back[name].tobytes() == value.tobytes()
    assert set(flatten_dict(tree)) == set(shapes)
    del shapes['params', 'backbone', 'conv1', 'kernel']
    with pytest.raises(ValueError, match=r'left over in the momentum: backbone\.conv1'):
        mmdet.fit(buffers(parameters()), shapes, 'momentum')
