"""How benchmarks measure and print; imports the standard library only, for peers."""

import argparse
import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

_TURN = 0.05  # seconds that a turn takes at least


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser as all benchmarks use it; `description` is their docstring."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median seconds of a call, which must not return before its work is done."""
    return interleaved({'call': call}, repeats, warm_up)['call']


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    pause: float = 0,
) -> dict[str, float]:
    """Median seconds of each call, measured in turns.

    Other work on the machine then slows all calls alike, so their ratio holds. A short
    call is repeated many times in its turn: a single one would mostly measure how long
    threads and caches take to warm up again. Threads of some libraries keep spinning
    for a while after a call: where calls run in different processes, `pause` seconds
    before each turn keep one from slowing the next.
    """
    counts = {}
    for name, call in calls.items():
        for _ in range(warm_up):
            call()
        counts[name] = max(1, math.ceil(_TURN / _seconds_of(call, 1)))
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            times[name].append(_seconds_of(call, counts[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds_of(call, count):
    """Mean seconds of `count` calls in a row."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def machine() -> str:
    """Processor, number of cores that this process may use, and date."""
    cores = len(os.sched_getaffinity(0))
    return f'{_processor()}, {cores} cores, {datetime.date.today().isoformat()}'


def _processor():
    try:
        with open('/proc/cpuinfo') as file:
            lines = [line for line in file if line.startswith('model name')]
    except OSError:
        lines = []
    if not lines:
        return platform.processor() or platform.machine()
    return lines[0].split(':')[1].strip()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, so that output can be pasted into the documentation."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def resources(rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table of medians, of what was measured by name in several rounds.

    Args:
        rounds: 'seconds', 'processor' (seconds) and 'memory' (MB) of each round.
    """

    def median(measured, key):
        return statistics.median(each[key] for each in measured)

    rows = [
        [
            name,
            f'{median(measured, "seconds"):.2f} s',
            f'{median(measured, "processor"):.2f} s',
            f'{median(measured, "memory"):.0f} MB',
        ]
        for name, measured in rounds.items()
    ]
    return table(('', 'time', 'processor time', 'memory added'), rows)


def milliseconds(value: float) -> str:
    """Formats seconds for a table."""
    return f'{value * 1e3:.3g} ms' if value < 1 else f'{value:.3g} s'
