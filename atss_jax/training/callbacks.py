"""Callbacks: what a user's own code does during a run."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from atss_jax.config.fields import shortened
from atss_jax.distributed import devices, hosts


class Callback(Protocol):
    """What a callback may have: at least one of these methods.

    They are called on the first process only, in the order of the callbacks. A method
    that returns True asks the run to stop; else it returns None or False. The run then
    saves its state and ends as if it had reached its last step, and the same command
    resumes it. If a method raises an exception, or calls `sys.exit`, the state is saved
    too, and the run ends with `CallbackError`. What it gets is a copy of its own.
    """

    def after_step(self, step: int, metrics: Mapping[str, float]) -> bool | None:
        """Called after each step, once its metrics have arrived on the host.

        The devices do not wait: they are then up to two steps further, except at the
        end of an epoch. A run that is asked to stop here ends after these steps. With
        several processes it ends at the next entry of the log, since they have to
        agree.

        Args:
            step: number of finished steps, counted from 1.
            metrics: `loss`, `loss_cls`, `loss_bbox`, `loss_centerness` and `grad_norm`
                of this step.
        """

    def after_evaluation(self, step: int, numbers: Mapping[str, Any]) -> bool | None:
        """Called after an evaluation, when its numbers are in the log.

        Args:
            step: number of finished steps.
            numbers: the COCO numbers (`AP`, `AP50`, ...), None where no object counts,
                and `per_class`, the AP by the name of the class.
        """

    def after_checkpoint(self, step: int, folder: str) -> bool | None:
        """Called when a checkpoint is complete on disk.

        Training waits for the disk then; without this method it does not.

        Args:
            step: number of finished steps.
            folder: of the checkpoint.
        """


METHODS = ('after_step', 'after_evaluation', 'after_checkpoint')


class CallbackError(RuntimeError):
    """A callback raised an exception; the state of the run was saved."""


class Callbacks:
    """Calls the callbacks of a run; to make one is a collective.

    Args:
        callbacks: each as `Callback` describes it.

    Raises:
        ValueError: one has no method that would be called, or hosts have different
            callbacks.
    """

    def __init__(self, callbacks: Sequence[Any]):
        if not isinstance(callbacks, Sequence):
            raise ValueError(f'callbacks = {callbacks!r}; expected a list of callbacks')
        for callback in callbacks:
            _check(callback)
        names = ', '.join(type(callback).__name__ for callback in callbacks)
        same = 'All hosts need the same callbacks, though the first alone calls them.'
        hosts.check_equal({'callbacks': names}, {'callbacks': same})
        self._callbacks = tuple(callbacks)
        self._reason: str | None = None
        self._message: str | None = None
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._callbacks)

    def has(self, method: str) -> bool:
        """Whether a callback has a method."""
        return any(_has(callback, method) for callback in self._callbacks)

    def call(self, method: str, step: int, value: Any) -> None:
        """Calls a method of all callbacks, on the first process.

        Args:
            method: one of `METHODS`.
            step: number of finished steps.
            value: the method's second argument.
        """
        if not devices.is_first():
            return
        for callback in self._callbacks:
            if self._error is None and _has(callback, method):
                self._call_one(callback, method, step, value)

    def _call_one(self, callback, method, step, value):
        name = f'callback {type(callback).__name__}.{method}'
        try:
            answer = getattr(callback, method)(step, copy.deepcopy(value))
            if not isinstance(answer, bool | np.bool_ | None):
                raise TypeError(
                    f'it returned {shortened(answer)}; expected True, False or None'
                )
        # The code is the user's: whatever it raises, the state has to be saved.
        except (Exception, SystemExit) as error:
            problem = f'{type(error).__name__}: {error}'.removesuffix(': ')
            self._message = f'{name} failed at step {step}: {problem}'
            self._error = error
            return
        if answer and self._reason is None:
            self._reason = f'{name} asked to stop at step {step}'

    def reason_to_stop(self) -> str | None:
        """Why the run has to stop: a callback failed, or asks for it. A collective."""
        if not self._callbacks:
            return None
        return devices.from_first(self._message or self._reason)

    def raise_failure(self) -> None:
        """Raises what a callback raised, on all processes, if one did. A collective.

        Raises:
            CallbackError: a callback has failed.
        """
        if not self._callbacks:
            return
        message = devices.from_first(self._message)
        if message is not None:
            raise CallbackError(
                f'{message}. The state of the run is saved: run again to resume'
            ) from self._error


def _has(callback, method):
    """Whether a callback has a method; None in its place is none."""
    return getattr(callback, method, None) is not None


def _check(callback):
    """Raises ValueError for a callback that could not be called, or not at all."""
    if isinstance(callback, type):
        name = callback.__name__
        raise ValueError(
            f'callback {name} is a class; expected an object of it: {name}(...)'
        )
    methods = [name for name in METHODS if _has(callback, name)]
    similar = [name for name in dir(callback) if name.startswith('after_')]
    unknown = sorted(set(similar) - set(METHODS))
    if not methods or unknown:
        has = f'has {", ".join(unknown)}' if unknown else 'has none of them'
        raise ValueError(
            f'callback {callback!r} {has}; expected an object with one or more of the '
            f'methods {", ".join(METHODS)}'
        )
    for name in methods:
        _check_arguments(callback, name)


def _check_arguments(callback, method):
    """Raises ValueError for a method that cannot be called: it may be due only later.

    What has no signature, such as some functions of C, is called when it is due.
    """
    try:
        signature = inspect.signature(getattr(callback, method))
    except (TypeError, ValueError):
        return
    try:
        signature.bind(0, None)
    except TypeError as error:
        raise ValueError(
            f'callback {type(callback).__name__}.{method}{signature} does not take two '
            f'arguments as Callback.{method} in atss_jax/training/callbacks.py does: '
            f'{error}'
        ) from error
