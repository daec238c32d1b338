"""Worker processes change nothing, leave nothing, and end in time.

They are started by scripts of their own, so that what they leave behind at exit shows
in stderr.
"""

import os
import subprocess
import sys
import time

import pytest

from atss_jax.data.batch import images_in
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.data.worker import killed
from tests.conftest import ROOT
from tests.support.batches import run_script


class Broken(ShapesDataset):
    """One of its images cannot be read."""

    def read_image(self, record):
        if record.image_id == 3:
            raise FileNotFoundError('3.png: No such file (image id 3)')
        return super().read_image(record)


class Panic(BaseException):
    """As libraries in Rust raise it; no Exception, and no words to be had from it."""

    def __str__(self):
        raise ValueError('no words')


class Panics(ShapesDataset):
    """One of its images ends in a panic."""

    def read_image(self, record):
        if record.image_id == 3:
            raise Panic
        return super().read_image(record)


class Hangs:
    """Batches of one image; all but the first never come."""

    image_bytes = 12

    def __call__(self, number, memory=None):
        if number > 0:
            time.sleep(1000)
        return {'image': images_in(memory, (1, 2, 2, 3))}


def test_workers_change_nothing_and_leave_nothing(tmp_path):
    """0, 1 and 2 workers: the same bits. The readers stop early; nothing is left."""
    body = """
    expected = [batches(step) for step in range(3, 8)]
    for workers in (0, 1, 2):
        stream = prefetch(batches, 3, 100, workers)
        for one in expected:
            other = next(stream)
            assert set(one) == set(other)
            for name in one:
                assert type(other[name]) is np.ndarray
                assert one[name].dtype == other[name].dtype
                assert np.array_equal(one[name], other[name]), (workers, name)
        stream.close()
    assert len(list(prefetch(batches, 0, 4, 1))) == 4  # to the end, that too
    with started(prefetch(batches, 0, 100, 1)):
        pass  # not even one was asked for
    import multiprocessing
    assert not multiprocessing.active_children()
"""
    assert run_script(body, tmp_path).stderr == ''


def test_an_error_in_a_worker_reaches_the_reader(tmp_path):
    body = """
    from tests.data.test_worker import Broken
    batches = shapes_batches(Broken(21, min_size=64, max_size=80, max_objects=5))
    try:
        for batch in prefetch(batches, 0, 1000, workers=2):
            pass
    except FileNotFoundError as error:
        print(error)
    import multiprocessing
    assert not multiprocessing.active_children()
"""
    done = run_script(body, tmp_path)
    assert done.stdout == '3.png: No such file (image id 3)\n'
    assert 'Traceback' not in done.stderr


def test_whatever_a_worker_raises_reaches_the_reader(tmp_path):
    body = """
    from tests.data.test_worker import Panics
    batches = shapes_batches(Panics(21, min_size=64, max_size=80, max_objects=5))
    try:
        for batch in prefetch(batches, 0, 1000, workers=1):
            pass
    except RuntimeError as error:
        print(error)
"""
    done = run_script(body, tmp_path)
    assert done.stdout == 'tests.data.test_worker.Panic: <exception str() failed>\n'


def test_workers_that_hang_are_killed_at_one_time(tmp_path):
    """Three of them, not one after the other; an interrupted end waits for none."""
    body = """
    import multiprocessing, time
    from atss_jax.data import worker
    from tests.data.test_worker import Hangs
    worker._SECONDS_TO_END = 6

    def began():
        stream = prefetch(Hangs(), 0, 100, workers=3)
        next(stream)
        time.sleep(3)
        return stream, time.monotonic()

    stream, since = began()
    stream.close()
    assert time.monotonic() - since < 11
    assert not multiprocessing.active_children()

    def interrupted(process, timeout=None):
        multiprocessing.process.BaseProcess.join = join
        raise KeyboardInterrupt

    stream, since = began()
    join = multiprocessing.process.BaseProcess.join
    multiprocessing.process.BaseProcess.join = interrupted
    try:
        stream.close()
    except KeyboardInterrupt:
        print('interrupted')
    assert not multiprocessing.active_children()
"""
    assert run_script(body, tmp_path).stdout == 'interrupted\n'


