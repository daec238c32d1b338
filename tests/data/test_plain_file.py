"""The fast reader of COCO files gives what the reader of each record gives, or nothing.

`FUZZ_EXAMPLES=20000 pytest tests/data/test_plain_file.py` looks much longer.
"""

import copy
import json
import os
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from atss_jax.data.coco import annotation_file
from atss_jax.data.coco.plain_file import read_plain

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '100'))

CONTENT = {
    'info': {'year': 2017, 'about': ['a', {'b': None}]},
    'images': [
        {
            'id': 7,
            'file_name': 'a/ü\u4e2d.jpg',
            'height': 30,
            'width': 40,
            'license': 1,
        },
        {'width': 2**20, 'height': 1, 'file_name': 'b"\\\n.jpg', 'id': -(2**63)},
        {'id': 2**63 - 1, 'file_name': '\U0001f600', 'height': 3, 'width': 4},
    ],
    'annotations': [
        {
            'id': 5,
            'image_id': 7,
            'category_id': 3,
            'bbox': [0, 1.5, 20, 1e15],
            'area': 12,
            'iscrowd': 0,
            'segmentation': [[1, 2.5, 3e5, -4]],
        },
        {'id': 6, 'image_id': 2**63 - 1, 'category_id': 1, 'bbox': [-0.0, 0, -3, 0.1]},
        {
            'id': 0,
            'image_id': 7,
            'category_id': 3,
            'bbox': [5e-324, 1 / 3, 0.1 + 0.2, 123456.789],
            'area': None,
            'iscrowd': True,
            'ignore': 1,
            'segmentation': {'counts': 'a\\b', 'size': [30, 40]},
        },
        {
            'id': -1,
            'image_id': 7,
            'category_id': 1,
            'bbox': [1e12, 1, 1e12, 1e12],
            'iscrowd': None,
            'ignore': 0.0,
        },
    ],
    'categories': [{'id': 3, 'name': 'cat'}, {'id': 1, 'name': 'Hünd', 'more': 2**70}],
}


def text_of(content=CONTENT, **options):
    return json.dumps(content, **options).encode()


def outcome(read, path, **options):
    """What a reader does: the table in bytes or the error, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        try:
            table = read(str(path), **options)
        except ValueError as error:
            result = str(error)
        else:
            result = {
                name: (value.dtype, value.shape, value.tobytes())
                if isinstance(value, np.ndarray)
                else value
                for name, value in vars(table).items()
            }
    return result, [(w.category, str(w.message)) for w in caught]


def check_same(path, **options):
    """Both readers do the same; returns what."""
    fast = outcome(annotation_file.read, path, **options)
    assert fast == outcome(annotation_file.read_with_checks, path, **options)
    return fast[0]


def check(folder, content, is_plain):
    """As `check_same`, and whether the fast reader itself reads the content."""
    path = folder / 'a.json'
    path.write_bytes(content)
    assert (read_plain(str(path), content) is not None) == is_plain
    for training in (True, False):
        for on_error in ('raise', 'skip'):
            result = check_same(path, training=training, on_error=on_error)
    return result


class TestPlain:
    @pytest.mark.parametrize(
        'options', [{}, {'indent': 1}, {'ensure_ascii': False}, {'sort_keys': True}]
    )
    def test_the_same_table(self, tmp_path, options):
        result = check(tmp_path, text_of(**options), is_plain=True)
        assert result['file_names'] == ['a/ü中.jpg', 'b"\\\n.jpg', '😀']
        assert result['categories'] == {3: 'cat', 1: 'Hünd'}

    def test_nothing_annotated(self, tmp_path):
        content = CONTENT | {'annotations': []}
        check(tmp_path, text_of(content), is_plain=True)
        check(tmp_path, text_of(content | {'images': []}), is_plain=True)

    @pytest.mark.parametrize('classes', [None, ('cat',), ('Hünd', 'bird')])
    @pytest.mark.parametrize('with_root', [True, False])
    def test_categories_without_annotations(self, tmp_path, classes, with_root):
        """Twins and Roboflow's root: the same are left out, with the same warnings."""
        content = copy.deepcopy(CONTENT)
        content['categories'] += [
            {'id': 8, 'name': 'cat'},
            {'id': 9, 'name': 'all', 'supercategory': 'none'},
            {'id': 10, 'name': 'bird', 'supercategory': 'all'},
        ]
        (tmp_path / 'a.json').write_bytes(text_of(content))
        assert read_plain('a', text_of(content)) is not None
        check_same(tmp_path / 'a.json', classes=classes, with_root=with_root)

    def test_the_last_of_equal_keys_counts(self, tmp_path):
        first, last = text_of(CONTENT | {'images': []}), text_of()
        result = check(tmp_path, first[:-1] + b',' + last[1:], is_plain=True)
        assert len(result['file_names']) == 3
        twice = text_of().replace(
            b'"id": 6,', b'"id": 4, "bbox": [9, 9, 9, 9], "id": 6,'
        )
        check(tmp_path, twice, is_plain=True)


def replaced(old, new):
    content = text_of(ensure_ascii=False)
    assert old in content
    return content.replace(old, new)


ELSEWHERE = b'"year": 2017'  # in a field that msgspec leaves out
AREA = b'"area": 12'


