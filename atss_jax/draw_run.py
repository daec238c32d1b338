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

    Raises:
        ValueError: a workdir has no log.
    """
    curves = [read_curves(workdir) for workdir in workdirs]
    panels = [
        plot.line_plot([own[name] for own in curves], title)
        for name, title in _TITLES.items()
    ]
    sheet = visualize.contact_sheet(panels, 2)
    names = [_name(workdir) for workdir in workdirs]
    legend = plot.legend(names, sheet.shape[1])
    visualize.write_image(out, np.concatenate([legend, sheet]))


def _name(workdir):
    return str(pathlib.Path(workdir))
