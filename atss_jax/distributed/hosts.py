"""Living with other hosts: equal programs, time limits, signals to stop.

All of it also holds for one process, where there is nobody to wait for.
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
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

STOPPED = 75  # exit status after SIGTERM: EX_TEMPFAIL, "try again"


class Stopped(Exception):
    """Training was asked to stop, and everything is saved."""


class Watch:
    """Ends this process when it stands still, so that a hang is an error everywhere.

    A collective that waits for a dead host cannot be interrupted from Python; only the
    end of the process frees the devices for the next attempt.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._what, self._since = 'starting', time.monotonic()
        threading.Thread(target=self._run, daemon=True, name='watch').start()

    def progress(self, what: str) -> None:
        """Something was finished; from now on we are at `what`."""
        self._what, self._since = what, time.monotonic()

    def _run(self):
        while (left := self._since + self.limit - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        frame = sys._current_frames().get(threading.main_thread().ident)
        print(''.join(traceback.format_stack(frame)), file=sys.stderr)
        leave(
            f'process {jax.process_index()} of {jax.process_count()}: no progress for '
            f'{self.limit:g} s ({self._what}). Another host is gone, stuck or slower '
            'than --collective_timeout; its own log says more. Start all again to go '
            'on from the last checkpoint'
        )


_watch: Watch | None = None


def watch(limit: float) -> None:
    """Limits the time between two calls of `progress`, in seconds."""
    global _watch
    _watch = Watch(limit)


def progress(what: str) -> None:
    """Says what this process is about to do, and that it finished what was before."""
    if _watch is not None:
        _watch.progress(what)


def leave(problem: str, status: int = 1) -> None:
    """Ends this process at once with a message, without JAX's farewell to the others.

    That farewell needs all hosts; one that fails would keep the others, and itself,
    waiting for minutes.
    """
    print(f'{pathlib.Path(sys.argv[0]).name}: {problem}', file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def check_equal(values: Mapping[str, str], hints: Mapping[str, str]) -> None:
    """Checks that all processes have the same values; a collective.

    Args:
        values: name to text; compared by hash.
        hints: what to do about a difference, for some of the names.

    Raises:
        ValueError: on every process, with the names that differ and its own values.
    """
    if jax.process_count() == 1:
        return
    digests = [hashlib.sha256(text.encode()).digest() for text in values.values()]
    own = np.stack([np.frombuffer(digest, np.uint8) for digest in digests])
    everyone = np.asarray(multihost_utils.process_allgather(own))
    problems = []
    for index, (name, value) in enumerate(values.items()):
        differs = (everyone[:, index] != everyone[0, index]).any(axis=1)
        if differs.any():
            shown = value if len(value) < 200 else f'sha256 {digests[index].hex()[:12]}'
            problems.append(
                f'  {name}: process {np.flatnonzero(differs).tolist()} differs from '
                f'process 0; here it is {shown}. {hints.get(name, "")}'
            )
    if problems:
        raise ValueError(
            'the hosts are not alike, so they would not compute the same:\n'
            + '\n'.join(problems)
        )


class StopSignal:
    """Whether SIGTERM came; all processes learn of it at the same point."""

    def __init__(self):
        self._received, self._point = False, 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within, SIGTERM and Ctrl-C do not kill this process but set the flag.

        A second Ctrl-C does kill it. With several processes JAX's own service listens
        for SIGTERM, and passes it on to all.
        """
        alone = jax.process_count() == 1
        main = threading.current_thread() is threading.main_thread()
        if not (alone and main):
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, self._receive) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _receive(self, number, frame):
        if number == signal.SIGINT:
            if self._received:
                raise KeyboardInterrupt
            print('\nstopping after this step; Ctrl-C again to quit without saving')
        self._received = True

    def requested(self) -> bool:
        """Whether to stop here. Every process must ask equally often.

        JAX stops all at one number, one more than the largest that any of them last
        asked with. Nobody else may ask, with other numbers: that one may then be behind
        us already, or so far ahead that we never get there, and the signal is lost.
        """
        if jax.process_count() > 1:
            self._point += 1
            reached = multihost_utils.reached_preemption_sync_point(self._point)
            self._received = self._received or reached
        return self._received
