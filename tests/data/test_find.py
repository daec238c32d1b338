"""What lies at a path: the one form, none, or several, and how to choose."""

import json
import os

import pytest

from atss_jax.data.forms.dataset import AutoDataset, check_split, describe_forms
from atss_jax.data.forms.find import FORMS, PREFIXES, describe, find
from atss_jax.data.forms.form import in_order, split_name, split_of_folders
from atss_jax.data.joined import JoinedDataset, Member
from tests.support import voc_set, yolo_set
from tests.support.every_form import WRITERS
from tests.support.forms import IMAGE, write_files
from tests.support.hugging_face import ROWS, write_folder

NAMES = {
    'COCO': 'COCO',
    'Roboflow': 'COCO',
    'YOLO': 'YOLO',
    'Pascal VOC': 'Pascal VOC',
    'image folder': 'Hugging Face',
    'Parquet': 'Hugging Face',
}


def refuses(path, *parts, error=ValueError):
    with pytest.raises(error) as caught:
        find(str(path))
    for part in parts:
        assert str(part) in str(caught.value)


@pytest.mark.parametrize('name', [n for n in WRITERS if n != 'Parquet'])
def test_each_form_is_found_as_itself(small_data, tmp_path, name):
    """By no reader except its own, in a folder and with its prefix."""
    WRITERS[name](small_data, tmp_path)
    form = find(str(tmp_path))
    assert form.name == NAMES[name]
    assert form.path == str(tmp_path)
    assert list(form.splits) == ['train', 'val']
    for prefix, form_name in PREFIXES.items():
        if form_name == form.name:
            assert find(f'{prefix}:{tmp_path}') == form
        else:
            refuses(f'{prefix}:{tmp_path}', f'in a known form ({form_name})')


def test_there_is_a_prefix_for_each_form():
    assert sorted(PREFIXES.values()) == sorted(FORMS)


def test_nothing_there(tmp_path):
    refuses(
        tmp_path / 'none',
        f"path = '{tmp_path / 'none'}': there is no such file or folder",
        error=FileNotFoundError,
    )
    refuses(
        f'voc:{tmp_path}/none', f"path = 'voc:{tmp_path}/none'", error=FileNotFoundError
    )


def test_an_empty_folder(tmp_path):
    refuses(
        tmp_path,
        f'path = {str(tmp_path)!r}: found no annotations in a known form '
        '(COCO, YOLO, Pascal VOC, Hugging Face); it is an empty folder (docs/',
        'docs/data.md says which files belong to each form)',
    )


def test_a_folder_of_other_things(tmp_path):
    write_files(tmp_path, {f'{name}.bin': 'x' for name in 'abcdefghij'})
    refuses(tmp_path, 'in it are a.bin, b.bin, ', 'h.bin, ... (docs/')


@pytest.mark.parametrize(
    ('name', 'content'),
    [('a.json', '{}'), ('a.json', ''), ('a.txt', 'x'), ('a.yaml.bak', 'names: [a]')],
)
def test_a_file_of_no_form(tmp_path, name, content):
    write_files(tmp_path, {name: content})
    refuses(tmp_path / name, 'found no annotations', '; it is a file (')


# Several forms in one folder ----------------------------------------------------------


@pytest.fixture
def both(tmp_path):
    """A folder with files of Pascal VOC and of YOLO."""
    write_files(tmp_path / 'set', voc_set.USUAL)
    write_files(tmp_path / 'set', yolo_set.USUAL)
    return tmp_path / 'set'


def test_several_forms_are_refused(both):
    refuses(
        both,
        'more than one form of annotations lies there',
        f'{both}: YOLO with train (images/train), val (images/val); ',
        f'{both}: Pascal VOC with train (ImageSets/Main/train.txt)',
        f'Say which one you want, yolo:{both} or voc:{both}, or give the path',
    )


def test_a_prefix_chooses(both):
    assert find(f'voc:{both}').name == 'Pascal VOC'
    assert find(f'yolo:{both}').name == 'YOLO'
    source = AutoDataset(f'voc:{both}', 'train')
    assert source.classes == ('cat', 'dog', 'owl')
    refuses(f'coco:{both}', f"path = 'coco:{both}': found no", 'known form (COCO)')


def test_a_prefix_in_relative_and_home_paths(both, monkeypatch):
    monkeypatch.chdir(both.parent)
    assert find('voc:set').folder == 'set'
    monkeypatch.setenv('HOME', str(both.parent))
    assert find('yolo:~/set').folder == str(both)
    assert find('yolo:~/set/data.yaml').folder == str(both)


def test_a_folder_whose_name_looks_like_a_prefix(both, monkeypatch):
    monkeypatch.chdir(both.parent)
    write_files(both.parent / 'voc:set', yolo_set.USUAL)
    assert find('voc:set').name == 'YOLO'
    assert find('yolo:voc:set').name == 'YOLO'


