"""Reads ahead: work done by threads before its results are asked for."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def map_ahead(
    function: Callable[[Any], Any], items: Iterable, threads: int | None = None
) -> Iterator[Any]:
    """Yields `function(item)` in the order of `items`, computed ahead by threads.

    Args:
        function: called in a thread; what it raises reaches the reader when the result
            of that item is due.
        items: consumed in the reader's thread, a few items ahead.
        threads: None: one per processor core, at most 8.
    """
    threads = threads or min(os.cpu_count() or 1, 8)
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, 2 * threads)
        )
        try:
            while pending:
                yield pending.popleft().result()
                for item in itertools.islice(items, 1):
                    pending.append(pool.submit(function, item))
        finally:
            for future in pending:
                future.cancel()
