"""The training loop: from a config to checkpoints and COCO metrics."""

import collections
import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from atss_jax.config.experiment import Experiment
from atss_jax.data.augment.rows import warn_of_dropped
from atss_jax.data.bad_images import BadImages
from atss_jax.data.forms.dataset import describe_forms
from atss_jax.data.forms.finder import Finder
from atss_jax.data.loader import prefetch, started
from atss_jax.data.records import Source
from atss_jax.distributed import devices, hosts
from atss_jax.structures import TRAIN_FIELDS
from atss_jax.training import setup
from atss_jax.training import workdir as workdirs
from atss_jax.training.callbacks import Callback, Callbacks
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import starting_point
from atss_jax.training.journal import Evaluator, Journal
from atss_jax.training.log import Length, RunLog, Startup
from atss_jax.training.profile import Profile
from atss_jax.training.setup import mapped_train_step
from atss_jax.training.state import TrainState
from atss_jax.training.update_rule import optimizer_of
from atss_jax.training.writers import open_writers

_STEPS_AHEAD = 2  # steps that are dispatched but whose metrics are not yet logged


MakeEvaluator = Callable[[Experiment, Source, str], Evaluator]
"""Makes an evaluator from the experiment, a source and the name of its split."""


def train(
    config: ConfigDict | Mapping[str, Any],
    workdir: str,
    make_evaluator: MakeEvaluator,
    profile: tuple[int, int] | None = None,
    began: float | None = None,
    callbacks: Sequence[Callback] = (),
    finder: Finder | None = None,
) -> TrainState:
    """Trains, evaluates and saves as configured; resumes if there is a checkpoint.

    Args:
        config: as from `load_config`.
        workdir: folder of the run; one with checkpoints of the same config is resumed.
        make_evaluator: makes the evaluator that scores the weights after an epoch.
        profile: first and last step to trace, counted from 1; see `Profile`.
        began: `time.perf_counter()` when the program started; by default, now.
        callbacks: called after steps, evaluations and checkpoints; see `Callback`.
        finder: has found the data already; it is emptied.

    Returns:
        The final state, replicated over the devices.

    Raises:
        ValueError: config, data, weights and workdir do not fit together.
        NonFiniteLoss: training diverged; earlier checkpoints are in the workdir.
        CallbackError: a callback failed; a checkpoint was saved first.
        OSError: a worker process was killed; a checkpoint was saved first, as after any
            error in loading a batch, except with several processes.
        Stopped: SIGTERM or Ctrl-C was received; a checkpoint was saved first.
    """
    startup = Startup(began)
    startup.spent_on('imports')
    called = Callbacks(callbacks)
    run = setup.prepare(config, workdir, finder)
    evaluator = make_evaluator(run.experiment, run.sources['val'], 'val')
    stop = hosts.StopSignal()
    startup.spent_on('annotations')
    with contextlib.ExitStack() as stack:
        begin = stack.enter_context(workdirs.locked(workdir))
        # Until the last save is done: a second SIGTERM does not interrupt it.
        stack.enter_context(stop.listening())

        # Load: the newest checkpoint, or the weights that the config names.
        checkpoints = stack.enter_context(_open_checkpoints(run))
        tx = optimizer_of(run.experiment, run.rates_by_mult)
        start = starting_point(run, checkpoints, tx)
        profiler = Profile(workdir, profile, start.step, run.total_steps)
        stack.callback(profiler.close)
        # Done after loading: if that fails, the user can still correct the config.
        workdirs.claim(workdir, run.config_json, run.stream)
        state = devices.replicate(start.state)
        startup.spent_on('weights')
        log = stack.enter_context(_open_log(run, start))
        journal = Journal(run, log, checkpoints, evaluator, called)
        steps, reason = _steps_left(run, start.step, state, journal, stop)

        # Compile while worker processes load the first batch.
        batches, bad_images = stack.enter_context(_load_ahead(run, start.step))
        train_step = _mapped_train_step(run, tx)
        _compile(run, train_step, state, steps, log)
        startup.spent_on('compiling')

        in_flight = collections.deque()
        try:
            for step in steps:
                # Step: dispatched to the devices; the host does not wait for it.
                with profiler.step(step + 1):
                    with journal.waiting_for_data(in_flight, state, start.step):
                        batch = next(batches)
                    if step == start.step:
                        startup.spent_on('first batch')
                        begin()  # a run that is refused before leaves no workdir
                    hosts.progress(f'training step {step + 1}')
                    with log.compiling(batch['image'].shape[1:3]) as compiles:
                        state, metrics = train_step(state, _to_devices(run, batch))
                if profiler.finish(step + 1, state):
                    log.say(f'profiler trace: {profiler.folder}')

                # Log: a few steps late, so that no device waits for the host; at once
                # the first step, and each that other hosts may take longer to compile.
                in_flight.append((step + 1, metrics))
                epoch_ends = (step + 1) % run.steps_per_epoch == 0
                stopping = stop.requested()
                log_all = epoch_ends or stopping or compiles or step == start.step
                journal.steps(in_flight, 0 if log_all else _STEPS_AHEAD)
                if step == start.step:
                    startup.spent_on('first step')
                    log.say(f'first step done {startup}')

                if epoch_ends:
                    bad_images.add(devices.all_of(bad_images.indices))  # of all hosts
                    journal.end_epoch(state, stop)
                if reason := journal.reason_to_end(step + 1, stopping):
                    break
                if stopping and step + 1 < run.total_steps:
                    raise hosts.Stopped(f'after step {step + 1} of {run.total_steps}')
        except hosts.Stopped as stopped:
            journal.save(state)
            stopped.add_note('The state of the run is saved: run again to resume')
            raise
        journal.finish(in_flight, state, reason, bad_images.report())
        return state


