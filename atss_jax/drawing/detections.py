"""Images of what a run finds, beside the truth."""

import pathlib

import numpy as np

from atss_jax.config import build_experiment, load_config
from atss_jax.config.sources import open_sources
from atss_jax.data.records import Record
from atss_jax.distributed import devices
from atss_jax.drawing import boxes
from atss_jax.evaluation.run import make_evaluator
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes


class _Few:
    """The first images of a source."""

    def __init__(self, source, count):
        self.classes, self.category_ids = source.classes, source.category_ids
        self.records = source.records.first(count)
        self.read_image = source.read_image
        self.ground_truth = source.ground_truth


def draw_detections(
    workdir: str, out: str, split: str, count: int, columns: int, min_score: float
) -> str:
    """Writes a sheet of the first images of a split: truth beside detections.

    Args:
        workdir: folder of a run; its best checkpoint is taken.
        out: image file to write, .png or .jpg.
        split: 'train', 'val' or 'test'.
        count: images.
        columns: pairs of images in a row.
        min_score: detections with lower scores are left out.

    Returns:
        What the sheet shows, in words.

    Raises:
        ValueError: no such run or checkpoint, bad data, or an image that cannot be.
    """
    _check_request(out, count, columns)
    experiment = build_experiment(load_config(config_path(workdir)))
    variables = Checkpoints.open(workdir).restore_variables(experiment.model)
    classes = trained_classes(workdir)
    source = _Few(open_sources(experiment, (split,), classes)[split], count)
    evaluator = make_evaluator(experiment, source, split)
    found = evaluator.detections(devices.replicate(variables))
    records = [source.records[i] for i in range(len(source.records))]
    sheet = boxes.detection_sheet(
        [source.read_image(record) for record in records],
        [_truth(record) for record in records],
        [_fields(found[record.image_id]) for record in records],
        source.classes,
        columns=columns,
        min_score=min_score,
    )
    boxes.write_image(out, sheet)
    scores = np.concatenate([found[record.image_id]['scores'] for record in records])
    return describe(scores, len(records), min_score)


def describe(scores: np.ndarray, count: int, min_score: float) -> str:
    """How many of the detections in `count` images are drawn; if none, why.

    Args:
        scores: (N,) of all detections.
        count: images.
        min_score: the lowest that is drawn.
    """
    drawn = int((scores >= min_score).sum())
    if drawn:
        return f'detections: {drawn}, images: {count}'
    if not len(scores):
        return f'nothing is found in {count} images, down to test_cfg.score_thr'
    return (
        f'nothing in {count} images has a score of {min_score:g} or more; the best '
        f'has {scores.max():.3f}: a lower --min_score draws it'
    )


def _check_request(out, count, columns):
    """What would else fail at the very end."""
    if pathlib.Path(out).suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise ValueError(f'expected --out to end in .png or .jpg, got {out}')
    if count < 1 or columns < 1:
        raise ValueError(
            f'expected --count and --columns of at least 1, got {count} and {columns}'
        )


def _truth(record: Record) -> tuple[np.ndarray, np.ndarray]:
    objects = ~record.ignored
    return record.boxes[objects], record.labels[objects]


def _fields(found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return found['boxes'], found['labels'], found['scores']
