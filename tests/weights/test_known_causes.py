"""Weights that cannot be used for a reason that is known: the message names it."""

import numpy as np
import pytest

from atss_jax.config import to_json
from atss_jax.weights import mmdet, mmdet_checkpoint, safetensors, torchvision
from atss_jax.weights.mmdet_checkpoint import Checkpoint
from atss_jax.weights.prefixes import prefixes_of, without_wrappers
from atss_jax.weights.torch_file import pth
from tests.support import pickles
from tests.support.pickles import mapping, tensor
from tests.support.small_run import small_config

FLOATS = np.arange(12, dtype=np.float32)


@pytest.fixture(scope='module')
def detector(small_data, tmp_path_factory):
    """Config file and state dict of a small detector."""
    from atss_jax.config import build_experiment
    from atss_jax.training.state import zero_variables

    config = small_config(small_data)
    file = tmp_path_factory.mktemp('detector') / 'config.json'
    file.write_text(to_json(config))
    variables = zero_variables(build_experiment(config).model)
    return file, mmdet.to_state_dict(variables)


# Files -------------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.3, 0.6, 0.98])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_half_a_file(call, tmp_path, suffix, share):
    file = tmp_path / f'w{suffix}'
    mmdet_checkpoint.save(file, Checkpoint({'a.b': np.arange(999.0)}))
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    result = call('atss', 'convert', file, tmp_path / 'out.pth')
    result.refuses(file, 'cut off', 'download or copy it again')


def test_half_an_old_checkpoint(tmp_path):
    body = mapping(a=tensor('0', 'Float', 12, 0, (12,), (1,)))
    file = pickles.write('legacy', tmp_path / 'w.pth', body, {'0': FLOATS})
    content = file.read_bytes()
    for length in range(60, len(content), 9):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match='cut off after'):
            pth.load(file)


def test_a_damaged_file_is_not_called_cut_off(tmp_path):
    file = tmp_path / 'w.pth'
    pth.save(file, {'a': FLOATS})
    content = file.read_bytes().replace(FLOATS.tobytes(), FLOATS[::-1].tobytes())
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r'damaged .*CRC') as caught:
        pth.load(file)
    assert 'cut off' not in str(caught.value)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_what_is_no_checkpoint(call, tmp_path, suffix):
    file = tmp_path / f'w{suffix}'
    for content, part in [
        (b'<!DOCTYPE html><html>Sign in', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
    ]:
        file.write_bytes(content)
        call('atss', 'convert', file, tmp_path / 'out.pth').refuses(file, part)


def test_files_of_the_other_kind(call, tmp_path):
    names = tmp_path / 'a.pth', tmp_path / 'b.safetensors'
    safetensors.save(names[0], {'x': FLOATS})
    pth.save(names[1], {'x': FLOATS})
    for name, part in zip(names, ('.safetensors', '.pth'), strict=True):
        result = call('atss', 'convert', name, tmp_path / 'out.pth')
        result.refuses(name, f'its name must end in {part}')


# Prefixes ----------------------------------------------------------------------------


@pytest.mark.parametrize('prefix', ['module.', 'model.', '_orig_mod.module.', ''])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_wrappers_are_removed(call, detector, tmp_path, prefix, suffix):
    config, weights = detector
    file = tmp_path / f'w{suffix}'
    named = {prefix + name: value for name, value in weights.items()}
    mmdet_checkpoint.save(file, Checkpoint(named, classes=('a', 'b', 'c')))
    result = call('atss', 'convert', file, tmp_path / 'run', '--config', config)
    assert result.status == 0, result.err


@pytest.mark.parametrize('prefixes', [('detector.',), ('student.', 'teacher.')])
def test_another_prefix_is_named(call, detector, tmp_path, prefixes):
    config, weights = detector
    named = {p + name: value for p in prefixes for name, value in weights.items()}
    file = tmp_path / 'w.pth'
    mmdet_checkpoint.save(file, Checkpoint(named))
    result = call('atss', 'convert', file, tmp_path / 'run', '--config', config)
    assert result.refuses(*map(repr, prefixes), 'removeprefix')
    assert len(result.err) < 500
    # The advice, followed.
    state_dict, prefix = named, prefixes[0]
    kept = {
        name.removeprefix(prefix): x
        for name, x in state_dict.items()
        if name.startswith(prefix)
    }
    mmdet_checkpoint.save(file, Checkpoint(kept))
    result = call('atss', 'convert', file, tmp_path / 'run', '--config', config)
    assert result.status == 0, result.err


def test_a_backbone_where_a_detector_is_expected(call, detector, tmp_path):
    config, weights = detector
    prefix = 'backbone.'
    backbone = {n.removeprefix(prefix): x for n, x in weights.items() if prefix in n}
    file = tmp_path / 'w.pth'
    mmdet_checkpoint.save(file, Checkpoint(backbone))
    result = call('atss', 'convert', file, tmp_path / 'run', '--config', config)
    result.refuses('a backbone alone', 'model.pretrained')


def test_a_detector_where_a_backbone_is_expected(detector, tmp_path):
    _, weights = detector
    file = tmp_path / 'w.pth'
    mmdet_checkpoint.save(file, Checkpoint(weights))
    wanted = [n.removeprefix('backbone.') for n in weights if n[:9] == 'backbone.']
    with pytest.raises(ValueError, match='whole detector; give it as load_from'):
        torchvision.backbone_weights(file, wanted)
    contrast = {f'encoder_q.{name}': np.zeros(1) for name in wanted}
    pth.save(file, {'state_dict': contrast | {'queue': np.zeros(1)}})
    with pytest.raises(ValueError, match=r"'encoder_q\.' before their names"):
        torchvision.backbone_weights(file, wanted)


def test_other_misfits_are_listed_as_before(detector):
    _, weights = detector
    some = dict(list(weights.items())[3:]) | {'more': np.zeros(1)}
    shapes = {('params', *n.split('.')): np.shape(x) for n, x in weights.items()}
    shapes = {path: shape for path, shape in shapes.items() if path[-1] == 'bias'}
    with pytest.raises(ValueError, match=r'missing from the weights: .*; left over'):
        mmdet.fit({'more': some['more']}, shapes)


def test_prefixes():
    assert without_wrappers({}) == {}
    assert without_wrappers({'module.': 1}) == {'': 1}
    assert without_wrappers({'model.a': 1, 'b': 2}) == {'model.a': 1, 'b': 2}
    assert prefixes_of(['x.a.b', 'x.c', 'y.c'], ['a.b', 'c']) == ['x.']
    assert prefixes_of(['x.c', 'y.c'], ['c']) == ['x.', 'y.']
    assert prefixes_of(['xa.b'], ['a.b']) == [] and prefixes_of(['a'], []) == []
