"""What is recorded of a run while it trains: log, checkpoints, evaluations."""

import collections
import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from atss_jax.config.monitoring import EarlyStopping
from atss_jax.data.bad_images import BadImages
from atss_jax.distributed import devices, hosts
from atss_jax.training.callbacks import Callbacks
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.log import METRICS, RunLog
from atss_jax.training.metrics_file import evaluated, metric_value
from atss_jax.training.setup import Run
from atss_jax.training.state import TrainState


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

    def examples(self, count: int) -> Sequence[tuple[str, np.ndarray]]:
        """Images with the detections of the last evaluation drawn on them.

        Args:
            count: how many, at most.

        Returns:
            Name and (H,W,3) uint8 RGB pixels of each, the same images every time.
        """


Steps = collections.deque[tuple[int, Mapping[str, Any]]]
"""Number, counted from 1, and metrics (on the devices) of some steps."""


class NonFiniteLoss(FloatingPointError):
    """A loss or gradient is NaN or infinite; its update was not applied."""


class Journal:
    """Logs the steps of a run, saves and scores its states, and calls the callbacks.

    Args:
        run: the run.
        log: takes the entries.
        checkpoints: takes the states.
        evaluator: scores the states.
        callbacks: are called after each of these.
    """

    def __init__(
        self,
        run: Run,
        log: RunLog,
        checkpoints: Checkpoints,
        evaluator: Evaluator,
        callbacks: Callbacks,
    ):
        self._run, self._log, self._checkpoints = run, log, checkpoints
        self._evaluator, self._callbacks = evaluator, callbacks
        self._stopping = run.experiment.early_stopping
        # What the log has after it was cut at the step that the run resumes from: a run
        # that was killed stops where it would have stopped.
        scores = {}
        if rule := self._stopping:
            logged = functools.partial(evaluated, run.workdir, rule.metric)
            scores = devices.done_by_first(logged)
        self._scores = {int(step): value for step, value in scores.items()}

    def steps(self, in_flight: Steps, ahead: int) -> None:
        """Reads metrics of steps from the devices, checks and logs them.

        All of them at a step after which the processes agree about callbacks: with a
        step still on the devices, they could run the two programs in unlike order.

        Args:
            in_flight: number and metrics of the steps whose metrics were not read yet,
                which are removed when they are.
            ahead: how many of them may remain, so that the host does not wait.

        Raises:
            NonFiniteLoss: the loss or the norm of the gradient is not finite.
        """
        newest = in_flight[-1][0] if in_flight else 0
        if self._callbacks and jax.process_count() > 1 and self._log.has_entry(newest):
            ahead = 0
        while len(in_flight) > ahead:
            step, metrics = in_flight.popleft()
            metrics = {name: float(x) for name, x in devices.to_host(metrics).items()}
            if not all(math.isfinite(metrics[name]) for name in ('loss', 'grad_norm')):
                raise _non_finite_loss(self._run, step, metrics, self._checkpoints)
            rate = float(self._run.rates[step - 1])
            self._log.step(step, metrics, rate, self._run.batch_size)
            self._callbacks.call('after_step', step, metrics)

    def save(self, state: TrainState) -> None:
        """Saves a checkpoint, if there is none of this step. A collective.

        Raises:
            CallbackError: a callback has failed; the checkpoint is saved nevertheless.
        """
        with self._log.paused():  # does not count as training time
            notes = {'log': self._log.unlogged}
            is_new = self._checkpoints.save(state, notes)
            if is_new and self._callbacks.has('after_checkpoint'):
                self._checkpoints.wait()
                step = int(state.step)
                folder = f'{self._checkpoints.folder}/{step}'
                self._callbacks.call('after_checkpoint', step, folder)
        self._callbacks.raise_failure()

    @contextlib.contextmanager
    def waiting_for_data(
        self, in_flight: Steps, state: TrainState, start: int
    ) -> Iterator[None]:
        """Surrounds the loading of a batch; if that fails, saves the steps before it.

        With several processes it does not: saving is a collective, and the others go
        on.

        Args:
            in_flight: as for `steps`.
            state: the state before the batch.
            start: number of steps that were finished when the run began.
        """
        try:
            with self._log.waiting_for_data():
                yield
        except Exception:  # of the user's files and functions: whatever they raise
            step = int(state.step)
            if step > start and jax.process_count() == 1:
                self.steps(in_flight, 0)
                self.save(state)
                self._log.say(
                    f'no batch for step {step + 1}; the steps before it are saved, and '
                    'the same command resumes after them'
                )
            raise

    def end_epoch(self, state: TrainState, stop: hosts.StopSignal) -> None:
        """Saves and evaluates the state after an epoch, where that is due.

        Saves first: a kill in between does not lose the epoch.

        Raises:
            CallbackError: a callback has failed; the state is saved.
            Stopped: `stop` was requested during the evaluation.
        """
        epoch = int(state.step) // self._run.steps_per_epoch
        if self._run.is_due(epoch, self._run.experiment.checkpoint_interval):
            self.save(state)
        self.evaluate(state, stop)

    def evaluate(self, state: TrainState, stop: hosts.StopSignal) -> None:
        """Evaluates after an epoch, if that is due and has not been done yet."""
        step = int(state.step)
        epoch = step // self._run.steps_per_epoch
        experiment = self._run.experiment
        is_due = self._run.is_due(epoch, experiment.evaluation_interval)
        if not is_due or self._checkpoints.is_evaluated(step):
            return
        with self._log.paused():
            variables = state.evaluated_variables
            numbers, table = self._evaluator.evaluate(variables, stop)
            report = self._evaluator.bad_images.report()
            bad = [f'data.val: {line}' for line in report]
            lines = [f'evaluation after epoch {epoch}', table, *bad]
            images = self._examples(experiment.num_eval_images)
            self._log.evaluation(step, numbers, '\n'.join(lines), images)
            score = self._score(numbers, experiment.save_best)
            self._checkpoints.evaluated(step, score)
            if self._stopping:
                self._scores[step] = self._score(numbers, self._stopping.metric)
            self._callbacks.call('after_evaluation', step, numbers)

    def _examples(self, count):
        """Example images on the first process; a collective.

        Whatever fails there, such as the reading of an image, fails on all processes.
        """
        images = []

        def draw():
            if self._log.shows_images:
                images.extend(self._evaluator.examples(count))

        if count:
            devices.done_by_first(draw)
        return images

    def _score(self, numbers, metric):
        """The value of a metric; 0 where no object counts for it."""
        value = metric_value(numbers, metric)
        if value is None and metric != 'AP':  # of which the start of the run warns
            self._log.warn(
                f'{metric} is undefined: no object of data.val counts for it, so it '
                'is taken for 0; choose another metric for evaluation.save_best or '
                'early_stopping'
            )
        return value or 0.0

    def reason_to_end(self, step: int, at_once: bool = False) -> str | None:
        """Why the run ends before its last step; None: it goes on. A collective.

        With several processes, callbacks are heard where all of them get to at the same
        time anyway: at entries of the log.

        Args:
            step: number of finished steps.
            at_once: whether callbacks are heard at any step.
        """
        if at_once or jax.process_count() == 1 or self._log.has_entry(step):
            reason = self._callbacks.reason_to_stop()
            if reason is not None:
                return reason
        return self._no_improvement()

    def finish(
        self,
        in_flight: Steps,
        state: TrainState,
        reason: str | None,
        bad_images: Sequence[str],
    ) -> None:
        """Logs the last steps and saves the state that the run ends with.

        Args:
            in_flight: as for `steps`.
            state: the state.
            reason: why the run ends before its last step; None: it does not.
            bad_images: lines about the training images that could not be read.

        Raises:
            CallbackError: a callback has failed.
        """
        self.steps(in_flight, 0)
        step, total = int(state.step), self._run.total_steps
        if reason and step < total:
            self._log.say(f'the run ends after step {step} of {total}: {reason}')
        self.save(state)
        for line in bad_images:
            self._log.say(f'data.train: {line}')

    def _no_improvement(self):
        rule = self._stopping
        if rule is None:
            return None
        waited, last = since_improvement(self._scores, rule)
        if waited < rule.patience:
            return None
        return (
            f'early stopping: {rule.metric} did not improve by {rule.min_delta:g} in '
            f'{waited} evaluations; it did last at step {last}, to '
            f'{self._scores[last]:.3f}'
        )


