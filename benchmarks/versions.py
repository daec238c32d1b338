"""Two checkouts of this project next to each other: step, forward and start, in turns.

    git clone . /tmp/before && git -C /tmp/before checkout 8cdc71d
    python benchmarks/versions.py --before=/tmp/before --rounds=5

Each round runs `benchmarks/parts.py` and `benchmarks/startup.py` of both checkouts, as
each wrote them, and changes which goes first. Other work on the machine then slows both
alike. The table holds the median over the rounds and the median of the rounds' ratios.
Compilations of parts.py are kept between rounds, those of startup.py are not.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import timing

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = [
    'benchmarks/parts.py',
    *('--canvases', '256x320', '--dtypes', 'float32'),
    *('--parts', 'forward', 'train step', '--repeats', '9'),
]
START = ['benchmarks/startup.py', '--runs', '1']


def measure(checkout: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """Seconds of forward, training step, cold and warm start in one checkout.

    Raises:
        ValueError: a benchmark of this checkout failed; with what it printed.
    """
    parts = _rows(checkout, PARTS, cache)
    start = _rows(checkout, START, cache)
    return {
        'forward': _seconds(parts['forward'][0]),
        'training step': _seconds(parts['train step'][0]),
        'start, cold': _seconds(start['cold'][0]),
        'start, warm': _seconds(start['warm'][0]),
    }


def _rows(checkout, words, cache):
    """The rows of the table that a benchmark prints: first cell to the other cells."""
    environment = {
        **os.environ,
        'PYTHONPATH': str(checkout),
        'JAX_COMPILATION_CACHE_DIR': str(cache),
    }
    if words == START:  # it has caches of its own
        del environment['JAX_COMPILATION_CACHE_DIR']
    run = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise ValueError(f'{words[0]} failed in {checkout}:\n{run.stdout}{run.stderr}')
    lines = [line for line in run.stdout.splitlines() if line.startswith('| ')]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {name: others for name, *others in cells}


def _seconds(cell):
    number, unit = cell.split()
    return float(number) * {'s': 1, 'ms': 1e-3, 'us': 1e-6, 'µs': 1e-6}[unit]


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--before', type=pathlib.Path, required=True)
    parser.add_argument('--after', type=pathlib.Path, default=ROOT)
    parser.add_argument('--rounds', type=int, default=5)
    flags = parser.parse_args()
    checkouts = {'before': flags.before.resolve(), 'after': flags.after.resolve()}
    times = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(flags.rounds):
                order = list(checkouts) if number % 2 else list(reversed(checkouts))
                for name in order:
                    cache = pathlib.Path(folder, name)
                    times[name].append(measure(checkouts[name], cache))
                print(f'round {number + 1} of {flags.rounds} done', file=sys.stderr)
        except ValueError as error:
            print(f'versions.py: {error}', file=sys.stderr)
            return 1
    print(timing.machine())
    print(timing.table(['what', 'before', 'after', 'speed'], _table(times)))
    return 0


def _table(times):
    rows = []
    for what in times['before'][0]:
        before = [measured[what] for measured in times['before']]
        after = [measured[what] for measured in times['after']]
        ratio = statistics.median(b / a for b, a in zip(before, after, strict=True))
        rows.append(
            [
                what,
                f'{statistics.median(before):.3g} s',
                f'{statistics.median(after):.3g} s',
                f'{ratio:.3f}',
            ]
        )
    return rows


if __name__ == '__main__':
    sys.exit(main())
