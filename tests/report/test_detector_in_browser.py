"""The page of a detector in headless Chromium, opened as a file: as Python detects."""

import base64
import json

import cv2
import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.data import image_file
from atss_jax.inference.detector import Detector
from atss_jax.report.detector_page import WebDetector, write_detector_page
from atss_jax.training.trained_model import load_trained
from tests.support import browser, onnx_models
from tests.support.configs import R50

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.find() is None, reason='needs chromium'),
]
_FAKE_WEBCAM = (
    '--use-fake-ui-for-media-stream',
    '--use-fake-device-for-media-stream',
)


@pytest.fixture(scope='module', params=['cv2', 'pillow'])
def backend(request):
    return request.param


@pytest.fixture(scope='module')
def path(small_run, backend, tmp_path_factory):
    pytest.importorskip('onnxruntime')
    from atss_jax.inference.onnx_file.write import serialize

    trained = load_trained(small_run.workdir)
    path = tmp_path_factory.mktemp('page') / 'detector.html'
    _write_page(path, trained, serialize(trained, heads=False), backend)
    return path


def _write_page(path, trained, model, backend='cv2'):
    pipeline = trained.experiment.data['test'].pipeline
    detector = WebDetector(
        'Shapes',
        model,
        trained.classes,
        pipeline.img_scale,
        pipeline.keep_ratio,
        backend,
        trained.experiment.model.size_divisor,
    )
    write_detector_page(path, detector)


@pytest.fixture(scope='module')
def expected(small_run, backend):
    overrides = {'data.test.pipeline.backend': backend}
    return Detector.load(small_run.workdir, overrides=overrides)


@pytest.fixture
def page(path):
    with browser.page(*_FAKE_WEBCAM) as page:
        page.open(path)
        page.wait_for('document.body.dataset.ready')
        yield page
        own = [url for url in page.requests if not url.startswith(('blob:', 'data:'))]
        assert own == [path.absolute().as_uri()], 'the page asks nobody'
        assert page.problems == []


def _status(page):
    return page.run('document.getElementById("status").textContent')


def _detections(page):
    return json.loads(page.run('JSON.stringify(current.result.detections)'))


def _detected(page):
    page.wait_for('current && current.result.detectMs !== undefined')
    return _detections(page)


def _assert_same(detections, expected):
    """Nearly equal scores may come in another order."""
    assert len(expected) > 3
    assert len(detections) == len(expected)
    rest = list(detections)
    for box, score, label in zip(
        expected.boxes, expected.scores, expected.labels, strict=True
    ):
        same = [one for one in rest if one['label'] == label]
        nearest = min(same, key=lambda one: np.abs(one['box'] - box).max())
        np.testing.assert_allclose(nearest['box'], box, atol=1)
        assert nearest['score'] == pytest.approx(float(score), abs=0.001)
        rest.remove(nearest)


def _drop(page, path):
    """Drops a file on the page, as from a file manager."""
    content = base64.b64encode(path.read_bytes()).decode()
    page.run(
        f"""(() => {{
          const bytes = Uint8Array.from(atob({content!r}), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], {path.name!r}));
          const options = {{ dataTransfer: data, bubbles: true, cancelable: true }};
          document.dispatchEvent(new DragEvent('drop', options));
        }})()"""
    )


def test_dropped_images_have_the_boxes_of_python(page, expected, small_data, tmp_path):
    """Landscape, portrait, and one that is reduced in both directions."""
    large = tmp_path / 'large.png'
    image = image_file.read(sorted((small_data / 'val').iterdir())[0])
    cv2.imwrite(str(large), cv2.resize(image, (301, 199))[..., ::-1])
    for path in (*sorted((small_data / 'val').iterdir())[:3], large):
        page.run('current = null')
        _drop(page, path)
        (of_python,) = expected.predict(path)
        _assert_same(_detected(page), of_python)


def test_chosen_image(page, expected, small_data):
    path = sorted((small_data / 'val').iterdir())[0]
    page.choose_file('#file', path)
    _assert_same(_detected(page), expected.predict(path)[0])
    assert 'ms to detect' in _status(page)


def test_search_without_a_class_says_so(page):
    page.run(
        'document.getElementById("search").value = "zebra";'
        'document.getElementById("search").dispatchEvent(new Event("input"))'
    )
    assert not page.run('document.getElementById("no-class").hidden')


