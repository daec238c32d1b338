"""A profiler's trace of some training steps."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

FOLDER = 'profile'


class Profile:
    """Traces chosen steps of a run into its workdir, for TensorBoard or Perfetto.

    Args:
        workdir: folder of the run.
        steps: first and last step, counted from 1; None: none.
    """

    def __init__(self, workdir: str, steps: tuple[int, int] | None = None):
        self.folder = pathlib.Path(workdir) / FOLDER
        self._first, self._last = steps or (None, None)
        self._is_running = False

    def check(self, start_step: int, total_steps: int) -> None:
        """Raises ValueError if a run does not come to the chosen steps.

        Args:
            start_step: steps that are done already.
            total_steps: of the whole run.
        """
        if self._first is None:
            return
        if not (start_step < self._first and self._last <= total_steps):
            raise ValueError(
                f'--profile={self._first}:{self._last}, but this run goes from step '
                f'{start_step + 1} to {total_steps}'
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around what the host does for a step, waiting for its data included."""
        if number == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call would drown the rest
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self._is_running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=number):
            yield

    def finish(self, number: int, state: Any) -> bool:
        """After a step; true if it was the last to trace, which is now written.

        Args:
            number: of the step.
            state: what it computes; is waited for, so that the trace holds all of it.
        """
        if number != self._last:
            return False
        jax.block_until_ready(state)
        self.close()
        return True

    def close(self) -> None:
        """Writes the trace if a run ends within it."""
        if self._is_running:
            self._is_running = False
            jax.profiler.stop_trace()
