"""Folders of images with metadata.jsonl, as Hugging Face's `imagefolder` has them."""

import json
import os

import numpy as np
import pytest

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe, find
from tests.support.hugging_face import (
    CLASSES,
    ROWS,
    SIZES,
    digests_of_workers,
    rows_of_coco,
    write_folder,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'data'


def read(path, split='all', **kwargs):
    return find(str(path)).read(split, **kwargs)


def with_objects(objects, index=2):
    """The rows with other `objects` in one of them."""
    return [
        {**row, 'objects': objects} if i == index else row for i, row in enumerate(ROWS)
    ]


class TestReads:
    def test_lists_of_each_image(self, folder):
        found = read(write_folder(folder, ROWS))
        assert found.image_ids.tolist() == [7, 3, 5]
        assert found.file_names == ['a.png', 'b.png', 'c.png']
        assert found.image_sizes.tolist() == [list(SIZES[n]) for n in found.file_names]
        assert found.annotation_ids.tolist() == [11, 12, 13]
        assert found.annotation_images.tolist() == [7, 7, 5]
        assert found.annotation_categories.tolist() == [0, 1, 0]
        assert found.boxes.tolist() == [
            [1, 2, 10, 20],
            [0.5, 0, 4, 5.25],
            [3, 4, 30, 31],
        ]
        assert found.areas.tolist() == [100.5, 21, 930]
        assert found.crowds.tolist() == [True, False, False]
        assert not found.dropped.any()
        assert found.categories == {0: 'dog', 1: 'cat'}

    def test_a_list_of_objects_is_the_same(self, folder):
        rows = []
        for row in ROWS:
            lists = row['objects']
            each = [
                dict(zip(lists, values, strict=True))
                for values in zip(*lists.values(), strict=True)
            ]
            rows.append({**row, 'objects': each})
        assert_equal(
            read(write_folder(folder / 'lists', ROWS)),
            read(write_folder(folder / 'each', rows)),
        )

    @pytest.mark.parametrize('key', ['categories', 'category_id', 'label', 'labels'])
    def test_other_names_of_the_lists(self, folder, key):
        rows = json.loads(json.dumps(ROWS))
        for row in rows:
            row['objects'][key] = row['objects'].pop('category')
            row['objects']['boxes'] = row['objects'].pop('bbox')
            if 'iscrowd' in row['objects']:
                row['objects']['is_crowd'] = row['objects'].pop('iscrowd')
        assert_equal(
            read(write_folder(folder / 'usual', ROWS)),
            read(write_folder(folder / 'other', rows)),
        )

    def test_texts_as_categories(self, folder):
        """Sorted by name, or in the order of classes.txt."""
        rows = json.loads(json.dumps(ROWS))
        for row in rows:
            row['objects']['category'] = [
                CLASSES[i] for i in row['objects']['category']
            ]
        listed = read(write_folder(folder / 'listed', rows))
        assert listed.categories == {0: 'dog', 1: 'cat'}
        assert listed.annotation_categories.tolist() == [0, 1, 0]
        alone = read(write_folder(folder / 'alone', rows, names=False))
        assert alone.categories == {0: 'cat', 1: 'dog'}
        assert alone.annotation_categories.tolist() == [1, 0, 1]

    def test_splits_agree_on_the_labels(self, folder):
        """A class that does not occur in one of them has its label there, too."""
        for split, names in (('train', ['cat', 'dog']), ('validation', ['dog'])):
            objects = {'bbox': [[1, 1, 9, 9]] * len(names), 'category': names}
            row = {'file_name': 'a.png', 'objects': objects}
            write_folder(folder / split, [row], names=False)
        form = find(str(folder))
        assert list(form.splits) == ['train', 'val']
        assert form.read('val').categories == {0: 'cat', 1: 'dog'}
        assert form.read('val').annotation_categories.tolist() == [1]
        assert form.read('val').file_names == ['validation/a.png']
        assert describe(form) == (
            f'{folder}: Hugging Face with train (train/metadata.jsonl), val '
            '(validation/metadata.jsonl)'
        )

    def test_a_second_folder_of_a_split_keeps_its_name(self, folder):
        for name in ('train', 'train_more', 'night'):
            write_folder(folder / name, ROWS)
        assert dict(find(str(folder)).splits) == {
            'train': 'train/metadata.jsonl',
            'train_more': 'train_more/metadata.jsonl',
        }

    def test_ids_are_counted_where_none_are_given(self, folder, recwarn):
        objects = {'bbox': [[1, 1, 9, 9]], 'category': [1], 'id': [0]}
        rows = [{'file_name': n, 'objects': objects} for n in ('c.png', 'a.png')]
        found = read(write_folder(folder, rows))
        assert found.image_ids.tolist() == [1, 2]
        assert found.annotation_ids.tolist() == [1, 2]
        assert not recwarn.list

    @pytest.mark.parametrize('ids', [(4, 4), ('x', 'y'), (4, None)])
    def test_ids_that_cannot_be_used_are_reported(self, folder, ids):
        objects = ROWS[2]['objects']
        rows = [
            {'file_name': n, 'objects': objects, 'image_id': i}
            for n, i in zip(('c.png', 'a.png'), ids, strict=True)
        ]
        with pytest.warns(UserWarning, match='image_id is not a different integer'):
            assert read(write_folder(folder, rows)).image_ids.tolist() == [1, 2]

    def test_given_sizes_are_not_read_again(self, folder):
        rows = [{**row, 'width': 60, 'height': 50} for row in ROWS]
        write_folder(folder, rows)
        (folder / 'a.png').unlink()
        assert read(folder).image_sizes.tolist() == [[50, 60]] * 3

    def test_blank_lines_and_a_byte_order_mark(self, folder):
        write_folder(folder, ['', *ROWS, ''])
        file = folder / 'metadata.jsonl'
        plain = read(folder)
        file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes().replace(b'\n', b'\r\n'))
        assert_equal(read(folder), plain)

    def test_the_file_itself_can_be_given(self, folder):
        write_folder(folder, ROWS)
        assert_equal(read(folder / 'metadata.jsonl'), read(folder))

    def test_objects_need_not_be_there_at_evaluation(self, folder):
        write_folder(folder, [{'file_name': 'a.png'}, {**ROWS[2], 'objects': None}])
        found = read(folder, training=False)
        assert found.file_names == ['a.png', 'c.png'] and not len(found.boxes)
        assert found.categories == {0: 'dog', 1: 'cat'}

    def test_images_are_those_of_the_files(self, folder):
        source = AutoDataset(str(write_folder(folder, ROWS)), 'all')
        reference = CocoDataset(*as_coco(folder))
        assert source.records.digest() == reference.records.digest()
        assert source.classes == reference.classes == ('dog', 'cat')
        for index in range(len(source.records)):
            expected = reference.read_image(reference.records[index])
            np.testing.assert_array_equal(
                source.read_image(source.records[index]), expected
            )


