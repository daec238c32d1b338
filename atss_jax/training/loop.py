"""Training from a config to checkpoints and COCO numbers."""

import collections
import contextlib
import gc
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from atss_jax.config import build_experiment, to_json
from atss_jax.config.sources import open_sources
from atss_jax.data.bad_images import BadImages
from atss_jax.data.loader import prefetch, started
from atss_jax.distributed import devices as parallel
from atss_jax.distributed import hosts
from atss_jax.evaluation import run
from atss_jax.evaluation.coco_metric import Scores, format_table
from atss_jax.optim.schedule import schedule
from atss_jax.optim.sgd import sgd
from atss_jax.training import workdir as workdirs
from atss_jax.training.log import METRICS, RunLog, Startup
from atss_jax.training.setup import check_hosts, first_state, prepare
from atss_jax.training.state import TrainState
from atss_jax.training.step import make_train_step

_IN_FLIGHT = 2  # steps the host may be ahead of the devices

DEVICE_FIELDS = (
    'image',
    'image_size',
    'gt_boxes',
    'gt_labels',
    'gt_valid',
    'gt_ignored',
)


class NonFiniteLoss(FloatingPointError):
    """A loss or gradient that is NaN or infinite; the weights are from before it."""


def train(
    config: ConfigDict | Mapping[str, Any],
    workdir: str,
    profile: tuple[int, int] | None = None,
    began: float | None = None,
) -> TrainState:
    """Trains, evaluates and saves as the config says; goes on where the workdir stands.

    Args:
        config: as from `load_config`.
        workdir: folder of the run; one with checkpoints of the same config is resumed.
        profile: first and last step, counted from 1, to trace; see `Profile`.
        began: `time.perf_counter()` when the program started; None: now.

    Returns:
        The final state, replicated over the devices.

    Raises:
        ValueError: config, data, weights or workdir do not allow it.
        NonFiniteLoss: training broke down; earlier checkpoints are there.
        Stopped: SIGTERM came; all is saved.
    """
    startup = Startup(began)
    startup.spent_on('imports')
    experiment = build_experiment(config)
    hosts.progress('reading annotations')
    sources = open_sources(experiment, ('train', 'val'))
    hosts.progress('comparing hosts')
    check_hosts(config, sources, workdir)
    with workdirs.locked(workdir):
        parts = prepare(experiment, sources, to_json(config), workdir, profile)
        startup.spent_on('annotations')
        with parts.stop.listening():
            try:
                return _train(parts, sources, to_json(config), startup)
            finally:
                # Still listening: a second SIGTERM must not cut off the last save.
                parts.checkpoints.close()


def _train(parts, sources, config_json, startup):
    experiment = parts.experiment
    tx = sgd(experiment.optimizer, schedule(parts.rates))
    hosts.progress('reading or drawing the weights to start from')
    state, notes, warnings = first_state(parts, tx)
    startup.spent_on('weights')
    parts.profile.check(int(state.step), parts.total_steps)
    # Not before: weights that are not there must not bind the workdir to this config.
    workdirs.claim(parts.workdir, config_json, parts.stream)
    train_step = make_train_step(
        experiment.training_model,
        experiment.data['train'].normalizer,
        experiment.loss,
        experiment.optimizer,
        tx,
        parts.total_steps,
    )
    step = parallel.map_over_devices(train_step, experiment.parallel, donate_first=True)
    log = RunLog(
        parts.workdir,
        int(state.step),
        parts.total_steps,
        parts.plan.steps_per_epoch,
        experiment.log_interval,
        notes.get('log', ()),
        startup,
    )
    for warning in warnings:
        log.warn(warning)
    _announce(parts, sources, int(state.step), log)
    try:
        return _steps(parts, step, state, log)
    finally:
        parts.profile.close()
        log.close()


def _announce(parts, sources, start, log):
    devices = f'{jax.device_count()} {jax.devices()[0].platform} device(s)'
    train, val = sources['train'], sources['val']
    log.say(
        f'{len(train.records)} training and {len(val.records)} evaluation images, '
        f'{len(train.classes)} classes; {devices}, '
        f'batch {parts.plan.batch_size}; {parts.plan.steps_per_epoch} steps an epoch, '
        f'{parts.total_steps} in all; canvases {parts.batches.pipeline.all_canvases()}'
    )
    if start:
        log.say(f'going on after step {start}')
    scale = parts.experiment.auto_scale_lr
    if parts.plan.batch_size != scale.base and not scale.enable:
        log.warn(
            f'batches of {parts.plan.batch_size}, but optimizer.lr = '
            f'{parts.experiment.optimizer.lr:g} is for {scale.base} '
            '(auto_scale_lr.base_batch_size); auto_scale_lr.enable=True scales it'
        )


