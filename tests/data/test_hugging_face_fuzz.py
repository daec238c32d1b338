"""Malformed rows with `objects`: ValueErrors that name file and line, nothing else.

`FUZZ_EXAMPLES=20000 pytest tests/data/test_hugging_face_fuzz.py` looks much longer.
"""

import copy
import json
import re
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from atss_jax.data.batch import Pipeline
from atss_jax.data.forms.dataset import AutoDataset
from tests.data.test_coco_fuzz import EXAMPLES, JSON, at, places, settings
from tests.support.hugging_face import ROWS, write_folder

RECORD = re.compile(r'line \d+(, object \d+)?[: ]')
WHOLE_FILE = re.compile(
    'there are no rows|no column objects|none of its [0-9]+ images|nothing says their '
    'names|no classes|not a text file'
)


@st.composite
def mutations(draw):
    """The rows with one to three changes, at any depth."""
    rows = copy.deepcopy(ROWS)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(rows))))
        if not path:
            continue
        parent = at(rows, path[:-1])
        change = draw(st.sampled_from(('replace', 'delete', 'repeat')))
        if change == 'replace':
            parent[path[-1]] = draw(JSON)
        elif change == 'delete':
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
    return rows


@pytest.fixture(scope='module')
def load(tmp_path_factory):
    """Loads these lines: what comes out, and the warnings as texts."""
    folder = write_folder(tmp_path_factory.mktemp('fuzz'), ROWS)

    def load(content, on_error, test_mode):
        (folder / 'metadata.jsonl').write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                result = AutoDataset(
                    str(folder), 'all', on_error=on_error, test_mode=test_mode
                )
            except ValueError as error:
                result = error
        texts = [str(warning.message) for warning in caught]
        for text in [*texts, *([str(result)] if type(result) is ValueError else [])]:
            assert str(folder) in text
            assert len(text) < 1200  # it is for people to read
        return result, texts

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ATSS_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield load


def check(load, content, test_mode):
    strict, _ = load(content, 'raise', test_mode)
    lenient, said = load(content, 'skip', test_mode)
    left_out = [text for text in said if 'left out' in text]
    if not isinstance(strict, ValueError):
        assert not left_out
        assert lenient.ground_truth() == strict.ground_truth()
        return check_valid(strict)
    message = str(strict)
    assert RECORD.search(message) or WHOLE_FILE.search(message), message
    if isinstance(lenient, ValueError):
        assert WHOLE_FILE.search(str(lenient)), str(lenient)
        return None
    assert left_out
    return check_valid(lenient)


def check_valid(source):
    """What is there can be trained on."""
    records = source.records
    assert len(records) == len(set(records.image_ids.tolist())) > 0
    assert np.isfinite(records.boxes).all()
    assert (records.boxes[:, 2:] > records.boxes[:, :2]).all()
    assert ((records.labels >= 0) & (records.labels < len(source.classes))).all()
    Pipeline((64, 32)).canvas_index(source)
    print(source.classes, records.file_names)  # all of them can be printed


@hypothesis.settings(settings, max_examples=2 * EXAMPLES)
@hypothesis.given(mutations(), st.booleans())
def test_mutations_of_valid_rows(load, rows, test_mode):
    lines = '\n'.join(json.dumps(row) for row in rows)
    check(load, lines.encode(), test_mode)


@settings
@hypothesis.given(st.lists(JSON, max_size=4))
def test_any_json(load, rows):
    check(load, '\n'.join(json.dumps(row) for row in rows).encode(), True)


@settings
@hypothesis.given(JSON)
def test_any_objects(load, objects):
    row = {'file_name': 'a.png', 'objects': objects}
    check(load, json.dumps(row).encode(), False)


@settings
@hypothesis.given(st.binary(max_size=100))
def test_any_bytes(load, content):
    check(load, content, True)


@pytest.mark.parametrize('line', ['[' * 100_000, '{"a":' * 100_000, '9' * 10_000])
def test_deep_and_long(load, line):
    check(load, f'{json.dumps(ROWS[2])}\n{line}\n'.encode(), False)
