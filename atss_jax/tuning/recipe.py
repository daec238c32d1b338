"""Chooses what does not depend on anchors: the batch, the schedule, the canvases."""

import dataclasses

import numpy as np

from atss_jax.data.plan import Canvas, round_up
from atss_jax.data.transforms import rescale_size

STARTS = ('zoo', 'imagenet', 'scratch')
"""What training can start from: a trained detector, a trained backbone, nothing."""

IMAGES_SEEN = {'zoo': 10_000, 'imagenet': 20_000, 'scratch': 24_000}
"""Images that training shows in all, by its start, within the limits of `EPOCHS`."""
EPOCHS = 12, 100
"""Fewest and most epochs: mmdetection's 1x schedule for COCO, and enough for small data
sets, which are learned by heart after more."""
WARM_UP = 500, 0.1
"""Most steps of the warm-up, and its largest share of all steps."""
SGD_RATE = 0.01, 16
"""mmdetection's learning rate, and the number of images per step that it is for."""
ADAMW_RATE = 0.0005
"""Learning rate from scratch: docs/results.md has the runs that it was found with."""

_BATCHES = (16, 8, 4, 2, 1)
# Bytes per pixel of a training image in float32: measured on a GPU with R50 (0.35 kB in
# bfloat16) and on a CPU with R18, whose programs unfold convolutions.
_BYTES_PER_PIXEL = {'cpu': 5000}
_ON_ACCELERATORS = 700
_SHARE = 0.7  # of the memory that the images of a step may take
_FIXED = 2 * 2**30  # bytes for programs, weights and the state of the optimizer


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long training takes, and its learning rate.

    Attributes:
        epochs: passes over the training images.
        steps_per_epoch: number of batches in each.
        milestones: epochs after which the learning rate is divided by 10.
        warmup_steps: steps in which it rises at first.
        rate: the learning rate.
    """

    epochs: int
    steps_per_epoch: int
    milestones: tuple[int, ...]
    warmup_steps: int
    rate: float


def schedule(
    images: int, steps_per_epoch: int, batch: int, start: str, epochs: int | None
) -> Schedule:
    """The schedule for a number of training images.

    Args:
        images: number of training images.
        steps_per_epoch: number of batches that show each of them once.
        batch: images per step, over all devices.
        start: one of `STARTS`.
        epochs: number of epochs; None: it is chosen.
    """
    if epochs is None:
        epochs = min(max(round(IMAGES_SEEN[start] / images), EPOCHS[0]), EPOCHS[1])
    steps = epochs * steps_per_epoch
    # As in mmdetection's schedule of 12 epochs, which drops after 8 and 11.
    milestones = {round(epochs * 8 / 12), round(epochs * 11 / 12)} - {0, epochs}
    rate = ADAMW_RATE if start == 'scratch' else SGD_RATE[0] * batch / SGD_RATE[1]
    return Schedule(
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        milestones=tuple(sorted(milestones)),
        warmup_steps=max(1, min(WARM_UP[0], int(WARM_UP[1] * steps))),
        rate=rate,
    )


def batch_per_device(canvas: Canvas, memory: int | None, platform: str) -> int:
    """Images per device and step that fit into its memory; an estimate.

    Args:
        canvas: height, width of the largest canvas.
        memory: bytes of the device; None: unknown, taken as enough.
        platform: 'cpu', 'gpu' or 'tpu'.
    """
    per_pixel = _BYTES_PER_PIXEL.get(platform, _ON_ACCELERATORS)
    per_image = per_pixel * canvas[0] * canvas[1]
    largest = 8 if platform == 'cpu' else 16
    for batch in _BATCHES:
        fits = memory is None or batch * per_image + _FIXED <= _SHARE * memory
        if batch <= largest and fits:
            return batch
    return 1


def canvases_of(
    sizes: np.ndarray, img_scale: tuple[int, int], divisor: int
) -> tuple[Canvas, ...] | None:
    """One canvas that holds all images if all have one orientation, else None.

    Args:
        sizes: (N,2) height, width of all images, of evaluation too.
        img_scale: (long, short) that they are resized to fit into.
        divisor: sides of images are padded to multiples of it.
    """
    unique = {tuple(size) for size in sizes.tolist()}
    resized = [rescale_size(size, img_scale) for size in unique]
    padded = [tuple(round_up(side, divisor) for side in size) for size in resized]
    is_landscape = {width >= height for height, width in padded if width != height}
    if not padded or len(is_landscape) > 1:
        return None
    return (tuple(max(sides) for sides in zip(*padded, strict=True)),)


def capacity(counts: np.ndarray) -> int:
    """`max_boxes` for images with these (N,) numbers of boxes: a multiple of 8."""
    return max(8, round_up(int(counts.max(initial=1)), 8))
