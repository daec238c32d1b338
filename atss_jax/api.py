"""A trained detector, for use in other programs.

from atss_jax.api import Detector

detector = Detector.load('work_dirs/atss_r50_1x')
(found,) = detector.predict(['street.jpg'])
for box, name, score in zip(found.boxes, found.names, found.scores):
    print(name, score, box)
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax import export
from atss_jax.ahead import ahead
from atss_jax.data import pictures as picture_files
from atss_jax.data.variants import Variant, for_any_picture, variants
from atss_jax.evaluation.step import make_predict_step
from atss_jax.inference import Inference, MappedStep, dividing, find_devices
from atss_jax.results import PictureDetections
from atss_jax.trained import read

Picture = str | os.PathLike | np.ndarray | Any
"""A path, an (H,W,3) uint8 RGB array, or a picture of PIL."""


class Detector:
    """Finds objects in pictures; made by `Detector.load`. Threads may share one.

    Attributes:
        classes: name of each label.
        batch_size: pictures that are looked at together.
        img_scales: sizes that pictures are resized to fit, (long, short) side.
        flip: whether each picture is looked at mirrored too.
    """

    def __init__(self, inference: Inference, classes: Sequence[str]):
        self.classes = tuple(classes)
        self.batch_size = inference.batch_size
        views = inference.variants
        self.img_scales = tuple(dict.fromkeys(v.pipeline.img_scale for v in views))
        self.flip = any(view.flip for view in views)
        self._inference = inference

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        config: str | os.PathLike | None = None,
        *,
        classes: Sequence[str] | None = None,
        step: int | None = None,
        tta: bool = False,
        batch_size: int | None = 1,
        device: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> 'Detector':
        """Reads weights; pictures are prepared and judged as `data.test` is.

        Args:
            source: workdir of a run, a `.pth` or `.safetensors` file with mmdet's
                names, or an exported `.stablehlo` file, which says all the rest itself.
            config: of a file of weights: a `.py` or `.json` file.
            classes: names of the labels, where the weights do not say them.
            step: a checkpoint of a workdir; None: the one with the best AP.
            tta: test-time augmentation, as `test_cfg.tta` says.
            batch_size: pictures that are looked at together, on as many devices as it
                divides by. Every batch is computed whole, however few are asked for.
                None: `data.samples_per_gpu` on every device, for many pictures.
            device: 'cpu', 'gpu', 'tpu'; None: the best that there is.
            overrides: of config fields: `{'test_cfg.score_thr': 0.3}`.

        Raises:
            ValueError: weights, config or classes are not there or do not fit.
        """
        devices, how = find_devices(device), (tta, batch_size)
        if export.is_exported(source):
            if config or step is not None or classes or overrides:
                raise ValueError(
                    f'{source} is exported: nothing in it can be set; leave out '
                    'config, step, the names of its classes and overrides'
                )
            found = export.read(source)
            return cls(_infer_exported(found, devices, *how), found.classes)
        trained = read(source, config, step, classes, overrides)
        inference = _infer(trained.experiment, trained.variables, devices, *how)
        return cls(inference, trained.classes)

    def predict(
        self, pictures: Picture | Iterable[Picture], score_thr: float = 0.0
    ) -> list[PictureDetections]:
        """What is found in each picture, in their order.

        The first picture of a canvas (by default there are two, landscape and portrait)
        waits until the model is compiled for it, later ones do not.

        Args:
            pictures: paths, (H,W,3) uint8 RGB arrays or pictures of PIL, mixed as you
                like; or one alone. Files are turned as their EXIF orientation says;
                pictures of PIL are taken as they are.
            score_thr: objects with lower scores are left out.

        Raises:
            ValueError: something is no picture; it is named.
            OSError: a file cannot be read.
        """
        if _is_picture(pictures):
            pictures = [pictures]

        def load(numbered):
            number, picture = numbered
            return number, to_array(picture, number)

        images = ahead(load, enumerate(pictures))
        found = {number: found for number, _, found in self.stream(images)}
        return [found[number].keep(score_thr) for number in sorted(found)]

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]]
    ) -> Iterator[tuple[Any, np.ndarray, PictureDetections]]:
        """(key, image, found) of each (key, image), as soon as it is known.

        Pictures on one canvas come in their order, others when a batch is full. No more
        than a few batches are held at a time.

        Args:
            images: keys of any kind, and (H,W,3) uint8 RGB arrays.
        """
        views = ahead(lambda one: self._inference.prepare(one, one[1]), images)
        for (key, image), found in self._inference.run(views):
            size = image.shape[:2]
            yield (
                key,
                image,
                PictureDetections(**found, classes=self.classes, size=size),
            )


def to_array(picture: Picture, name: Any = '') -> np.ndarray:
    """(H,W,3) uint8 RGB of a path, an array or a picture of PIL.

    Args:
        picture: one of them.
        name: what an array is called in messages.

    Raises:
        ValueError: it is none of them.
        OSError: a file cannot be read.
    """
    if isinstance(picture, str | os.PathLike):
        if os.path.isdir(picture):
            raise IsADirectoryError(f'{picture} is a folder; give its pictures')
        return picture_files.read(picture)
    if _is_pil(picture):
        return np.asarray(picture.convert('RGB'))
    shape, dtype = getattr(picture, 'shape', None), getattr(picture, 'dtype', None)
    if not isinstance(picture, np.ndarray) or dtype != np.uint8:
        found = type(picture).__name__ if shape is None else f'{dtype}{list(shape)}'
        raise ValueError(
            f'picture {name}: expected a path, an (H,W,3) uint8 RGB array or a picture '
            f'of PIL, got {found}'
        )
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f'picture {name}: expected (H,W,3) uint8 RGB, got {list(shape)}; repeat a '
            'grey channel three times, and drop transparency'
        )
    return picture


def _is_pil(picture):
    return hasattr(picture, 'convert') and hasattr(picture, 'getbands')


def _is_picture(value):
    if isinstance(value, np.ndarray):
        return value.ndim < 4
    return isinstance(value, str | os.PathLike) or _is_pil(value)


def _infer(experiment, variables, devices, tta, batch_size):
    data, detect = experiment.data['test'], experiment.detect
    if batch_size is None:
        batch_size = experiment.samples_per_gpu * len(devices)
    _check(batch_size)
    step = make_predict_step(experiment.model, data.normalizer, detect)
    return Inference(
        MappedStep(step, variables, dividing(devices, batch_size)),
        _views(data.pipeline, experiment.tta if tta else None),
        detect,
        batch_size,
    )


def _infer_exported(found, devices, tta, batch_size):
    """On one device: the program is that of one."""
    batch_size = found.samples_per_gpu if batch_size is None else batch_size
    _check(batch_size)
    return Inference(
        MappedStep(lambda _, batch: found.step(batch), {}, devices[:1]),
        _views(found.pipeline, found.tta if tta else None),
        found.detect,
        batch_size,
    )


def _check(batch_size):
    if batch_size < 1:
        raise ValueError(f'batch_size = {batch_size}: expected 1 or more')


def _views(pipeline, tta):
    """The ways in which each picture is shown, whatever its shape."""
    views = variants(pipeline, tta)
    return [Variant(for_any_picture(view.pipeline), view.flip) for view in views]