def test_waiting_for_workers_that_hang_is_told(tmp_path):
    body = """
    import signal
    from atss_jax.data import worker
    from tests.data.test_worker import Hangs
    worker._SECONDS_TO_END, worker._SECONDS_UNTIL_TOLD = 5, 1

    def give_up(*_):
        raise TimeoutError

    stream = prefetch(Hangs(), 0, 100, workers=2)
    next(stream)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        next(stream)
    except TimeoutError:
        print('given up')
"""
    done = run_script(body, tmp_path)
    assert done.stdout == 'given up\n'
    assert 'no batch for 1 seconds: waiting for the loading processes' in done.stderr
    assert 'this ends within 5 seconds: waiting for the' in done.stderr


def test_there_are_no_more_workers_than_batches(tmp_path):
    body = """
    import multiprocessing
    for batch in prefetch(batches, 0, 2, workers=6):
        print(len(multiprocessing.active_children()))
"""
    assert run_script(body, tmp_path).stdout == '2\n2\n'


def test_a_worker_that_is_killed_is_an_error_with_a_reason(tmp_path):
    body = """
    import multiprocessing
    try:
        for batch in prefetch(batches, 0, 1000, workers=1):
            for worker in multiprocessing.active_children():
                worker.kill()
    except OSError as error:
        print(error)
"""
    done = run_script(body, tmp_path)
    assert 'a loading process ended with status -9: memory ran out' in done.stdout


@pytest.mark.parametrize(
    ('status', 'words'),
    [
        (-9, 'memory ran out? Fewer data.workers_per_gpu'),
        (-7, 'neither memory nor disk was left'),
        (-11, 'the lines above may say why; data.workers_per_gpu=0 loads in the'),
        (1, 'the lines above may say why; data.workers_per_gpu=0 loads in the'),
    ],
)
def test_what_ended_a_worker(status, words):
    """Only two of the signals are those of a lack of memory."""
    error = killed(status)
    assert isinstance(error, OSError)
    assert words in str(error)
    assert f'ended with status {status}: ' in str(error)


ORPHANS = """
import os, signal, sys, threading, time
from atss_jax.data.batch import Pipeline
from atss_jax.data.loader import TrainBatches, prefetch
from atss_jax.data.plan import TrainPlan
from atss_jax.data.shapes.dataset import ShapesDataset

def workers():
    tasks = os.listdir('/proc/self/task')
    files = [open(f'/proc/self/task/{task}/children') for task in tasks]
    pids = {int(pid) for file in files for pid in file.read().split()}
    return [p for p in pids if 'spawn_main' in open(f'/proc/{p}/cmdline').read()]

def terminate(pids):
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)

def at_birth():
    while len(workers()) < 2:
        time.sleep(0.01)
    print(*workers(), flush=True)
    terminate(workers())
    if sys.argv[1] == 'die early':
        time.sleep(0.3)  # until they have read what to do
        os.kill(os.getpid(), signal.SIGKILL)

def main():
    source = ShapesDataset(40, min_size=64, max_size=64)
    pipeline = Pipeline((64, 64), max_boxes=6)
    canvases = pipeline.canvas_index(source)
    plan = TrainPlan(canvases, pipeline.all_canvases(), 4, 0)
    batches = TrainBatches(source, plan, pipeline, (0, 4))
    threading.Thread(target=at_birth, daemon=True).start()
    for step, batch in enumerate(prefetch(batches, 0, 10**6, 2)):
        if step == 3:
            terminate(workers())
        if step == 40:
            print('fed', flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == '__main__':
    main()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('when', ['die early', 'die late'])
def test_workers_outlive_signals_but_not_their_parent(tmp_path, when):
    """Launchers signal all processes; what the workers load is still needed then.

    They are signalled when they are just born, and later once more.
    """
    program = tmp_path / 'orphans.py'
    program.write_text(ORPHANS)
    done = subprocess.run(
        [sys.executable, str(program), when],
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    pids, *fed = done.stdout.splitlines()
    assert len(pids.split()) == 2
    assert fed == ([] if when == 'die early' else ['fed'])
    until = time.monotonic() + 30
    while alive := [pid for pid in pids.split() if os.path.exists(f'/proc/{pid}')]:
        assert time.monotonic() < until, alive
        time.sleep(0.2)
