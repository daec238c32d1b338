"""The curves of runs: `draw run`."""

import pathlib
from collections.abc import Sequence

import numpy as np

from atss_jax import plot, visualize
from atss_jax.training.curves import read_curves

_TITLES = {
    'loss': 'loss by step',
    'AP': 'AP by step',
    'lr': 'learning rate by step',
    'images/s': 'images per second by step',
}


def draw_run(workdirs: Sequence[str], out: str) -> None:
    """Writes loss, AP, learning rate and speed of runs, one colour a run.

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
    sheet = visualize.contact_sheet(panels, 2)
    legend = plot.legend(names, sheet.shape[1])
    visualize.write_image(out, np.concatenate([legend, sheet]))


def _panel(lines, title, names, last):
    absent = [
        name
        for name, (_, values) in zip(names, lines, strict=True)
        if not np.isfinite(values).any()
    ]
    if absent and len(absent) < len(names):
        title = f'{title}; none logged by {", ".join(absent)}'
    return plot.line_plot(lines, title, last)


def _name(workdir):
    return str(pathlib.Path(workdir))
