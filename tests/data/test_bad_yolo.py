"""YOLO data sets with errors: refused with file, line and reason, or left out."""

import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from tests.support.forms import IMAGE, boxes_of, damaged, read, write_files
from tests.support.yolo_set import IN_SPLITS, LINE, LISTS, NEXT_TO, USUAL, YAML


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'set'


BAD_LINES = {
    '0 0.5 0.5 0.2': 'line must be class x y width height, or class x1 y1 x2 y2',
    '0 0.5 0.5 0.2 0.4 0.9': 'six values are a detection with its score or track',
    '0 0.1 0.1 0.2 0.2 0.3 0.3 0.4': 'of a polygon',
    '0,0.5,0.5,0.2,0.4': 'line must be',
    '# a comment': 'line must be',
    '# 0.5 0.5 0.2 0.4': "whole number from 0 to 2, one of the classes, found '#'",
    '3 0.5 0.5 0.2 0.4': 'found 3',
    '-1 0.5 0.5 0.2 0.4': 'found -1',
    '0.5 0.5 0.5 0.2 0.4': 'found 0.5',
    'cat 0.5 0.5 0.2 0.4': "found 'cat'",
    'nan 0.5 0.5 0.2 0.4': 'found nan',
    '0 32 15 16 20': 'box must be numbers from 0 to 1, fractions of the width and',
    '0 0.5 0.5 1.01 0.4': 'found 1.01',
    '0 -0.01 0.5 0.2 0.4': 'found -0.01',
    '0 0.5 0.5 -0.2 0.4': 'found -0.2',
    '0 0.5 nan 0.2 0.4': 'found nan',
    '0 0.5 inf 0.2 0.4': 'found inf',
    '0 0,5 0.5 0.2 0.4': "found '0,5'",
    '0 0.1 0.1 0.2 0.2 0.3 1.3': 'found 1.3',
    '0 0.5 0.5 0.2 x\0': "found 'x",
}  # fmt: skip