def test_the_path_of_a_file_chooses(both):
    assert find(str(both / 'data.yaml')).name == 'YOLO'


def test_an_incomplete_form_does_not_hide_another(tmp_path):
    """Label files without names of classes next to a COCO file."""
    files = {k: v for k, v in yolo_set.USUAL.items() if k != 'data.yaml'}
    write_files(tmp_path, files)
    refuses(tmp_path, 'no file that names the classes')
    write_files(tmp_path, {'train.json': json.dumps({'images': [], 'categories': []})})
    assert find(str(tmp_path)).name == 'COCO'
    refuses(f'yolo:{tmp_path}', 'no file that names the classes')


# Splits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        ('train', 'train'),
        ('instances_val2017', 'val'),
        ('valid', 'val'),
        ('my-Validation-set', 'val'),
        ('dev', 'val'),
        ('TEST', 'test'),
        ('testing_2', 'test'),
        ('trains', None),
        ('contest', None),
        ('trainval', None),
        ('', None),
    ],
)
def test_names_of_splits(name, split):
    assert split_name(name) == split


def test_the_order_of_splits():
    names = ('zoo', 'test', 'minival', 'val', 'train')
    splits = in_order(dict.fromkeys(names, 'x'))
    assert list(splits) == ['train', 'val', 'test', 'minival', 'zoo']


def test_a_split_that_is_not_there(tmp_path):
    write_files(tmp_path, yolo_set.USUAL)
    with pytest.raises(ValueError) as caught:
        check_split(find(str(tmp_path)), 'test')
    message = f"split = 'test', but {tmp_path} (YOLO) has only train, val"
    assert str(caught.value) == message


def test_a_set_that_is_not_divided(tmp_path):
    """The message says how to divide it."""
    write_folder(tmp_path, ROWS)
    form = find(str(tmp_path))
    check_split(form, 'all')
    with pytest.raises(ValueError) as caught:
        check_split(form, 'train')
    for part in (
        f"split = 'train', but {tmp_path} (Hugging Face) is not divided into splits",
        f'atss split {tmp_path} --out {tmp_path}_divided',
        "split = 'all'",
    ):
        assert part in str(caught.value)


# Lines --------------------------------------------------------------------------------


def test_one_line_for_each_data_set(small_data, tmp_path):
    """Once for the splits of one folder, and for members of joined data sets."""
    for name in ('YOLO', 'Roboflow'):
        WRITERS[name](small_data, tmp_path / name)
    sources = [
        AutoDataset(str(tmp_path / name), split, test_mode=True)
        for name in ('YOLO', 'Roboflow')
        for split in ('train', 'val')
    ]
    joined = JoinedDataset([Member('a', sources[0]), Member('b', sources[2])])
    lines = [describe(find(str(tmp_path / name))) for name in ('YOLO', 'Roboflow')]
    assert describe_forms(sources) == lines
    assert describe_forms([joined, sources[1]]) == lines
    assert lines[0] == (
        f'{tmp_path}{os.sep}YOLO: YOLO with train (images/train), val (images/val)'
    )


@pytest.mark.parametrize(
    ('name', 'split'),
    [
        ('DET-test-dev', 'test'),
        ('instances_test-dev2017', 'test'),
        ('dev', 'val'),
        ('train_val', None),
        ('trainval', None),
    ],
)
def test_names_with_words_of_several_splits(name, split):
    assert split_name(name) == split


@pytest.mark.parametrize(
    ('folders', 'split'),
    [
        (('dev_kit', 'train'), 'train'),
        (('field_test', 'valid'), 'val'),
        (('train', 'field_test'), 'train'),
        (('my_train_set', 'x'), 'train'),
        (('a', 'b'), None),
        ((), None),
    ],
)
def test_the_innermost_folder_names_the_split(folders, split):
    assert split_of_folders(folders) == split


def test_a_split_that_a_yaml_file_names_without_having_it(tmp_path):
    """Roboflow names a test folder whether it exports one or not."""
    write_files(tmp_path, yolo_set.USUAL)
    (tmp_path / 'data.yaml').write_text(f'{yolo_set.YAML}test: ../test/images\n')
    with pytest.warns(UserWarning, match='used without test'):
        form = find(str(tmp_path))
    assert list(form.splits) == ['train', 'val']


def test_two_folders_of_one_split(tmp_path):
    files = {f'{name}/images/a.png': IMAGE for name in ('train', 'val', 'valid')}
    files |= {f'{name}/labels/a.txt': yolo_set.LINE for name in ('train', 'val')}
    write_files(tmp_path, files | {'data.yaml': yolo_set.NAMES})
    refuses(tmp_path, 'val/images', 'valid/images', "split 'val'")