def as_coco(folder):
    """The data set of `ROWS` as a COCO file, written by hand, and its images."""
    images = [
        {'id': r['image_id'], 'file_name': r['file_name'], 'height': h, 'width': w}
        for r, (h, w) in zip(ROWS, SIZES.values(), strict=True)
    ]
    annotations = [
        {
            'id': 11,
            'image_id': 7,
            'category_id': 0,
            'bbox': [1, 2, 10, 20],
            'iscrowd': 1,
        },
        {'id': 12, 'image_id': 7, 'category_id': 1, 'bbox': [0.5, 0, 4, 5.25]},
        {'id': 13, 'image_id': 5, 'category_id': 0, 'bbox': [3, 4, 30, 31]},
    ]
    categories = [{'id': i, 'name': name} for i, name in enumerate(CLASSES)]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    file = folder.parent / 'coco.json'
    file.write_text(json.dumps(content))
    return str(file), str(folder)


def assert_equal(found, expected):
    for name in vars(expected):
        if name != 'path':
            one, other = getattr(found, name), getattr(expected, name)
            assert np.array_equal(one, other), name


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_as_a_folder_with_metadata(coco_tiny, tmp_path, split):
    ann_file = coco_tiny / 'annotations' / f'instances_{split}2017.json'
    rows, names = rows_of_coco(ann_file)
    images = coco_tiny / f'{split}2017'
    folder = tmp_path / split
    folder.mkdir()
    for row in rows:
        os.symlink(images / row['file_name'], folder / row['file_name'])
        del row['width'], row['height']
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'metadata.jsonl').write_text(lines)
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    found = AutoDataset(str(tmp_path), split)
    expected = CocoDataset(str(ann_file), str(images))
    assert found.records.digest() == expected.records.digest()
    assert found.classes == expected.classes
    truth = [each['area'] for each in expected.ground_truth()['annotations']]
    by_id = {each['id']: each['area'] for each in found.ground_truth()['annotations']}
    ids = [each['id'] for each in expected.ground_truth()['annotations']]
    assert [by_id[id_] for id_ in ids] == truth


@pytest.mark.long
def test_batches_do_not_depend_on_workers(folder, tmp_path):
    write_folder(folder / 'train', ROWS)
    (folder / 'train' / 'classes.txt').rename(folder / 'classes.txt')
    alone, workers = digests_of_workers(folder, tmp_path)
    assert alone == workers


# Bad input ----------------------------------------------------------------------------


def dog(**more):
    return {'bbox': [[1, 1, 9, 9]], 'category': [0], **more}


