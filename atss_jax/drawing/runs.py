"""Images of the logged curves of runs: `draw run`."""

import pathlib
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from atss_jax.drawing.boxes import write_image
from atss_jax.drawing.line_plot import Curve, legend, line_plot
from atss_jax.drawing.sheets import contact_sheet
from atss_jax.training import metrics_file

_SPEED_TAG = 'speed/images_per_second'
_TITLES = {
    'loss': 'loss by step',
    'AP': 'AP by step',
    'lr': 'learning rate by step',
    'images/s': 'images per second by step',
}


def draw_run(workdirs: Sequence[str], out: str) -> None:
    """Writes loss, AP, learning rate and speed of runs, each run in its own color.

    The title of a plot names the runs that have not logged what it shows.

    Raises:
        ValueError: a workdir has no log.
    """
    runs = [read_curves(workdir) for workdir in workdirs]
    names = [str(pathlib.Path(workdir)) for workdir in workdirs]
    last_step = max(curves['loss'][0].max(initial=1) for curves in runs)
    panels = []
    for quantity, title in _TITLES.items():
        curves = [run[quantity] for run in runs]
        title = _title(title, curves, names)
        panels.append(line_plot(curves, title, last_step))
    sheet = contact_sheet(panels, 2)
    write_image(out, np.concatenate([legend(names, sheet.shape[1]), sheet]))


def _title(title, curves, names):
    absent = [
        name
        for name, (_, values) in zip(names, curves, strict=True)
        if not np.isfinite(values).any()
    ]
    if absent and len(absent) < len(names):
        return f'{title}; none logged by {", ".join(absent)}'
    return title


def read_curves(workdir: str) -> dict[str, Curve]:
    """Steps and values of 'loss', 'lr', 'images/s' and 'AP' of a run.

    The speed comes from TensorBoard's files: `metrics.jsonl` holds no times.

    Raises:
        ValueError: the folder has no log.
    """
    records = metrics_file.records(workdir)
    if not records:
        raise ValueError(
            f'{workdir} has no log of a run: no records in {metrics_file.FILE}'
        )
    curves = {
        name: _curve({r['step']: r[name] for r in records if r['kind'] == kind})
        for name, kind in (('loss', 'train'), ('lr', 'train'), ('AP', 'eval'))
    }
    last_step = max(record['step'] for record in records)
    # A run that was killed and resumed logged some steps twice: the later value counts.
    speeds = {
        step: value
        for file in sorted((pathlib.Path(workdir) / 'tensorboard').glob('*tfevents*'))
        for step, value in _scalars(file, _SPEED_TAG)
        if step <= last_step
    }
    return curves | {'images/s': _curve(speeds)}


def _curve(values: dict[int, float | None]) -> Curve:
    steps = sorted(values)
    points = [np.nan if values[step] is None else values[step] for step in steps]
    return np.array(steps, float), np.array(points, float)


def _scalars(file: pathlib.Path, tag: str) -> Iterator[tuple[int, float]]:
    """Steps and values of one tag. An incomplete last record is left out.

    A record is its length (8 bytes), a checksum (4), the event, and a checksum (4).
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
