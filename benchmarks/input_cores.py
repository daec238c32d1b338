"""How loading scales with cores: threads or worker processes, measured and by a model.

    python benchmarks/input_cores.py
    python benchmarks/input_cores.py --images=IMAGES --rounds=5

Loads batches of the R50 recipe by threads of this process and by worker processes, in
turns, and prints the rate and the processor time per image, that of this process apart
from that of the workers. Processor times hold next to other work on the machine, rates
do not.

Then a model says what more cores would give. Threads take turns at Python's lock (GIL),
which OpenCV releases: a closed queue, whose one server is the lock, with the lock's
share of the time as measured. Workers do not share it; there the limit is what the
process of the run does for each image. Neither knows of the memory's bandwidth, or of
the other work of the run, which needs its lock too.
"""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import cv2

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.data import image_file, loader, transforms  # noqa: E402
from atss_jax.data.loader import TrainBatches, prefetch  # noqa: E402
from atss_jax.data.slots import Memory  # noqa: E402
from benchmarks import input_data, timing  # noqa: E402
from benchmarks.input import RECIPE, train_batches  # noqa: E402

_CORES = (1, 2, 4, 8, 16, 32, 64)
_STEPS = 10**6  # more than are ever measured


class Taken(NamedTuple):
    """What an image took, in seconds.

    Attributes:
        clock: time on the clock.
        here: processor time of this process.
        workers: processor time of the worker processes.
        memory: bytes of memory of the workers, not counting what processes share twice.
    """

    clock: float
    here: float
    workers: float
    memory: float

    @property
    def processor(self) -> float:
        """Processor time of all processes."""
        return self.here + self.workers


