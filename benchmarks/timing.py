"""How benchmarks measure and print; the standard library alone, so any peer can."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def seconds(call: Callable[[], object], repeats: int, warm_up: int = 1) -> float:
    """Median time of a call, which must not return before its work is done."""
    return interleaved({'call': call}, repeats, warm_up)['call']


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    pause: float = 0,
) -> dict[str, float]:
    """Median time of each call, taken in turns.

    What else the machine does at a time then slows all of them, and their ratio holds.
    Threads of some libraries go on spinning for a while after a call: where calls run
    in different processes, a `pause` of some seconds keeps one from slowing the next.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(pause)
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """Processor, cores that this process may use, date."""
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
    """Rows as Markdown, so that a page of figures is what the program printed."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def milliseconds(value: float) -> str:
    """Seconds for a table."""
    return f'{value * 1e3:.3g} ms' if value < 1 else f'{value:.3g} s'
