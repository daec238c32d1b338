"""Work done ahead of time by threads, its results in order."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def ahead(
    function: Callable[[Any], Any], items: Iterable, threads: int | None = None
) -> Iterator[Any]:
    """Like `map`, by threads that are a few items ahead of the reader.

    Args:
        function: what is done; what it raises reaches the reader in its turn.
        items: taken one by one, by the reader's thread.
        threads: None: one a processor core, at most 8.
    """
    threads = threads or min(os.cpu_count() or 1, 8)
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        started = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, 2 * threads)
        )
        try:
            while started:
                yield started.popleft().result()
                for item in itertools.islice(items, 1):
                    started.append(pool.submit(function, item))
        finally:
            for future in started:
                future.cancel()
