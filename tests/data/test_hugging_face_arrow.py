"""Parquet and Arrow files with a column `objects`, written by pyarrow alone."""

import json
import os
import pickle
import sys

import numpy as np
import pytest

from atss_jax.data.forms.arrow_files import image_content
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from atss_jax.data.image_file import BadImage
from tests.support.hugging_face import (
    CLASSES,
    ROWS,
    SIZES,
    digests_of_workers,
    encoded,
    write_folder,
)

arrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')

LABEL = {'names': CLASSES, '_type': 'ClassLabel'}
BOXES = {'feature': {'dtype': 'float32', '_type': 'Value'}, '_type': 'Sequence'}
# As the versions of `datasets` have described lists of objects.
FEATURES = {
    'a Sequence of objects': {
        'feature': {'bbox': BOXES, 'category': LABEL},
        '_type': 'Sequence',
    },
    'an object of Sequences': {
        'bbox': {'feature': BOXES, '_type': 'Sequence'},
        'category': {'feature': LABEL, '_type': 'Sequence'},
    },
    'an object of Lists': {
        'bbox': {'feature': BOXES, '_type': 'List'},
        'category': {'feature': LABEL, '_type': 'List'},
    },
    'a list of objects': [{'bbox': BOXES, 'category': LABEL}],
    'a List of objects': {
        'feature': {'bbox': BOXES, 'category': LABEL},
        '_type': 'List',
    },
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'data' / 'train-00000-of-00001.parquet'
    path.parent.mkdir()
    return path


def rows_with_images(rows=ROWS):
    """The rows with their images within them, as the Hub has them."""
    return [
        {
            **{key: value for key, value in row.items() if key != 'file_name'},
            'image': {'bytes': encoded(row['file_name']), 'path': row['file_name']},
        }
        for row in rows
    ]


def write(path, rows, features=FEATURES['an object of Lists']):
    """A Parquet or Arrow file of the rows."""
    table = arrow.Table.from_pylist(rows)
    if features is not None:
        info = {'info': {'features': {'objects': features}}}
        table = table.replace_schema_metadata({'huggingface': json.dumps(info)})
    if path.suffix == '.parquet':
        parquet.write_table(table, path, row_group_size=2)
    else:
        with arrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


def read(path, split='train', **kwargs):
    return find(str(path)).read(split, **kwargs)


def check_equal_to_the_folder(found, tmp_path):
    """All columns except for names, which are those of rows."""
    expected = find(str(write_folder(tmp_path / 'folder', ROWS))).read('all')
    for name in vars(expected):
        if name not in ('path', 'file_names'):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize('features', FEATURES.values(), ids=FEATURES)
def test_parquet_equals_the_folder(file, tmp_path, features):
    write(file, rows_with_images(), features)
    found = read(file.parent)
    check_equal_to_the_folder(found, tmp_path)
    start = 'train-00000-of-00001.parquet'
    assert found.file_names == [
        f'{start}/000000/a.png',
        f'{start}/000001/b.png',
        f'{start}/000002/c.png',
    ]


def test_a_list_of_objects_is_the_same(file, tmp_path):
    rows = rows_with_images()
    for row in rows:
        lists = row['objects']
        count = len(lists['bbox'])
        row['objects'] = [{k: v[i] for k, v in lists.items()} for i in range(count)]
    write(file, rows, FEATURES['a list of objects'])
    check_equal_to_the_folder(read(file.parent), tmp_path)


@pytest.mark.parametrize('kind', ['parquet', 'arrow'])
def test_images_are_the_bytes_in_the_rows(file, kind):
    file = write(file.with_suffix(f'.{kind}'), rows_with_images())
    form = find(str(file))
    assert len(pickle.dumps(form)) < 500
    form = pickle.loads(pickle.dumps(form))
    for name in form.read('all').file_names:
        content = form.image_content(os.path.join(form.folder, name))
        assert content == encoded(name[-5:])


def test_a_saved_folder_equals_the_folder(tmp_path):
    for split in ('train', 'validation'):
        folder = tmp_path / 'saved' / split
        folder.mkdir(parents=True)
        write(folder / 'data-00000-of-00002.arrow', rows_with_images(ROWS[:1]))
        write(folder / 'data-00001-of-00002.arrow', rows_with_images(ROWS[1:]))
        (folder / 'dataset_info.json').write_text('{}')
        names = [{'filename': f'data-0000{i}-of-00002.arrow'} for i in range(2)]
        (folder / 'state.json').write_text(json.dumps({'_data_files': names}))
    form = find(str(tmp_path / 'saved'))
    assert list(form.splits) == ['train', 'val']
    check_equal_to_the_folder(form.read('val'), tmp_path)
    check_equal_to_the_folder(read(tmp_path / 'saved' / 'train', 'all'), tmp_path)
    (folder / 'state.json').write_text('{}')
    with pytest.raises(ValueError, match=r'state\.json: not written by the library'):
        find(str(tmp_path / 'saved'))


@pytest.mark.parametrize('name', ['../x.arrow', 'a/../../x.arrow', '/x.arrow', 7, ''])
def test_a_saved_folder_that_names_files_outside_of_it(tmp_path, name):
    folder = tmp_path / 'saved'
    (folder / 'train').mkdir(parents=True)
    state = {'_data_files': [{'filename': name}]}
    (folder / 'train' / 'state.json').write_text(json.dumps(state))
    (folder / 'train' / 'dataset_info.json').write_text('{}')
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    assert str(caught.value) == (
        f'{folder}/train/state.json: a filename must be a path in the folder of this '
        f'file, relative to it, found {name!r}'
    )


def test_a_description_in_parquet(tmp_path):
    folder = write_folder(tmp_path / 'images' / 'train', ROWS, names=False)
    (folder / 'metadata.jsonl').unlink()
    write(folder / 'metadata.parquet', ROWS)
    found = read(folder.parent)
    assert found.file_names == ['train/a.png', 'train/b.png', 'train/c.png']
    check_equal_to_the_folder(found, tmp_path)


def test_names_and_folders_tell_the_splits(tmp_path):
    def splits(*names):
        folder = tmp_path / str(len(names)) / names[0].replace('/', '_')
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, rows_with_images())
        return dict(find(str(folder)).files)

    shards = [f'data/train-0000{i}-of-00002-12ab.parquet' for i in range(2)]
    assert splits(*shards, 'data/validation-00000-of-00001.parquet') == {
        'train': shards,
        'val': ['data/validation-00000-of-00001.parquet'],
    }
    assert splits('train/0000.parquet', 'test/0000.parquet') == {
        'train': ['train/0000.parquet'],
        'test': ['test/0000.parquet'],
    }
    assert splits('one.parquet') == {'all': ['one.parquet']}
    other = ['train-00000-of-00001.parquet', 'train_extra-00000-of-00001.parquet']
    assert splits(*other) == {'train': other[:1], 'train_extra': other[1:]}


