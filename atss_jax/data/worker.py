"""Loading processes live through signals to stop, and not beyond their parent."""

import contextlib
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started within are born with signals to stop blocked.

    Launchers signal all processes, also those that have not come to `live_with_parent`
    yet; without the block these would die, and grain takes that for a crash.
    """
    resource_tracker.ensure_running()  # at its start it would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def live_with_parent(number: int, count: int) -> None:
    """A worker outlives signals to stop, which its parent still needs data for.

    But not the parent itself: one that is killed cannot tell its workers.

    Args:
        number: of this worker; not used.
        count: of all workers; not used.
    """
    for stop in _STOP_SIGNALS:
        signal.signal(stop, signal.SIG_IGN)
    # Not `getppid`: a worker takes seconds to get here, and the parent may be gone.
    parent = multiprocessing.parent_process().pid
    threading.Thread(target=_leave_after, args=(parent,), daemon=True).start()


def _leave_after(parent):
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def wait_until_freed(kinds: Iterable[type]) -> None:
    """Waits until grain has freed the shared memory of arrays that are gone.

    It does so in one thread, which Python's exit would cut off, with a warning about
    leaked memory.

    Args:
        kinds: types of the arrays.
    """
    for kind in kinds:
        pool = getattr(kind, '_del_thread_pool', None)
        if pool is not None:
            pool.apply(lambda: None)  # after all that waits in the queue


def check_workers(error: Exception) -> None:
    """Raises OSError if `error` is how grain says that a worker was killed."""
    found = re.search(r'terminated unexpectedly with exit code (-?\d+)', str(error))
    if isinstance(error, RuntimeError) and found:
        raise OSError(
            f'a loading process ended with status {found[1]}: memory ran out (-9), or '
            '/dev/shm is full (-7)? Fewer data.workers_per_gpu need less of both'
        ) from error
