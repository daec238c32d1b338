"""Training from a config to checkpoints and COCO numbers."""

import collections
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from atss_jax import parallel
from atss_jax.config import build_experiment, to_json
from atss_jax.data.loader import TrainBatches, check_box_counts, prefetch
from atss_jax.data.plan import TrainPlan
from atss_jax.evaluation import run
from atss_jax.evaluation.build import make_evaluator, open_sources
from atss_jax.evaluation.coco_metric import Scores, format_table
from atss_jax.experiment import Experiment
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import initial_variables
from atss_jax.training.log import METRICS, RunLog
from atss_jax.training.schedule import learning_rates, schedule
from atss_jax.training.state import TrainState, create_state, zero_variables
from atss_jax.training.step import make_train_step, sgd

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


@dataclasses.dataclass
class _Run:
    """The parts of a training run, put together once."""

    experiment: Experiment
    plan: TrainPlan
    batches: TrainBatches
    rates: np.ndarray
    evaluator: run.Evaluator
    checkpoints: Checkpoints
    workdir: str
    stream: Mapping[str, Any]  # what beside the config decides the batches

    @property
    def total_steps(self) -> int:
        return len(self.rates)


def train(config: ConfigDict | Mapping[str, Any], workdir: str) -> TrainState:
    """Trains, evaluates and saves as the config says; goes on where the workdir stands.

    Args:
        config: as from `load_config`.
        workdir: folder of the run; one with checkpoints of the same config is resumed.

    Returns:
        The final state, replicated over the devices.

    Raises:
        ValueError: config, data, weights or workdir do not allow it.
        NonFiniteLoss: training broke down; earlier checkpoints are there.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f'{jax.process_count()} hosts: training over several is not supported yet; '
            'one host may have any number of devices'
        )
    experiment = build_experiment(config)
    sources = open_sources(experiment, ('train', 'val'))
    parts = _prepare(experiment, sources, to_json(config), workdir)
    tx = sgd(experiment.optimizer, schedule(parts.rates))
    state = _first_state(parts, tx)
    # Not before: weights that are not there must not bind the workdir to this config.
    workdirs.claim(workdir, to_json(config), parts.stream)
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
        workdir,
        int(state.step),
        parts.total_steps,
        parts.plan.steps_per_epoch,
        experiment.log_interval,
    )
    _announce(parts, sources, int(state.step), log)
    try:
        return _steps(parts, step, state, log)
    finally:
        log.close()
        parts.checkpoints.close()


def _prepare(experiment, sources, config_json, workdir):
    data = experiment.data['train']
    check_box_counts(sources['train'], data.pipeline.max_boxes)
    batch_size = experiment.samples_per_gpu * jax.device_count()
    plan = TrainPlan(
        data.pipeline.canvas_index(sources['train']),
        data.pipeline.all_canvases(),
        batch_size,
        experiment.seed,
        experiment.times,
    )
    rates = learning_rates(
        experiment.optimizer.lr,
        experiment.lr_config,
        plan.steps_per_epoch,
        experiment.total_epochs,
    )
    evaluator = make_evaluator(experiment, sources['val'], 'val')
    batches = TrainBatches(sources['train'], plan, data.pipeline, (0, batch_size))
    stream = {
        'global_batch_size': batch_size,
        'records': len(sources['train'].records),
        'classes': list(sources['train'].classes),
    }
    workdirs.check(workdir, config_json, stream)
    checkpoints = Checkpoints(workdir, experiment.max_keep_ckpts)
    checkpoints.set_aside_unfinished()
    return _Run(
        experiment, plan, batches, rates, evaluator, checkpoints, workdir, stream
    )


def _first_state(parts, tx):
    """The newest checkpoint of the workdir, of `resume_from`, or initial weights."""
    experiment = parts.experiment
    first_state = functools.partial(
        create_state,
        model=experiment.model,
        tx=tx,
        accumulates=experiment.optimizer.cumulative_iters > 1,
        averages=experiment.optimizer.ema_momentum is not None,
    )
    if parts.checkpoints.steps():
        like = first_state(zero_variables(experiment.model))
        state = parts.checkpoints.restore(parts.checkpoints.steps()[-1], like)
    elif experiment.resume_from is not None:
        like = first_state(zero_variables(experiment.model))
        workdirs.check_stream(experiment.resume_from, parts.stream)
        source = Checkpoints.open(experiment.resume_from)
        state = source.restore(source.steps()[-1], like)
        if state.step >= parts.total_steps:
            raise ValueError(
                f'resume_from = {experiment.resume_from}: step {state.step} of '
                f'{parts.total_steps} is done there, nothing is left to train; raise '
                'total_epochs, or start from its weights with load_from'
            )
    else:
        variables = initial_variables(
            experiment.model,
            experiment.seed,
            experiment.pretrained,
            experiment.load_from,
            parts.stream['classes'],
        )
        state = first_state(variables)
    return parallel.replicate(state)


def _announce(parts, sources, start, log):
    devices = f'{jax.device_count()} {jax.devices()[0].platform} device(s)'
    train, val = sources['train'], sources['val']
    log.say(
        f'{len(train.records)} training and {len(val.records)} evaluation pictures, '
        f'{len(train.classes)} classes; {devices}, '
        f'batch {parts.plan.batch_size}; {parts.plan.steps_per_epoch} steps an epoch, '
        f'{parts.total_steps} in all; canvases {parts.batches.pipeline.all_canvases()}'
    )
    if start:
        log.say(f'going on after step {start}')


def _steps(parts, step_function, state, log):
    start = int(state.step)
    workers = parts.experiment.workers_per_gpu * jax.local_device_count()
    in_flight = collections.deque()
    batches = prefetch(parts.batches, start, parts.total_steps, workers)
    with contextlib.closing(batches):
        for step in range(start, parts.total_steps):
            began = time.perf_counter()
            batch = next(batches)
            log.waited(time.perf_counter() - began)
            inputs = {name: batch[name] for name in DEVICE_FIELDS}
            inputs = parallel.shard_rows(inputs, parts.experiment.parallel)
            state, metrics = step_function(state, inputs)
            in_flight.append((step, metrics))
            epoch, left = divmod(step + 1, parts.plan.steps_per_epoch)
            while len(in_flight) > (_IN_FLIGHT if left else 0):
                _finish_step(parts, *in_flight.popleft(), log)
            if not left:
                _end_epoch(parts, state, epoch, log)
    return state


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
        f'and nothing was learnt from this step; last good checkpoint: {last}. A lower '
        'optimizer.lr, a longer lr_config.warmup_iters or optimizer_config.grad_clip '
        'may help; see docs/troubleshooting.md'
    )


def _end_epoch(parts, state, epoch, log):
    """Evaluates and saves, where this epoch is due for it; the last always is."""
    began = time.perf_counter()
    is_last = epoch == parts.experiment.total_epochs
    step, metrics = int(state.step), None
    if is_last or epoch % parts.experiment.evaluation_interval == 0:
        scores = evaluate_state(parts.evaluator, state)
        metrics = finite(scores)
        table = f'evaluation after epoch {epoch}\n{format_table(scores)}'
        log.evaluation(step, run.summary(scores), table)
    if is_last or epoch % parts.experiment.checkpoint_interval == 0:
        parts.checkpoints.save(state, metrics)
    log.paused(time.perf_counter() - began)


def evaluate_state(evaluator: run.Evaluator, state: TrainState) -> Scores:
    """COCO numbers of the weights of a state."""
    return evaluator.score(evaluator.detections(state.evaluated_variables))


def finite(scores: Scores) -> dict[str, float]:
    """The twelve numbers, 0 where none is defined: what checkpoints are ranked by."""
    return {
        name: 0.0 if math.isnan(value) else float(value)
        for name, value in scores.summary.items()
    }
