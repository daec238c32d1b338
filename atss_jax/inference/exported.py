"""What goes with an exported program: how images are put on a canvas, the labels."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from atss_jax.data.batch import Pipeline, Tta
from atss_jax.detection.nms import SoftNms
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.structures import Batch, Detections
from atss_jax.training.trained_model import TrainedModel


class ExportedDetector(NamedTuple):
    """A detector that was read from a file.

    Attributes:
        step: batch of images, their sizes and scales to the detections in each row.
        classes: name of each label.
        pipeline: how images are put on a canvas.
        tta: the views of test-time augmentation.
        detect: NMS of several views; its other fields are in the program.
        samples_per_gpu: number of images in a batch, where there are many.
    """

    step: Callable[[Batch], Detections]
    classes: tuple[str, ...]
    pipeline: Pipeline
    tta: Tta
    detect: DetectConfig
    samples_per_gpu: int


def page_of(trained: TrainedModel) -> dict[str, Any]:
    """The page of a detector: values for JSON by name."""
    experiment = trained.experiment
    pipeline, detect = experiment.data['test'].pipeline, experiment.detect
    return {
        'classes': trained.classes,
        'img_scale': pipeline.img_scale,
        'keep_ratio': pipeline.keep_ratio,
        'backend': pipeline.backend,
        'size_divisor': pipeline.size_divisor,
        'canvases': pipeline.canvases,
        'tta': dataclasses.asdict(experiment.tta),
        'iou_threshold': detect.iou_threshold,
        'max_per_img': detect.max_per_img,
        'soft_nms': detect.soft_nms and dataclasses.asdict(detect.soft_nms),
        'with_nms': detect.with_nms,
        'samples_per_gpu': experiment.samples_per_gpu,
    }


def with_page(
    step: Callable[[Batch], Detections],
    page: Mapping[str, Any],
    path: str | os.PathLike,
) -> ExportedDetector:
    """The detector of a program and its page, as `page_of` made it.

    Args:
        step: the program.
        page: values by name.
        path: where the page was read, for messages.

    Raises:
        ValueError: values are missing, or are not what they should be.
    """
    try:
        return _with_page(step, page)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} does not describe a detector ({error!r}): it was changed after '
            'atss export wrote it; export again'
        ) from error


def _with_page(step, page):
    _check(page)
    return ExportedDetector(
        step=step,
        classes=tuple(page['classes']),
        pipeline=Pipeline(
            img_scale=tuple(page['img_scale']),
            keep_ratio=page['keep_ratio'],
            # Files of version 0.1 do not name it: there was OpenCV only.
            backend=page.get('backend', 'cv2'),
            size_divisor=page['size_divisor'],
            canvases=_pairs(page['canvases']),
        ),
        tta=Tta(_pairs(page['tta']['img_scales']), page['tta']['flip']),
        detect=DetectConfig(
            iou_threshold=page['iou_threshold'],
            max_per_img=page['max_per_img'],
            # Files of version 0.1 have NMS without naming it.
            soft_nms=SoftNms(**soft) if (soft := page.get('soft_nms')) else None,
            with_nms=page.get('with_nms', True),
        ),
        samples_per_gpu=page['samples_per_gpu'],
    )


def _check(page):
    """Raises ValueError for values that would fail only when an image comes."""
    classes, img_scale, divisor = (
        page[name] for name in ('classes', 'img_scale', 'size_divisor')
    )
    is_list = isinstance(classes, list | tuple)
    if not is_list or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'classes: expected a list of names, got {classes!r}')
    if not _are_lengths(img_scale) or len(img_scale) != 2:
        raise ValueError(f'img_scale: expected two lengths, got {img_scale!r}')
    if not _are_lengths([divisor]):
        raise ValueError(f'size_divisor: expected a length, got {divisor!r}')


def _are_lengths(values):
    return isinstance(values, list | tuple) and all(
        isinstance(value, int) and value > 0 for value in values
    )


def _pairs(values):
    """Pairs as tuples, which JSON turned into lists; None as it is."""
    return None if values is None else tuple(tuple(pair) for pair in values)
