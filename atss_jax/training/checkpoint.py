"""Checkpoints in `WORKDIR/checkpoints/STEP`, of which the newest and best are kept.

A checkpoint consists of the training state and a page of JSON, which contains notes of
the run and a checksum of every array, so that a damaged file is noticed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from atss_jax.config.monitoring import metric_name
from atss_jax.distributed import devices, hosts
from atss_jax.files.atomic import read_json
from atss_jax.training.metrics_file import evaluated
from atss_jax.training.state import TrainState, zero_variables
from atss_jax.weights import mmdet

_COMMITTED = 'commit_success.txt'  # the file that orbax writes last
_NOTES = 'notes'

# Raised by orbax and tensorstore for files that are truncated, altered or missing.
_DAMAGE = (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError)


class DamagedCheckpoint(ValueError):
    """A checkpoint was complete once, but its files have changed or are missing."""


@dataclasses.dataclass
class _Best:
    """Keeps the checkpoint with the best score so far."""

    scores: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        best = _best(self.scores, [info.step for info in checkpoints])
        return [info.step == best for info in checkpoints]


def _best(scores, steps):
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None


class Checkpoints:
    """Reads checkpoints of a workdir, and saves them in the background.

    If the process is killed while saving, `steps` does not list the unfinished step.

    Attributes:
        folder: that of the checkpoints.
        metric: as given.

    Args:
        workdir: the folder that contains the folder `checkpoints`, or will.
        max_to_keep: number of newest checkpoints to keep, in addition to the one with
            the best score.
        clean: whether to remove what interrupted saves left; only for the run itself.
        metric: the score of an evaluation, which says what is best.
    """

    def __init__(
        self,
        workdir: str,
        max_to_keep: int = 1,
        clean: bool = False,
        metric: str = 'AP',
    ):
        self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
        # All processes need the same numbers, or they would delete different steps.
        scores = evaluated(workdir, metric) if devices.is_first() else None
        scores = devices.from_first(scores)
        self._scores = {int(step): value for step, value in scores.items()}
        self.metric = metric
        kept = [managers.LatestN(max_to_keep), _Best(self._scores)]
        self._last_saved = None
        if clean and devices.is_first():
            # Orbax would do it in a thread, which fails loudly if the program ends.
            for name in ocp.path.step.tmp_checkpoints(self.folder):
                shutil.rmtree(self.folder / name)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                'state': ocp.StandardCheckpointHandler(),
                _NOTES: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(kept)
            ),
        )
        # Only `hosts.StopSignal` may ask JAX whether SIGTERM was received: see there.
        self._manager.reached_preemption = lambda step: False

    @classmethod
    def open(cls, workdir: str) -> 'Checkpoints':
        """The checkpoints of a workdir, to read.

        Raises:
            ValueError: there are none.
        """
        if not (pathlib.Path(workdir) / 'checkpoints').is_dir():
            raise ValueError(f'no checkpoints in {workdir}: no such folder in it')
        checkpoints = cls(workdir, metric=_metric_of_run(workdir))
        if not checkpoints.steps():
            raise ValueError(f'no finished checkpoint in {checkpoints.folder}')
        return checkpoints

    def steps(self) -> list[int]:
        """Steps that can be restored, in increasing order."""
        # For orbax any folder named by a number is a step, even an empty one.
        steps = self._manager.all_steps()
        return sorted(step for step in steps if self._is_complete(step))

    def _is_complete(self, step):
        return (self.folder / str(step) / _COMMITTED).is_file()

    def set_aside_unfinished(self) -> list[str]:
        """Renames folders of unfinished steps, which orbax would take for the newest.

        Returns:
            The new names.
        """
        steps = self._manager.all_steps()
        unfinished = [step for step in steps if not self._is_complete(step)]
        names = [self._set_aside(step, 'unfinished') for step in unfinished]
        self._manager.reload()
        return names

    def _set_aside(self, step, suffix):
        folder = self.folder / str(step)
        name = f'{folder}_{time.time_ns()}.{suffix}'
        if devices.is_first():
            folder.rename(name)
        return devices.from_first(name)

    def best_step(self) -> int:
        """The step with the best score, or the newest if none was evaluated."""
        best = _best(self._scores, self.steps())
        return self.steps()[-1] if best is None else best

    def score(self, step: int) -> float | None:
        """The score of a step; None: it was not evaluated."""
        return self._scores.get(step)

    def evaluated(self, step: int, score: float) -> None:
        """Records the score of a step, whether it is saved or not."""
        self._scores[step] = score

    def is_evaluated(self, step: int) -> bool:
        """Whether the score of a step is known."""
        return step in self._scores

    def forget_evaluations_after(self, step: int) -> None:
        """Forgets the scores of later steps, which the resumed run evaluates again."""
        for later in [known for known in self._scores if known > step]:
            del self._scores[later]

    def save(self, state: TrainState, notes: Mapping[str, Any]) -> bool:
        """Starts saving a state under its step; returns before it is on disk.

        Does nothing if that step is saved already.

        Args:
            state: the state, replicated over the devices.
            notes: JSON values for the method `notes` to return.

        Returns:
            Whether it is a new checkpoint.
        """
        step = int(devices.to_host(state.step))
        if step in (self._last_saved, *self.steps()):
            return False
        self._last_saved = step
        # Copies: the next step reuses the memory of the state, on CPU too.
        state = jax.tree.map(np.array, devices.to_host(state)).asdict()
        arrays = {path: (_kind(x), _checksum(x)) for path, x in _by_path(state).items()}
        page = {'notes': dict(notes), 'arrays': arrays}
        page['checksum'] = _checksum_of_page(page)
        hosts.progress(f'saving checkpoint {step}')
        items = {'state': ocp.args.StandardSave(state), _NOTES: ocp.args.JsonSave(page)}
        with _errors_of_saving(self.folder):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        return True

    def notes(self, step: int) -> dict[str, Any]:
        """The notes that were saved with a step."""
        return self._page(step)['notes']

    def _page(self, step):
        wanted = ocp.args.Composite(**{_NOTES: ocp.args.JsonRestore()})
        try:
            page = self._manager.restore(step, args=wanted)[_NOTES]
            if page['checksum'] != _checksum_of_page(page):
                raise ValueError('its checksum is wrong')
        except _DAMAGE as error:
            raise self._damaged(step, f'{_NOTES}: {error}') from error
        return page

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, as NumPy arrays, in the structure of `like`.

        Raises:
            DamagedCheckpoint: its files changed after it was saved.
            ValueError: it belongs to another model or optimizer.
        """
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.asdict())
        return like.replace(**self._restore(step, wanted))

    def restore_latest(
        self, like: TrainState, set_aside: bool = True
    ) -> tuple[TrainState, list[str]]:
        """The newest state that is not damaged, and a message for each damaged one.

        Args:
            like: a state of the same structure.
            set_aside: whether to rename damaged checkpoints, so that a run can save
                these steps again.

        Raises:
            DamagedCheckpoint: all checkpoints are damaged.
            ValueError: they belong to another model or optimizer.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, like)
                self._manager.reload()
                return state, problems
            except DamagedCheckpoint as error:
                problems.append(str(error))
                if set_aside:
                    problems[-1] += f'; set aside as {self._set_aside(step, "bad")}'
        if set_aside:
            problems.append('To start again from the beginning, use another --workdir.')
        raise DamagedCheckpoint('\n'.join(['all checkpoints are damaged:', *problems]))

    def _restore(self, step, wanted):
        """Reads arrays in the structure of `wanted`, and compares their checksums."""
        saved = self._page(step)['arrays']
        self._check_fit(step, {path: kind for path, (kind, _) in saved.items()}, wanted)
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # about devices of the run that saved
                state = self._manager.restore(step, args=args).state
        except _DAMAGE as error:
            raise self._damaged(step, str(error).splitlines()[0][:200]) from error
        for path, x in _by_path(state).items():
            if _checksum(x) != saved[path][1]:
                raise self._damaged(step, f'the checksum of {path} is wrong')
        return state

    def _damaged(self, step, reason):
        folder = self.folder / str(step)
        return DamagedCheckpoint(f'checkpoint {folder} is damaged ({reason})')

    def _check_fit(self, step, saved, wanted):
        """Checks that the saved types and shapes, by path, are those of `wanted`."""
        expected = {path: _kind(x) for path, x in _by_path(wanted).items()}
        paths = sorted({*expected, *saved})
        differing = [p for p in paths if expected.get(p) != saved.get(p)]
        if differing:
            path = differing[0]
            raise ValueError(
                f'checkpoint {step} in {self.folder} is of another model than the '
                f'config: {len(differing)} arrays differ, the first is {path}: '
                f'{saved.get(path, "absent")} in the checkpoint, '
                f'{expected.get(path, "absent")} by the config; set config.model as '
                'in its config.json'
            )

    def restore_variables(self, model: nn.Module, step: int | None = None) -> dict:
        """The variables to evaluate a model with, as NumPy arrays.

        They are the averaged parameters if the run averages them, and the statistics.

        Args:
            model: the detector.
            step: a saved step; None: the best.

        Raises:
            DamagedCheckpoint: its files changed after it was saved.
            ValueError: the variables do not fit the model.
        """
        step = self.best_step() if step is None else step
        # Without NumPy arrays to restore to, orbax asks for the devices of the run.
        try:
            saved = self._manager.item_metadata(step)['state']
        except _DAMAGE as error:
            raise self._damaged(step, 'state') from error
        saved = dict(getattr(saved, 'tree', saved))
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
        saved = self._restore(step, wanted)
        params = saved.get('ema', saved['params'])
        variables = {'params': params, 'batch_stats': saved['batch_stats']}
        kinds = {path: _kind(x) for path, x in _by_path(variables).items()}
        self._check_fit(step, kinds, zero_variables(model))
        mmdet.check_finite(_by_path(variables), f'checkpoint {self.folder / str(step)}')
        return jax.tree.map(np.asarray, variables)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            OSError: a checkpoint could not be saved.
        """
        with _errors_of_saving(self.folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, then ends the threads that save."""
        self.wait()
        self._manager.close()


class BestCheckpoint(NamedTuple):
    """The best checkpoint of a finished run: by which metric, its score, its step."""

    metric: str
    score: float
    step: int


def best_checkpoint(workdir: str) -> BestCheckpoint:
    """The checkpoint of a run that is loaded from its workdir.

    Raises:
        ValueError: the workdir has none that was evaluated.
    """
    checkpoints = Checkpoints.open(workdir)
    step = checkpoints.best_step()
    score = checkpoints.score(step)
    if score is None:
        raise ValueError(f'{workdir}: checkpoint {step} was not evaluated')
    return BestCheckpoint(checkpoints.metric, score, step)


def _metric_of_run(workdir):
    """The metric by which a run chooses its best checkpoint; before 0.2 it was AP."""
    file = pathlib.Path(workdir) / 'config.json'
    config = read_json(file) if file.exists() else {}
    return metric_name(config.get('evaluation', {}).get('save_best', 'auto'))


@contextlib.contextmanager
def _errors_of_saving(folder):
    """Shortens errors of the disk, which come from threads of tensorstore."""
    try:
        yield
    except (ValueError, OSError) as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else str(error)[-300:]
        raise OSError(
            f'a checkpoint could not be saved in {folder}: {reason}; when that is put '
            'right, run again to resume from the one before it'
        ) from error


def _by_path(tree):
    """Arrays by path; the same for tuples and for the lists that orbax restores."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
    return {keystr(path): x for path, x in leaves}


def _kind(x):
    return f'{x.dtype}{list(np.shape(x))}'


def _checksum(x):
    return zlib.crc32(np.ascontiguousarray(x))


def _checksum_of_page(page):
    return zlib.crc32(json.dumps([page['notes'], page['arrays']]).encode())
