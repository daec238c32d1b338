"""`Detector`: the same detections as the evaluation, from every kind of image."""

import sys
import threading
import types

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.config import build_experiment
from atss_jax.config.experiment import open_sources
from atss_jax.data.transforms import flip_boxes
from atss_jax.distributed import devices
from atss_jax.evaluation.run import make_evaluator, make_predict_step
from atss_jax.inference import detector as api
from atss_jax.inference.detector import Detector
from atss_jax.training.convert import convert
from atss_jax.training.workdir import config_path
from tests.support.small_run import CLASSES, LANDSCAPE


@pytest.fixture(scope='module')
def detector(small_run):
    return Detector.load(small_run.workdir, batch_size=2)


@pytest.fixture(scope='module')
def paths(small_data):
    return sorted((small_data / 'val').iterdir())


def assert_same(one, other, tolerance=1e-4):
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=tolerance)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=100 * tolerance)


def read(path):
    return cv2.imread(str(path))[..., ::-1]


class Image:
    """The interface of PIL images that is used."""

    def __init__(self, array):
        self.array = array

    def getbands(self):
        return ('L',)

    def convert(self, mode):
        assert mode == 'RGB'
        return self.array


def test_the_same_as_the_evaluation(detector, small_run, paths):
    """Nine images of two canvases, in batches of two, some of which are not full."""
    experiment = build_experiment(small_run.config)
    source = open_sources(experiment, ('test',))['test']
    evaluator = make_evaluator(experiment, source, 'test')
    expected = evaluator.detections(devices.replicate(small_run.state.variables))
    best = detector.predict(paths)
    assert sum(map(len, best)) > 50
    sizes = {}
    for path, one in zip(paths, best, strict=True):
        theirs = expected[int(path.stem)]
        assert one.labels.tolist() == theirs.labels.tolist()
        np.testing.assert_allclose(one.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, theirs.boxes, atol=1e-3)
        assert one.names == [CLASSES[label] for label in one.labels]
        sizes[path] = one.size
    assert sizes == {path: read(path).shape[:2] for path in paths}


def test_paths_arrays_and_pil_are_equal(detector, paths):
    array = read(paths[0])
    by_path, by_text, by_array, by_pil = detector.predict(
        [paths[0], str(paths[0]), array, Image(array)]
    )
    (alone,) = detector.predict(paths[0])
    for other in (by_text, by_array, by_pil, alone):
        assert_same(by_path, other, 1e-6)
    assert detector.predict([]) == []


def test_thresholds_and_classes(detector, paths):
    (every,) = detector.predict(paths[0])
    middle = float(np.median(every.scores))
    (some,) = detector.predict(paths[0], score_thr=middle)
    assert 0 < len(some) < len(every) and (some.scores >= middle).all()
    red = every.keep(labels=[0])
    assert set(red.names) == {'red'}


@pytest.mark.parametrize('labels', [['star'], [3], [-1]])
def test_unknown_labels_are_refused(detector, paths, labels):
    (detections,) = detector.predict(paths[0])
    with pytest.raises(ValueError, match='expected indices into `classes`, 0 to 2'):
        detections.keep(0.0, labels)


def test_one_program_per_canvas_and_threads_may_share(small_run, paths, monkeypatch):
    traces = []

    def counted(*arguments):
        step = make_predict_step(*arguments)

        def traced(*inputs):
            traces.append(1)
            return step(*inputs)

        return traced

    monkeypatch.setattr(api, 'make_predict_step', counted)
    detector, detections = Detector.load(small_run.workdir), {}

    def work(number):
        detections[number] = detector.predict(paths[:4])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(traces) == 2  # landscape, portrait
    assert sorted(detections) == [0, 1, 2, 3]
    for one in detections.values():
        for a, b in zip(one, detections[0], strict=True):
            assert_same(a, b, 1e-6)
    detector.predict(paths)
    assert len(traces) == 2


def test_with_flip_a_mirrored_image_has_mirrored_detections(small_run, paths):
    detector = Detector.load(small_run.workdir, tta=True, batch_size=2)
    assert detector.flip and detector.img_scales == ((64, 32),)
    image = read(paths[0])
    plain, mirrored = detector.predict([image, np.ascontiguousarray(image[:, ::-1])])
    assert len(plain) > 5
    back = flip_boxes(mirrored.boxes, image.shape[1])
    np.testing.assert_allclose(back, plain.boxes, atol=1e-3)
    np.testing.assert_allclose(mirrored.scores, plain.scores, atol=1e-5)


