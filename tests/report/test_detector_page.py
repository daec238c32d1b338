"""A detector as one web page: what is in the file."""

import base64
import gzip
import json
import re

import pytest

from atss_jax.report import web_runtime
from atss_jax.report.detector_page import WebDetector, page
from atss_jax.report.web_runtime import WebRuntime, as_worker_script

_RUNTIME = WebRuntime('self.ort = {};', b'\0asm')
_DETECTOR = WebDetector(
    name='A <b>bold</b> name',
    model=b'the model',
    classes=['</script><script>alert(1)</script>', 'cat & dog', '$name'],
    img_scale=(640, 480),
    keep_ratio=True,
    backend='cv2',
    size_divisor=32,
    description='3 < 4',
)


def _script(text, id_):
    found = re.findall(rf'<script type="[^"]*" id="{id_}">(.*?)</script>', text, re.S)
    assert len(found) == 1
    return found[0]


def test_page_has_the_model_and_the_runtime():
    text = page(_DETECTOR, _RUNTIME)

    def unpacked(id_):
        return gzip.decompress(base64.b64decode(_script(text, id_)))

    assert unpacked('model') == b'the model'
    assert unpacked('wasm') == b'\0asm'
    assert unpacked('worker').startswith(b'self.ort = {};\n')
    assert b'async function detect' in unpacked('worker')


def test_details_are_those_of_the_detector():
    details = json.loads(_script(page(_DETECTOR, _RUNTIME), 'details'))
    assert details['classes'] == list(_DETECTOR.classes)
    assert details['imgScale'] == [640, 480]
    assert details['keepRatio'] is True
    assert details['backend'] == 'cv2'
    assert details['sizeDivisor'] == 32
    assert len(set(details['colors'])) == 3


def test_names_are_text_and_not_markup():
    text = page(_DETECTOR, _RUNTIME)
    assert '<b>bold' not in text
    assert '3 &lt; 4' in text
    assert 'alert(1)</script>' not in text


def test_same_detector_gives_the_same_page():
    assert page(_DETECTOR, _RUNTIME) == page(_DETECTOR, _RUNTIME)


def test_page_may_reach_no_network():
    text = page(_DETECTOR, _RUNTIME)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none';")
    assert 'connect-src' not in policy
    assert 'http' not in policy


def test_module_becomes_a_script_that_sets_ort():
    module = (
        'var a=1,b=2,c=3;let url=import.meta.url;'
        'export{a as InferenceSession,b as Tensor,c as default,env};\n'
        '//# sourceMappingURL=ort.map\n'
    )
    script = as_worker_script(module)
    assert 'self.ort={InferenceSession:a,Tensor:b,env:env};' in script
    assert 'export' not in script
    assert 'import.meta' not in script
    assert 'sourceMappingURL' not in script


def test_module_without_exports_is_refused():
    with pytest.raises(ValueError, match='expected one list of exports, got 0'):
        as_worker_script('var a=1;')


def test_other_file_in_place_of_the_runtime_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path))
    package = tmp_path / f'onnxruntime-web-{web_runtime.VERSION}.tgz'
    package.write_bytes(b'a page of a proxy')
    with pytest.raises(
        ValueError, match=r'expected d2228df7.*; remove it, to download'
    ):
        web_runtime.load()
