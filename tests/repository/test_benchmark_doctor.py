"""The faults that the benchmark of the doctor plants, and how it counts hits."""

import copy
import sys

import numpy as np
import pytest

from atss_jax.evaluation.overlap import pairwise_iou
from atss_jax.review.ranking import Suggestion
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import faults


@pytest.fixture(scope='module')
def content():
    """100 annotations, and a crowd region."""
    rng = np.random.default_rng(0)
    annotations = [
        {
            'id': 3 * k + 5,
            'image_id': k % 25,
            'category_id': (4, 2, 7)[k % 3],
            'bbox': [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(10, 40, 2).tolist()],
            'area': 1.0,
        }
        for k in range(100)
    ]
    crowd = annotations[0] | {'id': 1, 'iscrowd': 1}
    return {
        'images': [{'id': k, 'width': 100, 'height': 100} for k in range(25)],
        'categories': [{'id': id_} for id_ in (4, 2, 7)],
        'annotations': [crowd, *annotations],
    }


def corners(row):
    x, y, width, height = row['bbox']
    return np.array([[x, y, x + width, y + height]])


def test_what_is_planted(content):
    before = copy.deepcopy(content)
    faulty, planted = faults.plant(content, 0.05, seed=0)
    assert content == before
    assert [fault.kind for fault in planted] == np.repeat(faults.KINDS, 5).tolist()
    assert len({fault.original['id'] for fault in planted}) == 20
    old, new = ({a['id']: a for a in c['annotations']} for c in (content, faulty))
    assert new[1] == old[1]  # the crowd region
    assert len(new) == len(faulty['annotations']) == 101 - 5 + 5
    for kind, annotation, twin, original in planted:
        assert original == old[original['id']]
        assert new.get(annotation['id']) == (None if kind == 'missing' else annotation)
        overlap = pairwise_iou(corners(annotation), corners(original))[0, 0]
        if kind == 'class':
            assert annotation['category_id'] != original['category_id']
            assert annotation['bbox'] == original['bbox']
        elif kind == 'loose':
            assert 0.5 <= overlap <= 0.7
        elif kind == 'twice':
            assert 0.75 <= overlap <= 0.95
            assert twin == original['id'] and annotation['id'] not in old
    touched = {fault.annotation['id'] for fault in planted}
    assert all(new[id_] == row for id_, row in old.items() if id_ not in touched)


def test_another_seed_plants_others(content):
    first, again, other = (faults.plant(content, 0.05, seed)[1] for seed in (0, 0, 1))
    assert first == again != other


def suggestion(kind, annotation_id, image_id=0, label=0, box=(0, 0, 1, 1)):
    return Suggestion(kind, 0.5, 0.5, image_id, annotation_id, label, box, 0.5, 0.5)


def test_hits_by_hand():
    row = {'id': 8, 'image_id': 3, 'category_id': 2, 'bbox': [10, 10, 10, 10]}
    planted = [
        faults.Fault('missing', row, None, row),
        faults.Fault('class', row | {'id': 9}, None, row),
        faults.Fault('twice', row | {'id': 20}, 10, row),
    ]
    suggestions = [
        suggestion('class', 9),
        suggestion('loose', 9),  # another kind
        suggestion('twice', 10),
        suggestion('twice', 20),  # the same fault
        suggestion('missing', None, 3, 0, (10, 10, 20, 20)),  # another class
        suggestion('missing', None, 4, 1, (10, 10, 20, 20)),  # another image
        suggestion('missing', None, 3, 1, (10, 10, 20, 14)),  # IoU 0.4
        suggestion('missing', None, 3, 1, (10, 10, 20, 15)),  # IoU 0.5
    ]
    is_hit = faults.hits(suggestions, planted, (4, 2))
    assert np.flatnonzero(is_hit).tolist() == [0, 2, 7]