@pytest.mark.parametrize(
    'content',
    [
        # What Python reads, and msgspec does not.
        replaced(ELSEWHERE, b'"year": NaN'),
        replaced(ELSEWHERE, b'"year": -Infinity'),
        replaced(ELSEWHERE, b'"year": "\\ud800"'),
        replaced(ELSEWHERE, b'"year": "\xed\xa0\x80"'),
        replaced(AREA, b'"area": NaN'),
        replaced(AREA, b'"area": 1e999'),
        replaced(b'"Hx"'.replace(b'x', 'ünd'.encode()), b'"\\udc00"'),
        b'\xef\xbb\xbf' + text_of(),
        text_of().decode().encode('utf-16'),
        text_of().decode().encode('utf-32-le'),
        # What Python does not read, and msgspec might.
        replaced(ELSEWHERE, b'"year": "\xff"'),
        replaced(ELSEWHERE, b'"year": "\xc0\x80"'),
        replaced(ELSEWHERE, b'"\xff": 1'),
        replaced(ELSEWHERE, b'"year": ' + b'1' * 4400),
        replaced(ELSEWHERE, b'"year": "\t"'),
        replaced(ELSEWHERE, b'"year": 01'),
        replaced(ELSEWHERE, b'"year": [1,]'),
        replaced(ELSEWHERE, b'"year": ' + b'[' * 3000 + b']' * 3000),
        text_of() + b'x',
        text_of()[:-1],
        b'',
        # Values that break a rule.
        replaced(AREA, b'"area": 1e16'),
        replaced(AREA, b'"area": -1000000000000001'),
        replaced(AREA, b'"area": true'),
        replaced(AREA, b'"area": "12"'),
        replaced(b'"iscrowd": 0', b'"iscrowd": 2'),
        replaced(AREA, b'"ignore": {"segmentation": 1}'),
        replaced(AREA, b'"ignore": "0"'),
        replaced(b'[0, 1.5, 20,', b'[0, 1.5,'),
        replaced(b'[0, 1.5, 20,', b'[0, null, 20,'),
        replaced(b'[0, 1.5, 20,', b'[0, 1' + b'0' * 400 + b', 20,'),
        replaced(b'"id": 5,', b'"id": 6,'),
        replaced(b'"id": 5,', b'"id": 5.0,'),
        replaced(b'"id": 5,', b'"id": true,'),
        replaced(b'"id": 5,', b''),
        replaced(b'"id": 5,', b'"id": 9223372036854775808,'),
        replaced(b'"image_id": 7', b'"image_id": 8'),
        replaced(b'"id": 9223372036854775807', b'"id": 7'),
        replaced(b'"height": 30', b'"height": 0'),
        replaced(b'"height": 30', b'"height": 1048577'),
        replaced(b'"height": 30', b'"height": null'),
        replaced(b'"\xf0\x9f\x98\x80"', b'""'),
        replaced(b'"\xf0\x9f\x98\x80"', b'"\\u0000"'),
        replaced(b'"\xf0\x9f\x98\x80"', b'"' + b'a' * 1025 + b'"'),
        text_of(CONTENT | {'images': {}}),
        text_of(CONTENT | {'annotations': None}),
        text_of(CONTENT | {'categories': {'id': 1}}),
        text_of({'images': []}),
        text_of([CONTENT]),
    ],
)
def test_the_other_reader_speaks(tmp_path, content):
    """About all that is unusual or wrong, with its own messages."""
    check(tmp_path, content, is_plain=False)


@pytest.mark.parametrize(
    'categories',
    [
        [{'id': 3, 'name': 'cat'}],  # an annotation has another: left out
        [{'id': 3, 'name': 'cat'}, {'id': 1, 'name': 'cat'}],
        [{'id': 3, 'name': 'cat'}, {'id': 1}],
        [{'id': 3, 'name': 'cat'}, {'id': 1, 'name': '', 'segmentation': 1}],
        [{'id': 3, 'name': 'cat'}, {'id': True, 'name': 'dog'}],
        [{'id': 3, 'name': 'cat'}, {'id': 2**70, 'name': 'dog'}],
        [{'id': 3, 'name': 'cat'}, {'id': [1], 'name': 'dog'}, 5],
        [],
    ],
)
def test_wrong_categories(tmp_path, categories):
    """They depend on what is wanted: the same messages, each once.

    Annotations of unknown ones are left out.
    """
    check(tmp_path, text_of(CONTENT | {'categories': categories}), is_plain=True)


# fmt: off
PIECES = (
    b'', b'"', b'\\', b',', b'{', b']', b'-', b'0', b'1e5', b'.', b'null', b'true',
    b'NaN', b'\x00', b'\xff', b'\\u', b'\\ud83d', b' ', b'\n', b'"id": 3, ',
)
# fmt: on


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(st.data())
def test_any_change_of_the_bytes(tmp_path_factory, data):
    """A few places are overwritten with what matters in JSON or anything."""
    content = bytearray(text_of(ensure_ascii=data.draw(st.booleans())))
    pieces = st.sampled_from(PIECES) | st.binary(max_size=3)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = min(start + data.draw(st.integers(0, 3)), len(content))
        content[start:end] = data.draw(pieces)
    path = tmp_path_factory.getbasetemp() / 'changed.json'
    path.write_bytes(content)
    check_same(path, on_error=data.draw(st.sampled_from(['raise', 'skip'])))
