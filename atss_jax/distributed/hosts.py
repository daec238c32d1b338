"""Several hosts in one run: equal programs, a time limit, signals to stop.

Everything here also works with a single process.
"""

import contextlib
import hashlib
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

COMPILING = 3600.0
"""Seconds that compiling a program may take, with any --collective_timeout.

All hosts compile for themselves: meanwhile none of them can be missed.
"""

STOPPED = 75  # exit status after SIGTERM: EX_TEMPFAIL, "try again"


class Stopped(Exception):
    """SIGTERM or Ctrl-C was received; the message says where the run stopped."""


# Time limit --------------------------------------------------------------------------


class Watch:
    """Ends this process if it makes no progress, so that a hang becomes an error.

    A collective that waits for a dead host cannot be interrupted from Python; only the
    end of the process frees the devices for the next attempt.

    Args:
        limit: seconds that may pass between two calls of `progress`.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self.progress('starting')
        threading.Thread(target=self._run, daemon=True, name='watch').start()

    def progress(self, activity: str, at_least: float = 0.0) -> None:
        """The activity before has ended, and `activity` begins.

        Args:
            activity: for the message.
            at_least: seconds that it may take even if the limit is lower.
        """
        limit = max(self.limit, at_least)
        self._now = activity, limit, time.monotonic() + limit

    def _run(self):
        while (remaining := self._now[2] - time.monotonic()) > 0:
            time.sleep(min(remaining, 1.0))
        activity, limit, _ = self._now
        frame = sys._current_frames().get(threading.main_thread().ident)
        print(''.join(traceback.format_stack(frame)), file=sys.stderr)
        leave(
            f'process {jax.process_index()} of {jax.process_count()}: no progress for '
            f'{limit:g} s ({activity}). Another host is dead, stuck or '
            'slower than --collective_timeout; its own log says more. Start all '
            'processes again to resume from the last checkpoint'
        )


_watch: Watch | None = None


def watch(limit: float) -> None:
    """Limits the time between two calls of `progress`, in seconds."""
    global _watch
    _watch = Watch(limit)


def progress(activity: str, at_least: float = 0.0) -> None:
    """Tells the watch, if there is one, what this process begins to do.

    For the arguments see `Watch.progress`.
    """
    if _watch is not None:
        _watch.progress(activity, at_least)


def leave(problem: str, status: int = 1) -> None:
    """Ends this process at once with a message, without JAX's shutdown.

    That shutdown is a barrier of all hosts: after an error on one host, it would keep
    this host and the others waiting for minutes.
    """
    program = pathlib.Path(sys.argv[0])
    name = 'atss_jax' if program.name == '__main__.py' else program.name
    print(f'{name}: {problem}', file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


# Equal programs ----------------------------------------------------------------------


def check_equal(values: Mapping[str, str], hints: Mapping[str, str]) -> None:
    """Checks that all processes have the same values; a collective.

    Args:
        values: text by name; compared by hash.
        hints: what to do about a difference, for some of the names.

    Raises:
        ValueError: some differ. Raised on every process, with its own values of these.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in values.values()]
    local = np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
    all_digests = np.asarray(multihost_utils.process_allgather(local))
    problems = []
    for index, (name, value) in enumerate(values.items()):
        differs = (all_digests[:, index] != all_digests[0, index]).any(axis=1)
        if differs.any():
            shown = value if len(value) < 200 else f'sha256 {digests[index].hex()[:12]}'
            problems.append(
                f'  {name}: process {np.flatnonzero(differs).tolist()} differs from '
                f'process 0; here it is {shown}. {hints.get(name, "")}'
            )
    if problems:
        raise ValueError(
            'the hosts are not alike, so they would compute different things:\n'
            + '\n'.join(problems)
        )


# Signals -----------------------------------------------------------------------------

Handler = Callable[[int, Any], Any]


def handle(name: str, handler: Handler | signal.Handlers) -> Any:
    """Installs a handler of the signal `name`, if platform and thread allow it.

    Windows lacks some signals, and Python handles signals in the main thread only.

    Returns:
        The handler before, to be installed again; None if nothing can be done.
    """
    number = getattr(signal, name, None)
    if number is None or threading.current_thread() is not threading.main_thread():
        return None
    try:
        return signal.signal(number, handler)
    except (ValueError, OSError):
        return None


class StopSignal:
    """Whether SIGTERM was received; all processes learn of it at the same step."""

    def __init__(self):
        self._received, self._calls = False, 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the `with` block, SIGTERM and Ctrl-C set the flag, and do not kill.

        A second Ctrl-C interrupts at once. With several processes, JAX's own service
        listens for SIGTERM and passes it on to all of them.
        """
        if jax.process_count() > 1:
            yield
            return
        before = {name: handle(name, self._receive) for name in ('SIGTERM', 'SIGINT')}
        try:
            yield
        finally:
            for name, handler in before.items():
                if handler is not None:
                    handle(name, handler)

    def _receive(self, number, frame):
        if number == signal.SIGINT:
            if self._received:
                raise KeyboardInterrupt
            print('\nstopping after this step; Ctrl-C again to quit without saving')
        self._received = True

    def requested(self) -> bool:
        """Whether to stop now. All processes must ask equally often.

        JAX lets all processes stop at the same number, which is one more than the
        largest that any of them has asked with. So nothing else may ask JAX with other
        numbers: the number to stop at could then have passed already, or never come,
        and the signal would be lost.
        """
        if jax.process_count() > 1:
            self._calls += 1
            reached = multihost_utils.reached_preemption_sync_point(self._calls)
            self._received = self._received or reached
        return self._received
