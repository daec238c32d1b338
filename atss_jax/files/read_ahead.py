"""Reads ahead: work done by threads before its results are asked for."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(
    function: Callable[[Any], Any],
    items: Iterable,
    threads: int | None = None,
    ahead: int | None = None,
) -> Iterator[Any]:
    """Yields `function(item)` in the order of `items`, computed ahead by threads.

    Args:
        function: called in a thread; what it raises reaches the reader when the result
            of that item is due.
        items: consumed in the reader's thread, a few items ahead.
        threads: None: one per processor core, at most 8. With 1, the function is called
            in the order of the items.
        ahead: number of items that are in work or wait for the reader; None: twice
            the number of threads.
    """
    threads = threads or min(usable_cores(), 8)
    ahead = ahead or 2 * threads
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, ahead)
        )
        try:
            while pending:
                yield pending.popleft().result()
                for item in itertools.islice(items, 1):
                    pending.append(pool.submit(function, item))
        finally:
            for future in pending:
                future.cancel()
