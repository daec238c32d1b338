"""`atss convert-data`: COCO files of data sets of every form, read again."""

import json
import shutil
import warnings

import numpy as np
import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from atss_jax.data.forms.to_coco import write_coco
from tests.support import forms
from tests.support.every_form import SPLITS, WRITERS
from tests.support.image_files import RGB, png
from tests.support.small_run import tree_of

FORMS = [
    pytest.param(name, marks=pytest.mark.hf if name == 'Parquet' else ())
    for name in WRITERS
]


@pytest.fixture(params=FORMS)
def form(request, small_data, tmp_path):
    """The small data set, in each form."""
    folder = tmp_path / 'my data'
    WRITERS[request.param](small_data, folder)
    return folder


def assert_same_table(table, expected, names):
    """All columns are equal bit for bit, file names as given."""
    assert table.file_names == names
    for name in set(vars(expected)) - {'path', 'file_names'}:
        value, other = getattr(table, name), getattr(expected, name)
        if isinstance(other, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other, name)
        else:
            assert value == other, name


@pytest.mark.parametrize('split', SPLITS)
def test_a_file_is_read_as_the_form_is(form, tmp_path, split):
    data, out = find(str(form)), tmp_path / 'out.json'
    expected = data.read(split, training=False)
    is_parquet = data.splits[split].endswith('.parquet')
    images = str(tmp_path / 'images') if is_parquet else None
    conversion = write_coco(str(form), str(out), split, images)
    assert conversion.img_prefix == (images or str(tmp_path))
    table = annotation_file.read(str(out))
    names = [name.rpartition('/')[2] for name in expected.file_names]
    if not is_parquet:
        names = [f'my data/{name}' for name in expected.file_names]
    assert_same_table(table, expected, names)
    assert (
        len(table.image_ids) == conversion.counts[0] == {'train': 21, 'val': 9}[split]
    )
    for name in table.file_names:
        assert (
            (tmp_path if images is None else tmp_path / 'images')
            .joinpath(name)
            .is_file()
        )


def test_images_are_copied_from_every_form(form, tmp_path):
    out, images = tmp_path / 'out.json', tmp_path / 'images'
    write_coco(str(form), str(out), 'train', str(images))
    data = find(str(form))
    table = data.read('train')
    names = annotation_file.read(str(out)).file_names
    assert len(set(names)) == 21
    assert sorted(names) == sorted(path.name for path in images.iterdir())
    for name, original in zip(names, table.file_names, strict=True):
        content = data.image_content(f'{data.folder}/{original}')
        assert (images / name).read_bytes() == content
        assert content.startswith(b'\x89PNG')


def test_what_a_loader_sees_is_the_same(form, tmp_path):
    out, images = tmp_path / 'out.json', tmp_path / 'images'
    write_coco(str(form), str(out), 'val', str(images))
    ours = AutoDataset(str(form), 'val', test_mode=True)
    theirs = AutoDataset(str(out), 'all', test_mode=True)
    assert theirs.classes == ours.classes
    assert theirs.records.digest() == ours.records.digest()
    for index in range(9):
        image = theirs.read_image(theirs.records[index])
        np.testing.assert_array_equal(image, ours.read_image(ours.records[index]))


# What is written ----------------------------------------------------------------------

CONTENT = {
    'images': [
        {'id': 7, 'file_name': 'x/a.png', 'height': 50, 'width': 80},
        {'id': -2, 'file_name': 'y\\A.PNG', 'height': 50, 'width': 80},
    ],
    'annotations': [
        {'id': 1, 'image_id': 7, 'category_id': 4, 'bbox': [1, 2, 0.1, 1e-3]},
        {
            'id': 9,
            'image_id': -2,
            'category_id': 4,
            'bbox': [1, 2, 3, 4],
            'area': 5.5,
            'iscrowd': 1,
            'ignore': 1,
        },
    ],
    'categories': [{'id': 9, 'name': 'cät'}, {'id': 4, 'name': 'dog'}],
}


@pytest.fixture
def coco(tmp_path):
    files = {'all.json': json.dumps(CONTENT)}
    files |= {'x/a.png': forms.IMAGE, 'y/A.PNG': png((50, 80), 8, RGB, b'abc')}
    forms.write_files(tmp_path / 'coco', files)
    return tmp_path / 'coco'


def test_ids_areas_crowds_and_ignored_annotations(coco, tmp_path):
    conversion = write_coco(str(coco), str(tmp_path / 'out.json'))
    assert (conversion.split, conversion.counts) == ('all', (2, 2, 2))
    content = json.loads((tmp_path / 'out.json').read_text())
    names = [row.pop('file_name') for row in content['images']]
    assert names == ['coco/x/a.png', 'coco/y/A.PNG']
    without = [
        {k: row[k] for k in row if k != 'file_name'} for row in CONTENT['images']
    ]
    assert content['images'] == without
    assert content['categories'] == CONTENT['categories']
    first, second = content['annotations']
    assert first == CONTENT['annotations'][0] | {'area': 0.1 * 1e-3, 'iscrowd': 0}
    assert second == CONTENT['annotations'][1]


def test_images_of_one_name_get_their_ids(coco, tmp_path):
    """Up to the ending and case: Windows and label files know no difference."""
    out = tmp_path / 'out.json'
    write_coco(str(coco), str(out), images=str(tmp_path / 'images'))
    assert annotation_file.read(str(out)).file_names == ['7_a.png', '-2_A.PNG']
    copies = [(tmp_path / 'images' / n).read_bytes() for n in ('7_a.png', '-2_A.PNG')]
    assert copies == [forms.IMAGE, (coco / 'y' / 'A.PNG').read_bytes()]


