"""Images of what training is fed: `draw data`, `draw batch`."""

import json
import pathlib

import numpy as np

from atss_jax.config import build_experiment
from atss_jax.data.loader import Batch, load_row
from atss_jax.drawing import boxes as visualize
from atss_jax.files.wording import counted
from atss_jax.training.setup import make_batches
from atss_jax.training.workdir import STREAM

_MIN_SIDE = 360
_GREY, _STRIPE = 70, 110


def draw_data(config, out: str, split: str, count: int, columns: int) -> None:
    """Writes a sheet of the first images that the loader feeds, as it feeds them.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        split: 'train': batches of one device from the first on, augmented; 'val' or
            'test': in the data's order, whole.
        count: images.
        columns: in a row.

    Raises:
        ValueError: bad data, or nothing to draw.
    """
    experiment = build_experiment(config)
    source = experiment.data[split].open()
    if split == 'train':
        size = experiment.samples_per_gpu
        batches = make_batches(experiment, source, size, (0, size))
        rows = [
            row
            for step in range(min(-(-count // size), batches.plan.steps_per_epoch))
            for row in _rows(batches(step))
        ]
    else:
        pipeline = experiment.data[split].pipeline
        canvases, chosen = pipeline.all_canvases(), pipeline.canvas_index(source)
        rows = [
            load_row(source, index, canvases[chosen[index]], pipeline)
            for index in range(min(count, len(source.records)))
        ]
    divisor = experiment.data[split].pipeline.size_divisor
    _write(out, rows[:count], source, columns, divisor)


def draw_batch(
    config, out: str, step: int, batch_size: int | None, workdir: str | None
) -> None:
    """Writes a sheet of one training batch, rebuilt from its number.

    Args:
        config: a loaded config.
        out: .png or .jpg file.
        step: as the log counts, from 1.
        batch_size: of all devices together; None: that of the workdir, or of one
            device.
        workdir: folder of the run, None for none.

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
        raise ValueError(f'no step {step}: with batches of {size} training has {steps}')
    batch = batches(step - 1)
    divisor = experiment.data['train'].pipeline.size_divisor
    _write(out, _rows(batch), source, min(4, size), divisor)
    print(f'step {step}, {counted(size, "image")}')


def _batch_size(workdir):
    file = pathlib.Path(workdir or '') / STREAM
    if workdir is None or not file.exists():
        return None
    return json.loads(file.read_text()).get('global_batch_size')


def _rows(batch: Batch) -> list[Batch]:
    count = len(batch['image'])
    return [{name: x[row] for name, x in batch.items()} for row in range(count)]


def _write(out, rows, source, columns, divisor):
    sheet = visualize.contact_sheet(
        [draw_row(row, source.classes, divisor) for row in rows],
        columns,
        captions=[_caption(row) for row in rows],
    )
    visualize.write_image(out, sheet)


def _caption(row):
    height, width = row['image_size']
    canvas_height, canvas_width = row['image'].shape[:2]
    stands_in = '' if row['skipped'] < 0 else ', in place of a bad one'
    return (
        f'{row["image_id"]}: {height}x{width} on {canvas_height}x{canvas_width}'
        f'{stands_in}'
    )


def draw_row(row: Batch, classes: tuple[str, ...], divisor: int) -> np.ndarray:
    """A row of a batch: canvas, image and boxes, crowds by the name `crowd`.

    Outside the image the valid region, its size rounded up to a multiple of
    `divisor`, is gray, and the rest of the canvas striped.
    """
    height, width = row['image_size']
    valid_height, valid_width = -(-row['image_size'] // divisor) * divisor
    canvas = row['image'].copy()
    y, x = np.indices(canvas.shape[:2])
    stripes = np.where((x + y) // 8 % 2, _STRIPE, _GREY)
    in_valid = (y < valid_height) & (x < valid_width)
    outside = (y >= height) | (x >= width)
    fill = np.where(in_valid, _GREY, stripes).astype(np.uint8)
    canvas[outside] = fill[outside, None]
    kept = row['gt_valid']
    labels = np.where(row['gt_ignored'], len(classes), row['gt_labels'])[kept]
    large, boxes = visualize.scale_up(canvas, row['gt_boxes'][kept], _MIN_SIDE)
    return visualize.draw_boxes(large, boxes, labels, (*classes, 'crowd'))
