"""Checkpoints in `WORKDIR/checkpoints/STEP`: the newest and the best are kept.

A checkpoint is the training state, and beside it a page of JSON: what the log was in
the middle of, and a checksum of every array, so that a damaged file is noticed.
"""

import dataclasses
import json
import pathlib
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from atss_jax.distributed import devices, hosts
from atss_jax.training.log import evaluated
from atss_jax.training.state import TrainState, zero_variables

_COMMITTED = 'commit_success.txt'  # what orbax writes last
_NOTES = 'notes'

# How orbax and tensorstore take files that are cut short, altered or gone.
_DAMAGE = (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError)


class DamagedCheckpoint(ValueError):
    """A checkpoint was finished once, but its files are no longer what they were."""


@dataclasses.dataclass
class _Best:
    """Keeps the checkpoint with the best AP so far."""

    ap: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence, *, context: object) -> list[bool]:
        best = _best(self.ap, [info.step for info in checkpoints])
        return [info.step == best for info in checkpoints]


def _best(ap, steps):
    scored = [(ap[step], step) for step in steps if step in ap]
    return max(scored)[1] if scored else None


class Checkpoints:
    """Saves in the background; a kill never leaves a step that counts but is not whole.

    Args:
        workdir: where the folder `checkpoints` is or will be.
        max_to_keep: newest checkpoints kept, beside the one with the best AP.
        clean: removes what earlier saves left unfinished: only for the run itself.
    """

    def __init__(self, workdir: str, max_to_keep: int = 1, clean: bool = False):
        self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
        # Every process needs the same numbers, or they would delete different steps.
        ap = evaluated(workdir) if devices.is_first() else None
        self._ap = {int(step): value for step, value in devices.from_first(ap).items()}
        kept = [managers.LatestN(max_to_keep), _Best(self._ap)]
        self._started = None
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                'state': ocp.StandardCheckpointHandler(),
                _NOTES: ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=clean,
            ),
        )
        # Only `hosts.StopSignal` may ask JAX for SIGTERM: see there.
        self._manager.reached_preemption = lambda step: False

    @classmethod
    def open(cls, workdir: str) -> 'Checkpoints':
        """Those of a workdir; a ValueError if there is none."""
        if not (pathlib.Path(workdir) / 'checkpoints').is_dir():
            raise ValueError(f'no checkpoints in {workdir}: no such folder in it')
        checkpoints = cls(workdir)
        if not checkpoints.steps():
            raise ValueError(f'no finished checkpoint in {checkpoints.folder}')
        return checkpoints

    def steps(self) -> list[int]:
        """Steps that can be restored, in order."""
        # To orbax any folder with a number for a name is a step, even an empty one.
        steps = self._manager.all_steps()
        return sorted(step for step in steps if self._is_whole(step))

    def _is_whole(self, step):
        return (self.folder / str(step) / _COMMITTED).is_file()

    def set_aside_unfinished(self) -> list[str]:
        """Renames folders of unfinished steps, which would else count as the newest.

        Returns:
            The new names.
        """
        unfinished = [s for s in self._manager.all_steps() if not self._is_whole(s)]
        names = [self._set_aside(step, 'unfinished') for step in unfinished]
        self._manager.reload()
        return names

    def _set_aside(self, step, why):
        folder = self.folder / str(step)
        name = f'{folder}_{time.time_ns()}.{why}'
        if devices.is_first():
            folder.rename(name)
        return devices.from_first(name)

    def best_step(self) -> int:
        """The step with the best AP, or the newest if none was evaluated."""
        best = _best(self._ap, self.steps())
        return self.steps()[-1] if best is None else best

    def evaluated(self, step: int, ap: float) -> None:
        """Takes note of the AP of a step, whether it is saved or not."""
        self._ap[step] = ap

    def is_evaluated(self, step: int) -> bool:
        """Whether the AP of a step is known."""
        return step in self._ap

    def forget_evaluations_after(self, step: int) -> None:
        """Training goes on from `step`: what comes after it will be evaluated anew."""
        for later in [known for known in self._ap if known > step]:
            del self._ap[later]

    def save(self, state: TrainState, notes: Mapping[str, Any]) -> None:
        """Starts to save the state of its step; returns before it is on disk.

        A step that is saved already stays as it is.

        Args:
            state: replicated over the devices.
            notes: JSON values that `notes` gives back.
        """
        step = int(devices.to_host(state.step))
        if step in (self._started, *self.steps()):
            return
        self._started = step
        # Copies: the next step writes over the memory of the state, on CPU too.
        state = jax.tree.map(np.array, devices.to_host(state)).asdict()
        arrays = {path: (_kind(x), _checksum(x)) for path, x in _by_path(state).items()}
        page = {'notes': dict(notes), 'arrays': arrays}
        page['checksum'] = _checksum_of_page(page)
        hosts.progress(f'saving checkpoint {step}')
        items = {'state': ocp.args.StandardSave(state), _NOTES: ocp.args.JsonSave(page)}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def notes(self, step: int) -> dict[str, Any]:
        """The notes saved with a step."""
        return self._page(step)['notes']

    def _page(self, step):
        wanted = ocp.args.Composite(**{_NOTES: ocp.args.JsonRestore()})
        try:
            page = self._manager.restore(step, args=wanted)[_NOTES]
            if page['checksum'] != _checksum_of_page(page):
                raise ValueError('it was altered')
        except _DAMAGE as error:
            raise self._damaged(step, f'{_NOTES}: {error}') from error
        return page

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, as NumPy arrays, in the structure of `like`.

        Raises:
            DamagedCheckpoint: its files were altered after it was saved.
            ValueError: it is of another model or optimizer.
        """
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.asdict())
        return like.replace(**self._restore(step, wanted))

    def restore_latest(
        self, like: TrainState, set_aside: bool = True
    ) -> tuple[TrainState, list[str]]:
        """The newest state that is whole, and a line on each that was damaged.

        With `set_aside` damaged steps are renamed, and training can save them anew.

        Raises:
            DamagedCheckpoint: all are damaged.
            ValueError: they are of another model or optimizer.
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
            problems.append('To start anew, give another --workdir.')
        raise DamagedCheckpoint('\n'.join(['no checkpoint is whole:', *problems]))

    def _restore(self, step, wanted):
        """Reads arrays like `wanted`, and checks them against what was saved."""
        saved = self._page(step)['arrays']
        self._check_fit(step, wanted, {path: kind for path, (kind, _) in saved.items()})
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # about devices of the run that saved
                state = self._manager.restore(step, args=args).state
        except _DAMAGE as error:
            raise self._damaged(step, str(error).splitlines()[0][:200]) from error
        for path, x in _by_path(state).items():
            if _checksum(x) != saved[path][1]:
                raise self._damaged(step, f'{path} is not what was saved')
        return state

    def _damaged(self, step, what):
        folder = self.folder / str(step)
        return DamagedCheckpoint(f'checkpoint {folder} is damaged ({what})')

    def _check_fit(self, step, wanted, found):
        expected = {path: _kind(x) for path, x in _by_path(wanted).items()}
        paths = sorted({*expected, *found})
        differing = [p for p in paths if expected.get(p) != found.get(p)]
        if differing:
            path = differing[0]
            there, here = (kinds.get(path, 'absent') for kinds in (found, expected))
            raise ValueError(
                f'checkpoint {step} in {self.folder} is of another model than the '
                f'config: {len(differing)} arrays differ, the first is {path}, '
                f'{there} there and {here} here'
            )

    def restore_variables(self, model: nn.Module, step: int | None = None) -> dict:
        """Parameters and statistics of a step (None: the best), as NumPy arrays.

        Of a run that averages its weights, the averaged ones.

        Raises:
            DamagedCheckpoint: its files were altered after it was saved.
            ValueError: they do not fit the model.
        """
        step = self.best_step() if step is None else step
        # NumPy arrays to restore to: without them orbax wants the devices of the run.
        try:
            saved = self._manager.item_metadata(step)['state']
        except _DAMAGE as error:
            raise self._damaged(step, 'state') from error
        saved = dict(getattr(saved, 'tree', saved))
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
        saved = self._restore(step, wanted)
        params = saved.get('ema', saved['params'])
        variables = {'params': params, 'batch_stats': saved['batch_stats']}
        found = {path: _kind(x) for path, x in _by_path(variables).items()}
        self._check_fit(step, zero_variables(model), found)
        return jax.tree.map(np.asarray, variables)

    def wait(self) -> None:
        """Waits until all is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees what saving needs."""
        self.wait()
        self._manager.close()


def _by_path(tree):
    """Arrays by path, the same whether a tree has tuples or, as orbax gives, lists."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {'/'.join(_name(part) for part in path): x for path, x in leaves}


def _name(part):
    for attribute in ('key', 'idx', 'name'):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    raise TypeError(f'a tree with a {type(part)} in its paths')


def _kind(x):
    return f'{x.dtype}{list(np.shape(x))}'


def _checksum(x):
    return zlib.crc32(np.ascontiguousarray(x))


def _checksum_of_page(page):
    return zlib.crc32(json.dumps([page['notes'], page['arrays']]).encode())
