"""COCO files and their images, found in every usual place."""

import json
import os
import pickle

import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe, find
from tests.conftest import SHARED_DATA
from tests.support.forms import IMAGE, read, write_files


def coco(*names: str, **more) -> str:
    """The text of a COCO file with an image of each name and a box in each."""
    ids = range(1, len(names) + 1)
    images = [
        {'id': k, 'file_name': name, 'height': 50, 'width': 80}
        for k, name in zip(ids, names, strict=True)
    ]
    box = {'bbox': [10, 20, 30, 15], 'category_id': 1}
    annotations = [{'id': k, 'image_id': k, **box} for k in ids]
    categories = [{'id': 1, 'name': 'dog'}]
    content = {'annotations': annotations, 'images': images, 'categories': categories}
    return json.dumps(content | more)


A, B = coco('a.png'), coco('b.png')
CAPTIONS = json.dumps({'images': [], 'annotations': [], 'info': {}})
# Each layout: its files, and for each split the annotation file and the image.
LAYOUTS = {
    'COCO 2017': (
        {
            'annotations/instances_train2017.json': A,
            'annotations/instances_val2017.json': B,
            'train2017/a.png': IMAGE,
            'val2017/b.png': IMAGE,
        },
        {
            'train': ('annotations/instances_train2017.json', 'train2017/a.png'),
            'val': ('annotations/instances_val2017.json', 'val2017/b.png'),
        },
    ),
    'COCO 2017 with images in images/': (
        {
            'annotations/instances_train2017.json': A,
            'images/train2017/a.png': IMAGE,
        },
        {'train': ('annotations/instances_train2017.json', 'images/train2017/a.png')},
    ),
    'Roboflow': (
        {
            'train/_annotations.coco.json': A,
            'train/a.png': IMAGE,
            'valid/_annotations.coco.json': B,
            'valid/b.png': IMAGE,
            'test/_annotations.coco.json': B,
            'test/b.png': IMAGE,
        },
        {
            'train': ('train/_annotations.coco.json', 'train/a.png'),
            'val': ('valid/_annotations.coco.json', 'valid/b.png'),
            'test': ('test/_annotations.coco.json', 'test/b.png'),
        },
    ),
    'one folder of images': (
        {'train.json': A, 'val.json': B, 'images/a.png': IMAGE, 'images/b.png': IMAGE},
        {'train': ('train.json', 'images/a.png'), 'val': ('val.json', 'images/b.png')},
    ),
    'a file next to its images': (
        {'labels.json': A, 'a.png': IMAGE},
        {'all': ('labels.json', 'a.png')},
    ),
    'a file with its images in images/': (
        {'result.json': A, 'images/a.png': IMAGE},
        {'all': ('result.json', 'images/a.png')},
    ),
    'a file with its images in a folder of its name': (
        {'mine.json': A, 'mine/a.png': IMAGE},
        {'all': ('mine.json', 'mine/a.png')},
    ),
    'CVAT': (
        {'annotations/instances_default.json': A, 'images/default/a.png': IMAGE},
        {'all': ('annotations/instances_default.json', 'images/default/a.png')},
    ),
    'file names with folders': (
        {'annotations/val.json': coco('val/a.png'), 'val/a.png': IMAGE},
        {'val': ('annotations/val.json', 'val/a.png')},
    ),
    'backslashes in file names': (
        {'val.json': coco('x\\a.png'), 'images/x/a.png': IMAGE},
        {'val': ('val.json', 'images/x/a.png')},
    ),
    'spaces and other scripts': (
        {'Train set.json': coco('ä b.png'), 'images/ä b.png': IMAGE},
        {'train': ('Train set.json', 'images/ä b.png')},
    ),
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'my set'


@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts(folder, name):
    files, expected = LAYOUTS[name]
    write_files(folder, files)
    form = find(str(folder))
    assert list(form.splits) == list(expected)
    for split, (file, image) in expected.items():
        assert form.splits[split] == file
        source = AutoDataset(str(folder), split)
        path = os.path.normpath(source.records[0].file_name)
        assert path == str(folder / image)
        assert source.read_image(source.records[0]).shape == (50, 80, 3)
        assert source.records[0].boxes.tolist() == [[10, 20, 40, 35]]


def test_the_path_of_a_file(folder):
    """Its images are found, and the other files do not matter."""
    write_files(folder, LAYOUTS['COCO 2017'][0])
    file = folder / 'annotations' / 'instances_val2017.json'
    form = find(str(file))
    assert describe(form) == f'{file}: COCO with all (instances_val2017.json)'
    source = AutoDataset(str(file), 'all')
    assert source.read_image(source.records[0]).shape == (50, 80, 3)


def test_ids_areas_and_crowds_are_those_of_the_file(folder):
    write_files(folder, {'train.json': A, 'images/a.png': IMAGE})
    table = read(folder)
    expected = annotation_file.read(str(folder / 'train.json'))
    assert table.as_dict()['annotations'] == expected.as_dict()['annotations']
    assert table.file_names == [os.path.join('images', 'a.png')]


def test_files_of_other_tasks_are_not_looked_at(folder):
    """Captions lack categories; keypoints have the images of the boxes again."""
    others = {
        'captions_train2017.json': CAPTIONS,
        'person_keypoints_train2017.json': A,
        'panoptic_train2017.json': A,
        'stuff_train2017.json': A,
        'image_info_test2017.json': A,
    }
    write_files(folder, LAYOUTS['COCO 2017'][0])
    write_files(folder / 'annotations', others)
    assert list(find(str(folder)).splits) == ['train', 'val']


def test_files_that_are_not_coco_are_not_looked_at(folder):
    others = {
        'empty.json': '',
        'list.json': '[1, 2]',
        'train_results.json': '[{"image_id": 1, "bbox": [1, 2, 3, 4]}]',
        'package.json': '{"name": "x"}',
        'folder.json/a.txt': 'x',
    }
    write_files(folder, {'train.json': A, 'images/a.png': IMAGE} | others)
    (folder / 'broken.json').symlink_to(folder / 'nowhere.json')
    assert find(str(folder)).splits == {'train': 'train.json'}


def test_files_of_instances_come_before_others(folder):
    files = LAYOUTS['COCO 2017'][0] | {'annotations/train_subset.json': A}
    write_files(folder, files)
    names = find(str(folder)).splits.values()
    assert all('instances' in name for name in names)


def test_two_files_of_one_split(folder):
    write_files(folder, {'train.json': A, 'training_old.json': A})
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    assert str(caught.value) == (
        f'{folder}: both train.json and training_old.json are COCO files of the split '
        "'train'; give the path of one of them"
    )


def test_two_files_without_split(folder):
    write_files(folder, {'a.json': A, 'b.json': B})
    with pytest.raises(ValueError, match=r"both a\.json and b\.json .* split 'all'"):
        find(str(folder))


def test_a_file_without_split_next_to_others(folder):
    write_files(folder, {'train.json': A, 'others.json': B})
    with pytest.raises(ValueError) as caught:
        find(str(folder))
    for part in ('name of others.json does not say', 'train.json', 'Rename it, or'):
        assert part in str(caught.value)


def test_links(folder, tmp_path):
    """The folder, the annotation file and the images may all be links."""
    write_files(tmp_path / 'disk', {'x.json': A, 'y/a.png': IMAGE})
    folder.mkdir()
    (folder / 'train.json').symlink_to(tmp_path / 'disk' / 'x.json')
    (folder / 'images').symlink_to(tmp_path / 'disk' / 'y')
    (tmp_path / 'link').symlink_to(folder)
    source = AutoDataset(str(tmp_path / 'link'), 'train')
    assert source.read_image(source.records[0]).shape == (50, 80, 3)


def test_a_link_to_the_folder_itself(folder):
    write_files(folder, {'train/_annotations.coco.json': A, 'train/a.png': IMAGE})
    (folder / 'train' / 'loop').symlink_to(folder)
    assert list(find(str(folder)).splits) == ['train']


def test_a_large_file_is_not_parsed_to_find_it(folder):
    """Broken after the first images: an error when it is read, not before."""
    write_files(folder, {'train.json': A[:-5], 'images/a.png': IMAGE})
    text = (folder / 'train.json').read_text()
    assert '"categories"' in text
    form = find(str(folder))
    with pytest.raises(ValueError, match=r'train\.json: not a JSON file'):
        form.read('train')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'images': 3}, r'train\.json: not a COCO annotation file: no list of images'),
        ({'images': [7]}, r'train\.json: images\[0\]: must be an object'),
        ({'categories': [{'id': 1}]}, r'categories\[0\] \(id 1\): name must be'),
    ],
)
def test_malformed_files(folder, change, message):
    write_files(folder, {'train.json': coco('a.png', **change), 'a.png': IMAGE})
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_skip_leaves_malformed_records_out(folder):
    change = {'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1]}]}
    write_files(folder, {'train.json': coco('a.png', **change), 'a.png': IMAGE})
    with pytest.raises(ValueError, match=r'annotations\[0\].*bbox'):
        read(folder)
    with pytest.warns(UserWarning, match='1 of 1 annotations left out'):
        assert len(read(folder, on_error='skip').boxes) == 0


def test_no_image_lies_anywhere(folder):
    """Paths are then those next to the file; the loader names the first one."""
    write_files(folder, {'train.json': A})
    source = AutoDataset(str(folder), 'train')
    with pytest.raises(FileNotFoundError, match=str(folder / 'a.png')):
        source.read_image(source.records[0])


def test_the_folder_with_most_of_the_images(folder):
    """`images/` has all three, the folder of the file one of them."""
    names = ('a.png', 'b.png', 'c.png')
    files = {f'images/{name}': IMAGE for name in names}
    write_files(folder, {'train.json': coco(*names), 'a.png': IMAGE} | files)
    prefixes = {os.path.dirname(name) for name in read(folder).file_names}
    assert prefixes == {'images'}


def test_workers_get_the_form(folder):
    write_files(folder, LAYOUTS['Roboflow'][0])
    form = find(str(folder))
    assert pickle.loads(pickle.dumps(form)) == form


@pytest.mark.parametrize('name', ['bccd', 'coco_tiny'])
def test_real_data(name):
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f'needs ../shared/data/{name}')
    form = find(str(folder))
    for split, place in form.splits.items():
        table = form.read(split, training=False)
        expected = annotation_file.read(str(folder / place), training=False)
        assert table.boxes.tolist() == expected.boxes.tolist()
        source = AutoDataset(str(folder), split, test_mode=True)
        assert source.read_image(source.records[0]).shape[:2] == source.records[0].size


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32'])
def test_other_encodings(tmp_path, encoding):
    write_files(tmp_path, {'images/a.png': IMAGE})
    (tmp_path / 'train.json').write_bytes(A.encode(encoding))
    source = AutoDataset(str(tmp_path), 'train')
    assert source.read_image(source.records[0]).shape == (50, 80, 3)
