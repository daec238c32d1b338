"""What a run says: lines or a progress bar, `metrics.jsonl`, TensorBoard scalars."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tensorboardX
import tqdm

from atss_jax.distributed import devices


class Startup:
    """Adds up seconds by what they were spent on.

    Args:
        began: `time.perf_counter()` when the program started; None: now.
    """

    def __init__(self, began: float | None = None):
        self._began = time.perf_counter() if began is None else began
        self._last, self._parts = self._began, {}

    def spent_on(self, name: str) -> None:
        """The time since the last call, or since the beginning, went into this."""
        now = time.perf_counter()
        self._parts[name] = self._parts.get(name, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = ', '.join(f'{name} {value:.1f}' for name, value in self._parts.items())
        return f'{self._last - self._began:.1f} s after the start ({parts})'


METRICS = ('loss', 'loss_cls', 'loss_bbox', 'loss_centerness', 'grad_norm')


FILE = 'metrics.jsonl'


def records(workdir: str) -> list[dict[str, Any]]:
    """Every whole record in the log of a workdir; none without a log."""
    file = pathlib.Path(workdir) / FILE
    return [r for r, _ in _records(file.read_text())] if file.exists() else []


def evaluated(workdir: str) -> dict[int, float]:
    """AP by step of every evaluation in the log of a workdir; 0 for undefined."""
    return {r['step']: r['AP'] or 0.0 for r in records(workdir) if r['kind'] == 'eval'}


def _records(text):
    """Each whole record with its line."""
    for line in text.splitlines():
        try:
            yield json.loads(line), line
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while it wrote


class RunLog:
    """The log of one run in its workdir; only the first process writes and prints.

    `metrics.jsonl` holds what the computation says and no times, so that it is the same
    however often the run was stopped and went on. TensorBoard has the speed as well.

    Args:
        workdir: folder of the run.
        start_step: finished steps; records beyond it are from a run that was cut off.
        total_steps: steps of the whole run.
        steps_per_epoch: to name the epoch.
        interval: steps between records.
        unfinished: what `unfinished` gave when the run was saved at `start_step`.
        startup: what the start took so far; the first step adds to it.
    """

    def __init__(
        self,
        workdir: str,
        start_step: int,
        total_steps: int,
        steps_per_epoch: int,
        interval: int,
        unfinished: Sequence[Mapping[str, float]] = (),
        startup: Startup | None = None,
    ):
        folder = pathlib.Path(workdir)
        self._file = folder / FILE
        self._board = None
        self._writes = devices.is_first()
        if self._writes:
            self._drop_after(start_step)
            self._board = tensorboardX.SummaryWriter(
                str(folder / 'tensorboard'), purge_step=start_step + 1
            )
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
        self._window = [dict(metrics) for metrics in unfinished]
        self._times = _Times()
        self._startup = startup

    def _drop_after(self, step):
        if not self._file.exists():
            return
        kept = _records(self._file.read_text())
        kept = [line + '\n' for record, line in kept if record['step'] <= step]
        temporary = self._file.with_suffix('.tmp')
        temporary.write_text(''.join(kept))
        temporary.replace(self._file)

    @property
    def unfinished(self) -> list[dict[str, float]]:
        """Metrics of the steps since the last record, to go on averaging from."""
        return list(self._window)

    def step(
        self, step: int, metrics: Mapping[str, float], lr: float, images: int
    ) -> None:
        """One finished step, counted from 1. Averages go out every `interval` steps."""
        self._window.append(dict(metrics))
        self._times.images += images
        self._bar.update(step - self._bar.n)
        epoch_ends = step % self._per_epoch == 0
        if step % self._interval and not epoch_ends:
            return
        count = len(self._window)
        means = {name: sum(m[name] for m in self._window) / count for name in METRICS}
        self._window = []
        record = {'kind': 'train', 'step': step, 'epoch': self._epoch(step), 'lr': lr}
        speed, waiting = self._times.lap()
        if not self._writes:
            return
        self._write({**record, **means})
        for name, value in {**means, 'lr': lr}.items():
            self._board.add_scalar(f'train/{name}', value, step)
        self._board.add_scalar('speed/images_per_second', speed, step)
        self._board.add_scalar('speed/data_wait_share', waiting, step)
        self._show(step, means, lr, speed, waiting, images)

    def _epoch(self, step):
        return (step - 1) // self._per_epoch + 1

    def _show(self, step, means, lr, speed, waiting, images):
        parts = ' '.join(f'{name} {value:.4f}' for name, value in means.items())
        rate = f'{speed:.1f} images/s, waiting for data {waiting:.0%}'
        if not self._bar.disable:
            self._bar.set_postfix_str(f'{means["loss"]:.3f}, lr {lr:.2g}, {rate}')
            return
        left = (self._total - step) * images / max(speed, 1e-9)
        print(
            f'epoch {self._epoch(step)} step {step}/{self._total} lr {lr:.3g} '
            f'{parts} | {rate}, {tqdm.tqdm.format_interval(left)} left',
            flush=True,
        )

    def evaluation(self, step: int, numbers: Mapping[str, Any], table: str) -> None:
        """COCO numbers after a step; `table` is shown."""
        if not self._writes:
            return
        record = {'kind': 'eval', 'step': step, 'epoch': self._epoch(step)}
        self._write({**record, **numbers})
        for name, value in numbers.items():
            if isinstance(value, float):
                self._board.add_scalar(f'eval/{name}', value, step)
        self.say(table)

    def say(self, text: str) -> None:
        """Prints, above the progress bar where there is one."""
        if self._writes:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, text: str) -> None:
        """Prints to the error stream what the user should not miss."""
        if self._writes:
            self._bar.write(f'warning: {text}', file=sys.stderr)
            sys.stderr.flush()

    def starting(self, part: str) -> None:
        """Before the first step is done: the time since the last call went into it."""
        if self._startup is not None:
            self._startup.spent_on(part)

    def started(self) -> None:
        """The first step is done."""
        self.starting('first step')
        if self._startup is not None:
            self.say(f'first step done {self._startup}')
        self._startup = None

    def waited(self, seconds: float) -> None:
        """Adds time spent waiting for the next batch."""
        self._times.waited += seconds

    def paused(self, seconds: float) -> None:
        """Time that was not training: it does not count in images/s."""
        self._times.start += seconds

    def _write(self, record):
        with self._file.open('a') as file:
            file.write(json.dumps(record) + '\n')
            file.flush()
            os.fsync(file.fileno())  # records are few, and decide how a run goes on

    def close(self) -> None:
        """Closes the bar and the files."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


class _Times:
    """Images and seconds since the last lap."""

    def __init__(self):
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0

    def lap(self):
        """Images per second, and share of the time waited for data; starts anew."""
        elapsed = max(time.perf_counter() - self.start, 1e-9)
        result = self.images / elapsed, min(self.waited / elapsed, 1.0)
        self.__init__()
        return result
