"""The log of a run: lines or a progress bar, and entries for the writers."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from atss_jax.distributed import devices, hosts
from atss_jax.training.metrics_file import Entry
from atss_jax.training.writers import Writer

METRICS = ('loss', 'loss_cls', 'loss_bbox', 'loss_centerness', 'grad_norm')


class Startup:
    """Measures where the time goes until the first step is done.

    Args:
        began: `time.perf_counter()` when the program started; None: now.
    """

    def __init__(self, began: float | None = None):
        self._began = time.perf_counter() if began is None else began
        self._last, self._seconds = self._began, {}

    def spent_on(self, name: str) -> None:
        """Counts the time since the last call, or since the beginning, for `name`."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        shares = ', '.join(f'{name} {s:.1f}' for name, s in self._seconds.items())
        return f'{self._last - self._began:.1f} s after the start ({shares})'


class Length(NamedTuple):
    """How far a run is, and how far it goes.

    Attributes:
        start_step: finished steps when it started or was resumed.
        total_steps: number of steps of the whole run.
        steps_per_epoch: to name the epoch.
    """

    start_step: int
    total_steps: int
    steps_per_epoch: int


class RunLog:
    """The log of a run: what it prints, and the entries that writers record.

    Only the first process prints.

    Args:
        length: of the run.
        interval: number of steps between entries.
        unlogged: the value of the attribute `unlogged` when `start_step` was saved.

    Attributes:
        writers: to which entries go; there are none before the run adds them, and on
            processes other than the first.
    """

    def __init__(
        self,
        length: Length,
        interval: int,
        unlogged: Sequence[Mapping[str, float]] = (),
    ):
        self.writers: list[Writer] = []
        self._prints = devices.is_first()
        self._length, self._interval = length, interval
        self._bar = tqdm.tqdm(
            total=length.total_steps,
            initial=length.start_step,
            unit='step',
            disable=not (self._prints and sys.stdout.isatty()),
            file=sys.stdout,
            dynamic_ncols=True,
        )
        self._window = [dict(metrics) for metrics in unlogged]
        self._speed = _Speed()
        self._canvases = set()

    @property
    def unlogged(self) -> list[dict[str, float]]:
        """Metrics of the steps since the last record, which a resumed run needs."""
        return list(self._window)

    def step(
        self, step: int, metrics: Mapping[str, float], lr: float, images: int
    ) -> None:
        """Adds a finished step, counted from 1; logs means every `interval` steps."""
        self._window.append(dict(metrics))
        self._speed.images += images
        self._bar.update(step - self._bar.n)
        if not self.has_entry(step):
            return
        count = len(self._window)
        means = {name: sum(m[name] for m in self._window) / count for name in METRICS}
        images_per_second, waiting = self._speed.measured()
        self._window, self._speed = [], _Speed()
        if not self._prints:
            return
        speed = {'images_per_second': images_per_second, 'data_wait_share': waiting}
        numbers = {'lr': lr, **means}
        entry = Entry('train', step, self._epoch(step), numbers, speed)
        self._write(entry)
        self._show(entry, means, images)

    def has_entry(self, step: int) -> bool:
        """Whether a step has an entry: at each interval, and at the end of an epoch."""
        return not (step % self._interval and step % self._length.steps_per_epoch)

    def _show(self, entry, means, images):
        lr, step, total = entry.numbers['lr'], entry.step, self._length.total_steps
        images_per_second = entry.speed['images_per_second']
        waiting = entry.speed['data_wait_share']
        speed = f'{images_per_second:.1f} images/s, waiting for data {waiting:.0%}'
        if not self._bar.disable:
            self._bar.set_postfix_str(f'{means["loss"]:.3f}, lr {lr:.2g}, {speed}')
            return
        values = ' '.join(f'{name} {value:.4f}' for name, value in means.items())
        remaining = (total - step) * images / max(images_per_second, 1e-9)
        self.say(
            f'epoch {entry.epoch} step {step}/{total} lr {lr:.3g} {values} '
            f'| {speed}, {tqdm.tqdm.format_interval(remaining)} left'
        )

    def _epoch(self, step):
        return (step - 1) // self._length.steps_per_epoch + 1

    @property
    def shows_images(self) -> bool:
        """Whether a writer shows the images of an evaluation."""
        return any(writer.shows_images for writer in self.writers)

    def evaluation(
        self,
        step: int,
        numbers: Mapping[str, Any],
        table: str,
        images: Sequence[tuple[str, np.ndarray]] = (),
    ) -> None:
        """Logs COCO numbers and example images after a step, and prints `table`."""
        self.say(table)  # first, so that a full disk does not lose the numbers
        self._write(Entry('eval', step, self._epoch(step), numbers, images=images))

    def _write(self, entry):
        for writer in self.writers:
            writer.write(entry)

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._prints:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Prints a warning to the error stream."""
        if self._prints:
            self._bar.write(f'warning: {text}', file=sys.stderr)
            sys.stderr.flush()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time inside the `with` block as waiting for the next batch."""
        began = time.perf_counter()
        yield
        self._speed.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside the `with` block out of images/s."""
        began = time.perf_counter()
        yield
        self._speed.start += time.perf_counter() - began

    @contextlib.contextmanager
    def compiling(self, canvas: tuple[int, int]) -> Iterator[bool]:
        """Surrounds a step: the first one on each canvas takes long, and says so.

        Yields:
            Whether it is the first one.
        """
        if canvas in self._canvases:
            yield False
            return
        self._canvases.add(canvas)
        self.say(
            f'first step on canvas {canvas}: it is compiled, which may take minutes'
        )
        hosts.progress('compiling', hosts.COMPILING)
        with self.paused():
            yield True

    def __enter__(self) -> 'RunLog':
        return self

    def __exit__(self, kind, error, trace) -> None:
        is_stop = kind is not None and issubclass(kind, hosts.Stopped)
        self.close('finished' if kind is None else 'stopped' if is_stop else 'failed')

    def close(self, outcome: str = 'finished') -> None:
        """Closes the bar and the writers; for the argument see `Writer.close`."""
        self._bar.close()
        for writer in self.writers:
            writer.close(outcome)


class _Speed:
    """Images, and seconds waited for data, since it was made."""

    def __init__(self):
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0

    def measured(self):
        """Images per second, and the share of the time spent waiting for data."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        return self.images / elapsed, min(self.waited / elapsed, 1.0)
