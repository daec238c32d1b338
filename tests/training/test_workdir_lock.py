"""One run at a time in a workdir."""

import errno
import fcntl
import subprocess
import sys

import pytest

from atss_jax.training import workdir as workdirs
from tests.conftest import ROOT
from tests.support.small_run import train, tree_of

HOLDER = """
import sys
from atss_jax.training import workdir
with workdir.locked(sys.argv[1]):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in `tmp_path`, as far as the lock can tell."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_nothing_changes(holder, small_run, tmp_path):
    before = tree_of(tmp_path)
    with pytest.raises(ValueError, match='another run is training in'):
        train(small_run.config, str(tmp_path))
    assert tree_of(tmp_path) == before


def test_a_killed_run_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    with workdirs.locked(str(tmp_path)):
        pass


def test_a_finished_run_leaves_no_lock(tmp_path):
    for _ in range(2):
        with workdirs.locked(str(tmp_path)):
            pass
    done = subprocess.run(
        [sys.executable, '-c', HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'held\n', done.stderr


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(file, command):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.warns(UserWarning, match='has no locks'), workdirs.locked(tmp_path):
        pass
