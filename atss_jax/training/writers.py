"""The writers of a run: what each entry of the log is handed to."""

import contextlib
import pathlib
from collections.abc import Callable
from typing import Protocol

from atss_jax.training.board import Board
from atss_jax.training.metrics_file import Entry, MetricsFile
from atss_jax.training.setup import Run
from atss_jax.training.trackers import CLIENTS, Tracker


class Writer(Protocol):
    """Records the entries of the log; only the first process has writers.

    Attributes:
        shows_images: whether it records the images of an entry.
    """

    shows_images: bool

    def write(self, entry: Entry) -> None:
        """Records an entry.

        Raises:
            OSError: it cannot, and the run must not go on without it.
        """

    def close(self, outcome: str) -> None:
        """Ends the record.

        Args:
            outcome: 'finished', 'stopped' (it will be resumed) or 'failed'.
        """


def open_writers(
    run: Run, start_step: int, warn: Callable[[str], None]
) -> list[Writer]:
    """The writers that a config names, the one of `metrics.jsonl` first.

    If one cannot be opened, those before it are closed.

    Args:
        run: the run.
        start_step: finished steps; what a run that was cut off recorded of later ones
            is removed where that is possible.
        warn: called with a message if a tracker does not take an entry.

    Raises:
        ValueError: a tracker refuses its settings.
        OSError: a file cannot be written.
    """
    writers: list[Writer] = []
    with contextlib.ExitStack() as opened:

        def add(writer):
            opened.callback(writer.close, 'failed')
            writers.append(writer)

        add(MetricsFile(run.workdir, start_step))
        for hook in run.experiment.hooks:
            if hook.type == 'TensorboardLoggerHook':
                folder = pathlib.Path(run.workdir) / 'tensorboard'
                add(Board(folder, start_step + 1))
            elif hook.type in CLIENTS:
                add(Tracker(hook, run.workdir, run.config_json, warn))
        opened.pop_all()  # all are open: the run closes them at its end
    return writers
