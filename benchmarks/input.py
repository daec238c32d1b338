"""How many images a core decodes, resizes and pads per second, and where time goes.

    python benchmarks/input.py --mmdet_python=mmdet_env/bin/python
    python benchmarks/input.py --config=configs/atss_r50_1x.py

The first command compares, in turns, the loader of the R50 recipe, OpenCV's decoding
and resizing alone, which no loader that uses OpenCV can beat, and, given a Python that
has it, the pipeline of mmdetection. Then it measures the stages of the loader, and
grain with worker processes. Images are generated, 640 x 480, or those of `--images`.
`make mmdet-env` makes an environment with mmdetection. The second command measures the
data of your own config. The speed of one core is the value for
`scaling_model.py --images_per_s_core`.

Except with worker processes, the times are processor times of one thread, so that
neither other work on the machine nor the disk matters much.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.config import build_experiment, load_config, parse_overrides  # noqa: E402
from atss_jax.data import transforms  # noqa: E402
from atss_jax.data.loader import TrainBatches, prefetch  # noqa: E402
from atss_jax.data.plan import TrainPlan  # noqa: E402
from benchmarks import input_data, timing  # noqa: E402
from benchmarks.input_work import Bare, processor_seconds, stage_rows  # noqa: E402
from benchmarks.peers.link import Peer  # noqa: E402

RECIPE = str(ROOT / 'configs' / 'atss_r50_1x.py')
BARE, OURS, MMDET = 'OpenCV alone', 'atss_jax', 'mmdetection 3.3.0'
_STEPS = 10**6  # more than are ever measured


def train_batches(
    config_file: str, overrides: Mapping[str, object], size: int | None
) -> TrainBatches:
    """The training batches of a config; `size` None: of the config's batch size."""
    experiment = build_experiment(load_config(config_file, overrides))
    data, size = experiment.data['train'], size or experiment.samples_per_gpu
    source, pipeline = data.open(), data.pipeline
    canvases = pipeline.all_canvases()
    plan = TrainPlan(pipeline.canvas_index(source), canvases, size, experiment.seed)
    return TrainBatches(source, plan, pipeline, (0, size))


