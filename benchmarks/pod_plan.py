"""What a pod of many hosts costs besides its steps: constants measured on one machine.

    python benchmarks/pod_plan.py
    python benchmarks/pod_plan.py --parts stream evaluation

Measures, with all hosts simulated one after the other in this process:

- stream: the plan of the batches for COCO and for Objects365;
- checkpoint: saving and restoring the state of the R50 recipe;
- program: handing out the compiled training step, from one process to another;
- evaluation: merging the detections of all hosts;
- failures: what is lost to failures and to checkpoints, by interval (arithmetic);
- stragglers: waiting for the slowest loader, simulated with measured loading times.

Seconds are processor seconds unless they are called wall-clock time, so that other work
on the machine matters little.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.commands.command_line import positive  # noqa: E402
from benchmarks import timing  # noqa: E402
from benchmarks.pod_losses import (  # noqa: E402
    HOURS,
    best_interval,
    lost_share,
    waiting_share,
)

CANVASES = ((800, 1344), (1344, 800))
_PORTRAIT = 0.26  # of COCO's images
_FILE_KB = 160  # of a JPEG of COCO
_DETECTIONS = 100  # per image
_CONFIG = 'atss_r50_1x'


@dataclasses.dataclass(frozen=True)
class Pod:
    """The pod and what runs on it."""

    hosts: int = 256
    devices_per_host: int = 4
    samples_per_gpu: int = 2
    step_seconds: float = 0.1

    @property
    def rows(self) -> int:
        """Images of a step that one host loads."""
        return self.devices_per_host * self.samples_per_gpu

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.hosts * self.rows


def processor(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its processor seconds, those of threads included."""
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


# Stream ------------------------------------------------------------------------------


def make_plan(images: int, pod: Pod):
    """The plan of a data set with COCO's share of portrait images."""
    from atss_jax.data.plan import TrainPlan

    is_portrait = np.random.default_rng(0).random(images) < _PORTRAIT
    return TrainPlan(is_portrait.astype(np.int64), CANVASES, pod.batch, 0)


def stream(pod: Pod, images: tuple[int, ...]) -> str:
    """Plans an epoch on each host, and compares what all of them read."""
    rows = []
    for count in images:
        plan = make_plan(count, pod)
        steps = plan.steps_per_epoch
        first, build = processor(functools.partial(plan.records, 0))
        _, later = processor(functools.partial(_plan_all, plan))
        seen = check_hosts(count, pod, steps)
        kept = 2 * first.nbytes * steps + plan.canvas_index.nbytes
        share = 1 / pod.hosts
        rows += [
            [f'{count:,} images: steps of an epoch', f'{steps:,}'],
            ["processor time of an epoch's plan", f'{1e3 * build:.0f} ms'],
            ['processor time of a later step', f'{1e6 * later / steps:.1f} us'],
            ['memory of two epochs and the canvases', f'{kept / 1e6:.1f} MB'],
            ['images seen by all hosts in an epoch', f'{seen:,}'],
            [
                'files that a host reads in an epoch',
                f'{count * share:,.0f}, {count * share * _FILE_KB / 1e3:,.0f} MB',
            ],
            [
                'files that a host has read after 12 epochs',
                f'{1 - (1 - share) ** 12:.1%} of all',
            ],
        ]
    return timing.table(['stream', ''], rows)


def _plan_all(plan):
    for step in range(plan.steps_per_epoch):
        plan.records(step)


def check_hosts(images: int, pod: Pod, steps: int) -> int:
    """Builds the first epoch's plan anew on some hosts; counts images of all hosts.

    Raises:
        ValueError: hosts differ, or the rows of two overlap.
    """
    from atss_jax.data.plan import TrainPlan

    plan = make_plan(images, pod)
    reference = np.stack([plan.records(step) for step in range(steps)])
    taken = np.zeros(reference.shape, bool)
    for host in range(pod.hosts):
        if host % 64 == 0:  # a host that has a process of its own
            plan = TrainPlan(plan.canvas_index, CANVASES, pod.batch, 0)
        rows = slice(host * pod.rows, (host + 1) * pod.rows)
        for step in range(steps):
            if not np.array_equal(plan.records(step)[rows], reference[step, rows]):
                raise ValueError(f'host {host} differs at step {step}')
        if taken[:, rows].any():
            raise ValueError(f'the rows of host {host} overlap')
        taken[:, rows] = True
    if not taken.all():
        raise ValueError('rows without a host')
    return len(np.unique(reference))


