"""Evaluates the checkpoint of a workdir: what `eval.py` does."""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from atss_jax.config import build_experiment, load_config
from atss_jax.config.sources import open_sources
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation import run
from atss_jax.evaluation.coco_metric import Scores, format_table
from atss_jax.evaluation.run import make_evaluator
from atss_jax.report.page import write_report
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes


def evaluate_workdir(
    workdir: str,
    split: str = 'val',
    step: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    tta: bool = False,
    report_min_score: float | None = None,
) -> Scores:
    """Scores a checkpoint on a split; prints numbers and writes them to the workdir.

    Args:
        workdir: folder of a run.
        split: 'train', 'val' or 'test'; training images are not augmented.
        step: of a checkpoint; None: the one with the best AP.
        overrides: of config fields, as for `load_config`.
        tta: test-time augmentation, as `test_cfg.tta` says.
        report_min_score: as of `report.write_report`, to write a report; None: none.

    Raises:
        ValueError: the folder is no workdir, has no such checkpoint, or data is bad.
    """
    config = load_config(config_path(workdir), overrides)
    experiment = build_experiment(config)
    checkpoints = Checkpoints.open(workdir)
    step = checkpoints.best_step() if step is None else step
    if step not in checkpoints.steps():
        raise ValueError(f'no checkpoint {step} in {workdir}: {checkpoints.steps()}')
    hosts.progress('reading weights')
    variables = checkpoints.restore_variables(experiment.model, step)
    classes = trained_classes(workdir)
    source = open_sources(experiment, (split,), classes)[split]
    evaluator = make_evaluator(experiment, source, split, tta)
    # With several processes SIGTERM reaches only who asks for it; see `hosts`.
    found = evaluator.detections(
        devices.replicate(variables), sys.stdout.isatty(), hosts.StopSignal()
    )
    scores = evaluator.score(found)
    if devices.is_first():
        _write(workdir, split, step, evaluator, found, scores)
        if report_min_score is not None:
            _write_report(workdir, split, step, evaluator, found, report_min_score)
    return scores


def _write(workdir, split, step, evaluator, found, scores):
    folder = pathlib.Path(workdir) / 'evaluation'
    folder.mkdir(exist_ok=True)
    name = _name(split, step, evaluator)
    results = folder / f'{name}_detections.json'
    numbers = folder / f'{name}_scores.json'
    run.write_json(results, run.to_results(found, evaluator.source.category_ids))
    bad = evaluator.bad_images
    run.write_json(numbers, run.summary(scores) | {'bad_pictures': bad.image_ids})
    images = f'{len(found)} image{"s" * (len(found) != 1)}'
    print(f'checkpoint {step} of {workdir} on data.{split}, {images}')
    print('\n'.join([format_table(scores), *bad.report()]))
    print(f'detections: {results}\nnumbers: {numbers}')


def _name(split, step, evaluator):
    return f'{split}_{step}_tta' if evaluator.uses_tta else f'{split}_{step}'


def _write_report(workdir, split, step, evaluator, found, min_score):
    name, source = _name(split, step, evaluator), evaluator.source
    path = pathlib.Path(workdir) / 'evaluation' / f'{name}_report.html'
    title = f'{pathlib.Path(workdir).absolute().name}, checkpoint {step}, data.{split}'
    results = run.to_results(found, source.category_ids)
    write_report(path, source, results, title, min_score)
    print(f'report: {path}')