def test_images_are_copied_once_and_again_when_the_file_changes(file, cache):
    write(file, rows_with_images())
    read(file.parent)
    (copy,) = cache.glob('parquet_images/*.arrow')
    first = copy.stat().st_mtime_ns
    read(file.parent)
    assert copy.stat().st_mtime_ns == first
    write(file, rows_with_images(ROWS[::-1]))
    form = find(str(file.parent))
    names = form.read('train').file_names
    assert len(list(cache.glob('parquet_images/*.arrow'))) == 1
    content = form.image_content(os.path.join(form.folder, names[0]))
    assert content == encoded('c.png')


def test_images_without_names_and_as_plain_bytes(file):
    rows = [{**row, 'image': row['image']['bytes']} for row in rows_with_images()]
    form = find(str(write(file, rows).parent))
    found = form.read('train')
    assert found.file_names[1] == 'train-00000-of-00001.parquet/000001'
    assert found.image_sizes.tolist() == [list(size) for size in SIZES.values()]
    path = os.path.join(form.folder, found.file_names[1])
    assert form.image_content(path) == encoded('b.png')


def test_images_in_files_next_to_it(tmp_path):
    folder = write_folder(tmp_path / 'paths', ROWS)
    rows = [{**r, 'image': {'bytes': None, 'path': r['file_name']}} for r in ROWS]
    form = find(str(write(folder / 'all.parquet', rows)))
    found = form.read('all')
    assert found.image_sizes.tolist() == [list(size) for size in SIZES.values()]


def _image_named_by_a_path(folder, image):
    """Reads the image of an Arrow file in a folder that names it by its path."""
    rows = [{**ROWS[0], 'image': {'bytes': None, 'path': str(image)}}]
    folder.mkdir(parents=True)
    path = write(folder / 'cells-train.arrow', rows)
    return image_content(f'{path}/000000/a.png')


