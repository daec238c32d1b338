"""Pascal VOC data sets with errors: refused with file and reason, or left out."""

import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from tests.support.forms import (
    IMAGE,
    boxes_of,
    damaged,
    read,
    voc_file,
    voc_object,
    write_files,
)
from tests.support.voc_set import DOG, LISTS, SIZE, USUAL, A, C


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'set'


PART_OF_DOG = DOG[DOG.index('<bndbox>') : DOG.index('</object>')]
BAD_OBJECTS = {
    'no name': (
        ('<name>dog</name>', ''),
        'name must be a text of 1 to',
        'it is missing',
    ),
    'an empty name': (('>dog<', '> <'), 'name must be a text of 1', 'it is missing'),
    'no bndbox': ((PART_OF_DOG, ''), 'bndbox must be an element of', 'it is missing'),
    'a polygon alone': (('bndbox>', 'polygon>'), 'bndbox must be', 'it is missing'),
    'no xmax': (('xmax>', 'x>'), 'xmax must be a number of', 'it is missing'),
    'an empty ymin': (('>21<', '><'), 'ymin must be a number of', 'it is missing'),
    'text': (('>21<', '>21px<'), 'ymin must be a number of', "found '21px'"),
    'NaN': (('>21<', '>nan<'), 'ymin must be a number of', 'found nan'),
    'infinity': (('>40<', '>1e999<'), 'xmax must be a number of', 'found inf'),
    'difficult': (('<difficult>0', '<difficult>no'), 'difficult must be', "found 'no'"),
}


@pytest.mark.parametrize('kind', BAD_OBJECTS)
def test_a_bad_object(folder, kind):
    (old, new), *texts = BAD_OBJECTS[kind]
    assert old in DOG
    objects = [voc_object('dog', [1, 2, 3, 4]), DOG.replace(old, new)]
    write_files(folder, USUAL | {'Annotations/a.xml': voc_file('a.png', SIZE, objects)})
    with pytest.raises(ValueError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(
        f'{folder}/{LISTS}/train.txt: Annotations/a.xml: object 2: '
    )
    assert all(text in message for text in texts) and "on_error='skip'" in message
    with pytest.warns(UserWarning, match=r'1 of 2 objects left out.*a.xml: object 2\)'):
        assert read(folder, on_error='skip').boxes.tolist() == [[1, 2, 3, 4]]


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + ''.join(
        f'<!ENTITY {name} "{f"&{inner};" * 10}">'
        for inner, name in zip('abcdefghi', 'bcdefghij', strict=True)
    )
    + ']><annotation><filename>&j;</filename></annotation>'
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    '<annotation><filename>&a;</filename></annotation>'
)
BAD_FILES = {
    'cut off': ({'Annotations/b.xml': A[:-20]}, 'content must be XML with the root'),
    'empty': ({'Annotations/b.xml': ''}, "found 'no element found: line 1, column 0'"),
    'no XML': ({'Annotations/b.xml': b'\xff\xd8\xff'}, "found 'not well-formed"),
    'a binary encoding': (
        {'Annotations/b.xml': '<?xml version="1.0" encoding="x"?><annotation/>'},
        "found 'unknown encoding",
    ),
    'another root': ({'Annotations/b.xml': '<annotations/>'}, "found '<annotations>'"),
    'entities without end': ({'Annotations/b.xml': LAUGHS}, 'amplification'),
    'entities from outside': ({'Annotations/b.xml': OUTSIDE}, 'undefined entity'),
    'no image': ({'JPEGImages/b.png': None}, 'up to its ending, found []'),
    'two images': (
        {'JPEGImages/b.png': None}
        | {'JPEGImages/b.gif': IMAGE, 'JPEGImages/b.jpg': IMAGE},
        "found ['JPEGImages/b.gif', 'JPEGImages/b.jpg']",
    ),
    'no size and no readable image': (
        {'Annotations/b.xml': voc_file('b.png', None, []), 'JPEGImages/b.png': b''},
        'size must be given, or else be that of an image that can be read',
    ),
}  # fmt: skip


@pytest.mark.parametrize('kind', BAD_FILES)
def test_a_bad_file(folder, kind):
    changes, message = BAD_FILES[kind]
    write_files(folder, USUAL | changes)
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(
        f'{folder}/{LISTS}/train.txt: {LISTS}/train.txt:2: '
    )
    with pytest.warns(UserWarning, match='1 of 2 images left out') as told:
        assert read(folder, on_error='skip').image_ids.tolist() == [1]
    assert len(told) == 1
    assert len(read(folder, 'val').boxes) == 1  # not its fault