def measure(batches: TrainBatches, workers: int, threads: int, count: int) -> Taken:
    """Loads `count` batches after a warm-up.

    Args:
        batches: what to load.
        workers: number of processes; 0: threads of this process.
        threads: number of threads without workers.
        count: number of batches.
    """
    with (
        _threads(threads),
        contextlib.closing(prefetch(batches, 0, _STEPS, workers)) as stream,
    ):
        for _ in range(8 * max(workers, 1)):
            next(stream)
        pids = [child.pid for child in multiprocessing.active_children()]
        before = _clocks(pids)
        for _ in range(count):
            next(stream)
        images = count * batches.plan.batch_size
        taken = [
            (now - then) / images
            for now, then in zip(_clocks(pids), before, strict=True)
        ]
        return Taken(*taken, sum(map(_memory, pids)))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within the block `prefetch` loads with this number of threads without workers."""
    before = loader.thread_count
    loader.thread_count = lambda: count
    try:
        yield
    finally:
        loader.thread_count = before


def _clocks(pids):
    workers = sum(map(_processor_time, pids))
    return time.perf_counter(), time.process_time(), workers


def _processor_time(pid):
    """Seconds, to a hundredth."""
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    user, system = text.rpartition(')')[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


def _memory(pid):
    lines = pathlib.Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if 'Pss:' in line)


def lock_share(batches: TrainBatches, count: int) -> float:
    """Share of the processor time of loading for which Python's lock is held.

    What is not reading, decoding, resizing, padding or mirroring, which release it.
    """
    released = 0.0

    def timed(call):
        def timed_call(*arguments, **named):
            nonlocal released
            began = time.thread_time()
            result = call(*arguments, **named)
            released += time.thread_time() - began
            return result

        return timed_call

    owners = [(cv2, 'imdecode'), (cv2, 'resize'), (cv2, 'flip')]
    owners += [(image_file, 'file_content'), (transforms, 'corner')]
    memory = Memory(1, batches.image_bytes, shared=False).slot(0)
    with contextlib.ExitStack() as stack:
        for owner, name in owners:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, timed(getattr(owner, name)))
        batches(0, memory)
        released, began = 0.0, time.thread_time()
        for step in range(count):
            batches(step, memory)
        whole = time.thread_time() - began
    return 1 - released / whole


# The model ---------------------------------------------------------------------------


def thread_rate(cores: int, image: float, lock: float) -> float:
    """Images per second of as many threads as cores: exact mean value analysis.

    Args:
        cores: number of cores.
        image: processor seconds of an image.
        lock: those of them for which the lock is held.
    """
    waiting = 0.0
    for threads in range(1, cores + 1):
        at_lock = lock * (1 + waiting)
        rate = threads / (image - lock + at_lock)
        waiting = rate * at_lock
    return rate


def worker_rate(cores: int, image: float, parent: float) -> float:
    """Images per second of worker processes, of which the run's process takes a share.

    Args:
        cores: number of cores.
        image: processor seconds of an image in a worker.
        parent: those in the process of the run.
    """
    return min(cores / (image + parent), 1 / parent)


def print_model(threads: Taken, workers: Taken, share: float) -> None:
    """Prints what the model says about more cores."""
    lock = share * threads.processor
    print(f'\nlock held: {share:.1%} of the time, {1e3 * lock:.2f} ms per image\n')
    rows = []
    for cores in _CORES:
        by_threads = thread_rate(cores, threads.processor, lock)
        by_workers = worker_rate(cores, workers.workers, workers.here)
        rows.append(
            [
                cores,
                f'{by_threads:.0f}',
                f'{by_workers:.0f}',
                f'{by_threads / by_workers:.2f}',
            ]
        )
    header = ['cores', 'threads, images/s', 'workers, images/s', 'threads / workers']
    print(timing.table(header, rows))


# Measuring ---------------------------------------------------------------------------


def run(batches: TrainBatches, flags: argparse.Namespace) -> None:
    """Measures in turns and prints both tables."""
    counts = range(1, flags.cores + 1)
    ways = [(0, threads) for threads in counts] + [(workers, 0) for workers in counts]
    rounds = {way: [] for way in ways}
    locks = []
    for _ in range(flags.rounds):
        for workers, threads in ways:
            taken = measure(batches, workers, threads, flags.batches)
            rounds[workers, threads].append(taken)
        locks.append(lock_share(batches, flags.batches))
    median = {
        way: Taken(*map(statistics.median, zip(*taken, strict=True)))
        for way, taken in rounds.items()
    }
    rows = [
        [
            f'{workers} workers' if workers else f'{threads} threads',
            f'{1 / taken.clock:.0f}',
            f'{1e3 * taken.here:.2f} ms',
            f'{1e3 * taken.workers:.2f} ms',
            f'{1 / taken.processor:.0f}',
            f'{taken.memory / 1e6:.0f} MB',
        ]
        for (workers, threads), taken in median.items()
    ]
    header = ['', 'images/s', 'processor time per image, this process', 'workers']
    header += ['images per second of processor time', 'memory of the workers']
    print(timing.table(header, rows))
    print_model(
        median[0, flags.cores], median[flags.cores, 0], statistics.median(locks)
    )


def _parser():
    parser = timing.new_parser(__doc__)
    add = parser.add_argument
    add('--images', help='folder of JPEGs (default: generated images)')
    add('--count', type=int, default=64, help='number of images to load')
    add('--batch_size', type=int, default=8, help='images in a batch')
    add('--batches', type=int, default=40, help='batches to load at each turn')
    add('--rounds', type=int, default=3, help='number of turns')
    cores = len(os.sched_getaffinity(0))
    add('--cores', type=int, default=cores, help='most threads and most workers')
    return parser


def main() -> int:
    """Reads the flags, measures, prints."""
    flags = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = pathlib.Path(name)
        folder = pathlib.Path(flags.images or temporary)
        if not flags.images:
            input_data.write_images(folder, flags.count, input_data.SIZE)
        annotations = temporary / 'annotations.json'
        input_data.write_annotations(folder, flags.count, annotations)
        data = {
            'data.train.ann_file': str(annotations),
            'data.train.img_prefix': str(folder),
            'model.bbox_head.num_classes': 1,
        }
        batches = train_batches(RECIPE, data, flags.batch_size)
        images = len(batches.source.records)
        load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
        print(f'{timing.machine()}; {images} images; load {load}\n')
        run(batches, flags)
    return 0


if __name__ == '__main__':
    sys.exit(main())
