"""A trained detector, for use in other programs.

from atss_jax.inference.detector import Detector

detector = Detector.load('work_dirs/atss_r50_1x')
(found,) = detector.predict(['street.jpg'])
for box, name, score in zip(found.boxes, found.names, found.scores):
    print(name, score, box)
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax.data import image_file as image_files
from atss_jax.data.batch import Variant, for_any_image, variants
from atss_jax.evaluation.run import make_predict_step
from atss_jax.files.read_ahead import map_ahead
from atss_jax.inference import export
from atss_jax.inference.engine import Inference, MappedStep, dividing, find_devices
from atss_jax.inference.load import read
from atss_jax.inference.results import ImageDetections

Image = str | os.PathLike | np.ndarray | Any
"""A path, an (H,W,3) uint8 RGB array, or an image of PIL."""


class Detector:
    """Finds objects in images; made by `Detector.load`. Threads may share one.

    Attributes:
        classes: name of each label.
        batch_size: images that are looked at together.
        img_scales: sizes that images are resized to fit, (long, short) side.
        flip: whether each image is looked at mirrored too.
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
        """Reads weights; images are prepared and judged as `data.test` is.

        Args:
            source: workdir of a run, a `.pth` or `.safetensors` file with mmdet's
                names, or an exported `.stablehlo` file, which says all the rest itself.
            config: of a file of weights: a `.py` or `.json` file.
            classes: names of the labels, where the weights do not say them.
            step: a checkpoint of a workdir; None: the one with the best AP.
            tta: test-time augmentation, as `test_cfg.tta` says.
            batch_size: images that are looked at together, on as many devices as it
                divides by. Every batch is computed whole, however few are asked for.
                None: `data.samples_per_gpu` on every device, for many images.
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
        self, images: Image | Iterable[Image], score_thr: float = 0.0
    ) -> list[ImageDetections]:
        """What is found in each image, in their order.

        The first image of a canvas (by default there are two, landscape and portrait)
        waits until the model is compiled for it, later ones do not.

        Args:
            images: paths, (H,W,3) uint8 RGB arrays or images of PIL, mixed as you
                like; or one alone. Files are turned as their EXIF orientation says;
                images of PIL are taken as they are.
            score_thr: objects with lower scores are left out.

        Raises:
            ValueError: something is no image; it is named.
            OSError: a file cannot be read.
        """
        if _is_image(images):
            images = [images]

        def load(numbered):
            number, image = numbered
            return number, to_array(image, number)

        loaded = map_ahead(load, enumerate(images))
        found = {number: found for number, _, found in self.stream(loaded)}
        return [found[number].keep(score_thr) for number in sorted(found)]

    def stream(
        self, images: Iterable[tuple[Any, np.ndarray]]
    ) -> Iterator[tuple[Any, np.ndarray, ImageDetections]]:
        """(key, image, found) of each (key, image), as soon as it is known.

        Images on one canvas come in their order, others when a batch is full. No more
        than a few batches are held at a time.

        Args:
            images: keys of any kind, and (H,W,3) uint8 RGB arrays.
        """
        views = map_ahead(lambda one: self._inference.prepare(one, one[1]), images)
        for (key, image), found in self._inference.run(views):
            size = image.shape[:2]
            yield (
                key,
                image,
                ImageDetections(**found, classes=self.classes, size=size),
            )


def to_array(image: Image, name: Any = '') -> np.ndarray:
    """(H,W,3) uint8 RGB of a path, an array or an image of PIL.

    Args:
        image: one of them.
        name: what an array is called in messages.

    Raises:
        ValueError: it is none of them.
        OSError: a file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        if os.path.isdir(image):
            raise IsADirectoryError(f'{image} is a folder; give its images')
        return image_files.read(image)
    if _is_pil(image):
        return np.asarray(image.convert('RGB'))
    shape, dtype = getattr(image, 'shape', None), getattr(image, 'dtype', None)
    if not isinstance(image, np.ndarray) or dtype != np.uint8:
        found = type(image).__name__ if shape is None else f'{dtype}{list(shape)}'
        raise ValueError(
            f'image {name}: expected a path, an (H,W,3) uint8 RGB array or an image '
            f'of PIL, got {found}'
        )
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f'image {name}: expected (H,W,3) uint8 RGB, got {list(shape)}; repeat a '
            'gray channel three times, and drop transparency'
        )
    return image


def _is_pil(image):
    return hasattr(image, 'convert') and hasattr(image, 'getbands')


def _is_image(value):
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
    """The ways in which each image is shown, whatever its shape."""
    views = variants(pipeline, tta)
    return [Variant(for_any_image(view.pipeline), view.flip) for view in views]
