"""The same work by mmdetection 3.3.0 and by atss_jax on the CPU, timed in turns.

    python benchmarks/peers/mmdet_cpu.py --mmdet_python=mmdet_env/bin/python

Weights, images, boxes and head outputs are random, and equal on both sides. The results
must agree before anything is timed; a difference is an error. Both sides may use all
processors, each is warmed up, and one rests while the other works.
A ReLU whose input is zero up to rounding may be open on one side only, and gradients
then differ by some thousandths, on either side: another `--seed` has other numbers.
`make mmdet-env` makes an environment with mmdetection.
The recipe is `configs/atss_r18_bccd.py`: batches of 8, batch norms that train, clipped
gradients.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed

from atss_jax.config import build_experiment, build_model, load_config  # noqa: E402
from atss_jax.weights import mmdet  # noqa: E402
from benchmarks import timing  # noqa: E402
from benchmarks.peers import inputs, ours  # noqa: E402
from benchmarks.peers.link import Peer  # noqa: E402

SMALL, LARGE = (256, 320), (800, 1344)
SCALE = (2.1, 2.1)  # resized over original, in post-processing
RATE = 1e-4
PAUSE = 0.05  # seconds; torch's threads keep spinning after a call
PARTS = ('model', 'assignment', 'detections', 'recipe')
RECIPE = ROOT / 'configs' / 'atss_r18_bccd.py'
# What it changes in mmdetection's config.
RECIPE_FIELDS = {
    'model.backbone.depth': 18,
    'model.backbone.frozen_stages': -1,
    'model.backbone.norm_eval': False,
    'model.neck.in_channels': [64, 128, 256, 512],
    'model.bbox_head.num_classes': 3,
}
# Mean logits of the background: as in a trained detector, and so high that NMS gets as
# many (anchor, class) pairs as it may.
BACKGROUNDS = {'trained': -7.0, 'crowded': -3.0}


@dataclasses.dataclass
class Row:
    """One row of the table."""

    name: str
    mmdet: Callable[[], object]
    ours: Callable[[], object]
    must: float | None = None
    goal: float | None = None


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference divided by the largest reference value."""
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))


def _check_agreement(what: str, error: float, limit: float) -> None:
    """Prints the difference of both sides.

    Raises:
        ValueError: it is above the limit.
    """
    print(f'{what}: agree to {error:.1e}')
    if not error <= limit:
        raise ValueError(f'{what}: mmdetection and atss_jax differ by {error:.1e}')


def _prepare(peer, name, work, *arguments):
    """A call of the work by mmdetection, and its result."""
    result = peer('prepare', name, work, *arguments)
    return lambda: peer('run', name), result


def model_rows(peer: Peer, model, variables, rng: np.random.Generator) -> list[Row]:
    """Rows of forward, forward and backward, training step, for an image of `SMALL`."""
    pixels = rng.integers(0, 256, (1, *SMALL, 3)).astype(np.uint8)
    image = ours.normalized(pixels)
    boxes, labels = inputs.random_boxes(8, SMALL, rng)
    boxes, labels = boxes[None], labels[None]

    theirs, expected = _prepare(peer, 'forward', 'forward', image)
    call, result = ours.forward(model, variables, image)
    pairs = zip(result(call()), expected, strict=True)
    _check_agreement('head outputs', max(relative(*pair) for pair in pairs), 1e-4)
    rows = [Row('forward', theirs, call, 1.0, 1.2)]

    theirs, expected = _prepare(
        peer, 'training', 'training', image, boxes, labels, None
    )
    call, result = ours.training(model, variables, ours.batch_of(image, boxes, labels))
    _check_training(result(call()), expected)
    rows.append(Row('forward + backward', theirs, call, 1.0, 1.15))

    theirs, expected = _prepare(peer, 'step', 'training', image, boxes, labels, RATE)
    batch = ours.batch_of(pixels, boxes, labels)
    call, result = ours.train_step(model, variables, batch, RATE)
    _check_training(result(call()), (expected[0], {}))
    return [*rows, Row('training step', theirs, call, 1.05, 1.2)]


def recipe_rows(peer: Peer, rng: np.random.Generator) -> list[Row]:
    """The row of the recipe's training step; its detector becomes the peer's."""
    experiment = build_experiment(load_config(str(RECIPE)))
    model, optimizer = experiment.model, experiment.optimizer
    canvas, size = SMALL, experiment.samples_per_gpu
    variables = inputs.random_weights(model, rng)
    peer('setup', _cores(), mmdet.to_state_dict(variables), RECIPE_FIELDS)
    pixels = rng.integers(0, 256, (size, *canvas, 3)).astype(np.uint8)
    classes = model.bbox_head.num_classes
    objects = [inputs.random_boxes(14, canvas, rng, classes) for _ in range(size)]
    boxes, labels = (np.stack(each) for each in zip(*objects, strict=True))
    images = ours.normalized(pixels)
    theirs, expected = _prepare(
        peer, 'recipe', 'training', images, boxes, labels, RATE, optimizer.max_norm
    )
    batch = ours.batch_of(pixels, boxes, labels)
    call, result = ours.train_step(model, variables, batch, RATE, optimizer.max_norm)
    _check_training(result(call()), (expected[0], {}))
    return [Row(f'training step, R18, {size} images', theirs, call, None, 1.1)]


def _cores():
    return len(os.sched_getaffinity(0))


