"""JAX_PLATFORMS that asks for what there is not: one line, in every command."""

import os
import subprocess
import sys

import jax
import pytest

from atss_jax.distributed import devices
from tests.conftest import ROOT

COMMANDS = {
    'train': ['train', '--config=atss_shapes', '--workdir=w'],
    'predict': ['predict', 'a.png', '--workdir=w', '--out=out'],
    'show-config': ['show-config', 'atss_shapes'],
}


def run(asked, code_or_words, cwd):
    environment = os.environ | {'JAX_PLATFORMS': asked, 'CUDA_VISIBLE_DEVICES': ''}
    environment['PYTHONPATH'] = str(ROOT)
    return subprocess.run(
        [sys.executable, *code_or_words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.parametrize(
    'asked, command',
    [('cuda', 'train'), ('gpu,cpu', 'predict'), ('cpuu', 'show-config')],
)
def test_commands(asked, command, tmp_path):
    (tmp_path / 'a.png').touch()
    result = run(asked, ['-m', 'atss_jax', *COMMANDS[command]], tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    expected = f'atss_jax {command}: JAX_PLATFORMS={asked}, but JAX can use only cpu'
    assert expected.partition(': ')[2] in line and 'Traceback' not in result.stdout
    assert 'unset this variable' in line


def test_the_python_api_and_no_silent_fallback(tmp_path):
    code = """
from atss_jax import Detector
for _ in range(2):
    try:
        Detector.load('none')
    except ValueError as error:
        print(error)
"""
    result = run('cuda', ['-c', code], tmp_path)
    assert result.stdout.count('JAX_PLATFORMS=cuda, but') == 2, result.stderr


def test_nothing_is_missing():
    assert devices.missing_platforms() is None


def test_a_device_that_jax_platforms_hides():
    if jax.config.jax_platforms != 'cpu':
        pytest.skip('needs JAX_PLATFORMS=cpu')
    with pytest.raises(ValueError, match=r'no gpu .* with JAX_PLATFORMS=cpu'):
        devices.find_local('gpu')


class Card:
    """What JAX says of a device."""

    def __init__(self, kind, **attributes):
        self.device_kind = kind
        for name, value in attributes.items():
            setattr(self, name, value)


NEW = [Card('cpu'), Card('H200', compute_capability='9.0')]
AMD = Card('MI300', compute_capability='gfx942')


def test_old_gpus_do_not_compute_in_bfloat16():
    devices.check_bfloat16([*NEW, AMD])
    old = Card('Tesla T4', compute_capability='7.5')
    with pytest.raises(ValueError, match=r'Tesla T4.*7\.5.*--config\.fp16=None'):
        devices.check_bfloat16([*NEW, old])
