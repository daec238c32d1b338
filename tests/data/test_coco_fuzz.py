"""Malformed annotation files: ValueErrors that name file and record, nothing else.

`FUZZ_EXAMPLES=20000 pytest tests/data/test_coco_fuzz.py` looks much longer.
"""

import copy
import json
import os
import re
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from atss_jax.data.batch import Pipeline
from atss_jax.data.coco.dataset import CocoDataset
from tests.support.coco_folder import COCO

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '150'))
settings = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)

RECORD = re.compile(r'(images|annotations|categories)\[\d+\]')
WHOLE_FILE = re.compile(
    'not a JSON file|not a COCO annotation file|none of its [0-9]+ images|no classes'
)

INF, NAN = float('inf'), float('nan')
EXTREMES = st.sampled_from(
    [0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e300, 1e-300, INF, NAN]
)
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    EXTREMES,
    st.floats(),
)
# With lone halves of surrogate pairs, as JSON may have them.
TEXTS = st.text(st.characters(codec=None), max_size=5) | st.sampled_from(
    ['12', '\ud800', '\0', 'a' * 2000, '../a.png', 'cat']
)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
KEYS = TEXTS | st.sampled_from(
    ['images', 'annotations', 'categories', 'id', 'bbox', 'area', 'ignore']
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5)
    ),
    max_leaves=20,
)


def places(value, path=()):
    """Paths to everything in a JSON value, itself included."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(pairs):
            yield from places(inner, (*path, key))


def at(value, path):
    """What lies at a path."""
    for key in path:
        value = value[key]
    return value


CHANGES = ('replace', 'nudge', 'extreme', 'delete', 'repeat', 'move')


@st.composite
def mutations(draw):
    """The valid file with one to three changes, at any depth."""
    content = copy.deepcopy(COCO)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))))
        if not path:
            continue
        parent = at(content, path[:-1])
        change = draw(st.sampled_from(CHANGES))
        if change == 'replace':
            parent[path[-1]] = draw(JSON)
        elif change == 'extreme':
            numbers = [
                p for p in places(content) if type(at(content, p)) in (int, float)
            ]
            path = draw(st.sampled_from(numbers or [path]))
            at(content, path[:-1])[path[-1]] = draw(EXTREMES)
        elif change == 'nudge':
            parent[path[-1]] = draw(LEAVES)
        elif change == 'delete':
            del parent[path[-1]]
        elif isinstance(parent, list):
            again = copy.deepcopy(parent[path[-1]])
            parent.insert(0 if change == 'move' else len(parent), again)
    return content


@pytest.fixture(scope='module')
def load(tmp_path_factory):
    """Loads a file of these bytes: what comes out, and the warnings as texts."""
    folder = tmp_path_factory.mktemp('fuzz')
    file = folder / 'annotations.json'

    def load(content, **kwargs):
        file.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                result = CocoDataset(str(file), str(folder), **kwargs)
            except ValueError as error:
                result = error
        for text in ([str(result)] if isinstance(result, ValueError) else []) + [
            str(w.message) for w in caught
        ]:
            assert str(file) in text
            assert len(text) < 1000  # it is for people to read
        return result, [str(w.message) for w in caught]

    return load


def check_valid(source):
    """What is left can be trained on and scored against."""
    records = source.records
    assert len(records) > 0
    assert len(set(records.image_ids.tolist())) == len(records)
    assert records.sizes.min() >= 1
    assert np.isfinite(records.boxes).all()
    assert (records.boxes[:, 2:] > records.boxes[:, :2]).all()
    assert ((records.labels >= 0) & (records.labels < len(source.classes))).all()
    assert records.counts.sum() == len(records.boxes) == len(records.ignored)
    Pipeline((64, 32)).canvas_index(source)
    print(source.classes, records.file_names)  # all of them can be printed


def check(load, content, **kwargs):
    """Both modes, and that they agree."""
    strict, _ = load(content, on_error='raise', **kwargs)
    lenient, said = load(content, on_error='skip', **kwargs)
    left_out = [text for text in said if 'left out' in text]
    if not isinstance(strict, ValueError):
        check_valid(strict)
        # The kinds that are left out in both modes.
        kinds = re.compile('category_id is not the id of one|name of another one')
        assert all(kinds.search(text) for text in left_out)
        assert lenient.ground_truth() == strict.ground_truth()
        return
    message = str(strict)
    assert RECORD.search(message) or WHOLE_FILE.search(message), message
    if isinstance(lenient, ValueError):
        message = str(lenient)
        assert WHOLE_FILE.search(message) or 'categories[' in message, message
        return
    assert left_out
    check_valid(lenient)
    # Written again, it is a file without fault.
    again, said = load(
        json.dumps(lenient.ground_truth()).encode(), on_error='raise', **kwargs
    )
    assert again.ground_truth() == lenient.ground_truth()
    if kwargs.get('test_mode'):
        assert np.array_equal(again.records.image_ids, lenient.records.image_ids)


@hypothesis.settings(settings, max_examples=3 * EXAMPLES)
@hypothesis.given(mutations(), st.booleans())
def test_mutations_of_a_valid_file(load, content, test_mode):
    check(load, json.dumps(content).encode(), test_mode=test_mode, min_size=1)


@settings
@hypothesis.given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(COCO, st.lists(JSON) | JSON))
    | JSON
)
def test_any_json(load, content):
    check(load, json.dumps(content).encode(), test_mode=True)


@settings
@hypothesis.given(st.data())
def test_damaged_bytes(load, data):
    content = bytearray(json.dumps(COCO).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.integers(0, 255)
        )
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    check(load, bytes(content), test_mode=True)


@settings
@hypothesis.given(st.binary(max_size=100))
def test_any_bytes(load, content):
    check(load, content)


@pytest.mark.parametrize(
    'content',
    [
        '[' * 100_000,
        '{"a":' * 100_000,
        '{"images": [' + '9' * 10_000 + ']}',
        json.dumps(COCO).replace('"dog"', '[' * 300 + ']' * 300),
    ],
)
def test_deep_and_long(load, content):
    check(load, content.encode())
