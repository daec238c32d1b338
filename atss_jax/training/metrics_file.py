"""The record of a run, `metrics.jsonl`: one line for each entry of the log."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax.config.monitoring import CLASS_METRIC
from atss_jax.files import atomic

FILE = 'metrics.jsonl'


@dataclasses.dataclass(frozen=True)
class Entry:
    """What writers record after some steps or after an evaluation.

    Attributes:
        kind: 'train' or 'eval'.
        step: number of finished steps.
        epoch: counted from 1.
        numbers: results of the computation; values are numbers, None where a metric is
            undefined, and 'per_class' may be a mapping.
        speed: measurements, which differ each time that a run is repeated.
        images: name and (H,W,3) uint8 RGB of example images.
    """

    kind: str
    step: int
    epoch: int
    numbers: Mapping[str, Any]
    speed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    images: Sequence[tuple[str, np.ndarray]] = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> 'Entry':
        """The entry of a record, without its images and measurements."""
        names = ('kind', 'step', 'epoch')
        numbers = {name: x for name, x in record.items() if name not in names}
        return cls(*(record[name] for name in names), numbers)

    @property
    def record(self) -> dict[str, Any]:
        """What stands in `metrics.jsonl`."""
        place = {'kind': self.kind, 'step': self.step, 'epoch': self.epoch}
        return {**place, **self.numbers}

    @property
    def scalars(self) -> dict[str, float]:
        """All numbers that are defined: `train/loss`, `eval/per_class/car`, ..."""
        per_class = self.numbers.get('per_class', {})
        values = {
            **{f'{self.kind}/{name}': x for name, x in self.numbers.items()},
            **{f'{self.kind}/{CLASS_METRIC}{c}': x for c, x in per_class.items()},
            **{f'speed/{name}': x for name, x in self.speed.items()},
        }
        return {name: x for name, x in values.items() if isinstance(x, float)}


def metric_value(numbers: Mapping[str, Any], metric: str) -> float | None:
    """The value of a metric; None where no object counts for it.

    Args:
        numbers: of an evaluation, as in its record.
        metric: as `config.monitoring.metric_name` returns it.
    """
    if metric.startswith(CLASS_METRIC):
        return numbers['per_class'][metric.removeprefix(CLASS_METRIC)]
    return numbers[metric]


def records(workdir: str) -> list[dict[str, Any]]:
    """All complete records in the log of a workdir; none if it has no log."""
    file = pathlib.Path(workdir) / FILE
    if not file.exists():
        return []
    return [record for record, _ in _records_and_lines(file)]


def evaluated(workdir: str, metric: str = 'AP') -> dict[int, float]:
    """A metric by step, for all evaluations in a workdir's log; 0 where undefined."""
    return {
        record['step']: metric_value(record, metric) or 0.0
        for record in records(workdir)
        if record['kind'] == 'eval'
    }


def _records_and_lines(file) -> Iterator[tuple[dict[str, Any], str]]:
    text = file.read_text(encoding='utf-8-sig')  # some editors add the mark
    for line in text.splitlines():
        try:
            yield json.loads(line), line
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while writing it


class MetricsFile:
    """Writes `metrics.jsonl`.

    It contains results of the computation and no times, so that it is the same however
    often the run was stopped and resumed.

    Args:
        workdir: folder of the run.
        start_step: finished steps; later records are from a run that was cut off, and
            are removed.
    """

    shows_images = False

    def __init__(self, workdir: str, start_step: int):
        self._file = pathlib.Path(workdir) / FILE
        if self._file.exists():
            content = _records_and_lines(self._file)
            kept = [line + '\n' for x, line in content if x['step'] <= start_step]
            atomic.write_text(self._file, ''.join(kept))

    def write(self, entry: Entry) -> None:
        """Adds a line, which is on disk afterwards."""
        with self._file.open('a') as file:
            file.write(json.dumps(entry.record) + '\n')
            file.flush()
            os.fsync(file.fileno())  # records are few, and a resumed run relies on them

    def close(self, outcome: str) -> None:
        """Does nothing: each line is on disk already."""