# Checkpoint --------------------------------------------------------------------------


def checkpoint(pod: Pod) -> str:
    """Saves and restores the R50 recipe's state in a temporary folder."""
    import jax

    from atss_jax.distributed import devices
    from atss_jax.optim.optimizer import OptimizerConfig
    from atss_jax.optim.sgd import sgd
    from atss_jax.training.checkpoint import Checkpoints
    from atss_jax.training.state import create_state
    from benchmarks.gpu_jax import build, random_variables

    model, tx = build(50, 'float32'), sgd(OptimizerConfig(), lambda step: 0.01)
    state = create_state(random_variables(model), model, tx)
    # Of a run: zeros would be compressed to nothing.
    random = np.random.default_rng(0)
    momentum = jax.tree.map(
        lambda x: random.standard_normal(x.shape).astype(x.dtype), state.momentum
    )
    state = state.replace(momentum=momentum)
    on_device = devices.replicate(state)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        began = time.perf_counter()
        _, blocking = processor(lambda: checkpoints.save(on_device, {}))
        blocking_wall = time.perf_counter() - began
        _, waiting = processor(checkpoints.wait)
        wall = time.perf_counter() - began
        files = [f for f in pathlib.Path(folder).rglob('*') if f.is_file()]
        size = sum(file.stat().st_size for file in files)
        _, restoring = processor(lambda: checkpoints.restore(0, state))
        checkpoints.close()
    arrays = sum(x.nbytes for x in jax.tree.leaves(state.asdict()))
    rows = [
        ['arrays of the state', f'{arrays / 1e6:.1f} MB'],
        ['files', f'{len(files)}, {size / 1e6:.1f} MB'],
        ['save, while steps wait: copy and checksums', f'{blocking:.2f} s'],
        ['the same, wall-clock time here', f'{blocking_wall:.2f} s'],
        ['save, in the background', f'{waiting:.2f} s'],
        ['the whole save, wall-clock time here', f'{wall:.2f} s'],
        ['restore, with checksums', f'{restoring:.2f} s'],
        ['read at a restart by all hosts', f'{pod.hosts * size / 1e9:.0f} GB'],
    ]
    return timing.table(['checkpoint', ''], rows)


# Program -----------------------------------------------------------------------------


