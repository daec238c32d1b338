"""The worker processes that load batches.

A worker ignores the signals that ask a program to stop, since its parent needs its data
until the last step is done.
"""

import atexit
import concurrent.futures
import contextlib
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import cv2
import numpy as np

from atss_jax.data.slots import Memory, keep_freed_memory
from atss_jax.files.child_process import (
    InChild,
    end_with_parent,
    ignore_stop_signals,
    sendable,
    stop_signals_blocked,
)
from atss_jax.structures import Batch

_THREADS = 2
"""Threads that load batches in each worker: one decodes while the other one reads."""

_SECONDS_TO_END = 25  # for a worker to finish the batches that it works on
_SECONDS_UNTIL_TOLD = 60  # that a batch is being waited for


class Workers:
    """Processes that load batches into shared memory.

    They are started with `spawn` on every operating system, so they inherit no threads,
    devices or locks. Each is sent the numbers of batches through a pipe of its own, and
    sends back through it what is not in shared memory.
    """

    def __init__(self):
        """There are none before `start`."""
        self._pipes, self._processes = [], []
        self._waiting = []  # for each worker, how many batches it has not yet answered
        self._answers = {}  # by number, until they are asked for

    def start(
        self, count: int, build: Callable[[int, np.ndarray], Batch], memory: Memory
    ) -> None:
        """Starts processes.

        Args:
            count: how many.
            build: makes a batch from its number, with its images in the given array.
            memory: where the images of batches are written.

        Raises:
            OSError: a worker was killed.
        """
        content = pickle.dumps(build)
        context = multiprocessing.get_context('spawn')
        # Before multiprocessing waits for workers, which do not end without `close`.
        atexit.register(self.close)
        with stop_signals_blocked():
            for _ in range(count):
                pipe, end = context.Pipe()
                process = context.Process(target=_work, args=(end, memory), daemon=True)
                process.start()
                end.close()  # so that the pipe ends with the worker
                self._pipes.append(pipe)
                self._processes.append(process)
                self._waiting.append(0)
        # Not as an argument, which one worker after the other would read and we wait.
        for worker in range(count):
            self._send(worker, content)

    def submit(self, number: int, slot: int) -> None:
        """Has batch `number` loaded into a slot, by the worker with the least to do.

        Raises:
            OSError: the worker was killed.
        """
        worker = min(range(len(self._waiting)), key=self._waiting.__getitem__)
        self._waiting[worker] += 1
        self._send(worker, pickle.dumps((number, slot)))

    def result(self, number: int) -> Batch:
        """Batch `number`, as of `without_images`; waits for it.

        Raises:
            OSError: a worker was killed. Errors of `build` are raised as well.
        """
        while number not in self._answers:
            ready = connection.wait(self._pipes, _SECONDS_UNTIL_TOLD)
            if not ready:
                self._tell(f'no batch for {_SECONDS_UNTIL_TOLD} seconds')
            for pipe in ready:
                self._receive(self._pipes.index(pipe))
        batch, error = self._answers.pop(number)
        if error is not None:
            raise error
        return batch

    def _receive(self, worker):
        try:
            content = self._pipes[worker].recv_bytes()
        except (EOFError, OSError):
            raise self._killed(worker) from None
        number, batch, error, place = pickle.loads(content)
        if error is not None:
            error.__cause__ = InChild(place)
        self._waiting[worker] -= 1
        self._answers[number] = batch, error

    def _send(self, worker, content):
        try:
            self._pipes[worker].send_bytes(content)
        except OSError:
            raise self._killed(worker) from None

    def _alive(self):
        return [process for process in self._processes if process.is_alive()]

    def _join(self, until):
        for process in self._processes:
            process.join(max(until - time.monotonic(), 0))

    def _tell(self, what):
        pids = ', '.join(str(process.pid) for process in self._alive())
        print(
            f'{what}: waiting for the loading processes (pid {pids}); does a disk or '
            'file server hang?',
            file=sys.stderr,
        )

    def _killed(self, worker):
        process = self._processes[worker]
        process.join(_SECONDS_TO_END)
        return killed(process.exitcode)

    def close(self) -> None:
        """Ends the workers, after the batches that they work on.

        Those that still work after `_SECONDS_TO_END`, or when this is interrupted, are
        killed: multiprocessing would wait for them at the end of the program.
        """
        for pipe in self._pipes:
            pipe.close()
        began = time.monotonic()
        try:
            self._join(until=began + _SECONDS_TO_END / 5)
            if self._alive():
                self._tell(f'this ends within {_SECONDS_TO_END} seconds')
            self._join(until=began + _SECONDS_TO_END)
        finally:
            hung = self._alive()
            for process in hung:
                process.kill()
            for process in hung:
                process.join()
            atexit.unregister(self.close)


def without_images(
    build: Callable[[int, np.ndarray], Batch], number: int, memory: np.ndarray
) -> dict[str, Any]:
    """Batch `number` with its images in `memory`, and here the shape of its images."""
    batch = build(number, memory)
    return batch | {'image': batch['image'].shape}


def killed(status: int | None) -> OSError:
    """The error that says why a worker process may have ended with `status`."""
    if status == -9:
        reason = 'memory ran out? Fewer data.workers_per_gpu need less of it'
    elif status == -7:
        reason = (
            'neither memory nor disk was left for its batches? Fewer '
            'data.workers_per_gpu need less of it'
        )
    else:
        reason = (
            'the lines above may say why; data.workers_per_gpu=0 loads in the process '
            'of the run, which then shows where it ends'
        )
    return OSError(f'a loading process ended with status {status}: {reason}')


# In the worker -----------------------------------------------------------------------


def _work(pipe, memory):
    """Loads batches until the parent closes the pipe or ends."""
    ignore_stop_signals()
    end_with_parent()
    keep_freed_memory()
    cv2.setNumThreads(1)  # there is a process for each core
    lock = threading.Lock()

    def answer(build, number, slot):
        try:
            reply = _answer(build, number, memory.slot(slot))
            # An OSError: the parent has closed the pipe and wants no answers any more.
            with lock, contextlib.suppress(OSError):
                pipe.send_bytes(reply)
        except BaseException:  # without an answer the parent would wait for ever
            traceback.print_exc()
            os._exit(1)

    content = _received(pipe)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        if content is not None:
            build = _unpickled(content)
            while (content := _received(pipe)) is not None:
                threads.submit(answer, build, *pickle.loads(content))
        threads.shutdown(wait=False, cancel_futures=True)


def _received(pipe):
    """The next message of the parent; None if it has closed the pipe."""
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        return None


def _unpickled(content):
    """What makes batches; if it cannot be made here, the reason is their error."""
    try:
        return pickle.loads(content)
    except BaseException as error:  # of any library; the parent raises it
        reason = error

    def build(number, memory):
        raise reason

    return build


def _answer(build, number, memory):
    """Number and batch, or the error and where it was raised, pickled."""
    try:
        return pickle.dumps((number, without_images(build, number, memory), None, ''))
    except BaseException as error:  # the parent raises whatever it is
        return pickle.dumps((number, None, sendable(error), traceback.format_exc()))
