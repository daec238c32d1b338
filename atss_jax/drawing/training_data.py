"""Images of what training is fed: `draw data`, `draw batch`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax.config import build_experiment, load_config
from atss_jax.data.batch import load_row
from atss_jax.data.forms.dataset import open_all
from atss_jax.data.forms.find import describe
from atss_jax.data.records import Source
from atss_jax.drawing.boxes import draw_boxes, scale_up, write_image
from atss_jax.drawing.sheets import contact_sheet
from atss_jax.files.atomic import read_json
from atss_jax.structures import Batch
from atss_jax.training.setup import make_batches
from atss_jax.training.workdir import STREAM

_MIN_SIDE = 360
_GRAY, _STRIPE = 70, 110


def draw_data(config, out: str, split: str, count: int, columns: int) -> None:
    """Writes a sheet of the first images that the loader feeds, as it feeds them.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        split: 'train': the batches of one device from the first on, augmented; 'val'
            or 'test': whole images in the order of the data.
        count: number of images.
        columns: images in a row.

    Raises:
        ValueError: bad data, or nothing to draw.
    """
    experiment = build_experiment(config)
    source = experiment.data[split].open()
    pipeline = experiment.data[split].pipeline
    if split == 'train':
        size = experiment.samples_per_gpu
        batches = make_batches(experiment, source, size, (0, size))
        rows = [
            row
            for step in range(min(-(-count // size), batches.plan.steps_per_epoch))
            for row in _rows(batches(step))
        ]
    else:
        rows = _whole_images(source, pipeline, count)
    _write_sheet(out, rows[:count], source, columns, pipeline.size_divisor)


def draw_form(
    path: str,
    out: str,
    split: str | None,
    shape: tuple[int, int],
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Writes a sheet of the first images of a data set of any form, whole.

    They are resized as the images that `atss_r50_1x` is evaluated on, but to fit inside
    640x480 pixels.

    Args:
        path: folder, annotation file or address of the data set.
        out: .png or .jpg file.
        split: of the data set; None: 'train', or all of it if it is not divided.
        shape: number of images, and of images in a row.
        overrides: fields to change in that config, such as
            `data.val.pipeline.img_scale`.

    Returns:
        A line about the data set.

    Raises:
        FileNotFoundError, ValueError: as `AutoDataset`; bad data.
    """
    fields = {'data.val.pipeline.img_scale': (640, 480)} | (overrides or {})
    pipeline = build_experiment(load_config('atss_r50_1x', fields)).data['val'].pipeline
    source = open_all(path, split, 'train')
    count, columns = shape
    rows = _whole_images(source, pipeline, count)
    _write_sheet(out, rows, source, columns, pipeline.size_divisor)
    return describe(source.form)


def _whole_images(source, pipeline, count):
    canvases, canvas_index = pipeline.all_canvases(), pipeline.canvas_index(source)
    return [
        load_row(source, index, canvases[canvas_index[index]], pipeline)
        for index in range(min(count, len(source.records)))
    ]


def draw_batch(
    config, out: str, step: int, batch_size: int | None, workdir: str | None
) -> str:
    """Writes a sheet of one training batch, rebuilt from its step number.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        step: as the log counts, from 1.
        batch_size: of all devices together; None: that of the workdir, or of one
            device.
        workdir: folder of the run; None: no run.

    Returns:
        A few words about what the sheet shows.

    Raises:
        ValueError: there is no such step, or bad data.
    """
    experiment = build_experiment(config)
    if step < 1:
        raise ValueError(f'expected --step of at least 1, the first; got {step}')
    size = batch_size or _batch_size(workdir) or experiment.samples_per_gpu
    source = experiment.data['train'].open()
    batches = make_batches(experiment, source, size, (0, size))
    steps = experiment.total_epochs * batches.plan.steps_per_epoch
    if step > steps:
        raise ValueError(
            f'no --step {step}: with batches of {size} training has {steps} steps'
        )
    divisor = experiment.data['train'].pipeline.size_divisor
    _write_sheet(out, _rows(batches(step - 1)), source, min(4, size), divisor)
    return f'step {step}, {size} image{"s" * (size != 1)}'


def _batch_size(workdir):
    if workdir is None or not (pathlib.Path(workdir) / STREAM).exists():
        return None
    return read_json(pathlib.Path(workdir) / STREAM).get('global_batch_size')


def _rows(batch: Batch) -> list[Batch]:
    count = len(batch['image'])
    return [{name: x[row] for name, x in batch.items()} for row in range(count)]


def _write_sheet(
    out: str, rows: Sequence[Batch], source: Source, columns: int, divisor: int
) -> None:
    sheet = contact_sheet(
        [draw_row(row, source.classes, divisor) for row in rows],
        columns,
        captions=[caption(row) for row in rows],
    )
    write_image(out, sheet)


def caption(row: Batch) -> str:
    """Id of an image, and sizes of it and of its canvas, as width x height."""
    height, width = row['image_size']
    canvas_height, canvas_width = row['image'].shape[:2]
    is_stand_in = row['skipped'] >= 0
    return (
        f'{row["image_id"]}: {width}x{height} on {canvas_width}x{canvas_height}'
        f'{", in place of a bad image" if is_stand_in else ""}'
    )


def draw_row(row: Batch, classes: tuple[str, ...], divisor: int) -> np.ndarray:
    """Draws a row of a batch: canvas, image and boxes; crowd regions are named `crowd`.

    The valid region, the image with its size rounded up to a multiple of `divisor`, is
    gray outside the image, and the rest of the canvas is striped.
    """
    height, width = row['image_size']
    valid_height, valid_width = -(-row['image_size'] // divisor) * divisor
    canvas = row['image'].copy()
    y, x = np.indices(canvas.shape[:2])
    stripes = np.where((x + y) // 8 % 2, _STRIPE, _GRAY)
    in_valid = (y < valid_height) & (x < valid_width)
    outside = (y >= height) | (x >= width)
    fill = np.where(in_valid, _GRAY, stripes).astype(np.uint8)
    canvas[outside] = fill[outside, None]
    valid = row['gt_valid']
    labels = np.where(row['gt_ignored'], len(classes), row['gt_labels'])[valid]
    large, boxes = scale_up(canvas, row['gt_boxes'][valid], _MIN_SIDE)
    return draw_boxes(large, boxes, labels, (*classes, 'crowd'))