def program(pod: Pod, canvas: tuple[int, int]) -> str:
    """Compiles the training step, and runs it in another process without compiling."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(pathlib.Path(folder, 'step'))
        saved = _hand_out('save', file, canvas)
        loaded = _hand_out('load', file, canvas)
    if saved['loss'] != loaded['loss']:
        raise ValueError(f'the losses differ: {saved["loss"]}, {loaded["loss"]}')
    size = saved['bytes']
    rows = [
        ['trace the step', f'{saved["trace"]:.1f} s'],
        ['compile it', f'{saved["compile"]:.1f} s'],
        ['the serialized program', f'{size / 1e6:.1f} MB'],
        ['load it in another process', f'{loaded["load"]:.1f} s'],
        ['read by all hosts', f'{pod.hosts * size / 1e9:.1f} GB'],
        ['loss of the first step', 'the same to the last bit'],
    ]
    return timing.table([f'program, {canvas[0]} x {canvas[1]}, one image', ''], rows)


def _hand_out(action, file, canvas):
    words = [sys.executable, __file__, '--worker', action, file, *map(str, canvas)]
    environment = os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def work(action: str, file: str, height: str, width: str) -> None:
    """The part of `program` that is a process of its own: prints its seconds."""
    from jax.experimental import serialize_executable

    from atss_jax.config import build_experiment, load_config
    from benchmarks.programs import Programs

    experiment = build_experiment(load_config(_CONFIG))
    built = Programs(experiment, (int(height), int(width)), 1, 'float32')
    function, arguments, _ = built.train_step()
    result = {}
    if action == 'save':
        lowered, result['trace'] = processor(lambda: function.lower(*arguments))
        compiled, result['compile'] = processor(lowered.compile)
        content = pickle.dumps(serialize_executable.serialize(compiled))
        pathlib.Path(file).write_bytes(content)
        result['bytes'] = len(content)
    else:
        # From our own process of a moment ago: never unpickle the files of others.
        content = pickle.loads(pathlib.Path(file).read_bytes())
        load = serialize_executable.deserialize_and_load
        compiled, result['load'] = processor(lambda: load(*content))
    _, metrics = compiled(*arguments)
    result['loss'] = np.asarray(metrics['loss']).ravel()[0].item()
    print(json.dumps(result))


# Evaluation --------------------------------------------------------------------------


def evaluation(pod: Pod, images: int = 5000) -> str:
    """Gathers the detections of all hosts as `atss eval` does, and scores nothing."""
    from atss_jax.evaluation.run import columns_of, images_of

    detections = {image_id: random_detections(image_id) for image_id in range(images)}
    ids = list(detections)
    parts, packing = [], 0.0
    for host in range(pod.hosts):
        own = {image_id: detections[image_id] for image_id in ids[host :: pod.hosts]}
        columns, seconds = processor(functools.partial(columns_of, own))
        parts.append(columns)
        packing = max(packing, seconds)
    sizes = [sum(x.nbytes for x in part.values()) for part in parts]
    merged, merging = processor(lambda: images_of(parts))
    if merged.keys() != detections.keys():
        raise ValueError('images were lost')
    collectives = 2 * len(parts[0])
    rows = [
        ['images, with detections each', f'{images:,}, {_DETECTIONS}'],
        ['bytes of an image', f'{sum(sizes) / images:,.0f}'],
        ['largest part of a host', f'{max(sizes) / 1e3:.1f} kB'],
        [
            'received by each host, padded',
            f'{max(sizes) * pod.hosts / 1e6:.1f} MB in {collectives} collectives',
        ],
        ['pack, slowest host', f'{1e3 * packing:.1f} ms'],
        ['merge, on each host', f'{1e3 * merging:.1f} ms'],
    ]
    return timing.table(['evaluation', ''], rows)


def random_detections(seed: int):
    """As many detections as an image keeps at most."""
    from atss_jax.structures import Detections

    random = np.random.default_rng(seed)
    return Detections(
        boxes=random.random((_DETECTIONS, 4), np.float32),
        scores=random.random(_DETECTIONS, np.float32),
        labels=random.integers(0, 80, _DETECTIONS, np.int32),
        valid=np.ones(_DETECTIONS, bool),
    )


# Failures ----------------------------------------------------------------------------


def failures(pod: Pod, save: float, restart: float, images: tuple[int, ...]) -> str:
    """The interval that loses least, and what saving after each epoch loses."""
    rows = []
    for source, hours in HOURS.items():
        between = 3600 * hours / (pod.hosts * pod.devices_per_host)
        best = best_interval(save, between)
        rows += [
            [f'{source}: hours between failures of this pod', f'{between / 3600:.1f}'],
            [
                'best interval',
                f'{best / 60:.1f} min, {best / pod.step_seconds:,.0f} steps',
            ],
            ['lost with it', f'{lost_share(best, save, between, restart):.2%}'],
        ]
        for count in images:
            steps = make_plan(count, pod).steps_per_epoch
            epoch = steps * pod.step_seconds
            every = max(1, round(best / epoch))
            once = lost_share(epoch, save, between, restart)
            chosen = lost_share(every * epoch, save, between, restart)
            rows.append(
                [
                    f'{count:,} images: an epoch, lost by a save after each',
                    f'{epoch:.0f} s, {once:.1%}',
                ]
            )
            rows.append(
                [
                    '`checkpoint_config.interval`, lost with it',
                    f'{every} epochs, {chosen:.2%}',
                ]
            )
    title = f'failures (save {save:g} s, restart {restart:g} s)'
    return timing.table([title, ''], rows)


# Stragglers --------------------------------------------------------------------------


def loading_seconds(count: int = 60) -> np.ndarray:
    """Processor seconds of loading each of some generated JPEG files of many sizes."""
    from benchmarks.input import RECIPE, train_batches
    from benchmarks.input_data import write_annotations, write_images

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for index in range(count):
            part = folder / str(index)
            part.mkdir()
            # Longer side 640, as in COCO; the shorter one varies as it does there.
            write_images(part, 1, (int(random.integers(360, 640)), 640))
            (part / '0000.jpg').rename(folder / f'{index:04d}.jpg')
        write_annotations(folder, count, folder / 'data.json')
        fields = {
            'data.train.ann_file': str(folder / 'data.json'),
            'data.train.img_prefix': str(folder),
        }
        batches = train_batches(RECIPE, fields, 1)
        batches(0)
        steps = range(batches.plan.steps_per_epoch)
        return np.array([processor(functools.partial(batches, s))[1] for s in steps])


def stragglers(pod: Pod, workers: int, steps: int = 2000) -> str:
    """Waiting with measured loading times, alone and with stalls of a disk."""
    measured = loading_seconds()
    random = np.random.default_rng(0)
    shape = (steps, pod.hosts, pod.rows)
    batch = random.choice(measured, shape).sum(-1)
    # Assumed: one batch in 10,000 waits a second for a disk or a network.
    stalls = batch + (random.random(batch.shape) < 1e-4)
    rows = [
        [
            'an image: mean, standard deviation, most',
            ', '.join(
                f'{1e3 * f():.1f}' for f in (measured.mean, measured.std, measured.max)
            )
            + ' ms',
        ],
        [
            'a batch: mean of a host, mean of the slowest',
            f'{1e3 * batch.mean():.0f}, {1e3 * batch.max(1).mean():.0f} ms',
        ],
    ]
    for name, seconds in (('', batch), (', one batch in 10,000 stalls 1 s', stalls)):
        for ahead in (1, workers, 3 * workers, 6 * workers):
            share = waiting_share(seconds, pod.step_seconds, workers, ahead)
            rows.append([f'{ahead} batches ahead{name}', f'{share:.1%} waiting'])
    title = f'stragglers ({workers} workers, steps of {1e3 * pod.step_seconds:g} ms)'
    return timing.table([title, ''], rows)


PARTS = ('stream', 'checkpoint', 'program', 'evaluation', 'failures', 'stragglers')


def _positive(text):
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f'{text}: expected more than 0')
    return float(text)


def main() -> int:
    """Measures the selected parts and prints a table for each."""
    if sys.argv[1:2] == ['--worker']:
        work(*sys.argv[2:])
        return 0
    parser = timing.new_parser(__doc__)
    add = parser.add_argument
    for field in dataclasses.fields(Pod):
        kind = positive if field.type is int else _positive
        add(f'--{field.name}', type=kind, default=field.default)
    add('--images', type=int, nargs='+', default=(117_266, 1_700_000))
    add('--canvas', type=int, nargs=2, default=(128, 160), help='of `program`')
    add('--save', type=_positive, default=1.0, help='seconds of waiting for it')
    add('--restart', type=_positive, default=300, help='seconds to the next step')
    add('--workers', type=positive, default=8, help='loading processes of a host')
    add('--parts', nargs='+', choices=PARTS, default=PARTS)
    flags = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Pod)]
    pod = Pod(**{name: getattr(flags, name) for name in names})
    calls = {
        'stream': lambda: stream(pod, tuple(flags.images)),
        'checkpoint': lambda: checkpoint(pod),
        'program': lambda: program(pod, tuple(flags.canvas)),
        'evaluation': lambda: evaluation(pod),
        'failures': lambda: failures(pod, flags.save, flags.restart, flags.images),
        'stragglers': lambda: stragglers(pod, flags.workers),
    }
    print(f'{timing.machine()}; {pod.hosts} hosts, {pod.batch:,} images per step')
    for name in flags.parts:
        print(f'\n{calls[name]()}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
