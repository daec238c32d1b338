"""A COCO results file of any detector: read, checked and scored."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from atss_jax.config import build_experiment, load_config
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.records import Source
from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.evaluate import Evaluation, check_output, check_overrides
from atss_jax.evaluation.run import summary
from atss_jax.files.atomic import read_given_json
from atss_jax.training.workdir import config_path

_FIELDS = ('image_id', 'category_id', 'bbox', 'score')


def read_results(path: str | os.PathLike, ground_truth: dict) -> list[dict]:
    """Reads the detections of a results file.

    Args:
        path: JSON, a list of `{'image_id', 'category_id', 'bbox': [x, y, w, h],
            'score'}`; other fields are ignored.
        ground_truth: COCO dict, which must have all their images and categories.

    Raises:
        ValueError: the file is not such a list, or does not belong to `ground_truth`.
        OSError: the file cannot be read.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file of results')
    content = read_given_json(path)
    if not isinstance(content, list):
        found = f'a {type(content).__name__}'
        if isinstance(content, dict):
            found = f'an object with {", ".join(map(repr, list(content)[:5]))}'
        raise ValueError(
            f'{path}: expected COCO results, a list of objects with '
            f'{", ".join(_FIELDS)}; found {found}'
        )
    results = [_result(path, index, record) for index, record in enumerate(content)]
    for field, section in (('image_id', 'images'), ('category_id', 'categories')):
        _check_known(path, results, field, {r['id'] for r in ground_truth[section]})
    return results


def _result(path, index: int, record: Any) -> dict:
    if not isinstance(record, dict) or not all(name in record for name in _FIELDS):
        raise ValueError(
            f'{path}: detection {index} (counted from 0) is {str(record)[:200]}; '
            f'expected an object with {", ".join(_FIELDS)}'
        )
    for name in ('image_id', 'category_id'):
        if type(record[name]) is not int:
            raise _refuse(path, index, name, record, 'an integer')
    box = record['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        raise _refuse(path, index, 'bbox', record, 'four finite numbers x, y, w, h')
    if min(box[2:]) < 0:
        raise _refuse(path, index, 'bbox', record, 'width and height of at least 0')
    if not _is_finite(record['score']) or not 0 <= record['score'] <= 1:
        raise _refuse(path, index, 'score', record, 'a number from 0 to 1')
    return {name: record[name] for name in _FIELDS}


def _is_finite(value):
    return type(value) in (int, float) and math.isfinite(value)


def _refuse(path, index, name, record, expected):
    return ValueError(
        f'{path}: detection {index} (counted from 0) has {name} '
        f'{repr(record[name])[:100]}, expected {expected}'
    )


def _check_known(path, results, field, known):
    unknown = sorted({result[field] for result in results} - known)
    if unknown:
        raise ValueError(
            f'{path}: not in the annotations: {len(unknown)} of the values of {field}, '
            f'such as {", ".join(map(str, unknown[:5]))}; these are results of other '
            'data or with other ids'
        )


def open_ground_truth(
    split: str,
    workdir: str | None = None,
    config: str | None = None,
    ann_file: str | None = None,
    img_prefix: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Source:
    """Opens the data that results are scored on, given in one of three ways.

    Args:
        split: section of the config's data; not used with `ann_file`.
        workdir: folder of a run, for its config.
        config: a config file.
        ann_file: annotations in COCO's format.
        img_prefix: folder of their images; None: the current one.
        overrides: config fields to change.

    Raises:
        ValueError: not exactly one of the three is given, or files are malformed.
    """
    if sum(name is not None for name in (workdir, config, ann_file)) != 1:
        raise ValueError(
            '--results needs one of --workdir, --config, --data and --ann_file, to say '
            'what the ground truth is'
        )
    if ann_file is None:
        if img_prefix is not None:
            raise ValueError('--img_prefix goes with --ann_file alone')
        check_overrides(overrides, split)
        path = config_path(workdir) if workdir else config
        return build_experiment(load_config(path, overrides)).data[split].open()
    if overrides:
        raise ValueError(
            f'--ann_file has no config to set {", ".join(overrides)} in; use --config'
        )
    return CocoDataset(ann_file, img_prefix or '', test_mode=True)


def score_results(
    path: str | os.PathLike, source: Source, out: str | os.PathLike | None = None
) -> Evaluation:
    """Scores a results file; writes nothing yet.

    Args:
        path: COCO results.
        source: images and ground truth.
        out: folder for the numbers, `x_scores.json` for `x.json`; None: that of `path`.

    Raises:
        ValueError: the file is not COCO results, or is of other data.
        OSError: nothing can be written to `out`.
    """
    file = pathlib.Path(path)
    folder = file.parent if out is None else pathlib.Path(out)
    check_output(folder)
    ground_truth, image_ids = source.ground_truth(), source.records.image_ids
    results = read_results(path, ground_truth)
    scores = coco_metric.evaluate(
        ground_truth, results, source.classes, source.category_ids, image_ids
    )
    other = {result['category_id'] for result in results} - set(source.category_ids)
    notes = [f'not scored, of other classes: categories {sorted(other)}']
    return Evaluation(
        scores,
        results,
        source,
        heading=f'{path}: {len(results)} detection{"s" * (len(results) != 1)}, '
        f'{len(image_ids)} image{"s" * (len(image_ids) != 1)}',
        notes=notes if other else [],
        numbers=summary(scores),
        files={'numbers': folder / f'{file.stem}_scores.json'},
        title=file.name,
        report_path=folder / f'{file.stem}_report.html',
    )
