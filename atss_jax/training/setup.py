"""The parts of a training run, put together from a config and what the workdir has."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from atss_jax.config import to_json
from atss_jax.config.experiment import Experiment
from atss_jax.data.loader import TrainBatches, check_box_counts
from atss_jax.data.plan import TrainPlan
from atss_jax.data.records import Source
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation import run
from atss_jax.evaluation.run import make_evaluator
from atss_jax.optim.schedule import learning_rates
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import initial_variables
from atss_jax.training.profile import Profile
from atss_jax.training.state import create_state, zero_variables

_SAME_DATA = 'All hosts must read the same annotations.'


@dataclasses.dataclass
class Run:
    """The parts of a training run, put together once."""

    experiment: Experiment
    plan: TrainPlan
    batches: TrainBatches
    rates: np.ndarray
    evaluator: run.Evaluator
    checkpoints: Checkpoints
    workdir: str
    stream: Mapping[str, Any]  # what beside the config decides the batches
    stop: hosts.StopSignal
    profile: Profile

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return len(self.rates)


def check_hosts(config, sources, workdir) -> None:
    """Raises ValueError if the hosts would not compute the same; a collective."""
    digests = {name: source.records.digest() for name, source in sources.items()}
    hosts.check_equal(
        {
            'config': to_json(config),
            'atss_jax code': workdirs.code_digest(),
            'versions': workdirs.package_versions(),
            'data.train': digests['train'],
            'data.val': digests['val'],
        },
        {'data.train': _SAME_DATA, 'data.val': _SAME_DATA},
    )
    workdirs.check_shared(workdir)


def make_batches(
    experiment: Experiment, source: Source, batch_size: int, rows: tuple[int, int]
) -> TrainBatches:
    """The training batches that a config describes.

    Args:
        experiment: what the config describes.
        source: the training data.
        batch_size: of all devices together.
        rows: first and last+1 of those to load.
    """
    pipeline = experiment.data['train'].pipeline
    plan = TrainPlan(
        pipeline.canvas_index(source),
        pipeline.all_canvases(),
        batch_size,
        experiment.seed,
        experiment.times,
    )
    return TrainBatches(source, plan, pipeline, rows)


def prepare(experiment, sources, config_json, workdir, profile=None) -> Run:
    """Everything but the weights; `profile`: first and last step to trace.

    Raises:
        ValueError: config, data and workdir do not go together.
    """
    data = experiment.data['train']
    check_box_counts(sources['train'], data.pipeline.max_boxes)
    batch_size = experiment.samples_per_gpu * jax.device_count()
    rows = devices.local_rows(batch_size)
    batches = make_batches(experiment, sources['train'], batch_size, rows)
    plan = batches.plan
    scale = experiment.auto_scale_lr
    rates = learning_rates(
        experiment.optimizer.lr * (batch_size / scale.base if scale.enable else 1),
        experiment.lr_config,
        plan.steps_per_epoch,
        experiment.total_epochs,
    )
    evaluator = make_evaluator(experiment, sources['val'], 'val')
    stream = {
        'global_batch_size': batch_size,
        'records': len(sources['train'].records),
        'records_digest': sources['train'].records.digest(),
        'classes': list(sources['train'].classes),
    }
    workdirs.check(workdir, config_json, stream)
    return Run(
        experiment,
        plan,
        batches,
        rates,
        evaluator,
        Checkpoints(workdir, experiment.max_keep_ckpts, clean=True),
        workdir,
        stream,
        hosts.StopSignal(),
        Profile(workdir, profile),
    )


def first_state(parts, tx):
    """The newest checkpoint of the workdir, of `resume_from`, or initial weights.

    Returns:
        The state on the devices, the notes saved with it, and warnings.
    """
    experiment, notes = parts.experiment, {}
    unfinished = parts.checkpoints.set_aside_unfinished()
    warnings = [f'an unfinished checkpoint was set aside as {f}' for f in unfinished]
    if parts.checkpoints.steps():
        like = _new_state(parts, tx, zero_variables(experiment.model))
        state, damaged = parts.checkpoints.restore_latest(like)
        notes = parts.checkpoints.notes(int(state.step))
        warnings += damaged
    elif experiment.resume_from is not None:
        state, notes, damaged = _resume_from(parts, tx)
        warnings += damaged
    else:
        variables = initial_variables(
            experiment.model,
            experiment.seed,
            experiment.pretrained,
            experiment.load_from,
            parts.stream['classes'],
            warnings.append,
        )
        state = _new_state(parts, tx, variables)
    hosts.check_equal({'step to go on from': str(state.step)}, {})
    parts.checkpoints.forget_evaluations_after(int(state.step))
    return devices.replicate(state), notes, warnings


def _new_state(parts, tx, variables):
    experiment = parts.experiment
    return create_state(
        variables,
        experiment.model,
        tx,
        accumulates=experiment.optimizer.cumulative_iters > 1,
        averages=experiment.optimizer.ema_momentum is not None,
    )


def _resume_from(parts, tx):
    experiment = parts.experiment
    like = _new_state(parts, tx, zero_variables(experiment.model))
    workdirs.check_stream(experiment.resume_from, parts.stream)
    source = Checkpoints.open(experiment.resume_from)
    state, damaged = source.restore_latest(like, set_aside=False)
    if state.step >= parts.total_steps:
        raise ValueError(
            f'resume_from = {experiment.resume_from}: step {state.step} of '
            f'{parts.total_steps} is done there, nothing is left to train; raise '
            'total_epochs, or start from its weights with load_from'
        )
    return state, source.notes(int(state.step)), damaged
