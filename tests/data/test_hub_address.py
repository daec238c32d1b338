"""Addresses `hf://...`, and the formats of boxes that they name."""

import sys

import numpy as np
import pytest

from atss_jax.data.forms import hub_address
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from atss_jax.data.forms.objects_column import to_xywh
from tests.support.hugging_face import write_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'data'


def read(path):
    return find(str(path)).read('all')


XYWH = [10.0, 4.0, 20.0, 8.0]  # in an image of 40 x 80 (height x width)
FORMATS = {
    'xywh': [10, 4, 20, 8],
    'xyxy': [10, 4, 30, 12],
    'cxcywh': [20, 8, 20, 8],
    'relative_xywh': [0.125, 0.1, 0.25, 0.2],
    'relative_xyxy': [0.125, 0.1, 0.375, 0.3],
    'relative_cxcywh': [0.25, 0.2, 0.25, 0.2],
}


@pytest.mark.parametrize('box_format', FORMATS)
def test_each_format_of_boxes(box_format):
    boxes = np.array([FORMATS[box_format]])
    np.testing.assert_allclose(
        to_xywh(boxes, box_format, np.array([[40, 80]])), [XYWH], rtol=1e-15
    )


def test_a_local_address_says_which_format(folder, monkeypatch):
    objects = {'bbox': [[10, 4, 30, 12]], 'category': [1]}
    write_folder(folder, [{'file_name': 'a.png', 'objects': objects}])
    found = read(f'hf://{folder}?bbox=xyxy')
    assert found.boxes.tolist() == [XYWH] and found.areas.tolist() == [160]
    monkeypatch.chdir(folder.parent)
    assert read('hf://./data?bbox=xyxy').boxes.tolist() == [XYWH]
    assert read('hf://./data').boxes.tolist() == [[10, 4, 30, 12]]


def test_boxes_of_another_format_are_suspected(folder):
    objects = {'bbox': [[20, 20, 55, 38]], 'category': [1]}
    write_folder(folder, [{'file_name': 'a.png', 'objects': objects}])
    with pytest.warns(UserWarning, match='Are they x1, y1, x2, y2'):
        AutoDataset(str(folder), 'all')


@pytest.mark.parametrize(
    ('address', 'fields'),
    [
        ('hf://o/n', ('o/n', False, None, None, 'xywh')),
        ('hf://datasets/o/n', ('o/n', False, None, None, 'xywh')),
        ('hf://o/n@v1/full?bbox=xyxy', ('o/n', False, 'v1', 'full', 'xyxy')),
        ('hf://o/n@refs%2Fpr%2F1', ('o/n', False, 'refs/pr/1', None, 'xywh')),
        ('hf:///a/b/c', ('/a/b/c', True, None, None, 'xywh')),
    ],
)
def test_addresses(address, fields):
    found = hub_address.parse(address)
    assert (
        found.name,
        found.is_local,
        found.revision,
        found.config,
        found.box_format,
    ) == fields


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('hf://cppe-5', 'expected hf://OWNER/NAME'),
        ('hf://a/b/c/d/e', 'expected hf://OWNER/NAME'),
        (
            'hf://o/n?bbox=yxyx',
            'expected bbox= and one of xywh, xyxy, cxcywh, relative_',
        ),
        ('hf://o/n?box=xyxy', 'after ? expected bbox='),
        ('hf://./nowhere', 'there is no metadata.jsonl'),
    ],
)
def test_wrong_addresses(address, message):
    with pytest.raises(ValueError) as caught:
        find(address)
    assert message in str(caught.value) and address in str(caught.value)


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ValueError, match=r"pip install 'atss-jax\[hf\]'"):
        find('hf://owner/cells')