def since_improvement(
    scores: Mapping[int, float], rule: EarlyStopping
) -> tuple[int, int | None]:
    """The number of evaluations since the last improvement, and the step of that one.

    Args:
        scores: the metric by step.
        rule: what an improvement is.
    """
    best, waited, last = -math.inf, 0, None
    for step, score in sorted(scores.items()):
        if score >= best + rule.min_delta:
            best, waited, last = score, 0, step
        else:
            waited += 1
    return waited, last


def _non_finite_loss(run, step, metrics, checkpoints):
    """The error, with the image ids of the batch and the last good checkpoint."""
    records = run.batches.source.records
    rows = range(run.batch_size)
    indices = [run.batches.view(step - 1, row).record for row in rows]
    image_ids = [int(records.image_ids[index]) for index in indices]
    checkpoints.wait()
    saved = checkpoints.steps()
    last_good = f'{checkpoints.folder}/{saved[-1]}' if saved else 'none yet'
    values = ', '.join(f'{name} {metrics[name]:g}' for name in METRICS)
    return NonFiniteLoss(
        f'step {step}: {values}. Image ids of the batch: {image_ids}. Training '
        f'stopped before this step was applied; last good checkpoint: {last_good}. '
        'A lower optimizer.lr, a longer lr_config.warmup_iters or '
        'optimizer_config.grad_clip may help; see docs/troubleshooting.md'
    )
