"""The worker processes that load batches: signals, their parent's end, shared memory.

A worker ignores the signals that ask a program to stop, since its parent needs its data
until the last step is done, and ends when its parent has gone. Where the operating
system lacks a means for this (Windows), workers do without.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import connection, resource_tracker

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes started within the block inherit blocked SIGINT and SIGTERM.

    Launchers signal all processes of a job, also those that have not yet reached
    `start_worker`. Without the block such a process would die, and grain would report a
    crash. Windows has no signal masks; there this does nothing.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    resource_tracker.ensure_running()  # at its start it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(index: int, count: int) -> None:
    """Ignores stop signals from now on, but ends when the parent process has ended.

    A parent that is killed cannot tell its workers.

    Args:
        index: of this worker; grain passes it, it is not used.
        count: number of workers; not used either.
    """
    for stop_signal in _STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    # Not `os.getppid`, which names another process if the parent has ended already.
    sentinel = multiprocessing.parent_process().sentinel
    threading.Thread(target=_exit_after, args=(sentinel,), daemon=True).start()


def _exit_after(parent_sentinel):
    connection.wait([parent_sentinel])
    os._exit(1)


def wait_until_freed(array_types: Iterable[type]) -> None:
    """Waits until grain has freed the shared memory of arrays that were deleted.

    It does so in a thread, which Python's exit would cut off with a warning about
    leaked memory.

    Args:
        array_types: types of the arrays, of which grain's keep the thread pool.
    """
    for array_type in array_types:
        pool = getattr(array_type, '_del_thread_pool', None)
        if pool is not None:
            pool.apply(lambda: None)  # returns when all earlier tasks are done


def raise_if_killed(error: Exception) -> None:
    """Raises OSError if `error` is grain's report that a worker process was killed."""
    match = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
    if not isinstance(error, RuntimeError) or not match:
        return
    if (status := int(match[1])) in (-9, -7):
        reason = (
            'memory ran out (-9), or /dev/shm is full (-7)? Fewer data.workers_per_gpu '
            'need less of both'
        )
    else:
        reason = (
            'the lines above may say why; data.workers_per_gpu=0 loads in the process '
            'of the run, which then shows where it ends'
        )
    raise OSError(f'a loading process ended with status {status}: {reason}') from error
