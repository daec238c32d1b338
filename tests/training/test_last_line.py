"""The last line that a user sees is the message, with nothing of threads around.

A limit on the size of files stands for a disk that is full.
"""

import pathlib
import subprocess
import sys

import pytest

from atss_jax.training.board import Board
from atss_jax.training.checkpoint import Checkpoints
from tests.conftest import ROOT
from tests.support.small_run import small_overrides


def test_checkpoints_clean_up_in_no_thread(tmp_path, monkeypatch):
    """Orbax's thread failed, with 42 lines, if the program ended before it did."""

    def fail(*args, **kwargs):
        raise AssertionError('orbax cleans up in a thread')

    monkeypatch.setattr(
        'orbax.checkpoint._src.path.temporary_paths.cleanup_temporary_paths', fail
    )
    Checkpoints(str(tmp_path), clean=True).close()


def train(folder, data, *flags, limit=None):
    fields = small_overrides(data)
    command = [
        *(sys.executable, ROOT / 'train.py', '--config=atss_shapes'),
        *(f'--config.{name}={value!r}' for name, value in fields.items()),
        *(f'--workdir={folder}', '--compile_cache=off', *flags),
    ]
    if limit:
        command = ['bash', '-c', f'ulimit -f {limit}; exec "$@"', 'bash', *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_an_early_error(small_data, tmp_path):
    result = train(tmp_path / 'w', small_data, '--config.load_from=/nope/x.pth')
    assert result.returncode == 1 and result.stdout == ''
    (line,) = result.stderr.splitlines()
    assert line.startswith('train.py: config.load_from: no weights at /nope/x.pth')


@pytest.mark.skipif(sys.platform == 'win32', reason='needs ulimit')
def test_a_checkpoint_that_cannot_be_written(small_data, tmp_path):
    flags = ['--config.auto_scale_lr.enable=True']
    result = train(tmp_path / 'w', small_data, *flags, limit=100)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f'train.py: a checkpoint could not be saved in {tmp_path}')
    assert 'File too large' in line and 'run again to resume' in line
    assert 'evaluation after epoch 1' in result.stdout  # the numbers are not lost


@pytest.mark.skipif(not pathlib.Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_full_disk_ends_the_run_and_does_not_hang_it(tmp_path, monkeypatch):
    """The thread of tensorboardX died, and the program waited for it forever."""
    board = Board(tmp_path / 'tensorboard', 1)
    board.add('a', 1.0, 1)
    board._file = open('/dev/full', 'ab', buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match='No space left'):
        board.add('a', 1.0, 2)
    board.close()