def test_a_name_without_ending_gets_that_of_its_content(coco, tmp_path):
    for old, new in (('x/a.png', 'x/first'), ('y/A.PNG', 'y/second.dat')):
        (coco / old).rename(coco / new)
    text = json.dumps(CONTENT).replace('x/a.png', 'x/first')
    (coco / 'all.json').write_text(text.replace('y\\\\A.PNG', 'y/second.dat'))
    write_coco(str(coco), str(tmp_path / 'out.json'), images=str(tmp_path / 'images'))
    names = sorted(path.name for path in (tmp_path / 'images').iterdir())
    assert names == ['first.png', 'second.dat.png']


def test_records_that_are_left_out(coco, tmp_path):
    content = json.loads((coco / 'all.json').read_text())
    content['annotations'][0]['bbox'] = [1, 2, 3]
    (coco / 'all.json').write_text(json.dumps(content))
    out = tmp_path / 'out.json'
    with pytest.raises(ValueError, match=r'annotations\[0\] .*bbox must be 4 finite'):
        write_coco(str(coco), str(out))
    assert not out.exists()
    with pytest.warns(UserWarning, match='1 of 2 annotations left out'):
        assert write_coco(str(coco), str(out), on_error='skip').counts == (2, 1, 2)


# The command --------------------------------------------------------------------------


@pytest.fixture
def yolo(small_data, tmp_path):
    WRITERS['YOLO'](small_data, tmp_path / 'my data')
    return tmp_path / 'my data'


def test_the_flags_to_use_are_printed(call, yolo, tmp_path):
    """They stand for the same data, spaces and all."""
    out = tmp_path / 'out.json'
    result = call('atss', 'convert-data', yolo, out, '--split=val')
    assert result.status == 0, result.err
    found, counts, flags = result.out.splitlines()
    assert found == f'{yolo}: YOLO with train (images/train), val (images/val)'
    assert counts == 'split val: 9 images, 16 annotations, 3 classes'
    assert flags == f'--ann_file={out} --img_prefix={tmp_path}'


def test_the_file_alone_leads_to_the_images(call, yolo, tmp_path, monkeypatch):
    """Nothing else in its folder is searched."""
    monkeypatch.chdir(tmp_path)
    result = call('atss', 'convert-data', 'my data', 'out.json', '--split=val')
    assert result.out.splitlines()[-1] == '--ann_file=out.json --img_prefix=.'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        source = AutoDataset('out.json', 'all', test_mode=True)
    assert source.records.file_names[0].startswith('./my data/images/val/')
    source.read_image(source.records[0])


def test_a_split_must_be_chosen(call, yolo, tmp_path):
    out = tmp_path / 'out.json'
    call('atss', 'convert-data', yolo, out).refuses(
        f'{yolo} (YOLO) has the splits train, val', 'choose it with --split'
    )
    result = call('atss', 'convert-data', yolo, out, '--split=minival')
    result.refuses('--split=minival', 'has only train, val')
    assert not out.exists()


def test_nothing_is_overwritten_unless_asked(call, yolo, tmp_path):
    out, images = tmp_path / 'out.json', tmp_path / 'images'
    words = 'atss', 'convert-data', yolo, out, '--split=val', f'--images={images}'
    assert call(*words).status == 0
    before = tree_of(images)
    call(*words).refuses(f'{out} exists already', '--overwrite')
    out.unlink()
    assert call(*words).status == 0  # images that are the same may be there
    changed = sorted(images.iterdir())[0]
    changed.write_bytes(b'mine')
    out.unlink()
    call(*words).refuses(f'{changed} exists already', 'another folder --images')
    assert changed.read_bytes() == b'mine' and not out.exists()
    assert call(*words, '--overwrite').status == 0
    assert tree_of(images) == before


def test_a_missing_image(call, yolo, tmp_path):
    """It matters only where images are copied."""
    out = tmp_path / 'out.json'
    coco = tmp_path / 'in.json'
    assert call('atss', 'convert-data', yolo, coco, '--split=val').status == 0
    shutil.rmtree(yolo / 'images')
    assert call('atss', 'convert-data', coco, out).status == 0
    out.unlink()
    result = call('atss', 'convert-data', coco, out, f'--images={tmp_path / "i"}')
    result.refuses('No such file', '.png')
    assert not out.exists()


def test_nothing_to_convert(call, tmp_path):
    result = call('atss', 'convert-data', tmp_path / 'none', tmp_path / 'out.json')
    result.refuses(f"path = '{tmp_path / 'none'}': there is no such file or folder")


@pytest.mark.hf
def test_parquet_needs_a_folder_for_its_images(call, small_data, tmp_path):
    WRITERS['Parquet'](small_data, tmp_path / 'p')
    out = tmp_path / 'out.json'
    result = call('atss', 'convert-data', tmp_path / 'p', out, '--split=val')
    result.refuses('data/val-00000-of-00001.parquet', 'set --images to a folder')
    assert not out.exists()


def test_bccd(tmp_path):
    from tests.conftest import SHARED_DATA

    if not (SHARED_DATA / 'bccd').is_dir():
        pytest.skip('needs ../shared/data/bccd')
    out = tmp_path / 'out.json'
    data = find(str(SHARED_DATA / 'bccd'))
    write_coco(str(SHARED_DATA / 'bccd'), str(out), 'test')
    expected = data.read('test')
    table = annotation_file.read(str(out))
    assert_same_table(table, expected, table.file_names)
    for name, original in zip(table.file_names, expected.file_names, strict=True):
        assert (tmp_path / name).samefile(SHARED_DATA / 'bccd' / original)
