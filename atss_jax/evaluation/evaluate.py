"""Evaluates the checkpoint of a workdir."""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import open_sources
from atss_jax.data.records import Source
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation.coco_metric import Scores, format_table
from atss_jax.evaluation.run import make_evaluator, summary, to_results
from atss_jax.files.atomic import check_writable, write_json
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scored detections of one data set.

    Attributes:
        scores: the COCO numbers.
        results: the detections as COCO results; on processes other than the first,
            which alone writes files, there are none.
        source: images and ground truth.
        heading: a line that says what was evaluated.
        notes: lines about images or categories that were left out.
        numbers: the COCO numbers as JSON.
        files: what `write` writes: 'numbers', and 'detections' if they were not given.
        title: a title for a report.
        report_path: where a report of it belongs; `report.page.write_report` writes it.
    """

    scores: Scores
    results: list[dict]
    source: Source
    heading: str
    notes: list[str]
    numbers: dict[str, Any]
    files: dict[str, pathlib.Path]
    title: str
    report_path: pathlib.Path

    def text(self, with_files: bool = True) -> str:
        """The heading, a table of the numbers, the notes and the files."""
        files = [f'{name}: {path}' for name, path in self.files.items()]
        files = files if with_files else []
        if all(map(math.isnan, self.scores.summary.values())):
            table = 'nothing to score: the annotations have no object of these classes'
        else:
            table = format_table(self.scores)
        return '\n'.join([self.heading, table, *self.notes, *files])

    def write(self) -> None:
        """Writes `files`."""
        contents = {'detections': self.results, 'numbers': self.numbers}
        for name, path in self.files.items():
            write_json(path, contents[name], indent=1)


def evaluate(
    workdir: str | os.PathLike,
    split: str = 'val',
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    tta: bool = False,
    out: str | os.PathLike | None = None,
) -> Evaluation:
    """Scores a checkpoint on a split of its config's data, and writes what it finds.

    Args:
        workdir: folder of a run.
        split: 'train', 'val' or 'test'; training images are not augmented.
        step: step of the checkpoint; None: the one with the best AP.
        overrides: config fields to change, as for `load_config`.
        tta: test-time augmentation, as `test_cfg.tta` says.
        out: folder for detections and numbers; None: `workdir/evaluation`.

    Raises:
        ValueError: the folder is not a workdir, has no such checkpoint, or its data is
            malformed.
        OSError: nothing can be written to `out`; known before anything is computed.
        Stopped: SIGTERM was received.
    """
    evaluation = score_checkpoint(workdir, split, step, overrides, tta, out)
    if devices.is_first():
        evaluation.write()
    return evaluation


def score_checkpoint(
    workdir: str | os.PathLike,
    split: str = 'val',
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    tta: bool = False,
    out: str | os.PathLike | None = None,
) -> Evaluation:
    """As `evaluate`, but writes nothing yet."""
    workdir = os.path.expanduser(workdir)
    experiment, step, variables = _read_checkpoint(workdir, step, overrides)
    folder = pathlib.Path(out or f'{workdir}/evaluation').expanduser()
    check_output(folder)
    source = open_sources(experiment, (split,), trained_classes(workdir))[split]
    evaluator = make_evaluator(experiment, source, split, tta)
    # With several processes SIGTERM reaches only those that ask for it; see `hosts`.
    detections = evaluator.detections(
        devices.replicate(variables), sys.stdout.isatty(), hosts.StopSignal()
    )
    scores = evaluator.score(detections)
    bad = evaluator.bad_images
    name = f'{split}_{step}_tta' if tta else f'{split}_{step}'
    return Evaluation(
        scores,
        to_results(detections, source.category_ids) if devices.is_first() else [],
        source,
        heading=f'checkpoint {step} of {workdir} on data.{split}, '
        f'{len(detections)} image{"s" * (len(detections) != 1)}',
        notes=bad.report(),
        numbers=summary(scores) | {'bad_pictures': bad.image_ids},
        files={
            'detections': folder / f'{name}_detections.json',
            'numbers': folder / f'{name}_scores.json',
        },
        title=f'{pathlib.Path(workdir).absolute().name}, checkpoint {step}, '
        f'data.{split}',
        report_path=folder / f'{name}_report.html',
    )


def check_output(folder: pathlib.Path) -> None:
    """Checks that process 0 can write to a folder; a collective.

    Raises:
        OSError: it cannot.
    """
    problem = None
    if devices.is_first():
        try:
            check_writable(folder)
        except OSError as error:
            problem = f'{error}; choose another folder with --out (in Python, out=)'
    if problem := devices.from_first(problem):
        raise OSError(problem)


def _read_checkpoint(workdir, step, overrides):
    """The config as objects, the step of the checkpoint, and its weights."""
    experiment = build_experiment(load_config(config_path(workdir), overrides))
    checkpoints = Checkpoints.open(workdir)
    step = checkpoints.best_step() if step is None else step
    if step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {workdir}: {checkpoints.steps()}')
    hosts.progress('reading weights')
    return experiment, step, checkpoints.restore_variables(experiment.model, step)
