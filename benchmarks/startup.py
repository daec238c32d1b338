"""Time from `python train.py` to the first finished step, cold and with its cache.

    python benchmarks/startup.py
    python benchmarks/startup.py --canvas 800x1344 --runs 1

Trains on generated images that fill the canvas, each time in a new process that is
killed after the first step: with an empty compilation cache, then with the cache that
the previous run left in the workdir. The parts are those that `train.py` prints.
"""

import argparse
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import timing
from images import write_data

from atss_jax.commands.command_line import canvas

ROOT = pathlib.Path(__file__).resolve().parents[1]
_DONE = re.compile(r'first step done ([\d.]+) s after the start \((.*)\)')


def command(flags: argparse.Namespace, folder: pathlib.Path) -> list[str]:
    """The command line of `train.py` with data and workdir in `folder`."""
    height, width = flags.canvas
    scale = f'({max(height, width)}, {min(height, width)})'
    fields = {
        'model.pretrained': None,
        'model.bbox_head.num_classes': 1,
        'data.samples_per_gpu': flags.batch_size,
    }
    for split in ('train', 'val', 'test'):
        fields[f'data.{split}.ann_file'] = folder / 'data.json'
        fields[f'data.{split}.img_prefix'] = folder
        fields[f'data.{split}.pipeline.img_scale'] = scale
    return [
        sys.executable,
        str(ROOT / 'train.py'),
        f'--config={flags.config}',
        f'--workdir={folder / "workdir"}',
        *[f'--config.{name}={value}' for name, value in fields.items()],
    ]


def first_step(words: list[str]) -> dict[str, float]:
    """Runs until the first step is done; returns the seconds in total and by part.

    Raises:
        ValueError: the program ended before its first step.
    """
    began, output = time.perf_counter(), []
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as run:
        for line in run.stdout:
            output.append(line)
            if match := _DONE.search(line):
                total = time.perf_counter() - began
                run.send_signal(signal.SIGKILL)
                parts = dict(part.rsplit(' ', 1) for part in match[2].split(', '))
                seconds = {name: float(value) for name, value in parts.items()}
                return {'total': total, **seconds}
    raise ValueError('train.py ended before its first step:\n' + ''.join(output))


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--config', default='configs/atss_r50_1x.py')
    parser.add_argument('--canvas', type=canvas, default=(256, 320))
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument(
        '--runs',
        type=int,
        default=3,
        help='number of runs of each kind, of which the median counts',
    )
    flags = parser.parse_args()
    runs = {'cold': [], 'warm': []}
    try:
        for _ in range(flags.runs):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                folder = pathlib.Path(name)
                write_data(folder, flags.canvas)
                for kind in runs:
                    runs[kind].append(first_step(command(flags, folder)))
    except ValueError as error:
        print(f'startup.py: {error}', file=sys.stderr)
        return 1
    names = list(runs['cold'][0])
    rows = [
        [
            kind,
            *(f'{statistics.median(run[n] for run in seconds):.1f} s' for n in names),
        ]
        for kind, seconds in runs.items()
    ]
    print(timing.machine())
    print(timing.table(['cache', *names], rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
