"""Training where POSIX is missing, as on Windows, which these tests cannot run on."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from atss_jax.distributed.hosts import StopSignal, handle
from tests.conftest import ROOT

# What Windows lacks of the modules that Python and this project use.
PROGRAM = """
import os, signal, sys
for name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):
    sys.modules[name] = None  # an ImportError
for name in ('SIGALRM', 'SIGCHLD', 'SIGHUP', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'alarm',
             'pause', 'pthread_kill', 'pthread_sigmask', 'setitimer', 'sigwait'):
    delattr(signal, name)
for name in ('EX_TEMPFAIL', 'fork', 'forkpty', 'getpgid', 'getuid', 'geteuid',
             'killpg', 'nice', 'sched_getaffinity', 'setsid', 'sysconf'):
    delattr(os, name)

from atss_jax.config import load_config
from atss_jax.evaluation.run import make_evaluator
from atss_jax.training.loop import train

config = load_config(sys.argv[1], {'data.workers_per_gpu': 0})
train(config, sys.argv[2], make_evaluator)
"""


def test_training_without_posix(small_run, tmp_path):
    config = small_run.workdir / 'config.json'
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, config, tmp_path / 'workdir'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = (small_run.workdir / 'metrics.jsonl').read_bytes()
    assert (tmp_path / 'workdir' / 'metrics.jsonl').read_bytes() == expected


@pytest.fixture
def refused(monkeypatch):
    """No handler can be installed: `signal.signal` refuses all signals."""

    def refuse(number, handler):
        raise ValueError('invalid signal value')

    monkeypatch.setattr(signal, 'signal', refuse)


def test_a_platform_that_refuses_a_signal(refused):
    assert handle('SIGTERM', signal.SIG_DFL) is None
    stop = StopSignal()
    with stop.listening():
        assert not stop.requested()


def test_a_platform_without_a_signal(monkeypatch):
    """Ctrl-C is still handled there, and both are as before in the end."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.delattr(signal, 'SIGTERM')
    stop = StopSignal()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()
    monkeypatch.undo()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_other_than_the_main_one():
    """Python handles signals in the main thread only."""
    requested = []

    def listen():
        stop = StopSignal()
        with stop.listening():
            requested.append(stop.requested())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join(10)
    assert requested == [False]
