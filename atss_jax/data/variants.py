"""The ways in which a picture is shown to the detector: one, or several (TTA)."""

import dataclasses
from typing import NamedTuple

import numpy as np

from atss_jax.data.pipeline import Pipeline
from atss_jax.data.plan import Canvas, default_canvases, smallest_canvas
from atss_jax.data.records import Record
from atss_jax.data.row import Batch, new_canvas, picture_row


@dataclasses.dataclass(frozen=True)
class Tta:
    """Test-time augmentation: every scale, each also mirrored if `flip`.

    Attributes:
        img_scales: as `Pipeline.img_scale`; None: the pipeline's own alone. Their order
            does not matter.
        flip: each scale once more, mirrored left to right.
    """

    img_scales: tuple[tuple[int, int], ...] | None = None
    flip: bool = True


class Variant(NamedTuple):
    """One way to show every picture: at which scale, mirrored or not."""

    pipeline: Pipeline
    flip: bool = False


def variants(pipeline: Pipeline, tta: Tta | None) -> tuple[Variant, ...]:
    """The ways to show every picture; without test-time augmentation one.

    Source: mmdet's `tta_pipeline`, TestTimeAug of Resize and RandomFlip.
    """
    pipeline = pipeline.without_jitter()
    if tta is None:
        return (Variant(pipeline),)
    scales = sorted(set(tta.img_scales or (pipeline.img_scale,)))
    return tuple(
        Variant(for_any_picture(dataclasses.replace(pipeline, img_scale=scale)), flip)
        for scale in scales
        for flip in ((False, True) if tta.flip else (False,))
    )


def for_any_picture(pipeline: Pipeline) -> Pipeline:
    """With canvases that hold a picture of any shape, beside those that it has."""
    own = pipeline.canvases or ()
    scale, divisor = pipeline.img_scale, pipeline.size_divisor
    room = default_canvases(scale, pipeline.keep_ratio, divisor)
    return dataclasses.replace(pipeline, canvases=tuple(dict.fromkeys((*own, *room))))


def place(image: np.ndarray, variant: Variant) -> tuple[Canvas, Batch]:
    """Canvas and row of a picture that no data set lists.

    Args:
        image: (H,W,3) uint8 RGB.
        variant: its pipeline is one of `for_any_picture`.
    """
    size = image.shape[:2]
    none = np.zeros(0)
    record = Record(-1, '', size, none, none, none)
    pipeline = variant.pipeline
    view = pipeline.whole(0, record, variant.flip)
    canvas = smallest_canvas(pipeline.all_canvases(), view.size, pipeline.size_divisor)
    return canvas, picture_row(record, image, new_canvas(canvas), view)
