"""A profiler trace of some training steps."""

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
        steps: first and last step to trace, counted from 1; None: trace nothing.
        start_step: number of steps that are done already.
        total_steps: number of steps of the whole run.

    Raises:
        ValueError: the run does not reach the chosen steps.
    """

    def __init__(
        self,
        workdir: str,
        steps: tuple[int, int] | None,
        start_step: int,
        total_steps: int,
    ):
        self.folder = pathlib.Path(workdir) / FOLDER
        self._first, self._last = steps or (None, None)
        self._is_running = False
        if steps and not (start_step < self._first and self._last <= total_steps):
            raise ValueError(
                f'--profile={self._first}:{self._last}, but this run goes from step '
                f'{start_step + 1} to {total_steps}'
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds what the host does for a step, including waiting for its data."""
        if number == self._first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every Python call would hide the rest
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
            self._is_running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=number):
            yield

    def finish(self, number: int, state: Any) -> bool:
        """Writes the trace if this step was the last to trace, and says whether it was.

        Args:
            number: the step, counted from 1.
            state: its result, which is waited for so that the trace is complete.
        """
        if number != self._last:
            return False
        jax.block_until_ready(state)
        self.close()
        return True

    def close(self) -> None:
        """Writes the trace if the run ends within the chosen steps."""
        if self._is_running:
            self._is_running = False
            jax.profiler.stop_trace()
