"""Checkpoints in `WORKDIR/checkpoints/STEP`: the newest and the best are kept."""

import pathlib
import time
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import checkpoint_managers as managers

from atss_jax.training.state import TrainState
from atss_jax.weights.mmdet import variable_shapes

_BEST = 'AP'
_COMMITTED = 'commit_success.txt'  # what orbax writes last


def _best_metric(metrics):
    return metrics[_BEST]


class Checkpoints:
    """Saves in the background; a kill never leaves a step that counts but is not whole.

    Args:
        workdir: where the folder `checkpoints` is or will be.
        max_to_keep: newest checkpoints kept, beside the one with the best AP.
    """

    def __init__(self, workdir: str, max_to_keep: int = 1):
        self.folder = pathlib.Path(workdir).absolute() / 'checkpoints'
        kept = [
            managers.LatestN(max_to_keep),
            managers.BestN(
                get_metric_fn=_best_metric, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(kept),
            # Not what decides here, but without it no metric would be stored.
            best_fn=_best_metric,
        )
        self._manager = ocp.CheckpointManager(
            self.folder, item_handlers=ocp.StandardCheckpointHandler(), options=options
        )

    @classmethod
    def open(cls, workdir: str) -> 'Checkpoints':
        """Those of a workdir that must have some.

        Raises:
            ValueError: there is none.
        """
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

    def set_aside_unfinished(self) -> None:
        """Renames folders of unfinished steps, which would else count as the newest."""
        for step in self._manager.all_steps():
            if not self._is_whole(step):
                folder = self.folder / str(step)
                folder.rename(f'{folder}_{time.time_ns()}.unfinished')
        self._manager.reload()

    def best_step(self) -> int:
        """The step with the best AP, or the newest if none was evaluated."""
        steps = self.steps()
        metrics = {step: self._manager.metrics(step) for step in steps}
        scored = [(_best_metric(m), step) for step, m in metrics.items() if m]
        return max(scored)[1] if scored else steps[-1]

    def save(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Starts to save the state of its step; returns before it is on disk."""
        self._manager.save(
            int(state.step),
            args=ocp.args.StandardSave(state.asdict()),
            metrics=None if metrics is None else dict(metrics),
            force=True,
        )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, as NumPy arrays, in the structure of `like`.

        Raises:
            ValueError: it is of another model or optimizer.
        """
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.asdict())
        try:
            args = ocp.args.StandardRestore(wanted)
            restored = self._manager.restore(step, args=args)
        except ValueError as error:  # pages long: it prints arrays
            raise self._does_not_fit(step) from error
        if jax.tree.map(np.shape, restored) != jax.tree.map(np.shape, wanted):
            raise self._does_not_fit(step)
        return like.replace(**restored)

    def _does_not_fit(self, step):
        return ValueError(
            f'checkpoint {step} in {self.folder} is of another model than the config'
        )

    def restore_variables(self, model: nn.Module, step: int | None = None) -> dict:
        """Parameters and statistics of a step (None: the best), as NumPy arrays.

        Of a run that averages its weights, the averaged ones.

        Raises:
            ValueError: they do not fit the model.
        """
        step = self.best_step() if step is None else step
        # NumPy arrays to restore to: without them orbax wants the devices of the run.
        saved = self._manager.item_metadata(step)
        saved = dict(getattr(saved, 'tree', saved))
        wanted = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), saved)
        saved = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
        params = saved.get('ema', saved['params'])
        variables = {'params': params, 'batch_stats': saved['batch_stats']}
        shapes = unflatten_dict(variable_shapes(model))
        found = jax.tree.map(np.shape, variables)
        if found != {'batch_stats': {}, **shapes}:
            raise self._does_not_fit(step)
        return jax.tree.map(np.asarray, variables)

    def wait(self) -> None:
        """Waits until all is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees what saving needs."""
        self.wait()
        self._manager.close()
