"""A whole training of `configs/atss_r18_bccd.py`, by mmdetection 3.3.0 and by train.py.

    python benchmarks/training.py --data=data/bccd --mmdet_python=mmdet_env/bin/python

Both train from random weights on 205 images in batches of 8, from the start of the
program to its end: reading files, compiling, an evaluation and a checkpoint after each
epoch. Each runs once, mmdetection first, in a process of its own. Memory is that of
the largest process, and page faults are those that needed no disk. `make mmdet-env`
makes an environment with mmdetection.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import timing

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'atss_r18_bccd.py'
HEADER = ('', 'time', 'user', 'system', 'memory', 'page faults', 'AP at the end')
_OF_CACHES = {'JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'}


@dataclasses.dataclass
class Cost:
    """What a program took."""

    seconds: float  # on the clock
    user: float  # seconds of processor time
    system: float
    memory: float  # MB, of the largest process
    faults: int


def ours(data: pathlib.Path, folder: pathlib.Path, epochs: int) -> list[str]:
    """The command of our training."""
    words = [
        f'--config={CONFIG}',
        f'--workdir={folder / "workdir"}',
        f'--config.total_epochs={epochs}',
    ]
    for split in ('train', 'val', 'test'):
        file = data / 'annotations' / f'instances_{split}.json'
        words += [
            f'--config.data.{split}.ann_file={file}',
            f'--config.data.{split}.img_prefix={data / "images"}/',
        ]
    return [sys.executable, str(ROOT / 'train.py'), *words]


def theirs(
    python: str, data: pathlib.Path, folder: pathlib.Path, epochs: int
) -> list[str]:
    """The command of mmdetection's training."""
    script = ROOT / 'benchmarks' / 'peers' / 'mmdet_training.py'
    if os.path.dirname(python):
        python = os.path.abspath(python)
    return [python, str(script), str(data), str(folder / 'mmdet'), str(epochs)]


def measure(command: list[str], log: pathlib.Path) -> Cost:
    """Runs a program to its end.

    Raises:
        ValueError: it failed; with the end of what it wrote.
    """
    # With a cache that the user's environment names, nothing would be compiled.
    kept = {name: x for name, x in os.environ.items() if name not in _OF_CACHES}
    began = time.perf_counter()
    with open(log, 'wb') as file:
        try:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, cwd=ROOT, env=kept
            )
        except OSError as error:
            raise ValueError(f'{command[0]} cannot be run: {error.strerror}') from error
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = log.read_text(errors='replace')[-2000:]
        raise ValueError(f'{command[1]} ended with {process.returncode}:\n{end}')
    memory = used.ru_maxrss * 1024 / 1e6  # Linux counts KiB
    return Cost(seconds, used.ru_utime, used.ru_stime, memory, used.ru_minflt)


def last_score(log: str) -> str:
    """The AP that either program wrote last.

    Raises:
        ValueError: it wrote none.
    """
    # Ours: the first number below the title AP. mmdetection: coco/bbox_mAP: 0.308
    scores = re.findall(r'^ *AP +AP50 .*\n *(\S+)|coco/bbox_mAP: (\S+)', log, re.M)
    if not scores:
        raise ValueError('a training ended without an AP:\n' + log[-2000:])
    return ''.join(scores[-1])


def row(name: str, cost: Cost, score: str) -> list[str]:
    """The cells of a program."""
    return [
        name,
        f'{cost.seconds:.0f} s',
        f'{cost.user:.0f} s',
        f'{cost.system:.0f} s',
        f'{cost.memory:.0f} MB',
        f'{cost.faults / 1e6:.1f} million',
        score,
    ]


def compare(flags: argparse.Namespace, folder: pathlib.Path) -> None:
    """Runs both, one after the other, and prints a row for each at once."""
    data = flags.data.resolve()
    for split in ('train', 'val', 'test'):
        if not (file := data / 'annotations' / f'instances_{split}.json').is_file():
            raise ValueError(f'--data={flags.data}: {file} is missing')
    if not (data / 'images').is_dir():
        raise ValueError(f'--data={flags.data}: has no folder images')
    commands = {'ours': ours(data, folder, flags.epochs)}
    if flags.mmdet_python:
        peer = theirs(flags.mmdet_python, data, folder, flags.epochs)
        commands = {'mmdetection': peer, **commands}
    print(timing.machine())
    print(timing.table(HEADER, []), flush=True)
    for name, command in commands.items():
        log = folder / f'{name}.txt'
        cost = measure(command, log)
        cells = row(name, cost, last_score(log.read_text(errors='replace')))
        print(timing.table(cells, []).splitlines()[0], flush=True)


def main() -> int:
    """Reads the flags and compares."""
    parser = timing.new_parser(__doc__)
    parser.add_argument(
        '--data', type=pathlib.Path, default='data/bccd', help='the folder of the data'
    )
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument(
        '--mmdet_python',
        help='the Python of an environment with mmdetection, such as '
        'mmdet_env/bin/python',
    )
    flags = parser.parse_args()
    if flags.epochs < 1:
        parser.error(f'--epochs={flags.epochs}: expected at least 1')
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            compare(flags, pathlib.Path(name))
    except ValueError as error:
        print(f'training.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
