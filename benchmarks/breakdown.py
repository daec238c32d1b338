"""Where the time of a training step goes, beside a run of the real loop.

    python benchmarks/breakdown.py
    python benchmarks/breakdown.py --config=configs/atss_r50_1x.py \
        --config.data.train.ann_file=A --config.data.train.img_prefix=B

Timed in turns: forward, assignment, losses of given head outputs, update with given
gradients, the whole step; what the step takes beyond the others is the backward pass.
Data is what the loop waits for the loader. All together is then compared with the time
that a step takes in the loop.
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
from atss_jax.config.sources import open_sources
from atss_jax.data.loader import prefetch
from atss_jax.detection.assign import assign
from atss_jax.detection.losses import atss_loss
from atss_jax.distributed import devices
from atss_jax.optim.sgd import global_norm, sgd
from atss_jax.training.loop import DEVICE_FIELDS
from atss_jax.training.setup import make_batches
from atss_jax.training.state import merge, split


def measured(made: programs.Programs) -> dict[str, programs.Program]:
    """The programs whose times give those of all parts."""
    experiment, model, canvas = made.experiment, made.model, made.canvas
    trained, frozen = split(made.variables['params'], model)
    statistics = made.variables['batch_stats']

    def forward(trained, frozen, statistics, batch):
        variables = {'params': merge(trained, frozen), 'batch_stats': statistics}
        images = made.normalizer(batch['image'], batch['image_size'])
        sizes = batch['image_size']
        return model.apply(
            variables, images, sizes, train=True, mutable=['batch_stats']
        )

    def assignment(batch):
        def one(boxes, valid, size):
            loss = experiment.loss
            anchors, assigner = loss.anchors, loss.assigner
            return assign(
                boxes, valid, size, canvas, anchors=anchors, assigner=assigner
            )

        return jax.vmap(one)(batch['gt_boxes'], batch['gt_valid'], batch['image_size'])

    def losses(outputs, batch):
        return atss_loss(outputs, batch, experiment.loss)[0]

    tx = sgd(experiment.optimizer, lambda count: 0.01)

    def update(state, grads):
        params, momentum = state
        moves = jnp.isfinite(global_norm(grads))
        updates, momentum = tx.update(grads, momentum, params, moves=moves)
        return (optax.apply_updates(params, updates), momentum), moves

    arguments = trained, frozen, statistics, made.batch
    # A copy: its memory is given to the next state.
    state = jax.tree.map(jnp.array, (trained, tx.init(trained)))
    updating = jax.jit(update, donate_argnums=0)
    return {
        'forward': programs.Program(jax.jit(forward), arguments),
        'assignment': programs.Program(jax.jit(assignment), (made.batch,)),
        'losses': programs.Program(jax.jit(losses), (made.outputs, made.batch)),
        'update': programs.Program(updating, (state, trained), carries=True),
        'step': made.train_step(),
    }


def callable_of(program: programs.Program):
    """A compiled program as a call that waits for its result."""
    compiled = program.function.lower(*program.arguments).compile()
    arguments = list(program.arguments)

    def call():
        result = jax.block_until_ready(compiled(*arguments))
        if program.carries:
            arguments[0] = result[0]

    return call


def parts(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each part from those of the programs."""
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


def loop(experiment, made: programs.Programs, steps: int) -> tuple[float, float]:
    """Seconds a step, and of these waited for data, of the loop on real batches."""
    source = open_sources(experiment, ('train',))['train']
    size = experiment.samples_per_gpu
    batches = make_batches(experiment, source, size, (0, size))
    program, mode = made.train_step(), experiment.parallel
    state, waited = program.arguments[0], 0.0
    workers = experiment.workers_per_gpu
    # The first step starts the workers and compiles.
    for number, batch in enumerate(_timed(prefetch(batches, 0, steps + 1, workers))):
        batch, seconds = batch
        inputs = {name: batch[name] for name in DEVICE_FIELDS}
        state, _ = program.function(state, devices.shard_rows(inputs, mode))
        if number == 0:
            jax.block_until_ready(state)
            began = time.perf_counter()
        else:
            waited += seconds
    jax.block_until_ready(state)
    return (time.perf_counter() - began) / steps, waited / steps


def _timed(batches):
    """Each batch, and the seconds that it was waited for."""
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
    made = programs.Programs(
        experiment, canvases[0], experiment.samples_per_gpu, experiment.training_dtype
    )
    calls = {name: callable_of(program) for name, program in measured(made).items()}
    seconds = timing.interleaved(calls, flags.repeats)
    step, waited = loop(experiment, made, flags.steps)
    found = {'data': waited, **parts(seconds)}
    total = sum(found.values())
    rows = [
        [name, timing.milliseconds(value), f'{value / total:.1%}']
        for name, value in found.items()
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
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
