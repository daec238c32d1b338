"""Evaluates the checkpoint of a workdir."""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from atss_jax.config import check_section
from atss_jax.config.experiment import open_sources
from atss_jax.data.records import Source
from atss_jax.data.tiles import Tiling
from atss_jax.distributed import devices, hosts
from atss_jax.evaluation.coco_metric import Scores, format_table
from atss_jax.evaluation.run import make_evaluator, summary, to_results
from atss_jax.evaluation.run_in_tiles import detections_with_tiles
from atss_jax.files.atomic import check_writable, write_json
from atss_jax.training.trained_model import load_weights
from atss_jax.weights.mmdet_checkpoint import is_weights_file


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
    config: str | os.PathLike | None = None,
    tiling: Tiling | None = None,
) -> Evaluation:
    """Scores a checkpoint on a split of its config's data, and writes what it finds.

    Args:
        workdir: folder of a run; or a file of weights, the name of a model of the zoo,
            or an address.
        split: 'train', 'val' or 'test'; training images are not augmented.
        step: step of the checkpoint; None: the one with the best AP.
        overrides: config fields to change, as for `load_config`.
        tta: test-time augmentation, as `test_cfg.tta` says.
        out: folder for detections and numbers; None: `workdir/evaluation`, or
            `evaluation` if the weights are those of no workdir.
        config: config of a file of weights.
        tiling: how larger images are cut into tiles, which are shown in addition to
            the whole image; None: they are not.

    Raises:
        ValueError: the folder is not a workdir, has no such checkpoint, or its data is
            malformed.
        ConnectionError: the weights cannot be downloaded.
        OSError: nothing can be written to `out`; known before anything is computed.
        Stopped: SIGTERM was received.
    """
    evaluation = score_checkpoint(
        workdir, split, step, overrides, tta, out, config, tiling
    )
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
    config: str | os.PathLike | None = None,
    tiling: Tiling | None = None,
) -> Evaluation:
    """As `evaluate`, but writes nothing yet."""
    check_overrides(overrides, split)
    workdir = os.path.expanduser(os.fspath(workdir))
    loaded = load_weights(workdir, config, step, overrides)
    experiment, variables = loaded.experiment, loaded.variables
    weights = _describe(workdir, loaded.step)
    folder = pathlib.Path(out or weights.folder).expanduser()
    check_output(folder)
    source = open_sources(experiment, (split,), loaded.classes)[split]
    evaluator = make_evaluator(experiment, source, split, tta)
    # With several processes SIGTERM reaches only those that ask for it; see `hosts`.
    arguments = devices.replicate(variables), sys.stdout.isatty(), hosts.StopSignal()
    if tiling is None:
        detections = evaluator.detections(*arguments)
    else:
        detections = detections_with_tiles(evaluator, tiling, *arguments)
    scores = evaluator.score(detections)
    bad = evaluator.bad_images
    name = f'{split}_{weights.name}{"_tta" * tta}'
    if tiling is not None:
        name += f'_tiles{tiling.side}'
    return Evaluation(
        scores,
        to_results(detections, source.category_ids) if devices.is_first() else [],
        source,
        heading=f'{weights.heading} on data.{split}, '
        f'{len(detections)} image{"s" * (len(detections) != 1)}',
        notes=bad.report(),
        numbers=summary(scores) | {'bad_pictures': bad.image_ids},
        files={
            'detections': folder / f'{name}_detections.json',
            'numbers': folder / f'{name}_scores.json',
        },
        title=f'{weights.title}, data.{split}',
        report_path=folder / f'{name}_report.html',
    )


def check_overrides(overrides: Mapping[str, Any] | None, split: str) -> None:
    """Raises ValueError if overrides are of data that is not scored."""
    choice = ", or choose --split={0} (in Python, split='{0}')"
    check_section(overrides, split, 'is scored', choice)


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


class _Described(NamedTuple):
    """Where results of some weights belong, and what they are called there."""

    folder: str
    name: str
    heading: str
    title: str


def _describe(source: str, step: int | None) -> _Described:
    """Describes a checkpoint of a workdir or, without a step, weights of a file."""
    if step is None:
        # The name of a model without `mmdet://`, or that of a file without its suffix.
        name = source.rpartition('://')[2].rpartition('/')[2]
        name = pathlib.Path(name).stem if is_weights_file(name) else name
        return _Described('evaluation', name, source, name)
    title = f'{pathlib.Path(source).absolute().name}, checkpoint {step}'
    heading = f'checkpoint {step} of {source}'
    return _Described(f'{source}/evaluation', f'{step}', heading, title)
