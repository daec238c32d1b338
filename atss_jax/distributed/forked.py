"""Processes forked from one that used JAX, in which devices hang without a word."""

import os

_owner = None  # the process that first used devices through this package


def check() -> None:
    """Notes the first process that uses devices; refuses others forked from it.

    Raises:
        RuntimeError: this process was forked from one that used devices. JAX's threads
            are not copied by a fork, so a computation would wait for them forever.
    """
    global _owner
    if _owner is None:
        _owner = os.getpid()
    if _owner != os.getpid():
        raise RuntimeError(
            'this process was forked from one that had used JAX, whose threads a fork '
            "does not copy, so it would hang. Start processes by 'spawn' "
            "(multiprocessing.get_context('spawn')), and load one detector in each, or "
            'share one detector between threads'
        )