@pytest.mark.parametrize('line', BAD_LINES)
def test_a_bad_line(folder, line):
    write_files(folder, USUAL | {'labels/train/b.txt': f'\n{LINE}\n{line}\n'})
    with pytest.raises(ValueError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(f'{folder}/data.yaml (train): labels/train/b.txt:3: ')
    assert BAD_LINES[line] in message and "data.on_error='skip'" in message
    with pytest.warns(UserWarning, match=r'1 of 4 lines .*\(labels/train/b.txt:3\)'):
        assert len(read(folder, on_error='skip').boxes) == 3


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_classes_counted_from_1(folder, on_error):
    """Never left out: the other classes would be wrong by one."""
    box = LINE[1:]
    labels = {
        'labels/train/a.txt': f'1{box}\n',
        'labels/train/b.txt': f'1{box}\n3{box}',
    }
    write_files(folder, USUAL | labels)
    with pytest.raises(ValueError) as caught:
        read(folder, on_error=on_error)
    assert str(caught.value) == (
        f'{folder}/data.yaml (train): the classes of all 3 objects are from 1 to 3 (3 '
        'in labels/train/b.txt:2), but YOLO counts from 0 to 2: the program that wrote '
        'the label files probably counted from 1. Subtract 1 from the first number of '
        'each line; or, if 0 is a class without objects here, add the name that is '
        'missing'
    )
    # What the message says helps.
    write_files(folder, {'data.yaml': YAML.replace('[', '[none, ')})
    assert read(folder).annotation_categories.tolist() == [2, 2, 4]


@pytest.mark.parametrize('classes', ['1 1 2', '0 1 3', '1 2 4', '1 3 x'])
def test_classes_that_are_not_counted_from_1(folder, classes):
    """No 3, or a 0, or another number: at most the one line is wrong."""
    lines = '\n'.join(f'{index}{LINE[1:]}' for index in classes.split())
    labels = {'labels/train/a.txt': lines, 'labels/train/b.txt': ''}
    write_files(folder, USUAL | labels)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        read(folder, on_error='skip')
    if classes != '1 1 2':
        with pytest.raises(ValueError, match='class must be a whole number from 0'):
            read(folder)


def test_a_label_file_that_is_no_text(folder):
    write_files(folder, USUAL | {'labels/train/b.txt': LINE.encode('utf-16')})
    with pytest.raises(ValueError, match=r'labels/train/b.txt:1: '):
        read(folder)


BAD_FILES = {
    'a label file without image': (
        {'labels/train/x.txt': LINE},
        'labels/train/x.txt: image must be a file of the same name, in images/ or next '
        'to it, it is missing',
        [1, 2],
    ),
    'an empty image': (
        {'images/train/b.png': b''},
        'images/train/b.png: path must be an image that can be read (JPEG, PNG',
        [1],
    ),
    'two images of one stem': (
        {'images/train/b.jpg': IMAGE},
        'is taken by images/train/b.jpg, an image with the same name up to its ending; '
        'rename one of them',
        [1],
    ),
}


@pytest.mark.parametrize('kind', BAD_FILES)
def test_files_that_do_not_fit(folder, kind):
    changes, message, ids = BAD_FILES[kind]
    write_files(folder, USUAL | changes)
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert message in str(caught.value)
    with pytest.warns(UserWarning, match='left out') as told:
        assert read(folder, on_error='skip').image_ids.tolist() == ids
    assert len(told) == 1


def test_nothing_remains(folder):
    """The reason comes from what selects the records."""
    write_files(folder, USUAL | {f'images/train/{n}.png': b'' for n in 'ab'})
    with (
        pytest.warns(UserWarning, match='2 of 2 images left out'),
        pytest.raises(ValueError, match='none of its 0 images remains'),
    ):
        AutoDataset(str(folder), 'train', on_error='skip')


def test_lists_name_files_that_exist_and_once(folder):
    write_files(
        folder, USUAL | LISTS | {'two.txt': 'images/a.png\nnone.png\n# a note\n'}
    )
    with pytest.raises(
        ValueError, match=r'two.txt:3: path must be an image .*# a note'
    ):
        read(folder)
    with pytest.warns(UserWarning) as told:
        assert len(read(folder, on_error='skip').image_ids) == 1
    texts = [str(each.message) for each in told]
    assert 'listed more than once (two.txt:1)' in texts[0]
    assert '(two.txt:3, two.txt:2)' in texts[1] and len(texts) == 2


BAD_YAML = {
    'names: [a, b': ':2: not YAML',
    'names: a': "names must be a list of names or one with their indices, found 'a'",
    'names: [a, [b]]': "names[1] must be a text of 1 to 1024 characters, found ['b']",
    'names: [a, ""]': "names[1] must be a text of 1 to 1024 characters, found ''",
    'names: []': 'no names of classes (names) and no number (nc)',
    'nc: 0': 'no names of classes (names) and no number (nc)',
    'nc: 9999999999': "nc must be the number of classes, found '9999999999'",
    'nc: 999999': '999,999 classes, but at most 30,000 are read. Are the file and',
    'nc: x': "nc must be the number of classes, found 'x'",
    'nc: 2\nnames: [a]': 'nc is 2, but names has 1 names',
    'names: {0: a, 2: b}': "indices of the 2 names must be 0 to 1, found ['0', '2']",
    'names: {x: a}': 'the indices of the 1 names must be 0 to 0',
    'names: [a]\nkpt_shape: 17': "keypoints and of values of each, found '17'",
    'names: [a]\ntrain: {a: b}': 'train must be a folder of images, a list of',
    'names: [a]\npath: [b]\ntrain: images': "path must be a folder, found ['b']",
    'names: [a, b, a]\ntrain: images/train': "the classes 0 and 2 are both named 'a'",
    'names: [a]\ntrain: none': '/none, but there is no such folder or list',
    'names: [a]\ntrain: labels': 'train is labels, but there are no images (.apng',
    '- names: [a]\nnames: x': 'not YAML',
    'names: [a]\n\x00': 'not YAML',
}  # fmt: skip


@pytest.mark.parametrize('yaml', BAD_YAML)
def test_a_bad_yaml_file(folder, yaml):
    write_files(folder, USUAL | {'data.yaml': f'{yaml}\n'})
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert str(caught.value).startswith(f'{folder}/data.yaml')
    assert BAD_YAML[yaml] in str(caught.value)


def test_a_name_twice_does_not_matter_if_it_is_not_wanted(folder):
    write_files(
        folder, USUAL | {'data.yaml': 'train: images/train\nnames: [a, b, b]\n'}
    )
    assert len(AutoDataset(str(folder), 'train', classes=('a',)).records) == 1
    with pytest.raises(ValueError, match='both named'):
        AutoDataset(str(folder), 'train', classes=('b',))


def test_several_yaml_files(folder):
    yaml = {'one.yaml': YAML, 'two.yml': YAML}
    write_files(folder, USUAL | yaml)
    assert find(str(folder)).source.endswith('data.yaml')
    (folder / 'data.yaml').unlink()
    with pytest.raises(ValueError, match=r'each of one.yaml, two.yml could be'):
        find(str(folder))


def test_unknown_names_of_classes(folder):
    write_files(folder, USUAL)
    (folder / 'data.yaml').unlink()
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    message = str(caught.value)
    assert 'label files as those of YOLO in labels/train' in message
    assert 'data.yaml with the line names: [NAME, ...]' in message
    # With annotations of another form there, those are meant.
    coco = '{"images": [], "annotations": [], "categories": []}'
    write_files(folder, {'train.json': coco})
    assert find(str(folder)).name == 'COCO'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('cat\n\ndog\nowl\n', 'classes.txt:2: expected the name of a class'),
        ('', 'classes.txt: expected the name of a class in each line; empty'),
        ('Bär\n'.encode('latin-1'), 'classes.txt: expected text in UTF-8'),
    ],
)
def test_a_bad_file_of_names(folder, text, message):
    write_files(folder, IN_SPLITS | {'classes.txt': text})
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    assert message in str(caught.value)


