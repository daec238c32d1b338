"""Weights of Swin Transformers: mmdetection's files and those of the official code."""

import functools
import json
import zlib

import numpy as np
import pytest

from atss_jax.training.initial import initial_variables
from atss_jax.weights import mmdet, mmdet_checkpoint, safetensors, swin_backbone
from atss_jax.weights.mmdet_momentum import parameter_names
from atss_jax.weights.torch_file import pth
from tests.conftest import GOLDEN
from tests.support.small import random_variables
from tests.support.swin import golden_case, golden_swin_state, tiny_swin

FIELDS = {'depths': (2, 1), 'window_size': 5}


@functools.cache
def official_file(window_size=5):
    """A classifier of the official code; its arrays are a function of their names."""
    path = GOLDEN / 'swin' / 'official_shapes.json'
    weights = {}
    for name, shape in json.loads(path.read_text()).items():
        if name.endswith('_table'):
            shape = [(2 * window_size - 1) ** 2, shape[1]]
        elif name.endswith('_index') and window_size != 5:
            continue
        random = np.random.RandomState(zlib.crc32(name.encode()))
        weights[name] = random.standard_normal(shape).astype(np.float32)
    return weights


def model_of(convert_weights=True):
    return tiny_swin(**FIELDS, convert_weights=convert_weights)


def backbone_shapes(model):
    prefix = 'backbone.'
    shapes = mmdet.variable_shapes(model)
    named = {mmdet.torch_name(path): shape for path, shape in shapes.items()}
    return {k.removeprefix(prefix): x for k, x in named.items() if k.startswith(prefix)}


def read(tmp_path, content, convert_weights, suffix='.pth'):
    path = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        pth.save(path, content)
    else:
        safetensors.save(path, content)
    return swin_backbone.backbone_weights(
        path, backbone_shapes(model_of()), convert_weights
    )


# Official files ----------------------------------------------------------------------


@pytest.mark.parametrize('window_size', [5, 3, 8])
def test_official_file_is_loaded_as_by_mmdet(window_size, tmp_path):
    ours = read(tmp_path, {'model': official_file(window_size)}, True)
    golden = np.load(GOLDEN / 'swin' / 'convert.npz')
    keys = [key for key in golden if key.startswith(f'{window_size}/')]
    assert len(keys) >= 3
    for key in keys:
        expected = golden[key]
        error = abs(ours[key.partition('/')[2]] - expected).max() / abs(expected).max()
        assert error <= (0 if window_size == 5 else 1e-6), key


def test_every_array_of_an_official_file_has_its_place(tmp_path):
    ours = read(tmp_path, official_file(), True, '.safetensors')
    missing = backbone_shapes(model_of()).keys() - ours.keys()
    assert missing == {'norm0.weight', 'norm0.bias', 'norm1.weight', 'norm1.bias'}
    theirs = official_file()
    mlp = 'layers.1.blocks.0.mlp.fc1.weight'
    np.testing.assert_array_equal(
        ours['stages.1.blocks.0.ffn.layers.0.0.weight'], theirs[mlp]
    )


def test_training_starts_from_an_official_file(tmp_path):
    path = tmp_path / 'swin.pth'
    pth.save(path, {'model': official_file()})
    state = mmdet.to_state_dict(initial_variables(model_of(), 0, str(path), None))
    expected = official_file()['patch_embed.proj.weight']
    np.testing.assert_array_equal(
        state['backbone.patch_embed.projection.weight'], expected
    )
    assert (state['backbone.norm1.weight'] == 1).all()


# mmdetection's files -----------------------------------------------------------------


def detector_state(model):
    return mmdet.to_state_dict(random_variables(model))


def test_training_starts_from_the_backbone_of_a_detector(tmp_path):
    """With mmdet's indices, and with a head of another detector."""
    state = mmdet.with_indices(detector_state(model_of()))
    ours = read(tmp_path, {'state_dict': state, 'meta': {}}, False)
    assert ours.keys() == backbone_shapes(model_of()).keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, state[f'backbone.{name}'])


def test_the_wrong_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'set model\.backbone\.convert_weights=True'):
        read(tmp_path, {'model': official_file()}, False)
    state = detector_state(model_of())
    with pytest.raises(ValueError, match=r'set model\.backbone\.convert_weights=False'):
        read(tmp_path, state, True)


def test_missing_and_other_names_are_listed(tmp_path):
    weights = dict(official_file())
    del weights['layers.0.blocks.1.norm2.bias']
    weights['layers.2.blocks.0.norm1.bias'] = np.zeros(32, np.float32)
    with pytest.raises(ValueError) as error:
        read(tmp_path, {'model': weights}, True)
    assert 'it lacks stages.0.blocks.1.norm2.bias' in str(error.value)
    assert 'it also has stages.2.blocks.0.norm1.bias' in str(error.value)


def test_another_width_is_an_error_of_shapes(tmp_path):
    path = tmp_path / 'swin.pth'
    pth.save(path, {'model': official_file()})
    model = tiny_swin(**FIELDS, convert_weights=True, num_heads=(2, 2))
    with pytest.raises(ValueError, match=r'with another shape.*table'):
        initial_variables(model, 0, str(path), None)


# Whole detectors ---------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_files_have_mmdets_indices(suffix, tmp_path):
    """mmdet has them as buffers; here they may be missing."""
    model, path = model_of(), tmp_path / f'detector{suffix}'
    state = detector_state(model)
    mmdet_checkpoint.save(path, mmdet_checkpoint.Checkpoint(state))
    saved = mmdet_checkpoint.state_dict(path)
    added = saved.keys() - state.keys()
    assert len(added) == 3 and all(map(mmdet.is_index, added))
    for weights in (saved, state):
        back = mmdet.to_state_dict(mmdet.to_variables(weights, model))
        assert back.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize('name', ['w7', 'abs'])
def test_parameters_are_in_mmdets_order(name):
    """`case.json` has them as mmdet registers them."""
    shapes = golden_case(name)['shapes']
    expected = [key for key in shapes if not mmdet.is_index(key)]
    assert parameter_names(sorted(shapes)) == expected
    assert list(golden_swin_state(name)) == expected
