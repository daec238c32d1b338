"""One process at a time, on every operating system."""

import errno
import subprocess
import sys
import threading
import time

import filelock
import pytest

from atss_jax.files.lock import locked
from tests.conftest import ROOT

HOLDER = """
import pathlib, sys
from atss_jax.files.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""
WITHOUT_FCNTL = "import sys; sys.modules['fcntl'] = None\n"


@pytest.fixture
def hold(tmp_path):
    """`hold(preamble)` starts another process that holds `tmp_path/lock`."""
    started = []

    def start(preamble=''):
        process = subprocess.Popen(
            [sys.executable, '-c', preamble + HOLDER, str(tmp_path / 'lock')],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_process_is_refused_at_once(hold, tmp_path):
    hold()
    with pytest.raises(BlockingIOError, match=r'lock: another process is at work'):
        locked(tmp_path / 'lock', wait=False).__enter__()


def test_the_same_process_is_refused_too(tmp_path):
    with locked(tmp_path / 'lock'), pytest.raises(BlockingIOError):
        locked(tmp_path / 'lock', wait=False).__enter__()
    with locked(tmp_path / 'lock', wait=False):
        pass


@pytest.mark.parametrize('is_killed', [False, True])
def test_waits_until_the_holder_ends_however_it_ends(hold, tmp_path, is_killed):
    holder = hold()
    end = holder.kill if is_killed else holder.stdin.close
    threading.Timer(0.5, end).start()
    began = time.monotonic()
    with locked(tmp_path / 'lock'):
        assert time.monotonic() - began > 0.3


def test_a_program_started_here_does_not_inherit_the_lock(tmp_path):
    with locked(tmp_path / 'lock'):
        child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)
    with locked(tmp_path / 'lock', wait=False):
        assert child.poll() is None  # it is still there, and would have the lock
        child.communicate()


def test_an_error_within_is_not_touched(tmp_path):
    with pytest.raises(OSError) as caught, locked(tmp_path / 'lock'):
        raise OSError(errno.ENOLCK, 'mine')
    assert caught.value.strerror == 'mine'
    with locked(tmp_path / 'lock', wait=False):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def acquire(*_):
        raise OSError(errno.EOPNOTSUPP, 'Operation not supported')

    monkeypatch.setattr(filelock.FileLock, '_acquire', acquire)
    with pytest.warns(UserWarning, match='has no locks'), locked(tmp_path / 'lock'):
        pass


def test_without_fcntl(hold, tmp_path):
    """As on Windows, as far as it can be simulated: filelock then locks otherwise."""
    holder = hold(WITHOUT_FCNTL)
    second = [sys.executable, '-c', WITHOUT_FCNTL + HOLDER, str(tmp_path / 'lock')]
    code = second[2].replace('sys.argv[1])', 'sys.argv[1]), wait=False')
    done = subprocess.run(
        [sys.executable, '-c', code, second[3]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert 'BlockingIOError' in done.stderr
    holder.kill()
    holder.wait()
    done = subprocess.run(
        second, cwd=ROOT, input='', capture_output=True, text=True, timeout=60
    )
    assert done.stdout == 'held\n', done.stderr