def compare(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
    """Median of the seconds that each contender reports, in turns, after a warm-up."""
    for load in contenders.values():
        load()
    taken = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, load in contenders.items():
            taken[name].append(load())
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def worker_rate(batches: TrainBatches, workers: int, seconds: float) -> float:
    """Images that worker processes load per second of wall time."""
    size = batches.plan.batch_size
    with contextlib.closing(prefetch(batches, 0, _STEPS, workers)) as stream:
        # Batches loaded while the workers started do not count.
        for _ in range(8 * max(workers, 1)):
            next(stream)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            next(stream)
            count += size
        return count / (time.perf_counter() - began)


def mmdet_samples(batches: TrainBatches) -> list[dict]:
    """The samples that mmdetection's data set would pass to its pipeline."""
    records = batches.source.records
    return [
        {
            'img_path': record.file_name,
            'img_id': record.image_id,
            'height': record.size[0],
            'width': record.size[1],
            'instances': [
                {'bbox': box.tolist(), 'bbox_label': int(label), 'ignore_flag': 0}
                for box, label in zip(record.boxes, record.labels, strict=True)
            ],
        }
        for record in (records[index] for index in range(len(records)))
    ]


def check_pixels(peer: Peer, batches: TrainBatches) -> None:
    """Checks that mmdetection prepares the first image exactly as we do.

    Raises:
        ValueError: pixels differ.
    """
    record = batches.source.records[0]
    size = batches.pipeline.whole(0, record).size
    image, backend = batches.source.read_image(record), batches.pipeline.backend
    ours = transforms.resize(image, size, backend=backend)
    if not np.array_equal(ours, peer('image', 0)):
        raise ValueError(f'{record.file_name}: pixels differ from those of mmdetection')


def print_comparison(batches: TrainBatches, peer: Peer | None, rounds: int) -> None:
    """Prints the table of contenders."""
    plan, count = batches.plan, len(batches.source.records)
    loaded = (
        plan.steps_per_epoch * plan.batch_size
    )  # some twice, to fill the last batches

    def epoch():
        seconds = [
            processor_seconds(lambda step=step: batches(step))
            for step in range(plan.steps_per_epoch)
        ]
        return sum(seconds) * count / loaded

    contenders = {BARE: Bare(batches), OURS: epoch}
    if peer is not None:
        contenders[MMDET] = lambda: peer('load_all')
    median = compare(contenders, rounds)
    rows = [
        [
            name,
            f'{1e3 * seconds / count:.2f} ms',
            f'{count / seconds:.0f}',
            f'{seconds / median[BARE]:.2f}',
            f'{seconds / median[OURS]:.2f}',
        ]
        for name, seconds in median.items()
    ]
    header = ['', 'per image', 'images per second and core', f'/ {BARE}', f'/ {OURS}']
    print(timing.table(header, rows) + '\n')


def start_peer(stack: contextlib.ExitStack, python: str | None, batches: TrainBatches):
    """Starts mmdetection, ready to load; None without its Python. Prints versions."""
    if python is None:
        print(f'OpenCV {cv2.__version__}; without mmdetection (no --mmdet_python)\n')
        return None
    script = ROOT / 'benchmarks' / 'peers' / 'mmdet_input.py'
    peer = stack.enter_context(Peer(python, script, '`make mmdet-env` makes one'))
    versions = ', '.join(f'{k} {v}' for k, v in peer('version_texts').items())
    their_opencv = peer('setup_input', mmdet_samples(batches))
    print(
        f'OpenCV {cv2.__version__}; compared with {versions}, OpenCV {their_opencv}\n'
    )
    check_pixels(peer, batches)
    return peer


def compare_all(flags: argparse.Namespace) -> None:
    """Runs the first command: makes the images and prints all tables."""
    with contextlib.ExitStack() as stack:
        temporary = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = pathlib.Path(flags.images) if flags.images else temporary
        if not flags.images:
            input_data.write_images(folder, flags.count, input_data.SIZE)
        input_data.write_annotations(
            folder, flags.count, temporary / 'annotations.json'
        )
        data = {
            'data.train.ann_file': str(temporary / 'annotations.json'),
            'data.train.img_prefix': str(folder),
            'model.bbox_head.num_classes': 1,
        }
        batches = train_batches(RECIPE, data, flags.batch_size)
        files = batches.source.records.file_names
        kilobytes = statistics.median(os.path.getsize(file) for file in files) / 1e3
        print(f'{timing.machine()}; {len(files)} images, {kilobytes:.0f} kB (median)')
        peer = start_peer(stack, flags.mmdet_python, batches)
        print_comparison(batches, peer, flags.rounds)
        header = ['stage', 'per image', 'share']
        print(timing.table(header, stage_rows(batches, flags.rounds)) + '\n')
        if flags.workers:
            rates = [
                (workers, worker_rate(batches, workers, flags.seconds))
                for workers in range(flags.workers + 1)
            ]
            header = ['workers', 'images per second']
            print(timing.table(header, [[w, f'{rate:.0f}'] for w, rate in rates]))


def measure_own(config_file: str, overrides: Mapping[str, object], count: int) -> None:
    """Runs the second command: measures the data of a config."""
    batches = train_batches(config_file, overrides, None)
    batches(0)  # does the work that only the first batch causes
    wall, processor = time.perf_counter(), time.process_time()
    for step in range(1, count + 1):
        batches(step)
    processor = time.process_time() - processor
    wall, images = time.perf_counter() - wall, count * batches.plan.batch_size
    print(
        f'{images} images: {images / processor:.0f} per second and core '
        f'({processor:.1f} s of processor time, {wall:.1f} s of wall time)'
    )


def _number(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, at least 1')
    return int(text)


def _parser():
    parser = timing.new_parser(__doc__)
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add('--config', help='measure only the data of this config')
    add('--batches', type=_number, default=50, help='number of batches, with --config')
    add('--images', help='folder of JPEGs (default: generated images)')
    add('--count', type=_number, default=64, help='number of images to load')
    add('--batch_size', type=_number, default=8, help='images in a batch')
    add(
        '--rounds',
        type=_number,
        default=9,
        help='number of times that all images are loaded',
    )
    add('--mmdet_python', help='the Python of an environment with mmdetection 3.3.0')
    add(
        '--workers',
        type=int,
        default=cores,
        help='largest number of worker processes; 0: none',
    )
    add(
        '--seconds',
        type=_number,
        default=15,
        help='time to measure each number of workers',
    )
    return parser


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = _parser()
    flags, overrides = parser.parse_known_args()
    if overrides and not flags.config:
        parser.error(f'{overrides[0]}: not a flag, or a config field without --config')
    cv2.setNumThreads(1)
    try:
        if flags.config:
            measure_own(flags.config, parse_overrides(overrides), flags.batches)
        else:
            compare_all(flags)
    except (ValueError, OSError) as error:
        print(f'input.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