def test_from_files_of_weights(detector, small_run, paths, tmp_path):
    config = config_path(str(small_run.workdir))
    (expected,) = detector.predict(paths[0])
    for name in ('weights.pth', 'weights.safetensors'):
        file = str(tmp_path / name)
        convert(str(small_run.workdir), file)
        (detections,) = Detector.load(file, config).predict(paths[0])
        assert detections.classes == CLASSES
        assert_same(detections, expected)


def test_to_supervision(detector, paths, monkeypatch):
    """The arguments passed on; `supervision` itself need not be installed."""
    module = types.ModuleType('supervision')
    module.Detections = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, 'supervision', module)
    (detections,) = detector.predict(paths[0])
    theirs = detections.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, detections.boxes)
    np.testing.assert_array_equal(theirs.confidence, detections.scores)
    np.testing.assert_array_equal(theirs.class_id, detections.labels)
    assert theirs.data['class_name'].tolist() == detections.names


# Bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('image', 'part'),
    [
        (np.zeros((*LANDSCAPE, 3), np.float32), 'float32[40, 80, 3]'),
        (np.zeros(LANDSCAPE, np.uint8), 'got [40, 80]'),
        (np.zeros((*LANDSCAPE, 4), np.uint8), 'drop transparency'),
        (np.zeros((0, 80, 3), np.uint8), 'got [0, 80, 3]'),
        ([1, 2], 'got list'),
    ],
)
def test_what_is_not_an_image(detector, image, part):
    with pytest.raises(ValueError, match='image 0') as caught:
        detector.predict([image])
    assert part in str(caught.value)


class OfAnotherLibrary:
    """A stand-in for a torch tensor on (3,H,W), which can be iterated over."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.ndim = array.ndim

    def __iter__(self):
        return iter(self.array)


@pytest.mark.parametrize(
    ('image', 'parts'),
    [
        (None, ['got None', 'cv2.imread']),
        (b'\xff\xd8\xff', ['got 3 bytes', 'PIL.Image.open']),
        (bytearray(b'ab'), ['got 2 bytes']),
        (memoryview(b'ab'), ['got 2 bytes']),
        (jnp.zeros((*LANDSCAPE, 3), jnp.uint8), ['uint8[40, 80, 3], an array of jax:']),
        (jnp.zeros(LANDSCAPE), ['float32[40, 80]', 'np.asarray']),
        (OfAnotherLibrary(np.zeros((3, 4, 4))), ['float64[3, 4, 4]', 'channels last']),
        (3, ['got int']),
        (3.5, ['got float']),
        (np.zeros(()), ['float64[]']),
    ],
)
def test_what_is_not_an_image_is_refused_alone_and_in_a_list(detector, image, parts):
    for images in (image, [image], (one for one in [image])):
        with pytest.raises(ValueError, match='image 0: expected a path') as caught:
            detector.predict(images)
        for part in parts:
            assert part in str(caught.value)


def test_arrays_of_paths_are_several_images(detector, paths):
    expected = detector.predict(paths[:2])
    for kind in (str, object):
        for one, other in zip(
            detector.predict(np.array([*map(str, paths[:2])], kind)),
            expected,
            strict=True,
        ):
            assert_same(one, other)


def test_files_that_are_not_images(detector, tmp_path, paths):
    file = tmp_path / 'notes.jpg'
    file.write_text('not an image')
    with pytest.raises(ValueError, match=r'notes\.jpg: not an image \(JPEG'):
        detector.predict([paths[0], file])
    with pytest.raises(FileNotFoundError, match=r'none\.png'):
        detector.predict(tmp_path / 'none.png')
    bomb = bytearray(cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    bomb[16:24] = (60000).to_bytes(4, 'big') * 2
    file.write_bytes(bomb)
    with pytest.raises(ValueError, match='60000x60000'):
        detector.predict(file)


def test_what_cannot_be_loaded(small_run, tmp_path):
    workdir = str(small_run.workdir)
    weights = str(tmp_path / 'none.pth')
    for arguments, part in [
        ((tmp_path,), 'not the workdir of a run'),
        ((weights,), 'give the config of its model with --model_config=CONFIG'),
        ((weights, config_path(workdir)), 'no file of weights at'),
        ((workdir, config_path(workdir)), 'has a config'),
    ]:
        with pytest.raises((ValueError, OSError), match=part):
            Detector.load(*arguments)
    for options, part in [
        ({'classes': ('a', 'b', 'c')}, 'was trained for'),
        ({'step': 5}, 'no checkpoint 5'),
        ({'batch_size': 0}, 'expected 1 or more'),
        ({'device': 'tpu'}, "no tpu that JAX can use; it sees \\['cpu'\\]"),
        ({'overrides': {'test_cfg.score_th': 0.3}}, "mean 'test_cfg.score_thr'"),
    ]:
        with pytest.raises(ValueError, match=part):
            Detector.load(workdir, **options)
