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
from atss_jax.files.atomic import write_json
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
        files: what was written: 'numbers', and 'detections' if they were not given.
        title: a title for a report.
        report_path: where a report of it belongs; `report.page.write_report` writes it.
    """

    scores: Scores
    results: list[dict]
    source: Source
    heading: str
    notes: list[str]
    files: dict[str, pathlib.Path]
    title: str
    report_path: pathlib.Path

    def text(self) -> str:
        """The heading, a table of the numbers, the notes and the files."""
        files = [f'{name}: {path}' for name, path in self.files.items()]
        if all(map(math.isnan, self.scores.summary.values())):
            table = 'nothing to score: the annotations have no object of these classes'
        else:
            table = format_table(self.scores)
        return '\n'.join([self.heading, table, *self.notes, *files])


def evaluate(
    workdir: str | os.PathLike,
    split: str = 'val',
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    tta: bool = False,
) -> Evaluation:
    """Scores a checkpoint on a split of its config's data.

    Detections and numbers are written to `workdir/evaluation`.

    Args:
        workdir: folder of a run.
        split: 'train', 'val' or 'test'; training images are not augmented.
        step: step of the checkpoint; None: the one with the best AP.
        overrides: config fields to change, as for `load_config`.
        tta: test-time augmentation, as `test_cfg.tta` says.

    Raises:
        ValueError: the folder is not a workdir, has no such checkpoint, or its data is
            malformed.
        Stopped: SIGTERM was received.
    """
    workdir = os.fspath(workdir)
    experiment, step, variables = _read_checkpoint(workdir, step, overrides)
    source = open_sources(experiment, (split,), trained_classes(workdir))[split]
    evaluator = make_evaluator(experiment, source, split, tta)
    # With several processes SIGTERM reaches only those that ask for it; see `hosts`.
    detections = evaluator.detections(
        devices.replicate(variables), sys.stdout.isatty(), hosts.StopSignal()
    )
    scores = evaluator.score(detections)
    bad = evaluator.bad_images
    folder = pathlib.Path(workdir, 'evaluation')
    name = f'{split}_{step}_tta' if tta else f'{split}_{step}'
    evaluation = Evaluation(
        scores,
        to_results(detections, source.category_ids) if devices.is_first() else [],
        source,
        heading=f'checkpoint {step} of {workdir} on data.{split}, '
        f'{len(detections)} image{"s" * (len(detections) != 1)}',
        notes=bad.report(),
        files={
            'detections': folder / f'{name}_detections.json',
            'numbers': folder / f'{name}_scores.json',
        },
        title=f'{pathlib.Path(workdir).absolute().name}, checkpoint {step}, '
        f'data.{split}',
        report_path=folder / f'{name}_report.html',
    )
    if devices.is_first():
        write_json(evaluation.files['detections'], evaluation.results, indent=1)
        numbers = summary(scores) | {'bad_pictures': bad.image_ids}
        write_json(evaluation.files['numbers'], numbers, indent=1)
    return evaluation


def _read_checkpoint(workdir, step, overrides):
    """The config as objects, the step of the checkpoint, and its weights."""
    experiment = build_experiment(load_config(config_path(workdir), overrides))
    checkpoints = Checkpoints.open(workdir)
    step = checkpoints.best_step() if step is None else step
    if step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {workdir}: {checkpoints.steps()}')
    hosts.progress('reading weights')
    return experiment, step, checkpoints.restore_variables(experiment.model, step)
