"""What every child process of ours does: about signals, its parent's end and errors.

A child ignores the signals that ask a program to stop, since its parent decides when,
and ends when its parent has gone. Where the operating system lacks a means for this
(Windows), children do without.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection, resource_tracker

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InChild(Exception):
    """Shows where in a child an error was raised: its cause, in the parent."""


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes started within the block inherit blocked SIGINT and SIGTERM.

    Launchers signal all processes of a job, also those that have not yet reached
    `ignore_stop_signals`. Without the block such a process would die. Windows has no
    signal masks; there this does nothing.
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


def ignore_stop_signals() -> None:
    """In a child: SIGINT and SIGTERM are its parent's business."""
    for stop_signal in _STOP_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)


def end_with_parent(last: Callable[[], None] | None = None) -> None:
    """In a child: ends it when its parent has ended, which cannot tell it if killed.

    Args:
        last: what to do before.
    """
    # Not `os.getppid`, which names another process if the parent has ended already.
    sentinel = multiprocessing.parent_process().sentinel

    def wait():
        connection.wait([sentinel])
        if last is not None:
            last()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def sendable(error: BaseException) -> Exception:
    """The error being handled, or one that says the same if it cannot be pickled."""
    # Not `str(error)`, which may raise an error of its own.
    told = RuntimeError(traceback.format_exception_only(error)[-1].strip())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when it is made again
        return told
    return error if isinstance(error, Exception) else told
