"""Where the time of a training step goes, compared with a run of the real loop.

    python benchmarks/breakdown.py
    python benchmarks/breakdown.py --config=configs/atss_r50_1x.py \
        --config.data.train.ann_file=A --config.data.train.img_prefix=B

Forward, assignment, losses of given head outputs, update with given gradients, and the
whole step are timed in turns; the backward pass is what the step takes in addition to
the others. Data is the time that the loop waits for the loader. Their sum is compared
with the time that a step takes in the loop.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import optax
import programs
import timing

from atss_jax.config import build_experiment, load_config, parse_overrides
from atss_jax.config.experiment import open_sources
from atss_jax.data.loader import prefetch
from atss_jax.detection.assign import assign
from atss_jax.detection.losses import atss_loss
from atss_jax.distributed import devices
from atss_jax.optim.adamw import make_optimizer
from atss_jax.optim.optimizer import update_if
from atss_jax.optim.sgd import global_norm
from atss_jax.structures import TRAIN_FIELDS
from atss_jax.training.setup import make_batches
from atss_jax.training.state import merge, split


def measured(built: programs.Programs) -> dict[str, programs.Program]:
    """The programs whose times give the times of all parts."""
    experiment, model, canvas = built.experiment, built.model, built.canvas
    trained, frozen = split(built.variables['params'], model)
    statistics = built.variables['batch_stats']

    def forward(trained, frozen, statistics, batch):
        variables = {'params': merge(trained, frozen), 'batch_stats': statistics}
        images = built.normalizer(batch['image'], batch['image_size'])
        sizes = batch['image_size']
        return model.apply(
            variables, images, sizes, train=True, mutable=['batch_stats']
        )

    def assignment(batch):
        def assign_image(boxes, valid, size):
            loss = experiment.loss
            anchors, assigner = loss.anchors, loss.assigner
            return assign(
                boxes, valid, size, canvas, anchors=anchors, assigner=assigner
            )

        return jax.vmap(assign_image)(
            batch['gt_boxes'], batch['gt_valid'], batch['image_size']
        )

    def losses(outputs, batch):
        return atss_loss(outputs, batch, experiment.loss)[0]

    tx = make_optimizer(experiment.optimizer, lambda count: 0.01)

    def update(state, grads):
        def apply(params, momentum):
            updates, momentum = tx.update(grads, momentum, params)
            return optax.apply_updates(params, updates), momentum

        healthy = jnp.isfinite(global_norm(grads))
        return update_if(healthy, apply, lambda *state: state, *state), healthy

    arguments = trained, frozen, statistics, built.batch
    # A copy, because its memory is donated to the next state.
    state = jax.tree.map(jnp.array, (trained, tx.init(trained)))
    updating = jax.jit(update, donate_argnums=0)
    return {
        'forward': programs.Program(jax.jit(forward), arguments),
        'assignment': programs.Program(jax.jit(assignment), (built.batch,)),
        'losses': programs.Program(jax.jit(losses), (built.outputs, built.batch)),
        'update': programs.Program(updating, (state, trained), carries=True),
        'step': built.train_step(),
    }


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each part, from the seconds of the programs."""
    return {
        'forward': seconds['forward'],
        'assign': seconds['assignment'],
        'loss': seconds['losses'] - seconds['assignment'],
        'backward': seconds['step']
        - seconds['forward']
        - seconds['losses']
        - seconds['update'],
        'update': seconds['update'],
    }


def loop(experiment, built: programs.Programs, steps: int) -> tuple[float, float]:
    """Seconds of a step in the loop on real batches, and how many it waits for data."""
    source = open_sources(experiment, ('train',))['train']
    size = experiment.samples_per_gpu
    batches = make_batches(experiment, source, size, (0, size))
    program, mode = built.train_step(), experiment.parallel
    state, waited = program.arguments[0], 0.0
    workers = experiment.workers_per_gpu
    # The first step starts the workers and compiles, so it is not counted.
    stream = _timed(prefetch(batches, 0, steps + 1, workers))
    for number, (batch, seconds) in enumerate(stream):
        inputs = {name: batch[name] for name in TRAIN_FIELDS}
        state, _ = program.function(state, devices.shard_rows(inputs, mode))
        if number == 0:
            jax.block_until_ready(state)
            began = time.perf_counter()
        else:
            waited += seconds
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / steps, waited / steps


def _timed(batches):
    """Each batch, and the seconds that it took to arrive."""
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - began


def report(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Measures and prints the table."""
    experiment = build_experiment(load_config(flags.config, parse_overrides(overrides)))
    canvases = experiment.data['train'].pipeline.all_canvases()
    built = programs.Programs(
        experiment, canvases[0], experiment.samples_per_gpu, experiment.training_dtype
    )
    calls = {
        name: program.caller(program.compile())
        for name, program in measured(built).items()
    }
    seconds = timing.interleaved(calls, flags.repeats)
    step, waited = loop(experiment, built, flags.steps)
    seconds_of = {'data': waited, **parts(seconds)}
    total = sum(seconds_of.values())
    rows = [
        [name, timing.milliseconds(value), f'{value / total:.1%}']
        for name, value in seconds_of.items()
    ]
    rows.append(['sum', timing.milliseconds(total), '100%'])
    rows.append(
        ['a step of the loop', timing.milliseconds(step), f'{step / total:.1%}']
    )
    print(f'{timing.machine()}; {flags.config}, batch {experiment.samples_per_gpu} of')
    print(f'{canvases[0][0]}x{canvases[0][1]}, {experiment.training_dtype}\n')
    print(timing.table(('part', 'time', 'share'), rows))


def main() -> int:
    """Reads the flags and measures."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--config', default='configs/atss_shapes.py')
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--steps', type=int, default=20, help='of the real loop')
    flags, overrides = parser.parse_known_args()
    try:
        report(flags, overrides)
    except (ValueError, OSError) as error:
        print(f'breakdown.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
