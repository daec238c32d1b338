"""The log of a run: lines or a progress bar, `metrics.jsonl`, TensorBoard scalars."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tqdm

from atss_jax.distributed import devices
from atss_jax.files import atomic
from atss_jax.training.board import Board

FILE = 'metrics.jsonl'
METRICS = ('loss', 'loss_cls', 'loss_bbox', 'loss_centerness', 'grad_norm')


# Reading -----------------------------------------------------------------------------


def records(workdir: str) -> list[dict[str, Any]]:
    """All complete records in the log of a workdir; none if it has no log."""
    file = pathlib.Path(workdir) / FILE
    if not file.exists():
        return []
    return [record for record, _ in _records_and_lines(_text_of(file))]


def evaluated(workdir: str) -> dict[int, float]:
    """AP by step, for every evaluation in the log of a workdir; 0 where undefined."""
    return {r['step']: r['AP'] or 0.0 for r in records(workdir) if r['kind'] == 'eval'}


def _text_of(file):
    return file.read_text(encoding='utf-8-sig')  # some editors add the mark


def _records_and_lines(text):
    for line in text.splitlines():
        try:
            yield json.loads(line), line
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while writing it


# Writing -----------------------------------------------------------------------------


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


class RunLog:
    """The log of one run in its workdir; only the first process writes and prints.

    `metrics.jsonl` contains results of the computation and no times, so that it is the
    same however often the run was stopped and resumed. TensorBoard has the speed too.

    Args:
        workdir: folder of the run.
        start_step: finished steps; later records are from a run that was cut off, and
            are removed.
        total_steps: number of steps of the whole run.
        steps_per_epoch: to name the epoch.
        interval: number of steps between records.
        unlogged: the value of the attribute `unlogged` when `start_step` was saved.
    """

    def __init__(
        self,
        workdir: str,
        start_step: int,
        total_steps: int,
        steps_per_epoch: int,
        interval: int,
        unlogged: Sequence[Mapping[str, float]] = (),
    ):
        folder = pathlib.Path(workdir)
        self._file = folder / FILE
        self._board = None
        self._writes = devices.is_first()
        if self._writes:
            self._remove_records_after(start_step)
            self._board = Board(folder / 'tensorboard', start_step + 1)
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._interval = interval
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=start_step,
            unit='step',
            disable=not (self._writes and sys.stdout.isatty()),
            file=sys.stdout,
            dynamic_ncols=True,
        )
        self._window = [dict(metrics) for metrics in unlogged]
        self._speed = _Speed()
        self._canvases = set()

    def _remove_records_after(self, step):
        if not self._file.exists():
            return
        content = _records_and_lines(_text_of(self._file))
        kept = [line + '\n' for record, line in content if record['step'] <= step]
        atomic.write_text(self._file, ''.join(kept))

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
        epoch_ends = step % self._per_epoch == 0
        if step % self._interval and not epoch_ends:
            return
        count = len(self._window)
        means = {name: sum(m[name] for m in self._window) / count for name in METRICS}
        images_per_second, waiting = self._speed.measured()
        self._window, self._speed = [], _Speed()
        if not self._writes:
            return
        record = {'kind': 'train', 'step': step, 'epoch': self._epoch(step), 'lr': lr}
        self._write({**record, **means})
        for name, value in {**means, 'lr': lr}.items():
            self._board.add(f'train/{name}', value, step)
        self._board.add('speed/images_per_second', images_per_second, step)
        self._board.add('speed/data_wait_share', waiting, step)
        speed = f'{images_per_second:.1f} images/s, waiting for data {waiting:.0%}'
        remaining = (self._total - step) * images / max(images_per_second, 1e-9)
        self._show(record, means, speed, remaining)

    def _show(self, record, means, speed, remaining_seconds):
        lr, step = record['lr'], record['step']
        if not self._bar.disable:
            self._bar.set_postfix_str(f'{means["loss"]:.3f}, lr {lr:.2g}, {speed}')
            return
        values = ' '.join(f'{name} {value:.4f}' for name, value in means.items())
        self.say(
            f'epoch {record["epoch"]} step {step}/{self._total} lr {lr:.3g} {values} '
            f'| {speed}, {tqdm.tqdm.format_interval(remaining_seconds)} left'
        )

    def _epoch(self, step):
        return (step - 1) // self._per_epoch + 1

    def evaluation(self, step: int, numbers: Mapping[str, Any], table: str) -> None:
        """Logs COCO numbers after a step and prints `table`."""
        if not self._writes:
            return
        self.say(table)  # first, so that a full disk does not lose the numbers
        record = {'kind': 'eval', 'step': step, 'epoch': self._epoch(step)}
        self._write({**record, **numbers})
        for name, value in numbers.items():
            if isinstance(value, float):
                self._board.add(f'eval/{name}', value, step)

    def _write(self, record):
        with self._file.open('a') as file:
            file.write(json.dumps(record) + '\n')
            file.flush()
            os.fsync(file.fileno())  # records are few, and a resumed run relies on them

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._writes:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Prints a warning to the error stream."""
        if self._writes:
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
    def compiling(self, canvas: tuple[int, int]) -> Iterator[None]:
        """Surrounds a step: the first one on each canvas takes long, and says so."""
        if canvas in self._canvases:
            yield
            return
        self._canvases.add(canvas)
        self.say(
            f'first step on canvas {canvas}: it is compiled, which may take minutes'
        )
        with self.paused():
            yield

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


class _Speed:
    """Images, and seconds waited for data, since it was made."""

    def __init__(self):
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0

    def measured(self):
        """Images per second, and the share of the time spent waiting for data."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        return self.images / elapsed, min(self.waited / elapsed, 1.0)