def test_slider_and_classes_choose_what_is_shown(page, small_data):
    page.choose_file('#file', sorted((small_data / 'val').iterdir())[0])
    detections = _detected(page)

    def shown():
        return page.run('document.querySelectorAll("#found li").length')

    def move_to(value):
        page.run(
            f'document.getElementById("threshold").value = "{value}";'
            'document.getElementById("threshold").dispatchEvent(new Event("input"))'
        )

    move_to(0)
    assert shown() == len(detections)
    page.run('document.getElementById("none").click()')
    assert shown() == 0
    page.run('document.querySelectorAll("#classes input")[1].click()')
    assert shown() == sum(one['label'] == 1 for one in detections)
    page.run('document.getElementById("all").click()')
    move_to(0.9)
    assert shown() == sum(one['score'] >= 0.9 for one in detections) < len(detections)


def test_file_that_is_no_image(page, tmp_path, small_data):
    """What an image before it had is not shown as if it were of this file."""
    page.choose_file('#file', sorted((small_data / 'val').iterdir())[0])
    assert _detected(page)
    path = tmp_path / 'notes.txt'
    path.write_text('not an image')
    _drop(page, path)
    page.wait_for('document.querySelector("#status.error")')
    assert _status(page) == 'notes.txt is no image that this browser can read.'
    assert page.run('document.getElementById("image").hidden')
    assert page.run('document.querySelectorAll("#found li").length') == 0
    page.choose_file('#file', sorted((small_data / 'val').iterdir())[0])
    _detected(page)
    assert not page.run('document.querySelector("#status.error") !== null')


def test_webcam_is_followed_until_it_is_stopped(page):
    page.run('document.getElementById("webcam").click()')
    page.wait_for('document.getElementById("status").textContent.includes("frames/s")')
    assert (
        page.run('document.getElementById("webcam").textContent') == 'Stop the webcam'
    )
    page.run('document.getElementById("webcam").click()')
    page.wait_for('!busy')
    assert page.run('document.getElementById("webcam").textContent') == 'Use the webcam'
    assert page.run('stream === null')


def test_image_takes_the_place_of_the_webcam(page, expected, small_data):
    page.run('document.getElementById("webcam").click()')
    page.wait_for('current && current.name === "webcam"')
    path = sorted((small_data / 'val').iterdir())[1]
    page.choose_file('#file', path)
    page.wait_for(f'current.name === {path.name!r} && current.result.detectMs')
    _assert_same(_detections(page), expected.predict(path)[0])


def test_all_classes_are_chosen_at_once(page, small_data):
    """Not one after the other, each with a drawing of the whole image."""
    page.choose_file('#file', sorted((small_data / 'val').iterdir())[0])
    _detected(page)
    page.run(
        'globalThis.draws = 0; const before = draw; draw = () => { draws++; before(); }'
    )
    for name, checked in (('none', 0), ('all', 3)):
        page.run(f'document.getElementById("{name}").click()')
        assert (
            page.run('document.querySelectorAll("#classes :checked").length') == checked
        )
        assert page.run('shownClasses.size') == checked
    assert page.run('draws') == 2


def test_a_second_click_opens_no_second_webcam(page):
    page.run(
        'globalThis.asked = 0;'
        'const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);'
        'navigator.mediaDevices.getUserMedia = (x) => { asked++; return get(x); };'
        'for (let i = 0; i < 2; i++) document.getElementById("webcam").click();'
    )
    page.wait_for('document.getElementById("status").textContent.includes("frames/s")')
    assert page.run('asked') == 1


def test_no_time_is_shown_before_it_is_known(page, small_data):
    page.choose_file('#file', sorted((small_data / 'val').iterdir())[0])
    page.run('startWebcam()')
    page.wait_for('stream')
    page.run('current = { image: current.image, result: { detections: [] } }')
    page.run('stopWebcam()')
    assert 'NaN' not in _status(page)


@pytest.mark.parametrize(
    'name',
    [
        'ResNeXt with DCN, levels on_input, DCN in the towers',
        'DyHead',
        'Swin, windows of 3',
    ],
)
def test_the_browser_has_the_operations_of_every_model(name, tmp_path):
    """The file itself was compared with JAX by other tests.

    The image needs no resize: generated weights multiply its rounding.
    """
    pytest.importorskip('onnxruntime')
    from atss_jax.inference.onnx_file.write import serialize

    build, anchors = onnx_models.SMALL[name]
    fields = {'data.test.pipeline.img_scale': (96, 64)}
    experiment = build_experiment(load_config(R50, fields))
    model = onnx_models.trained(experiment, build(), **anchors)
    content = serialize(model, heads=False)
    (tmp_path / 'model.onnx').write_bytes(content)
    _write_page(tmp_path / 'page.html', model, content)
    path = tmp_path / 'noise.png'
    noise = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    cv2.imwrite(str(path), noise)
    detector = Detector.load(tmp_path / 'model.onnx', device='cpu')
    with browser.page() as page:
        page.open(tmp_path / 'page.html')
        page.wait_for('document.body.dataset.ready')
        page.choose_file('#file', path)
        _assert_same(_detected(page), detector.predict(path)[0])
