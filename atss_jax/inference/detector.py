"""The Python API: a trained detector for use in other programs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atss_jax.data import image_file
from atss_jax.data.batch import Variant, for_any_image, variants
from atss_jax.data.tiles import Tiling
from atss_jax.distributed import devices, forked
from atss_jax.evaluation.run import make_predict_step
from atss_jax.files.read_ahead import map_ahead
from atss_jax.inference import export
from atss_jax.inference.engine import Inference
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.onnx_file import runtime
from atss_jax.training.trained_model import load_trained

Image = str | os.PathLike | np.ndarray | Any
"""A path, an (H,W,3) uint8 RGB array, or a PIL image."""

_CANNOT_BE_SET = (
    'nothing in it can be set; leave out --model_config, --step, --class_names and '
    '--config.FIELD=VALUE (in Python, config, step, classes and overrides)'
)


class Detector:
    """Detects objects in images. Threads may share one, forked processes may not.

        from atss_jax import Detector

        detector = Detector.load('atss_r50_fpn_1x_coco')
        (street,) = detector.predict(['street.jpg'])
        for box, score, name in zip(street.boxes, street.scores, street.names):
            print(name, score, box)

    Attributes:
        classes: name of each label.
        batch_size: number of images in a batch.
        img_scales: sizes that images are resized to fit, (long side, short side).
        flip: whether each image is also shown mirrored (test-time augmentation).
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
        """Loads a trained detector; images are prepared as `data.test` says.

        Args:
            source: workdir of a run, a `.pth` or `.safetensors` file with mmdet's
                names, or an exported `.stablehlo` or `.onnx` file (which onnxruntime
                runs). Or, downloaded once, a model that `atss models` lists, by its
                name (where no path has this name) or as `mmdet://NAME`; or any weights
                by an `https://` address or `hf://OWNER/REPOSITORY[@REVISION][/FILE]`.
            config: config of a `.pth` or `.safetensors` file; None for a model by name:
                its own.
            classes: names of the labels, if the weights do not include them; None:
                `data.test.classes`.
            step: step of the checkpoint of a workdir; None: the one with the best AP.
            tta: test-time augmentation, as `test_cfg.tta` says.
            batch_size: images in a batch, which is divided over as many devices as
                divide it. Every batch is computed whole, so a batch with fewer images
                takes as long. None: `data.samples_per_gpu` per device, for many images.
            device: 'cpu', 'gpu' or 'tpu'; None: the best that there is.
            overrides: config fields to change: `{'test_cfg.score_thr': 0.3}`.

        Raises:
            ValueError: weights, config or classes are missing or do not fit.
            ConnectionError: the weights cannot be downloaded; says what to fetch, and
                where to put it.
        """
        if export.is_exported(source) or runtime.is_onnx(source):
            if config or step is not None or classes or overrides:
                raise ValueError(f'{source} is exported: {_CANNOT_BE_SET}')
            exported = _read_exported(source, device)
            inference = _infer_exported(exported, tta, batch_size)
            return cls(inference, exported.classes)
        local = devices.find_local(device)
        trained = load_trained(source, config, step, classes, overrides)
        inference = _infer(trained, local, tta, batch_size)
        return cls(inference, trained.classes)

    def predict(
        self,
        images: Image | Iterable[Image],
        score_thr: float = 0.0,
        *,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> list[ImageDetections]:
        """Detections in each image, in the order of the images.

        The first image of a canvas (by default there are two, landscape and portrait)
        waits until the model is compiled for it, later ones do not.

        Args:
            images: paths, (H,W,3) uint8 RGB arrays or PIL images, in any mixture; or a
                single one. Files are rotated as their EXIF orientation says, PIL
                images are not.
            score_thr: lowest score of the detections.
            tiles: larger images are also shown in square tiles of this side, in
                pixels, for objects that are small in them; None: they are not. Each
                tile takes as long as an image.
            overlap: by which neighboring tiles overlap at least, as a share of their
                side. Objects up to this size are detected in tiles, larger ones in the
                whole image.

        Raises:
            ValueError: an entry, which is named, is not an image; or there are no such
                tiles.
            OSError: a file cannot be read.
            RuntimeError: this process was forked from one that used devices.
        """
        forked.check()
        if _is_image(images):
            images = [images]

        def load(numbered):
            number, image = numbered
            return number, to_array(image, number)

        loaded = map_ahead(load, enumerate(images))
        by_number = {
            number: detections.keep(score_thr)
            for number, _, detections in self.stream(
                loaded, tiles=tiles, overlap=overlap
            )
        }
        return [by_number[number] for number in sorted(by_number)]

    def stream(
        self,
        images: Iterable[tuple[Any, np.ndarray]],
        *,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> Iterator[tuple[Any, np.ndarray, ImageDetections]]:
        """(key, image, detections) of each (key, image), as soon as they are known.

        Images on one canvas keep their order, others come when their batch is full.
        Only a few batches are in memory at a time.

        Args:
            images: keys of any kind, and (H,W,3) uint8 RGB arrays.
            tiles: as for `predict`.
            overlap: as for `predict`.

        Raises:
            ValueError: there are no such tiles.
            RuntimeError: this process was forked from one that used devices.
        """
        forked.check()
        tiling = None if tiles is None else Tiling(tiles, overlap)
        prepared = map_ahead(
            lambda pair: self._inference.prepare(pair, pair[1], tiling), images
        )
        for (key, image), (boxes, scores, labels, _) in self._inference.run(prepared):
            size = image.shape[:2]
            yield key, image, ImageDetections(boxes, scores, labels, self.classes, size)


def to_array(image: Image, name: Any = '') -> np.ndarray:
    """Reads or checks an image; gives an (H,W,3) uint8 RGB array.

    Args:
        image: a path, an array or a PIL image.
        name: name of the image in messages.

    Raises:
        ValueError: it is none of the three, or an array of another shape or type.
        OSError: the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        path = os.path.expanduser(image)
        if os.path.isdir(path):
            raise IsADirectoryError(f'{path} is a folder; give its images')
        return image_file.read(path)
    if _is_pil(image):
        return np.asarray(image.convert('RGB'))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise ValueError(
            f'image {name}: expected a path, an (H,W,3) uint8 RGB array or a PIL '
            f'image, got {_describe(image)}'
        )
    shape = image.shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f'image {name}: expected (H,W,3) uint8 RGB, got {list(shape)}; repeat a '
            'gray channel three times, and drop transparency'
        )
    return image


def _is_pil(image):
    return hasattr(image, 'convert') and hasattr(image, 'getbands')


def _is_image(value):
    """Whether a value is one image, or was meant to be one, rather than several."""
    if isinstance(value, np.ndarray):
        return value.ndim < 4 and value.dtype.kind not in 'OU'  # no array of paths
    if hasattr(value, 'dtype') and hasattr(value, 'ndim'):
        return value.ndim in (2, 3)  # of another library
    one = str | bytes | bytearray | memoryview | os.PathLike
    return isinstance(value, one) or _is_pil(value) or not isinstance(value, Iterable)


def _describe(value):
    """What was given in place of an image, and how to make an image of it."""
    if value is None:
        return 'None, which cv2.imread returns for a file that it cannot read'
    if isinstance(value, bytes | bytearray | memoryview):
        return (
            f'{len(value)} bytes; if they are an image file, give '
            'PIL.Image.open(io.BytesIO(...))'
        )
    if not hasattr(value, 'shape') or not hasattr(value, 'dtype'):
        return type(value).__name__
    kind = f'{value.dtype}{list(value.shape)}'
    if isinstance(value, np.ndarray):
        return kind
    library = type(value).__module__.partition('.')[0].removesuffix('lib')
    return (
        f'{kind}, an array of {library}: give a NumPy array, as np.asarray makes it, '
        'with the channels last'
    )


def _infer(trained, local, tta, batch_size):
    experiment = trained.experiment
    data, detect = experiment.data['test'], experiment.detect
    if batch_size is None:
        batch_size = experiment.samples_per_gpu * len(local)
    _check(batch_size)
    step = make_predict_step(experiment.detection_model, data.normalizer, detect)
    step = _mapped(step, trained.variables, devices.for_batch(local, batch_size))
    views = _views(data.pipeline, experiment.tta if tta else None)
    return Inference(step, views, detect, batch_size)


def _read_exported(source, device):
    """The detector of a file; a StableHLO program runs on one device of JAX."""
    if runtime.is_onnx(source):
        return runtime.read(source, device)
    local = devices.find_local(device)
    exported = export.read(source)
    step = _mapped(lambda _, batch: exported.step(batch), {}, local[:1])
    return exported._replace(step=step)


def _infer_exported(exported, tta, batch_size):
    batch_size = exported.samples_per_gpu if batch_size is None else batch_size
    _check(batch_size)
    views = _views(exported.pipeline, exported.tta if tta else None)
    return Inference(exported.step, views, exported.detect, batch_size)


def _mapped(step, variables, chosen):
    """The step as a function of host batches, divided over devices of this process."""
    mesh = devices.device_mesh(chosen)
    mapped = devices.map_rows(step, 'shard_map', mesh)
    variables = devices.replicate(variables, mesh)
    return lambda batch: mapped(variables, devices.shard_rows(batch, 'shard_map', mesh))


def _check(batch_size):
    if batch_size < 1:
        raise ValueError(f'batch_size = {batch_size}: expected 1 or more')


def _views(pipeline, tta):
    """The views in which each image is shown, whatever its shape."""
    views = variants(pipeline, tta)
    return [Variant(for_any_image(view.pipeline), view.flip) for view in views]
