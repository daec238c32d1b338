"""Objects, fits and setups for tests of what `atss init` chooses."""

import dataclasses

import numpy as np

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.tuning.choose import Chosen
from atss_jax.tuning.config_file import Setup
from atss_jax.tuning.fit import Choice, Fit, Objects
from atss_jax.tuning.recipe import schedule

USUAL = AnchorGenerator()


def objects_of(size: tuple[int, int], images: list[list[tuple]]) -> Objects:
    """Objects of images of one size, each a label and x1, y1, x2, y2."""
    count = max(map(len, images))
    boxes = np.zeros((len(images), count, 4), np.float32)
    labels = np.zeros((len(images), count), np.int32)
    valid = np.zeros((len(images), count), bool)
    for row, listed in enumerate(images):
        for column, (label, *box) in enumerate(listed):
            boxes[row, column], labels[row, column] = box, label
            valid[row, column] = True
    sizes = np.tile(np.array(size, np.int32), (len(images), 1))
    return Objects(sizes, boxes, labels, valid)


def squares(
    size: tuple[int, int], side: float, count: int = 10, label: int = 0
) -> Objects:
    """One square object in the middle of each of `count` images."""
    y, x = size[0] / 2, size[1] / 2
    half = side / 2
    return objects_of(size, [[(label, x - half, y - half, x + half, y + half)]] * count)


def joined(*others: Objects) -> Objects:
    """The images of all, which have equally many objects each."""
    return Objects(*(np.concatenate(columns) for columns in zip(*others, strict=True)))


def fit_of(
    overlaps: dict[int, list[float]],
    anchors: AnchorGenerator = USUAL,
    img_scale: tuple[int, int] = (320, 240),
) -> Fit:
    """A fit with these overlaps of the objects of each class."""
    labels = np.repeat(list(overlaps), [len(values) for values in overlaps.values()])
    values = np.concatenate(list(overlaps.values())).astype(np.float32)
    by_level = np.zeros((len(values), 5), int)
    by_level[:, 0] = 9
    sides = np.full(len(values), 40, np.float32)
    choice = Choice(img_scale, anchors)
    return Fit(choice, labels, sides, by_level.sum(1), values, by_level)


def setup_of(**changes) -> Setup:
    """A setup for BCCD-like data, from scratch, with changes."""
    start = changes.get('start', 'scratch')
    fit = fit_of({0: [0.5] * 5, 1: [0.4] * 5, 2: [0.3] * 5})
    setup = Setup(
        path='data/bccd',
        description='COCO with train (train.json), val (val.json)',
        splits={'train': 'train', 'val': 'val', 'test': 'val'},
        on_error='raise',
        classes=('RBC', 'WBC', 'Platelets'),
        images=205,
        chosen=Chosen(fit, fit, (fit,), np.array([30.0, 50.0, 17.0])),
        costs=(12.1,),
        max_boxes=32,
        most_boxes=28,
        canvases=((256, 320),),
        samples_per_gpu=8,
        devices='1 cpu with 24 GiB each',
        batch=8,
        schedule=schedule(205, 26, 8, start, 8),
        start=start,
        depth=50,
        model='atss_r50_fpn_1x_coco',
    )
    return dataclasses.replace(setup, **changes)
