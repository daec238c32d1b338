"""Corrections: what a suggestion changes, and what stays as it was."""

import copy
import json

import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.review.corrections import (
    apply,
    corrected_file,
    correction_of,
    digest,
    read_corrections,
)
from atss_jax.review.ranking import Suggestion

CONTENT = {
    'info': {'year': 2026, 'note': 'Größe'},
    'licenses': [{'id': 1}],
    'images': [
        {'id': 5, 'file_name': 'a.png', 'width': 100, 'height': 80, 'license': 1}
    ],
    'categories': [
        {'id': 3, 'name': 'cat', 'supercategory': 'animal'},
        {'id': 9, 'name': 'dog', 'supercategory': 'animal'},
    ],
    'annotations': [
        {
            'id': 11,
            'image_id': 5,
            'category_id': 3,
            'bbox': [0, 0, 10, 10],
            'area': 55.5,  # of a mask
            'iscrowd': 0,
            'segmentation': [[0, 0, 10, 0, 10, 10]],
            'attributes': {'occluded': True},
        },
        {
            'id': 12,
            'image_id': 5,
            'category_id': 9,
            'bbox': [20.5, 0, 10, 10],
            'area': 100,
            'score': 1,
        },
        {
            'id': 40,
            'image_id': 5,
            'category_id': 9,
            'bbox': [21, 0, 10, 10],
            'area': 100,
        },
    ],
}


def test_one_of_each_kind():
    before = copy.deepcopy(CONTENT)
    corrected = apply(
        CONTENT,
        [
            {'kind': 'class', 'annotation_id': 11, 'category_id': 9},
            {'kind': 'loose', 'annotation_id': 12, 'bbox': [20, 0, 12, 10.5]},
            {'kind': 'twice', 'annotation_id': 40},
            {
                'kind': 'missing',
                'image_id': 5,
                'category_id': 3,
                'bbox': [50, 50, 8, 4],
            },
        ],
    )
    assert before == CONTENT
    first, second = before['annotations'][:2]
    added = {'id': 41, 'image_id': 5, 'category_id': 3, 'bbox': [50, 50, 8, 4]}
    assert corrected == before | {
        'annotations': [
            first | {'category_id': 9},
            second | {'bbox': [20, 0, 12, 10.5], 'area': 126},
            added | {'area': 32, 'iscrowd': 0},
        ]
    }


def test_no_corrections_change_nothing():
    assert apply(CONTENT, []) == CONTENT


@pytest.mark.parametrize(
    ('rows', 'part'),
    [
        ([{'kind': 'twice', 'annotation_id': 7}], 'correction 0 .* annotation_id 7'),
        (
            [{'kind': 'class', 'annotation_id': 11, 'category_id': 4}],
            'category_id 4, which the annotations do not have',
        ),
        (
            [
                {
                    'kind': 'missing',
                    'image_id': 6,
                    'category_id': 3,
                    'bbox': [0, 0, 1, 1],
                }
            ],
            'image_id 6',
        ),
        ([{'kind': 'twice', 'annotation_id': 12}] * 2, 'correction 1 .* earlier'),
    ],
)
def test_corrections_of_other_annotations(rows, part):
    with pytest.raises(ValueError, match=part):
        apply(CONTENT, rows)


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [
        (
            'missing',
            {'image_id': 5, 'category_id': 9, 'bbox': [1.23, 2.0, 10.0, 20.01]},
        ),
        ('class', {'annotation_id': 12, 'category_id': 9}),
        ('loose', {'annotation_id': 12, 'bbox': [1.23, 2.0, 10.0, 20.01]}),
        ('twice', {'annotation_id': 12}),
    ],
)
def test_what_a_suggestion_changes(kind, expected):
    id_ = None if kind == 'missing' else 12
    box = (1.234, 2, 11.23, 22.007)
    suggestion = Suggestion(kind, 0.9, 0.5, 5, id_, 1, box, 0.8, 0.6)
    assert correction_of(suggestion, (3, 9)) == {'kind': kind, **expected}


# Files --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Path of the annotations; a function that writes corrections of them."""
    ann_file = tmp_path / 'train.json'
    ann_file.write_text(json.dumps(CONTENT))

    def write(rows, **fields):
        content = {
            'atss_doctor': 1,
            'ann_file': str(ann_file),
            'sha256': digest(ann_file),
            'corrections': rows,
        }
        path = tmp_path / 'corrections.json'
        path.write_text(json.dumps(content | fields))
        return path

    return ann_file, write


def test_the_corrected_file_is_read(files, tmp_path):
    ann_file, write = files
    rows = [{'kind': 'loose', 'annotation_id': 12, 'bbox': [20, 0, 12, 10]}]
    content = corrected_file(read_corrections(write(rows)))
    assert content['info'] == CONTENT['info']
    assert json.loads(ann_file.read_text()) == CONTENT
    path = tmp_path / 'corrected.json'
    path.write_text(json.dumps(content))
    table = annotation_file.read(str(path))
    assert table.annotation_ids.tolist() == [11, 12, 40]
    assert table.boxes[1].tolist() == [20, 0, 12, 10]
    assert table.areas.tolist() == [55.5, 120, 100]


def test_annotations_that_have_changed(files):
    ann_file, write = files
    corrections = read_corrections(write([]))
    ann_file.write_text(json.dumps(CONTENT | {'info': {}}))
    with pytest.raises(ValueError, match='has changed since its page was written'):
        corrected_file(corrections)
    ann_file.unlink()
    with pytest.raises(FileNotFoundError, match='is gone'):
        corrected_file(corrections)


def test_annotations_with_malformed_records(files):
    """`data.on_error='skip'` leaves them out, but the file still has them."""
    ann_file, write = files
    rows = [*CONTENT['annotations'], {'image_id': 5}]
    ann_file.write_text(json.dumps(CONTENT | {'annotations': rows}))
    with pytest.raises(ValueError, match='without its id'):
        corrected_file(read_corrections(write([])))


@pytest.mark.parametrize(
    ('text', 'part'),
    [
        ('{', 'not a JSON file'),
        ('[]', r"'atss_doctor': 1; found \[\]"),
        (json.dumps(CONTENT), 'expected the corrections that a page'),
        ('{"atss_doctor": 1}', 'ann_file is None, expected a str'),
    ],
)
def test_other_files(tmp_path, text, part):
    path = tmp_path / 'x.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=part):
        read_corrections(path)
    with pytest.raises(FileNotFoundError, match='no such file of corrections'):
        read_corrections(tmp_path / 'none.json')


@pytest.mark.parametrize(
    ('row', 'part'),
    [
        (3, r'correction 0 \(counted from 0\) is 3'),
        ({'kind': 'wrong'}, 'whose kind is one of missing, class, loose, twice'),
        ({'kind': 'twice'}, 'annotation_id None, expected an integer'),
        ({'kind': 'twice', 'annotation_id': True}, 'annotation_id True'),
        (
            {'kind': 'loose', 'annotation_id': 12, 'bbox': [1, 2, 0, 4]},
            'the last two above 0',
        ),
    ],
)
def test_malformed_corrections(files, row, part):
    _, write = files
    with pytest.raises(ValueError, match=part):
        read_corrections(write([row]))
