"""The names of classes: their number, and names that occur twice."""

import time

import pytest

from atss_jax.data.forms import class_names
from atss_jax.data.forms.find import find
from tests.support import yolo_set
from tests.support.forms import IMAGE, write_files


def test_a_name_twice():
    names = ('a', 'b', 'c', 'b', 'a')
    with pytest.raises(ValueError) as caught:
        class_names.check_unique('x.txt', names, None)
    assert str(caught.value) == (
        "x.txt: the classes 1 and 3 are both named 'b'; give one of them another name"
    )
    with pytest.raises(ValueError, match="the classes 0 and 4 are both named 'a'"):
        class_names.check_unique('x.txt', names, ('a', 'c'))
    class_names.check_unique('x.txt', names, ('c',))


def test_many_names():
    """In a fraction of a second, not in the minutes that comparing all pairs takes."""
    names = [f'class_{index}' for index in range(300_000)]
    start = time.monotonic()
    class_names.check_unique('x.txt', names, None)
    assert time.monotonic() - start < 5


MESSAGE = '30,001 classes, but at most 30,000 are read. Are the file and its number of'


def test_more_classes_than_there_are(tmp_path):
    text = '\n'.join(map(str, range(30_001)))
    write_files(tmp_path, yolo_set.NEXT_TO | {'classes.txt': text})
    with pytest.raises(ValueError, match=MESSAGE):
        find(str(tmp_path))
    (tmp_path / 'classes.txt').unlink()
    write_files(tmp_path, {'data.yaml': 'nc: 30001\n'})
    with pytest.raises(ValueError, match=MESSAGE):
        find(str(tmp_path))
    write_files(tmp_path, {'data.yaml': 'nc: 30000\n'})
    assert len(find(str(tmp_path)).names) == 30_000


# Roboflow's ../train/images -----------------------------------------------------------

ROBOFLOW = 'train: ../train/images\nval: ../valid/images\nnames: [cat, dog, owl]\n'
NEIGHBOR = {'train/images/n.png': IMAGE, 'valid/images/n.png': IMAGE}


def test_a_neighbor_does_not_take_the_place_of_a_set(tmp_path):
    """The YAML file says `../train/images`, and that is there, of another data set."""
    write_files(tmp_path, NEIGHBOR)
    write_files(tmp_path / 'set', yolo_set.IN_SPLITS | {'data.yaml': ROBOFLOW})
    form = find(str(tmp_path / 'set'))
    assert form.splits == {'train': 'train/images', 'val': 'valid/images'}


@pytest.mark.parametrize('base', ['', 'path: .\n'])
def test_a_neighbor_that_is_meant(tmp_path, base):
    """Nothing of that name lies next to the YAML file."""
    write_files(tmp_path, NEIGHBOR)
    write_files(tmp_path / 'set', {'data.yaml': base + ROBOFLOW})
    places = find(str(tmp_path / 'set')).places
    assert places['train'] == (f'{tmp_path}/train/images',)


def test_a_neighbor_that_is_named(tmp_path):
    """A whole name is not mistaken for its end, nor is one relative to `path`."""
    write_files(tmp_path / 'other', NEIGHBOR)
    text = ROBOFLOW.replace('../', '../other/')
    write_files(tmp_path / 'set', yolo_set.IN_SPLITS | {'data.yaml': text})
    expected = (f'{tmp_path}/other/train/images',)
    assert find(str(tmp_path / 'set')).places['train'] == expected
    text = f'path: ../other/deep\n{ROBOFLOW}'
    write_files(tmp_path / 'set', {'data.yaml': text})
    assert find(str(tmp_path / 'set')).places['train'] == expected