def test_names_next_to_the_labels_of_each_split(folder):
    names = 'cat\ndog\nowl\n'
    files = {'train/classes.txt': names, 'valid/classes.txt': names}
    write_files(folder, IN_SPLITS | files)
    write_files(folder.parent, {'classes.txt': 'of something else'})
    assert list(read(folder).categories.values()) == ['cat', 'dog', 'owl']
    write_files(folder, {'valid/classes.txt': 'dog\ncat\nowl\n'})
    with pytest.raises(ValueError, match='name the classes in different ways'):
        find(str(folder))


def test_files_of_names_that_contradict(folder):
    names = {'train/_darknet.labels': 'cat\ndog', 'valid/_darknet.labels': 'dog\ncat'}
    write_files(folder, NEXT_TO | names)
    with pytest.raises(ValueError, match='name the classes in different ways'):
        find(str(folder))


def test_a_split_that_is_not_there(folder):
    write_files(folder, USUAL)
    with pytest.raises(ValueError, match=r"split = 'test', but .* has only train, val"):
        AutoDataset(str(folder), 'test')


def test_a_missing_split_does_not_hinder_the_others(folder):
    write_files(folder, USUAL | {'data.yaml': f'{YAML}test: ../test/images\n'})
    with pytest.warns(UserWarning, match=r'test is .*test/images, which is not there'):
        assert len(read(folder).boxes) == 3
    with pytest.raises(ValueError, match=r"split = 'test', but .* has only train, val"):
        AutoDataset(str(folder), 'test')


@hypothesis.given(st.sampled_from(['data.yaml', 'labels/train/a.txt']), st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_random_damage(tmp_path_factory, file, data):
    """A table of finite numbers, or an error that says where."""
    folder = tmp_path_factory.mktemp('damaged')
    content = data.draw(damaged(USUAL[file].encode()))
    write_files(folder, USUAL | {file: content})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for on_error in ('raise', 'skip'):
            try:
                boxes = boxes_of(folder, on_error)
            except ValueError as error:
                assert str(folder) in str(error)
                is_counted_from_1 = 'probably counted from 1' in str(error)
                assert on_error == 'raise' or file == 'data.yaml' or is_counted_from_1
            else:
                assert np.isfinite(boxes).all()


def test_labels_without_images(tmp_path):
    """As Label Studio and CVAT export them where nobody asks for the images."""
    labels = {'labels/a.txt': LINE, 'classes.txt': 'cat\n', 'notes.json': '{}'}
    write_files(tmp_path / 'one', labels)
    (tmp_path / 'one' / 'images').mkdir()
    write_files(
        tmp_path / 'two',
        {
            'obj.names': 'cat\n',
            'train.txt': 'data/obj_train_data/a.jpg\n',
            'obj_train_data/a.txt': LINE,
        },
    )
    for name, label in (('one', 'labels/a.txt'), ('two', 'obj_train_data/a.txt')):
        with pytest.raises(ValueError) as caught:
            find(str(tmp_path / name))
        message = str(caught.value)
        assert f'those of YOLO, such as {label}, but no images. Export again' in message


def test_decimal_commas(tmp_path):
    """As programs in a French Windows write them: the line is named."""
    line = LINE.replace('.', ',')
    files = {'images/a.png': IMAGE, 'labels/a.txt': line, 'classes.txt': 'cat'}
    write_files(tmp_path, files)
    with pytest.raises(ValueError) as caught:
        AutoDataset(str(tmp_path), 'all')
    message = str(caught.value)
    assert 'labels/a.txt:1: box must be numbers from 0 to 1' in message
    assert "(with a decimal point, not a comma), found '0,5'" in message


def test_more_classes_in_the_labels_than_names(folder):
    lines = '\n'.join(f'{index}{LINE[1:]}' for index in (0, 7, 4))
    write_files(folder, USUAL | {'labels/train/a.txt': lines})
    with pytest.raises(ValueError, match=r'\(3 have a name, but the labels go to 7\)'):
        read(folder)