def _steps(parts, step_function, state, log):
    start, per_epoch = int(state.step), parts.plan.steps_per_epoch
    if start and start % per_epoch == 0:
        _evaluate(parts, state, start // per_epoch, log)  # if that was cut off
    workers = parts.experiment.workers_per_gpu * jax.local_device_count()
    in_flight, canvases = collections.deque(), set()
    bad = BadImages(parts.batches.source, parts.batches.pipeline.max_bad_pictures)
    loading = prefetch(parts.batches, start, parts.total_steps, workers)
    with started(loading) as batches, contextlib.closing(bad.watch(batches)) as batches:
        if start < parts.total_steps:
            _compile(parts, start, step_function, state, canvases, log)
        for step in range(start, parts.total_steps):
            with parts.profile.step(step + 1):
                state, metrics = _one_step(
                    parts, step, step_function, state, batches, canvases, log
                )
            if parts.profile.finish(step + 1, state):
                log.say(f'trace of the profiler: {parts.profile.folder}')
            in_flight.append((step, metrics))
            epoch, left = divmod(step + 1, per_epoch)
            stop = parts.stop.requested()
            # The first is waited for: it says whether all works, and how long it took.
            ahead = _IN_FLIGHT if left and not stop and step > start else 0
            while len(in_flight) > ahead:
                _finish_step(parts, *in_flight.popleft(), log)
            if step == start:
                log.started()
            if not left:
                bad.add(parallel.all_of(bad.indices))
                _end_epoch(parts, state, epoch, log)
            if stop and step + 1 < parts.total_steps:
                _save(parts, state, log)
                raise hosts.Stopped(f'after step {step + 1} of {parts.total_steps}')
    for line in bad.report():
        log.say(f'data.train: {line}')
    return state


def _compile(parts, step, step_function, state, canvases, log):
    """Compiles the step for its batch, which is still being loaded."""
    hosts.progress('compiling')
    batch = parts.batches.blank(step)
    with _compiling(canvases, batch['image'].shape[1:3], log):
        inputs = parallel.shard_rows(batch, parts.experiment.parallel)
        with _garbage_left():
            program = step_function.lower(state, inputs)
        # JAX keeps it, and takes it when the step is called.
        program.compile()


@contextlib.contextmanager
def _garbage_left():
    """Tracing makes a million objects; looking for garbage is a fifth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _one_step(parts, step, step_function, state, batches, canvases, log):
    """Waits for the batch and hands it to the devices."""
    began = time.perf_counter()
    batch = next(batches)
    log.waited(time.perf_counter() - began)
    log.starting('first batch')
    hosts.progress(f'training step {step + 1}')
    inputs = {name: batch[name] for name in DEVICE_FIELDS}
    with _compiling(canvases, batch['image'].shape[1:3], log):
        inputs = parallel.shard_rows(inputs, parts.experiment.parallel)
        return step_function(state, inputs)


@contextlib.contextmanager
def _compiling(known, canvas, log):
    """Says that the first step on a canvas takes long, and does not count its time."""
    if canvas in known:
        yield
        return
    known.add(canvas)
    log.say(f'first step on canvas {canvas}: it is compiled, which may take minutes')
    began = time.perf_counter()
    yield
    log.starting('compiling')
    log.paused(time.perf_counter() - began)


def _finish_step(parts, step, metrics, log):
    """Reads the metrics of a step, a few steps late so that no device waits for it."""
    metrics = {name: float(value) for name, value in parallel.to_host(metrics).items()}
    if not (math.isfinite(metrics['loss']) and math.isfinite(metrics['grad_norm'])):
        raise _broken(parts, step, metrics)
    images = parts.plan.batch_size
    log.step(step + 1, metrics, float(parts.rates[step]), images)


def _broken(parts, step, metrics):
    records = parts.batches.source.records
    rows = range(parts.plan.batch_size)
    shown = [parts.batches.view(step, row).record for row in rows]
    ids = [int(records.image_ids[index]) for index in shown]
    parts.checkpoints.wait()
    saved = parts.checkpoints.steps()
    last = f'{parts.checkpoints.folder}/{saved[-1]}' if saved else 'none yet'
    numbers = ', '.join(f'{name} {metrics[name]:g}' for name in METRICS)
    return NonFiniteLoss(
        f'step {step + 1}: {numbers}. Image ids of the batch: {ids}. Training stopped '
        'before this step was applied; last good checkpoint: '
        f'{last}. A lower optimizer.lr, a longer lr_config.warmup_iters or '
        'optimizer_config.grad_clip may help; see docs/troubleshooting.md'
    )


def _end_epoch(parts, state, epoch, log):
    """Saves and evaluates, where this epoch is due for it; the last always is.

    In this order: whatever happens while evaluating, the epoch is not lost.
    """
    is_last = epoch == parts.experiment.total_epochs
    if is_last or epoch % parts.experiment.checkpoint_interval == 0:
        _save(parts, state, log)
    try:
        _evaluate(parts, state, epoch, log)
    except hosts.Stopped:
        _save(parts, state, log)
        raise


def _save(parts, state, log):
    began = time.perf_counter()
    parts.checkpoints.save(state, {'log': log.unfinished})
    log.paused(time.perf_counter() - began)


def _evaluate(parts, state, epoch, log):
    """Evaluates after an epoch that is due for it, unless the log says it was done."""
    began, step = time.perf_counter(), int(state.step)
    is_last = epoch == parts.experiment.total_epochs
    is_due = is_last or epoch % parts.experiment.evaluation_interval == 0
    if not is_due or parts.checkpoints.is_evaluated(step):
        return
    scores = evaluate_state(parts.evaluator, state, parts.stop)
    bad = [f'data.val: {line}' for line in parts.evaluator.bad_images.report()]
    table = [f'evaluation after epoch {epoch}', format_table(scores), *bad]
    log.evaluation(step, run.summary(scores), '\n'.join(table))
    ap = scores.summary['AP']
    parts.checkpoints.evaluated(step, 0.0 if math.isnan(ap) else ap)
    log.paused(time.perf_counter() - began)


def evaluate_state(
    evaluator: run.Evaluator, state: TrainState, stop: hosts.StopSignal | None = None
) -> Scores:
    """COCO numbers of the weights of a state."""
    return evaluator.score(evaluator.detections(state.evaluated_variables, stop=stop))
