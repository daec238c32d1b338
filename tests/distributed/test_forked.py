"""In a forked process JAX would hang; an error says so, and what to do."""

import multiprocessing
import os
import warnings

import pytest

import atss_jax
from atss_jax.distributed import devices, forked
from atss_jax.inference.detector import Detector

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')


def in_fork(action):
    """The error that `action` raises in a forked process; fails after a minute."""

    def work(connection):
        try:
            action()
        except RuntimeError as error:
            connection.send(str(error))
        else:
            connection.send('no error')

    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # JAX's own, about the fork
        process = context.Process(target=work, args=(theirs,))
        process.start()
    try:
        assert ours.poll(60), 'it hangs'
        return ours.recv()
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope='module')
def detector(small_run):
    return Detector.load(small_run.workdir)


def test_a_detector_of_the_parent(detector, small_data):
    image = next((small_data / 'val').iterdir())
    message = in_fork(lambda: detector.predict(image))
    assert "Start processes by 'spawn'" in message
    assert in_fork(lambda: list(detector.stream([]))) == message
    assert len(detector.predict(image)) == 1


def test_everything_else_that_computes(detector, small_run, tmp_path):
    for action in (
        lambda: Detector.load(small_run.workdir),
        lambda: atss_jax.evaluate(small_run.workdir, out=tmp_path),
        lambda: atss_jax.train(small_run.config, str(tmp_path / 'run')),
        lambda: devices.replicate(1.0),
    ):
        assert 'forked from one that had used JAX' in in_fork(action)


def test_a_fork_before_jax_is_used(monkeypatch):
    monkeypatch.setattr(forked, '_owner', None)
    assert in_fork(forked.check) == 'no error'