def test_a_file_that_is_missing_is_wrong_in_training(folder):
    write_files(folder, USUAL | {'Annotations/b.xml': None})
    with pytest.raises(
        ValueError, match=r'train.txt:2: file must be .*Annotations/b.xml'
    ):
        read(folder)
    with pytest.warns(UserWarning, match='left out: file is not an annotation file'):
        assert len(read(folder, on_error='skip').image_ids) == 1
    table = read(folder, training=False)
    assert table.file_names == ['JPEGImages/a.png', 'JPEGImages/b.png']
    assert table.image_sizes.tolist() == [[50, 80], [50, 80]]
    assert table.annotation_images.tolist() == [1, 1]


@pytest.mark.parametrize(
    'size', [None, (0, 0), (50, 0), ('x', 80), (49.5, 80), ('', '')]
)
def test_sizes_that_cannot_be_are_read_from_the_image(folder, size):
    write_files(folder, USUAL | {'Annotations/a.xml': voc_file('a.png', size, [DOG])})
    assert read(folder).image_sizes.tolist() == [[50, 80], [50, 80]]


def test_a_size_that_is_not_the_image_s_is_said_when_it_is_loaded(folder):
    write_files(
        folder, USUAL | {'Annotations/a.xml': voc_file('a.png', (80, 50), [DOG])}
    )
    source = AutoDataset(str(folder), 'train')
    with pytest.raises(ValueError) as caught:
        source.read_image(source.records[0])
    assert 'a.png: 80x50 (width x height), but annotated as 50x80' in str(caught.value)
    assert 'Width and height are swapped' in str(caught.value)


def test_swapped_corners_are_not_trained_on(folder):
    swapped = voc_object('dog', [30, 20, -10, 5])
    write_files(
        folder, USUAL | {'Annotations/a.xml': voc_file('a.png', SIZE, [swapped, DOG])}
    )
    with pytest.warns(UserWarning, match='narrower or lower than 1 pixel'):
        assert len(AutoDataset(str(folder), 'train').records[0].boxes) == 1


def test_images_that_are_listed_twice(folder):
    write_files(folder, USUAL | {f'{LISTS}/train.txt': 'b\na\nb\n'})
    with pytest.warns(
        UserWarning, match=r'1 of 3 images left out: listed more than once'
    ):
        assert read(folder).image_ids.tolist() == [1, 2]


UNCLEAR = {
    'several years': (
        {f'VOC2007/{name}': content for name, content in USUAL.items()}
        | {f'VOC2012/{name}': content for name, content in USUAL.items()},
        ['several VOC data sets lie there', 'VOC2007', 'VOC2012', 'path of one'],
    ),
    'several without lists': (
        {
            f'{folder}/{name}': content
            for folder in ('one', 'two')
            for name, content in USUAL.items()
            if LISTS not in name
        },
        ['several VOC data sets lie there', '/one', '/two', 'path of one'],
    ),
    'some in splits': (
        {'train/a.xml': A, 'train/a.png': IMAGE, 'c.xml': C, 'c.png': IMAGE},
        ['lie in folders of train, but others, such as c.xml, in none'],
    ),
    'two lists of a split': (
        USUAL | {f'{LISTS}/valid.txt': 'c\n'},
        ['both', 'val.txt', 'valid.txt', "the split 'val'"],
    ),
    'other XML': ({'a.xml': '<annotations/>'}, ['found no annotations in a known']),
}  # fmt: skip


@pytest.mark.parametrize('kind', UNCLEAR)
def test_an_unclear_folder(folder, kind):
    files, texts = UNCLEAR[kind]
    write_files(folder, files)
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    assert all(text in str(caught.value) for text in texts)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_random_damage(tmp_path_factory, data):
    """A table of finite numbers, or an error that says where."""
    folder = tmp_path_factory.mktemp('damaged')
    file = 'Annotations/a.xml'
    write_files(folder, USUAL | {file: data.draw(damaged(USUAL[file].encode()))})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert np.isfinite(boxes_of(folder, 'skip')).all()
        try:
            boxes = boxes_of(folder, 'raise')
        except ValueError as error:
            assert f'{folder}/{LISTS}/train.txt' in str(error)
        else:
            assert np.isfinite(boxes).all()
