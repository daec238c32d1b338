"""The training loop: from a config to checkpoints and COCO metrics."""

import collections
import contextlib
import gc
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from ml_collections import ConfigDict

from atss_jax.config.experiment import Experiment
from atss_jax.data.bad_images import BadImages
from atss_jax.data.forms.dataset import describe_forms
from atss_jax.data.forms.finder import Finder
from atss_jax.data.loader import prefetch, started
from atss_jax.data.records import Source
from atss_jax.distributed import devices, hosts
from atss_jax.structures import TRAIN_FIELDS
from atss_jax.training import setup
from atss_jax.training import workdir as workdirs
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import starting_point
from atss_jax.training.log import METRICS, RunLog, Startup
from atss_jax.training.profile import Profile
from atss_jax.training.state import TrainState
from atss_jax.training.step import make_train_step
from atss_jax.training.update_rule import optimizer_of

_STEPS_AHEAD = 2  # steps that are dispatched but whose metrics are not yet logged


class Evaluator(Protocol):
    """Scores weights on the evaluation data.

    Attributes:
        bad_images: images that could not be read so far.
    """

    bad_images: BadImages

    def evaluate(
        self, variables: Any, stop: hosts.StopSignal
    ) -> tuple[Mapping[str, Any], str]:
        """COCO metrics for the log, 'AP' among them, and a table of them to print.

        Args:
            variables: variables of the model, replicated over the devices.
            stop: checked before each batch.

        Raises:
            Stopped: `stop` was requested.
        """


MakeEvaluator = Callable[[Experiment, Source, str], Evaluator]
"""Makes an evaluator from the experiment, a source and the name of its split."""


class NonFiniteLoss(FloatingPointError):
    """A loss or gradient is NaN or infinite; its update was not applied."""


def train(
    config: ConfigDict | Mapping[str, Any],
    workdir: str,
    make_evaluator: MakeEvaluator,
    profile: tuple[int, int] | None = None,
    began: float | None = None,
    finder: Finder | None = None,
) -> TrainState:
    """Trains, evaluates and saves as configured; resumes if there is a checkpoint.

    Args:
        config: as from `load_config`.
        workdir: folder of the run; one with checkpoints of the same config is resumed.
        make_evaluator: makes the evaluator that scores the weights after an epoch.
        profile: first and last step to trace, counted from 1; see `Profile`.
        began: `time.perf_counter()` when the program started; by default, now.
        finder: may have found or read the data already; it is emptied.

    Returns:
        The final state, replicated over the devices.

    Raises:
        ValueError: config, data, weights and workdir do not fit together.
        NonFiniteLoss: training diverged; earlier checkpoints are in the workdir.
        Stopped: SIGTERM or Ctrl-C was received; a checkpoint was saved first.
    """
    startup = Startup(began)
    startup.spent_on('imports')
    run = setup.prepare(config, workdir, finder)
    experiment = run.experiment
    evaluator = make_evaluator(experiment, run.sources['val'], 'val')
    stop = hosts.StopSignal()
    startup.spent_on('annotations')
    with contextlib.ExitStack() as stack:
        begin = stack.enter_context(workdirs.locked(workdir))
        # Signals are handled until the last save is done, so that a second SIGTERM
        # does not interrupt it.
        stack.enter_context(stop.listening())

        # Load: the newest checkpoint, or the weights that the config names.
        checkpoints = Checkpoints(workdir, experiment.max_keep_ckpts, clean=True)
        stack.callback(checkpoints.close)
        tx = optimizer_of(experiment, run.rates_by_mult)
        start = starting_point(run, checkpoints, tx)
        profiler = Profile(workdir, profile, start.step, run.total_steps)
        stack.callback(profiler.close)
        # From here on the workdir accepts only this config and this data. Done after
        # loading: if that fails, the user can still correct the config.
        workdirs.claim(workdir, run.config_json, run.stream)
        state = devices.replicate(start.state)
        startup.spent_on('weights')
        log = _open_log(run, start)
        stack.callback(log.close)
        if start.step and start.step % run.steps_per_epoch == 0:
            # The run may have been killed after it saved and before it evaluated.
            _evaluate(run, evaluator, state, checkpoints, stop, log)

        # Compile while worker processes load the first batch.
        batches, bad_images = stack.enter_context(_load_ahead(run, start.step))
        train_step = _mapped_train_step(run, tx)
        if start.step < run.total_steps:
            _compile(run, train_step, state, start.step, log)
        startup.spent_on('compiling')

        try:
            in_flight = collections.deque()
            for step in range(start.step, run.total_steps):
                # Step: dispatched to the devices; the host does not wait for it.
                with profiler.step(step + 1):
                    with log.waiting_for_data():
                        batch = next(batches)
                    if step == start.step:
                        startup.spent_on('first batch')
                        begin()  # a run that is refused before leaves no workdir
                    hosts.progress(f'training step {step + 1}')
                    with log.compiling(batch['image'].shape[1:3]):
                        inputs = {name: batch[name] for name in TRAIN_FIELDS}
                        inputs = devices.shard_rows(inputs, experiment.parallel)
                        state, metrics = train_step(state, inputs)
                if profiler.finish(step + 1, state):
                    log.say(f'profiler trace: {profiler.folder}')

                # Log: a few steps late, so that no device waits for the host. The first
                # step is logged at once, because it shows whether training works.
                in_flight.append((step, metrics))
                epoch, step_in_epoch = divmod(step + 1, run.steps_per_epoch)
                epoch_ends, stopping = step_in_epoch == 0, stop.requested()
                log_all = epoch_ends or stopping or step == start.step
                while len(in_flight) > (0 if log_all else _STEPS_AHEAD):
                    _check_and_log(run, *in_flight.popleft(), checkpoints, log)
                if step == start.step:
                    startup.spent_on('first step')
                    log.say(f'first step done {startup}')

                # Save before evaluating: a kill in between does not lose the epoch.
                if epoch_ends:
                    # Adds the bad images of the other hosts.
                    bad_images.add(devices.all_of(bad_images.indices))
                    if run.is_due(epoch, experiment.checkpoint_interval):
                        _save(state, checkpoints, log)
                    _evaluate(run, evaluator, state, checkpoints, stop, log)
                if stopping and step + 1 < run.total_steps:
                    raise hosts.Stopped(f'after step {step + 1} of {run.total_steps}')
        except hosts.Stopped:
            _save(state, checkpoints, log)
            raise
        for line in bad_images.report():
            log.say(f'data.train: {line}')
        return state