def _check_training(result, expected):
    (losses, gradients), (their_losses, their_gradients) = result, expected
    errors = [abs(losses[n] - x) / abs(x) for n, x in their_losses.items()]
    _check_agreement('losses', max(errors), 1e-4)
    if their_gradients:
        assert set(gradients) == set(their_gradients)
        errors = [relative(gradients[n], x) for n, x in their_gradients.items()]
        _check_agreement('gradients', max(errors), 1e-4)


def assignment_rows(peer: Peer, rng: np.random.Generator) -> list[Row]:
    """Rows of 8, 100 and 500 boxes on `LARGE`; prints the memory that 500 take."""
    rows, targets = [], {100: (100, 200)}
    for count in (8, 100, 500):
        what = f'assignment, {count} boxes'
        boxes, labels = inputs.random_boxes(count, LARGE, rng)
        theirs, expected = _prepare(peer, what, 'assignment', boxes, labels, LARGE)
        (call, result), memory = ours.assignment(boxes, LARGE)
        differing = np.flatnonzero(result(call()) != expected)
        positives = int((expected >= 0).sum())
        print(f'{what}: {positives} positives, {len(differing)} anchors differ')
        if len(differing):
            raise ValueError(f'{what}: anchors {differing.tolist()} differ')
        rows.append(Row(what, theirs, call, *targets.get(count, ())))
    dense = peer('peak_memory', what)
    print(
        f'memory, {what}: mmdetection {dense / 2**20:.0f} MiB (growth of resident '
        f'memory), atss_jax {memory / 2**20:.2f} MiB (temporaries of XLA)'
    )
    return rows


def detection_rows(peer: Peer, rng: np.random.Generator) -> list[Row]:
    """Rows of post-processing head outputs on `LARGE`."""
    rows = []
    for name, background in BACKGROUNDS.items():
        outputs = inputs.random_outputs(LARGE, 60, background, rng)
        above = sum(int((x > np.log(0.05 / 0.95)).sum()) for x in outputs.cls_logits)
        what = f'post-processing, {name}'
        theirs, expected = _prepare(
            peer, what, 'detections', list(outputs), LARGE, SCALE
        )
        call, result = ours.detections(outputs, LARGE, SCALE)
        detections = result(call())
        print(
            f'{what}: {above} pairs above the threshold, {len(expected[0])} detections'
        )
        _check_detections(what, detections, expected)
        rows.append(Row(what, theirs, call, 8, 10))
    return rows


def _check_detections(what, detections, expected):
    boxes, scores, labels = detections
    if len(boxes) != len(expected[0]) or (labels != expected[2]).any():
        raise ValueError(f'{what}: detections differ from those of mmdetection')
    _check_agreement(f'{what}, boxes in pixels', abs(boxes - expected[0]).max(), 1e-3)
    _check_agreement(f'{what}, scores', abs(scores - expected[1]).max(), 1e-5)


def measure(rows: list[Row], repeats: int) -> list[list[str]]:
    """Times all rows; returns the cells of the table."""
    cells_of_rows = []
    for row in rows:
        calls = {'mmdet': row.mmdet, 'ours': row.ours}
        seconds = timing.interleaved(calls, repeats, warm_up=2, pause=PAUSE)
        ratio = seconds['mmdet'] / seconds['ours']
        cells = [timing.milliseconds(seconds[name]) for name in calls]
        targets = ['' if x is None else f'{x:g}' for x in (row.must, row.goal)]
        cells_of_rows.append([row.name, *cells, f'{ratio:.3g}', *targets])
    return cells_of_rows


def compare(python: str, parts: list[str], repeats: int, seed: int) -> None:
    """Checks that both sides agree, times them and prints the table."""
    jax.config.update('jax_platforms', 'cpu')
    rng = np.random.default_rng(seed)
    script = pathlib.Path(__file__).with_name('mmdet_side.py')
    with Peer(python, script, '`make mmdet-env` makes an environment') as peer:
        versions = {**peer('versions'), 'jax': jax.__version__}
        print(timing.machine())
        print(', '.join(f'{name} {version}' for name, version in versions.items()))
        model = build_model(load_config(str(ROOT / 'configs' / 'atss_r50_1x.py')))
        variables = inputs.random_weights(model, rng)
        peer('setup', _cores(), mmdet.to_state_dict(variables), {})
        rows = []
        if 'model' in parts:
            rows += model_rows(peer, model, variables, rng)
        if 'assignment' in parts:
            rows += assignment_rows(peer, rng)
        if 'detections' in parts:
            rows += detection_rows(peer, rng)
        if 'recipe' in parts:  # the last one: it sets another detector up
            rows += recipe_rows(peer, rng)
        overhead = timing.seconds(lambda: peer('nothing'), 100)
        overhead = timing.milliseconds(overhead)
        print(f'calling the other process, included in its times: {overhead}\n')
        header = ['work', 'mmdetection', 'atss_jax', 'ratio', 'must', 'goal']
        print(timing.table(header, measure(rows, repeats)))


def main() -> int:
    """Reads the flags and compares."""
    parser = timing.new_parser(__doc__)
    parser.add_argument(
        '--mmdet_python',
        default=sys.executable,
        help='the Python of an environment with mmdetection (default: this one)',
    )
    parser.add_argument(
        '--repeats', type=int, default=15, help='number of timings of each call'
    )
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=PARTS, help='what to compare'
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=3,
        help='of the random numbers (default: %(default)s)',
    )
    flags = parser.parse_args()
    try:
        if flags.repeats < 1:
            raise ValueError(f'--repeats={flags.repeats}: expected at least 1')
        compare(flags.mmdet_python, flags.parts, flags.repeats, flags.seed)
    except ValueError as error:
        print(f'mmdet_cpu.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
