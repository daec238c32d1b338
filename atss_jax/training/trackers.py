"""Experiment trackers: Weights & Biases, MLflow and Trackio.

Their libraries are optional, and imported where they are used.
"""

import collections
import importlib.util
import json
import os
import pathlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from atss_jax.config.monitoring import HookConfig
from atss_jax.config.tree import flatten
from atss_jax.files import atomic
from atss_jax.training.metrics_file import Entry, records

FILE = 'tracking.json'
_PROJECT = 'atss-jax'  # where the config names none
_MAX_PARAM = 500  # characters of a parameter that every MLflow store accepts
_MAX_BATCH = 100  # parameters in one request to MLflow


class Start(NamedTuple):
    """What a tracker is told at the start.

    Attributes:
        workdir: folder of the run.
        config: the resolved config.
        id: of the tracker's run that is continued; None: a new one.
    """

    workdir: pathlib.Path
    config: Mapping[str, Any]
    id: str | None

    @property
    def name(self) -> str:
        """Name of the run where the config gives none: that of the workdir."""
        return self.workdir.absolute().name


class Client(Protocol):
    """A run in a tracker.

    Attributes:
        id: what `Start.id` is when the run is continued.
        delay: seconds after which an entry is safe, even if this process is killed.
        errors: types of the exceptions that mean that the tracker has trouble.
    """

    id: str
    delay: float
    errors: tuple[type[Exception], ...]

    def log(self, entry: Entry) -> None:
        """Records the numbers and images of an entry."""

    def finish(self, outcome: str) -> None:
        """Ends the run; for the argument see `writers.Writer.close`."""


class Tracker:
    """Writes to a tracker, and continues its run when training is resumed.

    `tracking.json` keeps the id of the tracker's run, and up to which steps it has all
    entries for sure. What it may not have, because the process was killed or because
    the config did not name it before, is handed to it again from `metrics.jsonl`; what
    it has is not recorded twice. An entry that the tracker does not take is a warning:
    training goes on.

    Args:
        hook: the section of the config.
        workdir: folder of the run.
        config_json: the resolved config.
        warn: called with each warning.

    Raises:
        ValueError: the tracker refuses the settings.
    """

    shows_images = True

    def __init__(
        self,
        hook: HookConfig,
        workdir: str,
        config_json: str,
        warn: Callable[[str], None],
    ):
        self._file, self._warn = pathlib.Path(workdir) / FILE, warn
        self._name = LIBRARIES[hook.type]
        saved = self._read().get(self._name, {})
        self._last_steps = dict(saved.get('last_steps', {}))
        start = Start(pathlib.Path(workdir), json.loads(config_json), saved.get('id'))
        try:
            self._client = CLIENTS[hook.type](hook, start)
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(self._refusal(hook, start.id, error)) from error
        if self._client.id != start.id:  # it has nothing yet
            self._last_steps = {}
        self._unsafe: collections.deque[tuple[float, str, int]] = collections.deque()
        self._save()
        for record in records(workdir):
            self.write(Entry.of(record))

    def _refusal(self, hook, run_id, error):
        place = f'config.{hook.path} = {hook.type}: {self._name}'
        if run_id is None:
            return f'{place} does not start a run: {error}'
        return (
            f'{place} does not continue its run {run_id}: {error}; if that run is '
            f'gone, remove {self._name} from {self._file}, and a new one gets all '
            'numbers'
        )

    def _read(self):
        return atomic.read_json(self._file) if self._file.exists() else {}

    def _save(self):
        state = {'id': self._client.id, 'last_steps': self._last_steps}
        atomic.write_json(self._file, self._read() | {self._name: state}, indent=1)

    def write(self, entry: Entry) -> None:
        """Records an entry, unless the tracker has it already."""
        if entry.step <= self._last_steps.get(entry.kind, 0):
            return
        try:
            self._client.log(entry)
        except self._client.errors as error:
            self._warn(
                f'{self._name} did not take the numbers of step {entry.step}, which '
                f'metrics.jsonl has: {error}'
            )
            return
        self._unsafe.append((time.monotonic(), entry.kind, entry.step))
        self._keep_safe(self._client.delay)

    def _keep_safe(self, delay):
        """Keeps the last steps of the entries that are older than `delay` seconds."""
        until, is_new = time.monotonic() - delay, False
        while self._unsafe and self._unsafe[0][0] <= until:
            _, kind, step = self._unsafe.popleft()
            self._last_steps[kind], is_new = step, True
        if is_new:
            self._save()

    def close(self, outcome: str) -> None:
        """Ends the tracker's run, once it has received everything."""
        try:
            self._client.finish(outcome)
        except self._client.errors as error:
            self._warn(f'{self._name} did not end the run: {error}')
            return
        self._keep_safe(delay=0)


# Libraries ---------------------------------------------------------------------------

LIBRARIES = {
    'WandbLoggerHook': 'wandb',
    'MlflowLoggerHook': 'mlflow',
    'TrackioLoggerHook': 'trackio',
}
"""The library that each hook needs, which is also the name of the extra."""


