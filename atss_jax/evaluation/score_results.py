"""Scores a saved results file without a model: what `eval.py --results` does."""

import pathlib
from collections.abc import Mapping
from typing import Any

from atss_jax.config import build_experiment, load_config
from atss_jax.data.coco import CocoDataset
from atss_jax.data.records import Source
from atss_jax.evaluation import coco_metric, run
from atss_jax.evaluation.report import write_report
from atss_jax.evaluation.results_file import read_results
from atss_jax.training.workdir import config_path
from atss_jax.wording import counted


def data_of(
    split: str,
    workdir: str | None = None,
    config: str | None = None,
    ann_file: str | None = None,
    img_prefix: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Source:
    """The data that results are scored on, which one of three things names.

    Args:
        split: of the config's data; not read with `ann_file`.
        workdir: folder of a run, for its config.
        config: a config file.
        ann_file: annotations in COCO's format.
        img_prefix: folder of its pictures; the current one if not given.
        overrides: of config fields.

    Raises:
        ValueError: not one of the three is given, or files are malformed.
    """
    if sum(name is not None for name in (workdir, config, ann_file)) != 1:
        raise ValueError(
            '--results needs one of --workdir, --config and --ann_file, to say what '
            'the truth is'
        )
    if ann_file is None:
        if img_prefix is not None:
            raise ValueError('--img_prefix goes with --ann_file alone')
        path = config_path(workdir) if workdir else config
        return build_experiment(load_config(path, overrides)).data[split].open()
    if overrides:
        raise ValueError(
            f'--ann_file has no config to set {", ".join(overrides)} in; use --config'
        )
    return CocoDataset(ann_file, img_prefix or '', test_mode=True)


def score_results(
    path: str, source: Source, report: bool, min_score: float
) -> coco_metric.Scores:
    """Prints the numbers and writes them beside the results file.

    `x.json` gives `x_scores.json` and, with `report`, `x_report.html`.

    Args:
        path: COCO results.
        source: the truth.
        report: write the report as well.
        min_score: as of `write_report`.

    Raises:
        ValueError: the file is no COCO results, or of other data.
    """
    truth = source.ground_truth()
    results = read_results(path, truth)
    image_ids = source.records.image_ids
    file = pathlib.Path(path)
    numbers = file.with_name(f'{file.stem}_scores.json')
    page = file.with_name(f'{file.stem}_report.html')
    if report:
        scores = write_report(page, source, results, file.name, min_score).scores
    else:
        scores = coco_metric.evaluate(
            truth, results, source.classes, source.category_ids, image_ids
        )
    run.write_json(numbers, run.summary(scores))
    found = counted(len(results), 'detection')
    print(f'{path}: {found}, {counted(len(image_ids), "picture")}')
    print(coco_metric.format_table(scores))
    other = {result['category_id'] for result in results} - set(source.category_ids)
    if other:
        print(f'not looked at, of other classes: categories {sorted(other)}')
    print(f'numbers: {numbers}')
    if report:
        print(f'report: {page}')
    return scores
