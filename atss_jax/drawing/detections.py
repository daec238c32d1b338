"""Images of detections next to the ground truth: `draw detections`, examples."""

import pathlib

import numpy as np

from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import Experiment, open_sources
from atss_jax.data.records import Record, Source
from atss_jax.distributed import devices
from atss_jax.drawing.boxes import SUFFIXES, scale_down, write_image
from atss_jax.drawing.sheets import detection_sheet
from atss_jax.evaluation.run import Evaluator, make_evaluator
from atss_jax.structures import Detections
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path, trained_classes

_MAX_EXAMPLE_SIDE = 1280  # pixels of an example image, two panels wide


class _FirstImages:
    """The first images of a source, as a source."""

    def __init__(self, source: Source, count: int):
        self.classes, self.category_ids = source.classes, source.category_ids
        self.records = source.records.first(count)
        self.read_image = source.read_image
        self.ground_truth = source.ground_truth


def draw_detections(
    workdir: str, out: str, split: str, count: int, columns: int, min_score: float
) -> str:
    """Writes a sheet of the first images of a split: ground truth and detections.

    Args:
        workdir: folder of a run; its best checkpoint is used.
        out: .png or .jpg file.
        split: 'train', 'val' or 'test'.
        count: number of images.
        columns: pairs of images in a row.
        min_score: detections with lower scores are left out.

    Returns:
        A sentence about what the sheet shows.

    Raises:
        ValueError: no such run or checkpoint, bad data, or an `out` that is not an
            image file.
    """
    _check_request(out, count, columns)
    experiment = build_experiment(load_config(config_path(workdir)))
    variables = Checkpoints.open(workdir).restore_variables(experiment.model)
    classes = trained_classes(workdir)
    source = open_sources(experiment, (split,), classes)[split]
    source = _FirstImages(source, count)
    evaluator = make_evaluator(experiment, source, split)
    by_image = evaluator.detections(devices.replicate(variables))
    records = [source.records[i] for i in range(len(source.records))]
    detections = [by_image[record.image_id] for record in records]
    sheet = detection_sheet(
        [source.read_image(record) for record in records],
        [_ground_truth(record) for record in records],
        [(d.boxes, d.labels, d.scores) for d in detections],
        source.classes,
        columns=columns,
        min_score=min_score,
    )
    write_image(out, sheet)
    scores = np.concatenate([d.scores for d in detections])
    return describe(scores, len(records), min_score)


def make_drawing_evaluator(
    experiment: Experiment, source: Source, split: str
) -> Evaluator:
    """As `evaluation.run.make_evaluator`, for training: with images for its writers."""
    return make_evaluator(experiment, source, split, draw=draw_example)


def draw_example(source: Source, record: Record, detections: Detections) -> np.ndarray:
    """One image: its ground truth next to the detections, of at most 1280 pixels.

    Args:
        source: that of the image.
        record: the image and its objects.
        detections: in pixels of the image, without padding.
    """
    detected = detections.boxes, detections.labels, detections.scores
    sheet = detection_sheet(
        [source.read_image(record)],
        [_ground_truth(record)],
        [detected],
        source.classes,
        columns=1,
    )
    return scale_down(sheet, _MAX_EXAMPLE_SIDE)


def describe(scores: np.ndarray, count: int, min_score: float) -> str:
    """Says how many of the detections in `count` images are drawn; if none, why.

    Args:
        scores: (N,) of all detections.
        count: number of images.
        min_score: the lowest score that is drawn.
    """
    drawn = int((scores >= min_score).sum())
    if drawn:
        return f'detections: {drawn}, images: {count}'
    if not len(scores):
        return f'no detections in {count} images, down to test_cfg.score_thr'
    return (
        f'no detection in {count} images has a score of {min_score:g} or more; the '
        f'best has {scores.max():.3f}: a lower --min_score draws it'
    )


def _check_request(out, count, columns):
    """Finds before the evaluation what would fail after it."""
    if pathlib.Path(out).suffix.lower() not in SUFFIXES:
        raise ValueError(f'expected --out to end in .png or .jpg, got {out}')
    if count < 1 or columns < 1:
        raise ValueError(
            f'expected --count and --columns of at least 1, got {count} and {columns}'
        )


def _ground_truth(record: Record) -> tuple[np.ndarray, np.ndarray]:
    objects = ~record.ignored
    return record.boxes[objects], record.labels[objects]