BAD_ROWS = {
    'not JSON': ('{"file_name": ', 'line 3: not JSON (Expecting value'),
    'no object': ('[1, 2]', 'line 3: must be an object, found [1, 2]'),
    'NaN': (
        '{"file_name": "c.png", "objects": {"bbox": [[NaN, 1, 2]], "category": [0]}}',
        'line 3, object 0: bbox must be 4 finite numbers',
    ),
    'no name': ({'objects': dog()}, 'line 3 (id 3): file_name must be a path'),
    'outside': (
        {'file_name': '../c.png', 'objects': dog()},
        "a path in the folder of the data set, relative to it, found '../c.png'",
    ),
    'absolute': ({'file_name': '/c.png', 'objects': dog()}, "found '/c.png'"),
    'a URL': ({'file_name': 'file://c.png', 'objects': dog()}, "found 'file://c.png'"),
    'twice': (
        {'file_name': 'a.png', 'objects': dog()},
        "line 3 (id 3): file_name 'a.png' is taken by line 1",
    ),
    'no objects': ({'file_name': 'c.png'}, 'objects must be lists of bbox'),
    'no list': (
        {'file_name': 'c.png', 'objects': dog(category=0)},
        'objects.category must be a list, found 0',
    ),
    'lengths': (
        {'file_name': 'c.png', 'objects': dog(category=[0, 1])},
        'the lists of objects must be equally long, found 1 bbox, 2 category',
    ),
    'no boxes': (
        {'file_name': 'c.png', 'objects': {'category': [0]}},
        'objects must have a list bbox or bboxes or boxes, found category',
    ),
    'null lists': (
        {'file_name': 'c.png', 'objects': {'bbox': None, 'category': None}},
        'objects must have a list bbox or bboxes or boxes, found nothing',
    ),
    'no dict': (
        {'file_name': 'c.png', 'objects': [[1, 1, 9, 9]]},
        'objects[0] must be an object, found [1, 1, 9, 9]',
    ),
    'index': (
        {'file_name': 'c.png', 'objects': dog(category=[2])},
        'category must be one of dog, cat, or an integer from 0 to 1, found 2',
    ),
    'index -1': ({'file_name': 'c.png', 'objects': dog(category=[-1])}, 'found -1'),
    'name': ({'file_name': 'c.png', 'objects': dog(category=['cow'])}, "found 'cow'"),
    '3 numbers': (
        {'file_name': 'c.png', 'objects': dog(bbox=[[1, 2, 3]])},
        '[x, y, width, height], found [1, 2, 3]',
    ),
    'no box': (
        {'file_name': 'c.png', 'objects': [{'category': 1}]},
        'bbox must be 4 finite numbers of at most 1e+15 [x, y, width, height], it is '
        'missing',
    ),
    'area': ({'file_name': 'c.png', 'objects': dog(area=['x'])}, 'area must be'),
    'crowd': ({'file_name': 'c.png', 'objects': dog(iscrowd=[2])}, 'iscrowd must be'),
    'width': (
        {'file_name': 'c.png', 'objects': dog(), 'width': '9', 'height': 9},
        'line 3 (id 3): width must be an integer from 1 to 1048576',
    ),
    'no file': (
        {'file_name': 'd.png', 'objects': dog()},
        'd.png: No such file or directory',
    ),
    'no image': (
        {'file_name': 'classes.txt', 'objects': dog()},
        'its size is not given, and ',
    ),
}
GOOD = [{'file_name': n, 'objects': dog()} for n in ('a.png', 'b.png')]


@pytest.mark.parametrize('row, message', BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row(folder, row, message):
    write_folder(folder, [*GOOD, row])
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert message in str(caught.value)
    assert str(folder / 'metadata.jsonl') in str(caught.value)
    assert 'line 3' in str(caught.value)
    assert "data.on_error='skip'" in str(caught.value)
    with pytest.warns(UserWarning) as told:
        found = read(folder, on_error='skip')
    assert len(told) == 1 and 'left out' in str(told[0].message)
    assert found.file_names[:2] == ['a.png', 'b.png']
    assert found.boxes.tolist() == [[1, 1, 9, 9]] * 2


@pytest.mark.parametrize(
    ('rows', 'names', 'message'),
    [
        ([], True, 'there are no rows'),
        ([{'file_name': 'a.png', 'text': 'x'}], True, 'no column objects'),
        ([GOOD[0]], False, 'the categories are integers (0 to 0), and nothing says'),
    ],
)
def test_a_bad_file(folder, rows, names, message):
    write_folder(folder, rows, names)
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ('dog\ndog', "the classes 0 and 1 are both named 'dog'"),
        ('\n', 'expected the name of a class in each line; empty'),
        ('dog\n\ncat', 'classes.txt:2: expected the name of a class'),
    ],
)
def test_a_bad_list_of_classes(folder, names, message):
    write_folder(folder, GOOD)
    (folder / 'classes.txt').write_text(names)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_a_file_that_is_no_text(folder):
    write_folder(folder, GOOD)
    (folder / 'metadata.jsonl').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='not a text file in UTF-8'):
        read(folder)


def test_a_description_of_the_whole_and_of_splits(folder):
    for each in (folder, folder / 'train'):
        write_folder(each, GOOD)
    with pytest.raises(ValueError, match='describes the whole folder, but there are'):
        find(str(folder))


def test_tables_of_texts_are_refused_with_the_reason(folder):
    folder.mkdir()
    (folder / 'metadata.csv').write_text('file_name,objects\na.png,"{}"\n')
    with pytest.raises(ValueError, match=r'metadata\.csv: a table of texts'):
        find(str(folder))
