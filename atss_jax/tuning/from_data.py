"""Chooses everything that a config for a data set says."""

import dataclasses
import functools
import os
from typing import NamedTuple

import jax
import numpy as np

from atss_jax.config import build_model, load_config
from atss_jax.config.own_data import splits_of
from atss_jax.data.class_agreement import disagreement
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe
from atss_jax.data.forms.finder import Finder
from atss_jax.data.plan import TrainPlan, canvas_of_each, default_canvases
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.models.cost import cost
from atss_jax.tuning import recipe
from atss_jax.tuning.choose import Chosen, choose, choose_scale_alone
from atss_jax.tuning.config_file import Setup, stage_channels
from atss_jax.tuning.fit import sample_objects

DEPTHS = (18, 34, 50, 101)
"""Depths of the ResNet to choose from."""
ZOO = {depth: f'atss_r{depth}_fpn_1x_coco' for depth in (50, 101)}
"""The trained detector of each depth that training can start from."""

_DIVISOR = 32


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user wants; None: it is chosen.

    Attributes:
        start: one of `recipe.STARTS`.
        depth: one of `DEPTHS`.
        img_scale: (long, short) that images are resized to fit into.
        batch: images per device and step.
        epochs: passes over the training images.
        images: number of training images whose objects are tried.
        on_error: 'raise' or 'skip' malformed records, as `data.on_error`.
    """

    start: str = 'zoo'
    depth: int = 50
    img_scale: tuple[int, int] | None = None
    batch: int | None = None
    epochs: int | None = None
    images: int = 200
    on_error: str = 'raise'


class Device(NamedTuple):
    """What training is meant for.

    Attributes:
        platform: 'cpu', 'gpu' or 'tpu'.
        memory: bytes of one device; None: unknown.
        count: number of devices.
    """

    platform: str
    memory: int | None
    count: int


def this_device() -> Device:
    """The devices of this machine."""
    device = jax.local_devices()[0]
    if device.platform == 'cpu':
        memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
        return Device('cpu', memory // jax.local_device_count(), jax.device_count())
    memory = (device.memory_stats() or {}).get('bytes_limit')
    return Device(device.platform, memory, jax.device_count())


def prepare(
    path: str, wishes: Wishes, device: Device, finder: Finder | None = None
) -> Setup:
    """Chooses everything that is not wished for.

    Args:
        path: folder, annotation file or address of the data.
        wishes: what the user wants.
        device: what training is meant for.
        finder: may have found or read the data already.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: no known form lies there, it is malformed, not divided into training
            and evaluation data, or has no objects to learn; or wishes contradict.
    """
    check(wishes)
    finder = Finder() if finder is None else finder
    form = finder.find(path)
    splits = splits_of(form)
    train, others = _read(path, splits, wishes.on_error, finder)
    chosen = _choose(train, wishes)
    img_scale = chosen.fit.choice.img_scale
    sizes = np.concatenate([each.records.sizes for each in (train, *others)])
    canvases, used_canvases = _canvases(sizes, img_scale)
    per_device = wishes.batch or recipe.batch_per_device(
        max(used_canvases), device.memory, device.platform
    )
    batch = per_device * device.count
    return Setup(
        path=path,
        description=describe(form).removeprefix(f'{form.path}: '),
        splits=splits,
        on_error=wishes.on_error,
        classes=train.classes,
        images=len(train.records),
        chosen=chosen,
        costs=_costs(chosen, wishes, sizes, len(train.classes)),
        max_boxes=recipe.capacity(train.records.counts),
        most_boxes=int(train.records.counts.max()),
        canvases=canvases,
        samples_per_gpu=per_device,
        devices=_device_text(device),
        batch=batch,
        schedule=_schedule(train.records, used_canvases, img_scale, batch, wishes),
        start=wishes.start,
        depth=wishes.depth,
        model=ZOO.get(wishes.depth, ''),
    )


def _read(path, splits, on_error, finder):
    """The data to train on, and a list of the others, which agree with it."""
    train = AutoDataset(path, splits['train'], on_error=on_error, finder=finder)
    if train.records.ignored.all():
        counts = [f'{count} {reason}' for reason, count in train.untrained.items()]
        raise ValueError(
            f'{path}: no object of the training images can be learned; its annotations '
            f'are {"; ".join(counts)}'
        )
    others = []
    for split in dict.fromkeys((splits['val'], splits['test'])):
        source = AutoDataset(
            path, split, test_mode=True, on_error=on_error, finder=finder
        )
        if difference := disagreement({'train': train.classes, split: source.classes}):
            raise ValueError(f'{path}: {difference}')
        others.append(source)
    return train, others


def _choose(train, wishes):
    """Image scale and anchors; those of a trained detector stay as they are."""
    return (choose_scale_alone if wishes.start == 'zoo' else choose)(
        sample_objects(train.records, wishes.images),
        len(train.classes),
        AnchorGenerator(),
        wishes.img_scale,
    )


def _schedule(records, canvases, img_scale, batch, wishes):
    """The schedule for batches each of which has images of one canvas."""
    index = canvas_of_each(records, canvases, img_scale, True, _DIVISOR)
    steps = TrainPlan(index, canvases, batch, seed=0).steps_per_epoch
    return recipe.schedule(len(records), steps, batch, wishes.start, wishes.epochs)


def check(wishes: Wishes) -> None:
    """Raises ValueError if wishes contradict each other."""
    if wishes.start == 'zoo' and wishes.depth not in ZOO:
        raise ValueError(
            f'--depth {wishes.depth}: there are trained detectors of the depths '
            f'{", ".join(map(str, ZOO))} only; or use --start imagenet, --start scratch'
        )


def _device_text(device):
    text = f'{device.count} {device.platform}'
    if device.memory is None:
        return text
    return f'{text} with {device.memory / 2**30:.0f} GiB each'


def _costs(chosen: Chosen, wishes: Wishes, sizes, num_classes):
    """Billions of multiply-adds of an image with each of the trials.

    They depend on the canvas and on the levels and number of anchors per cell, not on
    the size of the anchors.
    """

    @functools.cache
    def cost_of(img_scale, strides, scales_per_octave):
        canvas = max(_canvases(sizes, img_scale)[1])
        model = _model(wishes.depth, num_classes, strides, scales_per_octave)
        return sum(cost(model, [canvas]).multiply_adds[canvas].values()) / 1e9

    choices = [fit.choice for fit in chosen.tried]
    return tuple(
        cost_of(each.img_scale, each.anchors.strides, each.anchors.scales_per_octave)
        for each in choices
    )


def _canvases(sizes, img_scale):
    """The only canvas of all images, None without one; and the canvases in use."""
    canvases = recipe.canvases_of(sizes, img_scale, _DIVISOR)
    return canvases, canvases or default_canvases(img_scale, True, _DIVISOR)


def _model(depth, num_classes, strides, scales_per_octave):
    overrides = {
        'model.backbone.depth': depth,
        'model.neck.in_channels': stage_channels(depth),
        'model.bbox_head.num_classes': num_classes,
        'model.bbox_head.anchor_generator.strides': strides,
        'model.bbox_head.anchor_generator.scales_per_octave': scales_per_octave,
        'model.neck.start_level': 0 if strides[0] < 8 else 1,
    }
    return build_model(load_config('atss_r50_1x', overrides))