def check_installed(hooks: Sequence[HookConfig]) -> None:
    """Checks that the libraries of all hooks are installed, without loading them.

    Raises:
        ValueError: one is not.
    """
    for hook in hooks:
        library = LIBRARIES.get(hook.type)
        if library is None:
            continue
        spec = importlib.util.find_spec(library)
        # wandb writes to a folder `wandb`, which Python would import if it is here.
        if spec is None or spec.origin is None:
            raise ValueError(
                f'config.{hook.path} = {hook.type} needs {library}, which is not '
                f"installed: pip install 'atss-jax[{library}]'"
            )


class _Wandb:
    """A run of Weights & Biases; its steps are those of the run."""

    delay = 30.0  # it writes to its file every 15 seconds

    def __init__(self, hook: HookConfig, start: Start):
        import wandb

        self._wandb, self.errors = wandb, (wandb.errors.Error, OSError)
        defaults = {'project': _PROJECT, 'name': start.name, 'id': start.id}
        defaults |= {'dir': str(start.workdir), 'resume': 'allow'}
        arguments = defaults | {'config': start.config} | (hook.init_kwargs or {})
        try:
            self._run = wandb.init(**arguments)
        except wandb.errors.Error as error:
            raise ValueError(
                f'{error}; `wandb login` signs in, and WANDB_MODE=offline needs no '
                'server'
            ) from error
        self.id = self._run.id

    def log(self, entry: Entry) -> None:
        images = {f'examples/{n}': self._wandb.Image(x) for n, x in entry.images}
        numbers = {**entry.scalars, 'epoch': entry.epoch}
        self._run.log({**numbers, **images}, step=entry.step)

    def finish(self, outcome: str) -> None:
        self._run.finish(exit_code=int(outcome == 'failed'))


class _Mlflow:
    """A run of MLflow, with the fields of the config as its parameters."""

    delay = 0.0  # each call waits for the server or database

    def __init__(self, hook: HookConfig, start: Start):
        import mlflow
        from mlflow.exceptions import MlflowException

        self.errors = (MlflowException, OSError)
        # Training waits meanwhile, at each entry: MLflow's own 7 retries take minutes.
        os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '3')
        try:
            self._client = mlflow.MlflowClient(hook.tracking_uri)
            if start.id is not None:
                self.id = start.id
                self._client.update_run(self.id, 'RUNNING')
            else:
                self.id = self._new_run(hook, start)
        except MlflowException as error:
            raise ValueError(str(error)) from error

    def _new_run(self, hook, start):
        name = hook.exp_name or _PROJECT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            experiment_id = self._client.create_experiment(name)
        else:
            experiment_id = experiment.experiment_id
        run = self._client.create_run(
            experiment_id,
            tags=hook.tags,
            run_name=hook.run_name or start.name,
        )
        self._log_config(run.info.run_id, start.config)
        return run.info.run_id

    def _log_config(self, run_id, config):
        from mlflow.entities import Param

        self._client.log_dict(run_id, config, 'config.json')
        params = [
            Param(_mlflow_name(path), str(value)[:_MAX_PARAM])
            for path, value in flatten(config).items()
        ]
        for first in range(0, len(params), _MAX_BATCH):
            self._client.log_batch(run_id, params=params[first : first + _MAX_BATCH])

    def log(self, entry: Entry) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_mlflow_name(name), value, now, entry.step)
            for name, value in entry.scalars.items()
        ]
        self._client.log_batch(self.id, metrics=metrics)
        for name, pixels in entry.images:
            self._client.log_image(
                self.id,
                pixels,
                key=f'examples/{_mlflow_name(name)}',
                step=entry.step,
                synchronous=True,
            )

    def finish(self, outcome: str) -> None:
        self._client.set_terminated(self.id, _MLFLOW_STATUS[outcome])


_MLFLOW_STATUS = {'finished': 'FINISHED', 'stopped': 'KILLED', 'failed': 'FAILED'}


def _mlflow_name(name):
    """A name that MLflow accepts, which class names need not be."""
    return re.sub(r'[^\w\-. /]', '_', name, flags=re.ASCII)


class _Trackio:
    """A run of Trackio, which continues runs by their name."""

    delay = 5.0  # its thread writes every half second

    def __init__(self, hook: HookConfig, start: Start):
        import trackio

        self._trackio, self.errors = trackio, (OSError,)
        # Runs of one name in a project would be taken for one another.
        name = start.id or f'{start.name}-{secrets.token_hex(3)}'
        defaults = {'project': _PROJECT, 'name': name, 'resume': 'allow'}
        defaults |= {'config': flatten(start.config), 'embed': False}
        defaults |= {'auto_log_gpu': False, 'auto_log_cpu': False}
        self._run = trackio.init(**(defaults | (hook.init_kwargs or {})))
        self.id = self._run.name

    def log(self, entry: Entry) -> None:
        images = {f'examples/{n}': self._trackio.Image(x) for n, x in entry.images}
        self._run.log({**entry.scalars, 'epoch': entry.epoch, **images}, entry.step)

    def finish(self, outcome: str) -> None:
        self._run.finish()


CLIENTS: dict[str, Callable[[HookConfig, Start], Client]] = {
    'WandbLoggerHook': _Wandb,
    'MlflowLoggerHook': _Mlflow,
    'TrackioLoggerHook': _Trackio,
}
