"""What the log of a workdir says over the steps of its run."""

import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from atss_jax.drawing import boxes, line_plot
from atss_jax.training import log

_SPEED = 'speed/images_per_second'

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values; nan where a value is not defined."""


def read_curves(workdir: str) -> dict[str, Curve]:
    """'loss', 'lr', 'images/s' and 'AP' of a run.

    The speed is in TensorBoard's files alone: `metrics.jsonl` has no times.

    Raises:
        ValueError: the folder has no log.
    """
    records = log.records(workdir)
    if not records:
        raise ValueError(f'{workdir} has no log of a run: no records in {log.FILE}')
    curves = {
        name: _curve({r['step']: r[name] for r in records if r['kind'] == kind})
        for name, kind in (('loss', 'train'), ('lr', 'train'), ('AP', 'eval'))
    }
    last = max(record['step'] for record in records)
    # A run that was cut off and went on logged some steps twice: the later counts.
    speeds = {
        step: value
        for file in sorted((pathlib.Path(workdir) / 'tensorboard').glob('*tfevents*'))
        for step, value in _scalars(file, _SPEED)
        if step <= last
    }
    return curves | {'images/s': _curve(speeds)}


def _curve(values: dict[int, float | None]) -> Curve:
    steps = sorted(values)
    points = [np.nan if values[step] is None else values[step] for step in steps]
    return np.array(steps, float), np.array(points, float)


def _scalars(file: pathlib.Path, tag: str) -> Iterator[tuple[int, float]]:
    """Steps and values of one tag. A last record that is not whole is left out.

    A record is its length (8 bytes), a checksum (4), the event, a checksum (4).
    """
    content, start = file.read_bytes(), 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from('<Q', content, start)
        start, end = start + 12, start + 12 + length
        if end + 4 > len(content):
            return
        event = Event.FromString(content[start:end])
        for value in event.summary.value:
            if value.tag == tag:
                yield event.step, value.simple_value
        start = end + 4


_TITLES = {
    'loss': 'loss by step',
    'AP': 'AP by step',
    'lr': 'learning rate by step',
    'images/s': 'images per second by step',
}


def draw_run(workdirs: Sequence[str], out: str) -> None:
    """Writes loss, AP, learning rate and speed of runs, one color a run.

    A panel names the runs that have not logged what it shows.

    Raises:
        ValueError: a workdir has no log.
    """
    curves = [read_curves(workdir) for workdir in workdirs]
    names = [_name(workdir) for workdir in workdirs]
    last = max(own['loss'][0].max(initial=1) for own in curves)
    panels = [
        _panel([own[name] for own in curves], title, names, last)
        for name, title in _TITLES.items()
    ]
    sheet = boxes.contact_sheet(panels, 2)
    legend = line_plot.legend(names, sheet.shape[1])
    boxes.write_image(out, np.concatenate([legend, sheet]))


def _panel(lines, title, names, last):
    absent = [
        name
        for name, (_, values) in zip(names, lines, strict=True)
        if not np.isfinite(values).any()
    ]
    if absent and len(absent) < len(names):
        title = f'{title}; none logged by {", ".join(absent)}'
    return line_plot.line_plot(lines, title, last)


def _name(workdir):
    return str(pathlib.Path(workdir))