# Parts of `train`, in the order of use -----------------------------------------------


def _open_checkpoints(run):
    """The checkpoints of the run, to be closed at its end."""
    experiment = run.experiment
    keep, metric = experiment.max_keep_ckpts, experiment.save_best
    return contextlib.closing(Checkpoints(run.workdir, keep, True, metric))


def _open_log(run, start):
    """Opens the log; writes warnings and a summary of the run before the first step."""
    length = Length(start.step, run.total_steps, run.steps_per_epoch)
    log = RunLog(length, run.experiment.log_interval, start.unlogged)

    def open_all():
        log.writers += open_writers(run, start.step, log.warn)

    # If a tracker refuses, no process waits for the first one.
    devices.done_by_first(open_all)
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
        setup.capacity_warning,
    ):
        if warning := warning_about(run):
            log.warn(warning)
    return log


def _steps_left(run, step, state, journal, stop):
    """The steps that are left after `step`, and why there are none, if one knows it.

    The run may have been killed after it saved and before it evaluated.
    """
    if step and step % run.steps_per_epoch == 0:
        journal.evaluate(state, stop)
    reason = journal.reason_to_end(step, at_once=True)
    return range(step, step if reason else run.total_steps), reason


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
        contextlib.closing(
            bad_images.watch(warn_of_dropped(batches, run.batches.pipeline.max_boxes))
        ) as watched,
    ):
        yield watched, bad_images


def _to_devices(run, batch):
    """The fields of a batch that training needs, divided over the devices."""
    inputs = {name: batch[name] for name in TRAIN_FIELDS}
    return devices.shard_rows(inputs, run.experiment.parallel)


def _mapped_train_step(run, tx):
    """The training step, mapped over all devices; its first argument is donated."""
    return mapped_train_step(run.experiment, tx, run.total_steps)


def _compile(run, train_step, state, steps, log):
    """Compiles the training step for the shapes of the first of `steps`, if any.

    Loads no images.
    """
    if not steps:
        return
    batch = run.batches.blank(steps[0])
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
        # While `hosts.COMPILING` still is the limit: other hosts may take longer.
        devices.from_first(None)
