"""Ctrl-C ends a command wherever it arrives.

Python ignores an exception in a callback of its garbage collector and in a `__del__`,
and JAX has such a callback: a KeyboardInterrupt there would be lost. A library in C++
that is interrupted while it is imported raises an ImportError instead.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_SECONDS_UNTIL_AGAIN = 0.05


@contextlib.contextmanager
def heeded() -> Iterator[Callable[[], bool]]:
    """Within the block, an interrupt that Python ignores is sent again.

    Yields:
        Whether Ctrl-C has been pressed.
    """
    pressed = threading.Event()

    def note(number, frame):
        pressed.set()
        raise KeyboardInterrupt

    def report(ignored):
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            # Not at once: here it would be ignored like the first one.
            timer = threading.Timer(_SECONDS_UNTIL_AGAIN, _interrupt_main_thread)
            timer.daemon = True
            timer.start()
        # What tensorstore's threads raise after a checkpoint was not saved.
        elif str(ignored.exc_value) != 'Event loop is closed':
            before(ignored)

    before, sys.unraisablehook = sys.unraisablehook, report
    # Not where a caller has a handler of its own, or ignores the signal as nohup does.
    notes = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if notes:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        if notes:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before


def _interrupt_main_thread():
    if hasattr(signal, 'pthread_kill'):  # which also ends a system call that waits
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
