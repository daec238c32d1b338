"""Corrections: what a suggestion changes, and what stays as it was."""

import copy
import json

import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.review.corrections import (
    VERSION,
    Edit,
    apply,
    corrected_file,
    correction_of,
    corrections_of,
    digest,
    edits_of,
    json_lines,
    read_annotations,
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


MISSING = {
    'kind': 'missing',
    'image_id': 5,
    'category_id': 3,
    'bbox': [50, 50, 8, 4],
    'annotation_id': 41,
}


def test_one_of_each_kind():
    before = copy.deepcopy(CONTENT)
    corrections = [
        {'kind': 'class', 'annotation_id': 11, 'category_id': 9},
        {'kind': 'loose', 'annotation_id': 12, 'bbox': [20, 0, 12, 10.5]},
        {'kind': 'twice', 'annotation_id': 40},
        MISSING,
    ]
    edits, corrected = edits_of(CONTENT, corrections), apply(CONTENT, corrections)
    assert before == CONTENT
    first, second = before['annotations'][:2]
    first = first | {'category_id': 9}
    second = second | {'bbox': [20, 0, 12, 10.5], 'area': 126}
    added = {'id': 41, 'image_id': 5, 'category_id': 3, 'bbox': [50, 50, 8, 4]}
    added |= {'area': 32, 'iscrowd': 0}
    assert edits == [Edit(0, first), Edit(1, second), Edit(2, None), Edit(None, added)]
    assert corrected == before | {'annotations': [first, second, added]}


def test_annotations_that_are_not_there():
    """As a split for evaluation may have it."""
    content = {name: CONTENT[name] for name in ('images', 'categories')}
    for each in (content, content | {'annotations': None}):
        (row,) = apply(each, [MISSING])['annotations']
        assert row['id'] == 41
        assert json.loads(','.join(json_lines(each)) + ']}')['annotations'] == []


def test_lines_are_the_text():
    content = CONTENT | {'note': ['"annotations": []', 2**60, 0.1]}
    head, *rows = json_lines(content)
    assert not any('\n' in line for line in (head, *rows))
    assert json.loads(f'{head}{",".join(rows)}]}}') == content


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
            [MISSING | {'image_id': 6}],
            'image_id 6',
        ),
        ([{'kind': 'twice', 'annotation_id': 12}] * 2, 'correction 1 .* earlier'),
        ([MISSING | {'annotation_id': 40}], 'annotation_id 40 .* has already'),
        ([MISSING] * 2, 'correction 1 .* annotation_id 41 .* has already'),
        (
            [MISSING, {'kind': 'twice', 'annotation_id': 41}],
            'correction 1 .* annotation_id 41',
        ),
        (
            [MISSING | {'bbox': [95, 50, 6, 4]}],
            'bbox .*95, 50, 6, 4.* 100 pixels wide and 80 high',
        ),
        (
            [{'kind': 'loose', 'annotation_id': 12, 'bbox': [0, -1, 6, 4]}],
            'bbox .* inside its image',
        ),
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
            {
                'image_id': 5,
                'category_id': 9,
                'bbox': [1.23, 2.0, 10.0, 20.01],
                'annotation_id': 12,
            },
        ),
        ('class', {'annotation_id': 12, 'category_id': 9}),
        ('loose', {'annotation_id': 12, 'bbox': [1.23, 2.0, 10.0, 20.01]}),
        ('twice', {'annotation_id': 12}),
    ],
)
def test_what_a_suggestion_changes(kind, expected):
    assert correction_of(suggested(kind), (3, 9), 12) == {'kind': kind, **expected}


def suggested(kind, box=(1.234, 2, 11.23, 22.007)):
    id_ = None if kind == 'missing' else 12
    return Suggestion(kind, 0.9, 0.5, 5, id_, 1, box, 0.8, 0.6)


def test_new_annotations_get_ids_above_the_others():
    suggestions = [suggested(kind) for kind in ('missing', 'twice', 'missing')]
    rows = corrections_of(suggestions, (3, 9), CONTENT['annotations'])
    assert [row['annotation_id'] for row in rows] == [41, 12, 42]
    assert corrections_of(suggestions[:1], (3, 9), [])[0]['annotation_id'] == 1


@pytest.mark.parametrize('box', [(0, 0, 100.004, 80), (99.996, 79.999, 100, 80)])
def test_rounding_gives_boxes_that_are_applied(files, box):
    """At the edge of the image, and smaller than the two decimals."""
    _, write = files
    rows = corrections_of([suggested('missing', box)], (3, 9), CONTENT['annotations'])
    content = corrected_file(read_corrections(write(rows)))
    assert content['annotations'][-1]['bbox'] == rows[0]['bbox']


def test_sizes_of_images_need_not_be_there():
    images = [{'id': 5, 'file_name': 'a.png', 'height': None}]
    row = MISSING | {'bbox': [950, 50, 6, 4]}
    assert len(apply(CONTENT | {'images': images}, [row])['annotations']) == 4


# Files --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Path of the annotations; a function that writes corrections of them."""
    ann_file = tmp_path / 'train.json'
    ann_file.write_text(json.dumps(CONTENT))

    def write(rows, **fields):
        content = {
            'atss_doctor': VERSION,
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


@pytest.mark.parametrize(
    ('section', 'row', 'part'),
    [
        ('annotations', {'image_id': 5}, r'annotations\[3\] has no id'),
        ('annotations', 7, r'annotations\[3\] has no id'),
        ('images', {'id': '5'}, r'images\[1\] has no id that is an integer'),
        (
            'annotations',
            CONTENT['annotations'][1] | {'category_id': 3},
            r'annotations\[3\] has the id 12, as annotations\[1\] has; with data.on',
        ),
    ],
)
def test_annotations_with_malformed_records(files, section, row, part):
    """`data.on_error='skip'` leaves them out, but the file still has them."""
    ann_file, write = files
    ann_file.write_text(json.dumps(CONTENT | {section: [*CONTENT[section], row]}))
    with pytest.raises(ValueError, match=part):
        corrected_file(read_corrections(write([])))


@pytest.mark.parametrize('content', [[], {}, {'images': {}}])
def test_annotations_of_another_form(tmp_path, content):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='not a COCO file: it has no list of images'):
        read_annotations(path)


@pytest.mark.parametrize(
    ('text', 'part'),
    [
        ('{', 'not a JSON file'),
        ('[]', r"'atss_doctor': 2; found \[\]"),
        (json.dumps(CONTENT), 'expected the corrections that a page'),
        ('{"atss_doctor": 1}', "'atss_doctor': 2; found"),
        ('{"atss_doctor": 2}', 'ann_file is None, expected a str'),
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
