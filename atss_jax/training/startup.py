"""Where the time until the first finished step went."""

import time


class Startup:
    """Adds up seconds by what they were spent on.

    Args:
        began: `time.perf_counter()` when the program started; None: now.
    """

    def __init__(self, began: float | None = None):
        self._began = time.perf_counter() if began is None else began
        self._last, self._parts = self._began, {}

    def spent_on(self, name: str) -> None:
        """The time since the last call, or since the beginning, went into this."""
        now = time.perf_counter()
        self._parts[name] = self._parts.get(name, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = ', '.join(f'{name} {value:.1f}' for name, value in self._parts.items())
        return f'{self._last - self._began:.1f} s after the start ({parts})'
