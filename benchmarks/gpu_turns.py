"""Training steps of several processes on one GPU, timed in turns.

Each process is `gpu_config.py` with XLA flags of its own.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from benchmarks.gpu_config import Step

ROOT = pathlib.Path(__file__).resolve().parent.parent
CANDIDATE = 40
"""Seconds until a candidate is ready to be timed, on an H200."""
_TURNS = 5


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A training step that is timed next to others.

    Attributes:
        step: what is trained.
        kernels: name of the folder that keeps the choice of kernels.
        flags: XLA flags.
        limit: seconds after which its process is given up; None: no limit.
    """

    step: Step
    kernels: str
    flags: str
    limit: float | None


def in_turns(
    candidates: dict[str, Candidate],
    environment: Callable[[str, str, float], dict[str, str]],
    deadline: float,
    at_once: bool = False,
) -> dict[str, dict]:
    """Seconds of a step of each candidate, timed in turns, while the others wait.

    Args:
        candidates: by name. Those that there is no time for are left out.
        environment: variables of a process by name of its kernels, XLA flags and share
            of the memory.
        deadline: `time.monotonic()` after which no process may run.
        at_once: all compile at the same time; else one after the other, since the
            choice of kernels is a matter of time, too.

    Raises:
        subprocess.TimeoutExpired: the deadline came before all were timed.
    """
    share = 0.9 / len(candidates)
    workers, results = {}, {}
    with contextlib.ExitStack() as stack:
        for name, candidate in candidates.items():
            is_late = time.monotonic() + CANDIDATE > deadline
            if workers and is_late and not at_once:
                break
            variables = environment(candidate.kernels, candidate.flags, share)
            worker = Worker(candidate, variables, deadline)
            workers[name] = stack.enter_context(worker)
            if not at_once:
                results[name] = worker.start()
        if at_once:
            # Each is read as soon as it is ready, so that its limit is its own.
            with concurrent.futures.ThreadPoolExecutor(len(workers)) as threads:
                first = threads.map(Worker.start, workers.values())
                results = dict(zip(workers, first, strict=True))
        running = {n: w for n, w in workers.items() if 'error' not in results[n]}
        turns = [{n: w.turn() for n, w in running.items()} for _ in range(_TURNS)]
        for name, worker in running.items():
            taken = [turn[name] for turn in turns]
            failed = [x for x in taken if 'error' in x]
            if failed:
                results[name] |= failed[0]
                continue
            seconds = statistics.median(x['seconds'] for x in taken)
            results[name] |= {'seconds': seconds, **worker.end()}
    return results


class Worker:
    """A process of `gpu_config.py`, ended with the `with` block or at the deadline."""

    def __init__(self, candidate, environment, deadline):
        self._candidate, self._deadline = candidate, deadline
        step = json.dumps(dataclasses.asdict(candidate.step))
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.gpu_config', step],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        now, limit = time.monotonic(), candidate.limit
        limit = threading.TIMEOUT_MAX if limit is None else limit
        self._given_up = now + limit
        self._limit = threading.Timer(limit, self._process.kill)
        self._end = threading.Timer(max(deadline - now, 0), self._process.kill)

    def __enter__(self):
        self._limit.start()
        self._end.start()
        return self

    def __exit__(self, *error):
        self._limit.cancel()
        self._end.cancel()
        if error[0] is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def start(self):
        """What it says when it has compiled, within the limit of the candidate."""
        candidate = self._candidate
        first = self.read()
        self._limit.cancel()
        if 'error' in first and time.monotonic() > self._given_up:
            first = {'error': f'not compiled in {candidate.limit:.0f} s'}
        return {'batch': candidate.step.batch, 'flags': candidate.flags, **first}

    def turn(self):
        """Asks for one timing."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write('\n')
            self._process.stdin.flush()
        return self.read()

    def end(self):
        """Ends its input; returns what it says then."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return self.read()

    def read(self):
        """The next line, as JSON; an error if the process ended without one."""
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        if time.monotonic() > self._deadline:
            raise subprocess.TimeoutExpired('gpu_config', 0)
        return {'error': 'failed'}