def test_files_of_the_library_name_what_it_downloaded(tmp_path, monkeypatch):
    """`datasets` names images in the cache of the Hub by absolute paths."""
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'home'))
    for name in ('HF_DATASETS_CACHE', 'HF_HUB_CACHE'):
        monkeypatch.delenv(name, raising=False)
    image = tmp_path / 'home' / 'hub' / 'snapshot' / 'a.png'
    image.parent.mkdir(parents=True)
    image.write_bytes(b'an image')
    made = tmp_path / 'home' / 'datasets' / 'cells'
    assert _image_named_by_a_path(made, image) == b'an image'
    with pytest.raises(PermissionError, match='outside of the folder'):
        _image_named_by_a_path(tmp_path / 'home' / 'datasets' / 'x', tmp_path / 'b.png')
    with pytest.raises(PermissionError, match='outside of the folder'):
        _image_named_by_a_path(tmp_path / 'elsewhere', image)


def test_a_row_without_an_image(file):
    rows = rows_with_images()
    rows[1]['image'] = None
    write(file, rows)
    with pytest.raises(ValueError) as caught:
        read(file.parent)
    start = 'train-00000-of-00001.parquet'
    assert f'{start} row 1 (id 3): its size is not given, and' in str(caught.value)
    assert f'{start}/000001: there is no image in this row' in str(caught.value)
    with pytest.warns(UserWarning, match='1 of 3 images left out: no size is given'):
        assert read(file.parent, on_error='skip').image_ids.tolist() == [7, 5]


def test_a_row_without_an_image_whose_size_is_given(file):
    """It is a bad image when it is loaded, as a missing file is."""
    rows = [{**row, 'width': 40, 'height': 40} for row in rows_with_images(ROWS[2:])]
    rows += [{**rows[0], 'image_id': 8, 'image': None}]
    rows += [{**rows[0], 'image_id': 9, 'image': {'bytes': b'text', 'path': None}}]
    write(file, rows)
    source = AutoDataset(str(file.parent), 'train')
    with pytest.raises(FileNotFoundError) as caught:
        source.read_image(source.records[1])
    assert 'parquet/000001: there is no image in this row (image id 8' in str(
        caught.value
    )
    with pytest.raises(BadImage, match=r'000002: not an image .*, 4 bytes'):
        source.read_image(source.records[2])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'image': 5}, 'there is no column image, nor a column file_name'),
        ({'objects': 5}, 'there is no column objects'),
    ],
)
def test_a_missing_column(file, change, message):
    rows = [
        {key if key not in change else 'other': value for key, value in row.items()}
        for row in rows_with_images()
    ]
    write(file, rows)
    with pytest.raises(ValueError) as caught:
        read(file.parent)
    assert message in str(caught.value) and str(file) in str(caught.value)
    assert 'image_id' in str(caught.value) and 'other' in str(caught.value)


def test_classes_that_are_not_named(file):
    write(file, rows_with_images(), features=None)
    with pytest.raises(ValueError) as caught:
        read(file.parent)
    assert 'the categories are integers (0 to 1)' in str(caught.value)
    assert str(file.parent / 'classes.txt') in str(caught.value)
    (file.parent / 'classes.txt').write_text('dog\ncat\n')
    assert read(file.parent).categories == {0: 'dog', 1: 'cat'}


def test_classes_that_differ_within_a_split(tmp_path):
    other = {'category': {'names': ['cat', 'dog'], '_type': 'ClassLabel'}}
    for number, features in enumerate((FEATURES['a List of objects'], other)):
        name = f'train-0000{number}-of-00002.parquet'
        write(tmp_path / name, rows_with_images(), features)
    with pytest.raises(ValueError, match='the names of their classes differ'):
        read(tmp_path)


@pytest.mark.parametrize('kind', ['parquet', 'arrow'])
@pytest.mark.parametrize('content', [b'', b'PAR1 not really', None])
def test_a_damaged_file(file, kind, content):
    file = write(file.with_suffix(f'.{kind}'), rows_with_images())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError) as caught:
        read(file, 'all')
    assert str(caught.value).startswith(f'{file}: damaged, or not of this kind (')


def test_without_pyarrow_the_extra_is_named(file, monkeypatch):
    write(file, rows_with_images())
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(ValueError, match=r"pip install 'atss-jax\[hf\]'"):
        read(file.parent)


def test_a_cache_that_cannot_be_written(file, tmp_path, monkeypatch):
    write(file, rows_with_images())
    (tmp_path / 'no_folder').write_text('')
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'no_folder'))
    with pytest.raises(OSError, match='ATSS_JAX_CACHE'):
        read(file.parent)


@pytest.mark.long
def test_batches_do_not_depend_on_workers(file, tmp_path):
    write(file, rows_with_images())
    alone, workers = digests_of_workers(file.parent, tmp_path)
    assert alone == workers