# Parts of `train`, in the order of use -----------------------------------------------


def _open_log(run, start):
    """Opens the log; writes warnings and a summary of the run before the first step."""
    log = RunLog(
        run.workdir,
        start.step,
        run.total_steps,
        run.steps_per_epoch,
        run.experiment.log_interval,
        start.unlogged,
    )
    for warning in start.warnings:
        log.warn(warning)
    for line in describe_forms(run.sources.values()):
        log.say(line)
    log.say(str(run))
    if start.step:
        log.say(f'resuming after step {start.step}')
    for warning_about in (
        setup.learning_rate_warning,
        setup.paramwise_warning,
        setup.warm_up_warning,
        setup.evaluation_warning,
    ):
        if warning := warning_about(run):
            log.warn(warning)
    return log


@contextlib.contextmanager
def _load_ahead(run, first_step):
    """Starts to load batches from `first_step` on.

    Yields:
        The iterator of batches, and the record of bad images that it fills.
    """
    bad_images = BadImages(run.batches.source, run.batches.pipeline.max_bad_pictures)
    workers = run.experiment.workers_per_gpu * jax.local_device_count()
    loading = prefetch(run.batches, first_step, run.total_steps, workers)
    with (
        started(loading) as batches,
        contextlib.closing(bad_images.watch(batches)) as watched,
    ):
        yield watched, bad_images


def _mapped_train_step(run, tx):
    """The training step, mapped over all devices; its first argument is donated."""
    experiment = run.experiment
    train_step = make_train_step(
        experiment.training_model,
        experiment.data['train'].normalizer,
        experiment.loss,
        experiment.optimizer,
        tx,
        run.total_steps,
        experiment.seed,
    )
    return devices.map_over_devices(train_step, experiment.parallel, donate_first=True)


def _compile(run, train_step, state, step, log):
    """Compiles the training step for the shapes of batch `step`; loads no images."""
    hosts.progress('compiling')
    batch = run.batches.blank(step)
    with log.compiling(batch['image'].shape[1:3]):
        inputs = devices.shard_rows(batch, run.experiment.parallel)
        # Tracing creates a million objects; garbage collection takes a fifth of it.
        gc.disable()
        try:
            lowered = train_step.lower(state, inputs)
        finally:
            gc.enable()
        # JAX caches the program: calling `train_step` does not compile it again.
        lowered.compile()


def _check_and_log(run, step, metrics, checkpoints, log):
    """Reads the metrics of a step from the devices, checks and logs them.

    Raises:
        NonFiniteLoss: the loss or the norm of the gradient is not finite.
    """
    metrics = {name: float(x) for name, x in devices.to_host(metrics).items()}
    if not (math.isfinite(metrics['loss']) and math.isfinite(metrics['grad_norm'])):
        raise _non_finite_loss(run, step, metrics, checkpoints)
    log.step(step + 1, metrics, float(run.rates[step]), run.batch_size)


def _non_finite_loss(run, step, metrics, checkpoints):
    """The error, with the image ids of the batch and the last good checkpoint."""
    records = run.batches.source.records
    indices = [run.batches.view(step, row).record for row in range(run.batch_size)]
    image_ids = [int(records.image_ids[index]) for index in indices]
    checkpoints.wait()
    saved = checkpoints.steps()
    last_good = f'{checkpoints.folder}/{saved[-1]}' if saved else 'none yet'
    values = ', '.join(f'{name} {metrics[name]:g}' for name in METRICS)
    return NonFiniteLoss(
        f'step {step + 1}: {values}. Image ids of the batch: {image_ids}. Training '
        f'stopped before this step was applied; last good checkpoint: {last_good}. '
        'A lower optimizer.lr, a longer lr_config.warmup_iters or '
        'optimizer_config.grad_clip may help; see docs/troubleshooting.md'
    )


def _save(state, checkpoints, log):
    """Saves a checkpoint; its time does not count as training time."""
    with log.paused():
        checkpoints.save(state, {'log': log.unlogged})


def _evaluate(run, evaluator, state, checkpoints, stop, log):
    """Evaluates after an epoch, if that is due and has not been done yet."""
    step = int(state.step)
    epoch = step // run.steps_per_epoch
    is_due = run.is_due(epoch, run.experiment.evaluation_interval)
    if not is_due or checkpoints.is_evaluated(step):
        return
    with log.paused():
        metrics, table = evaluator.evaluate(state.evaluated_variables, stop)
        bad = [f'data.val: {line}' for line in evaluator.bad_images.report()]
        lines = [f'evaluation after epoch {epoch}', table, *bad]
        log.evaluation(step, metrics, '\n'.join(lines))
        # AP is None if there are no objects to detect.
        checkpoints.evaluated(step, metrics['AP'] or 0.0)
