"""What `gpu_everything.py` prints, and what it reads from traces."""

import collections
import pathlib
from collections.abc import Iterator

import jax

from benchmarks import timing


def longest_kernels(folder: pathlib.Path, count: int = 10) -> list[dict]:
    """The kernels that took most of a trace: name, milliseconds, calls, share.

    On a GPU the streams of the device count, on a CPU the threads that run XLA's
    programs.
    """
    totals, calls = collections.Counter(), collections.Counter()
    for file in folder.rglob('*.xplane.pb'):
        for event in _kernels(jax.profiler.ProfileData.from_file(str(file))):
            totals[event.name] += event.duration_ns
            calls[event.name] += 1
    whole = sum(totals.values())
    return [
        {'name': n, 'ms': t / 1e6, 'calls': calls[n], 'share': t / whole}
        for n, t in totals.most_common(count)
    ]


def _kernels(trace) -> Iterator:
    """The events of a trace that are kernels."""
    planes = list(trace.planes)
    lines = [
        line
        for plane in planes
        if plane.name.startswith('/device:GPU')
        for line in plane.lines
        if line.name.startswith('Stream')
    ]
    if not lines:
        threads = [line for plane in planes for line in plane.lines]
        lines = [line for line in threads if line.name.startswith('tf_XLA')]
    for line in lines:
        for event in line.events:
            if not event.name.startswith(('Thunk', 'Threadpool', 'end: ')):
                yield event


def report(results: dict[str, dict]) -> str:
    """All entries as tables."""
    ceiling = results.get('matrix product', {}).get('operations_per_second')
    resident = results.get('R50 training', {})
    lines = [timing.machine()]
    if ceiling:
        device = results['matrix product']['device']
        lines.append(f'{device}; product of two matrices: {ceiling / 1e12:.3g} TFLOPS')
    groups = 'matrix product', 'other configs', 'XLA flags'
    flat = {n: r for n, r in results.items() if n not in groups}
    flat = results.get('other configs', {}) | flat
    header = ['what', 'images/s', 'step', 'MFU', 'peak memory', 'first step', 'waiting']
    lines += ['', timing.table(header, [_row(n, r, ceiling) for n, r in flat.items()])]
    files = results.get('R50 training from files', {})
    if 'seconds' in files and 'seconds' in resident:
        ratio = resident['seconds'] / files['seconds']
        lines += ['', f'from files at {ratio:.2f} of the speed on resident images']
    if flags := results.get('XLA flags'):
        lines += ['', _flags_table(flags)]
    for name, result in results.items():
        if 'kernels' in result:
            rows = [
                [f'{k["share"]:.1%}', f'{k["ms"]:.2f} ms', k['calls'], k['name'][:90]]
                for k in result['kernels']
            ]
            heading = f'{name}: longest kernels of the trace'
            lines += [
                '',
                heading,
                timing.table(['share', 'time', 'calls', 'name'], rows),
            ]
    return '\n'.join(lines)


def _row(name, result, ceiling):
    if 'error' in result:
        return [name, result['error'], *[''] * 5]
    speed = result['batch'] / result['seconds']
    count, peak = result.get('multiply_adds'), result.get('peak_bytes')
    first, waiting = result.get('first_seconds'), result.get('data_wait_share')
    return [
        name,
        f'{speed:.1f}',
        f'{1e3 * result["seconds"]:.1f} ms',
        f'{2 * count * speed / ceiling:.0%}' if count and ceiling else '',
        f'{peak / 2**30:.1f} GiB' if peak else '',
        f'{first:.0f} s' if first else '',
        '' if waiting is None else f'{waiting:.1%}',
    ]


def _flags_table(flags):
    base = flags['as it is'].get('seconds')
    rows = []
    for name, result in flags.items():
        seconds, words = result.get('seconds'), result.get('flags', '')
        if seconds is None:
            rows.append([name, result['error'], '', f'`{words}`'])
            continue
        ratio = f'{base / seconds:.3f}' if base else ''
        rows.append([name, f'{1e3 * seconds:.2f} ms', ratio, f'`{words}`'])
    return timing.table(['flags', 'step', 'faster by', ''], rows)
