"""Pascal VOC data sets: found in every usual place, and read exactly."""

import os
import pickle
import unicodedata
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe, find
from tests.conftest import SHARED_DATA
from tests.support import forms
from tests.support.forms import IMAGE, read, voc_file, voc_object, write_files
from tests.support.voc_set import CAT, DOG, LISTS, SIZE, USUAL, A, C


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'set'


# Values -------------------------------------------------------------------------------


def test_boxes_are_pixels_counted_from_1(folder):
    """Pixels 11 to 40 are those from 10 to 40 in continuous coordinates."""
    corners = '<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>35</ymax>'
    assert corners in DOG
    write_files(folder, USUAL)
    table = read(folder)
    assert table.boxes.tolist() == [[10, 20, 30, 15], [0, 0, 80, 50]]
    assert table.areas.tolist() == [450, 4000]
    assert table.categories == {1: 'cat', 2: 'dog', 3: 'owl'}  # owl is in val only
    assert table.annotation_categories.tolist() == [2, 1]
    assert table.image_ids.tolist() == [1, 2]
    assert table.file_names == ['JPEGImages/a.png', 'JPEGImages/b.png']
    assert table.image_sizes.tolist() == [[50, 80], [50, 80]]
    assert read(folder, 'val').image_ids.tolist() == [1]  # counted in each split


def test_difficult_objects_are_never_targets_and_ignored_in_evaluation(folder):
    """As mmdet: `ignore_flag`, which its CocoMetric writes as `iscrowd`."""
    truncated = DOG.replace('<truncated>0', '<truncated>1')
    write_files(
        folder, USUAL | {'Annotations/a.xml': voc_file('a.png', SIZE, [truncated, CAT])}
    )
    source = AutoDataset(str(folder), 'train')
    record = source.records[0]
    assert record.boxes.tolist() == [[10, 20, 40, 35], [0, 0, 80, 50]]
    assert record.ignored.tolist() == [False, True]
    flags = [row['iscrowd'] for row in source.ground_truth()['annotations']]
    assert flags == [0, 1]


def mmdet_objects(file):
    """What mmdet 3.3.0's XMLDataset makes of a file, by its rules in plain loops."""
    for element in ElementTree.parse(file).getroot().findall('object'):
        difficult = element.find('difficult')
        box = element.find('bndbox')
        corners = [int(float(box.find(key).text)) - 1 for key in forms.CORNERS]
        flag = 0 if difficult is None else int(difficult.text)
        yield element.find('name').text, corners, bool(flag)


def test_as_mmdet_but_for_the_last_pixel(folder):
    random = np.random.default_rng(0)
    objects = []
    for k in range(40):
        x, y, width, height = random.integers(1, 25, 4).tolist()
        objects.append(
            voc_object('dog' if k % 2 else 'cat', [x, y, width, height], k % 3 == 0)
        )
    objects[5] = objects[5].replace('<difficult>0</difficult>', '')
    write_files(folder, USUAL | {'Annotations/a.xml': voc_file('a.png', SIZE, objects)})
    theirs = list(mmdet_objects(folder / 'Annotations' / 'a.xml'))
    table = read(folder)
    left, top, right, bottom = np.array([corners for _, corners, _ in theirs]).T
    expected = np.stack([left, top, right - left + 1, bottom - top + 1], 1)
    assert np.array_equal(table.boxes, expected)
    names = [table.categories[k] for k in table.annotation_categories.tolist()]
    assert names == [name for name, _, _ in theirs]
    assert table.crowds.tolist() == [flag for _, _, flag in theirs]


def test_images_without_objects(folder):
    write_files(folder, USUAL)
    assert len(AutoDataset(str(folder), 'train').records) == 1
    every = AutoDataset(str(folder), 'train', filter_empty_gt=False)
    assert [len(record.boxes) for record in every.records] == [2, 0]


def test_parts_of_objects_are_not_read(folder):
    part = '<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part>'
    person = DOG.replace('<bndbox>', f'{part}<bndbox>').replace('>dog<', '>person<')
    write_files(
        folder, USUAL | {'Annotations/a.xml': voc_file('a.png', SIZE, [person])}
    )
    table = read(folder)
    assert table.boxes.tolist() == [[10, 20, 30, 15]]
    assert list(table.categories.values()) == ['owl', 'person']


def test_fractions_stay(folder):
    corners = {'>11<': '>11.25<', '>40<': '> 40.5\n<', '>35<': '>3.5e1<'}
    text = USUAL['Annotations/a.xml']
    for old, new in corners.items():
        text = text.replace(old, new)
    write_files(folder, USUAL | {'Annotations/a.xml': text})
    assert read(folder).boxes[0].tolist() == [10.25, 20, 30.25, 15]


def test_boxes_that_begin_at_0_are_warned_of(folder):
    """Many programs count from 0 though VOC does not."""
    box = voc_object('dog', [-1, 0, 5, 6])
    write_files(folder, USUAL | {'Annotations/b.xml': voc_file('b.png', SIZE, [box])})
    with pytest.warns(UserWarning, match='1 of 3 boxes begin at 0, so the program'):
        table = read(folder)
    assert table.boxes[2].tolist() == [-1, 0, 5, 6]


# Names --------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['classes.txt', 'Annotations/labels.txt'])
def test_a_file_gives_the_order_of_the_classes(folder, name):
    write_files(folder, USUAL | {name: '\ufeffowl\r\ndog\r\ncat\r\nemu\r\n'})
    table = read(folder)
    assert table.categories == {1: 'owl', 2: 'dog', 3: 'cat', 4: 'emu'}
    assert table.annotation_categories.tolist() == [2, 3]
    write_files(folder, {name: 'owl\ndog\n'})
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert 'Annotations/a.xml: object 2: name must be one of the classes of ' in str(
        caught.value
    )
    assert f"{name}, found 'cat'" in str(caught.value)
    with pytest.warns(UserWarning, match='1 of 2 objects left out: name is not'):
        assert len(read(folder, on_error='skip').boxes) == 1


def test_sorted_names_of_voc_are_in_the_order_of_mmdet(folder):
    names = (
        *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat'),
        *('chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person'),
        *('pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor'),
    )
    objects = [voc_object(name, [1, 2, 3, 4]) for name in reversed(names)]
    changes = {f'Annotations/{name}.xml': voc_file('', SIZE, objects) for name in 'abc'}
    write_files(folder, USUAL | changes)
    assert AutoDataset(str(folder), 'train').classes == names


def test_given_classes_count(folder):
    write_files(folder, USUAL)
    source = AutoDataset(str(folder), 'train', classes=('owl', 'dog'))
    assert source.classes == ('owl', 'dog') and source.records[0].labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"no category 'Dog', did you mean 'dog'"):
        AutoDataset(str(folder), 'train', classes=('Dog',))


# Places -------------------------------------------------------------------------------

PLACES = {
    'lists': USUAL,
    'a development kit': {
        f'VOC2012/{name}': content for name, content in USUAL.items()
    },
    'its archive': {f'VOCdevkit/VOC2007/{name}': text for name, text in USUAL.items()},
    'second columns, lists of classes': USUAL
    | {f'{LISTS}/train.txt': '\ufeffa  1\r\nb -1\r\n\r\n'}
    | {f'{LISTS}/dog_{split}.txt': 'none  1\n' for split in ('train', 'val')},
    'endings in lists': USUAL | {f'{LISTS}/train.txt': 'a.png\nb.png\n'},
    'masks with the same names': USUAL
    | {'SegmentationClass/a.png': IMAGE, 'SegmentationObject/a.png': IMAGE},
    'Roboflow': {
        'train/a.xml': A,
        'train/a.png': IMAGE,
        'valid/c.xml': C,
        'valid/c.png': IMAGE,
    },
    'the same names in all splits': {
        'train/Annotations/a.xml': A,
        'train/JPEGImages/a.png': IMAGE,
        'test/Annotations/a.xml': C,
        'test/JPEGImages/a.png': IMAGE,
    },
    'images and annotations apart': {
        'annotations/train/a.xml': A,
        'annotations/val/a.xml': C,
        'images/train/a.png': IMAGE,
        'images/val/a.png': IMAGE,
        'annotations/masks/a.png': IMAGE,
    },
}


@pytest.mark.parametrize('place', PLACES)
def test_where_data_sets_lie(folder, place):
    write_files(folder, PLACES[place])
    form = find(str(folder))
    assert form.name == 'Pascal VOC' and len(form.splits) == 2
    assert pickle.loads(pickle.dumps(form)) == form
    table = form.read('train')
    (name, *_), (size, *_) = table.file_names, table.image_sizes.tolist()
    assert os.path.isfile(os.path.join(form.folder, name)) and size == [50, 80]
    assert name.endswith('a.png') and 'mask' not in name and 'Seg' not in name
    assert 'train' in name or 'JPEGImages/' in name
    assert table.boxes.tolist() == [[10, 20, 30, 15], [0, 0, 80, 50]]
    assert list(table.categories.values()) == ['cat', 'dog', 'owl']


def test_a_set_without_splits(folder):
    """XML next to the images, as labelImg writes it; no XML, no use of an image."""
    write_files(
        folder, {'x/a.xml': A, 'x/a.png': IMAGE, 'b.png': IMAGE, 'x/c.png': IMAGE}
    )
    assert describe(find(str(folder))).endswith('Pascal VOC with all (x)')
    with pytest.warns(
        UserWarning, match=r'2 images have no annotation .*b.png, x/c.png'
    ):
        assert read(folder, 'all').file_names == ['x/a.png']


def test_the_only_list_of_cvat(folder):
    write_files(folder, {**USUAL, f'{LISTS}/default.txt': 'a\nb\n'})
    for split in ('train', 'val'):
        (folder / LISTS / f'{split}.txt').unlink()
    assert list(find(str(folder)).splits) == ['all']
    assert len(read(folder, 'all').image_ids) == 2


def test_trainval_is_a_split_of_its_own(folder):
    write_files(folder, USUAL | {f'{LISTS}/trainval.txt': 'c\na\nb\n'})
    assert list(find(str(folder)).splits) == ['train', 'val', 'trainval']
    assert read(folder, 'trainval').image_ids.tolist() == [1, 2, 3]


def test_unlike_names_of_files(folder):
    """Spaces, accents in both forms, capital endings, dots, links, long names."""
    stems = ['ä ö', unicodedata.normalize('NFC', 'é'), 'x_png.rf.1', 'n' * 200]
    endings = ['.JPG', '.PNG', '.jpeg', '.tif']
    for stem, ending in zip(stems, endings, strict=True):
        image = unicodedata.normalize('NFD', f'{stem}{ending}')
        write_files(folder, {f'x/y/{image}': IMAGE, f'x/{stem}.XML': A})
    (folder / 'x' / 'loop').symlink_to(folder)
    write_files(folder, {'x/._a.xml': '', '.x/a.xml': A})
    table = read(folder, 'all')
    names = [
        unicodedata.normalize('NFD', s + e) for s, e in zip(stems, endings, strict=True)
    ]
    assert set(table.file_names) == {f'x/y/{name}' for name in names}
    assert len(table.boxes) == 8
    (folder / 'more').symlink_to(folder / 'x' / 'y')  # not as near as x/y
    assert read(folder, 'all').file_names == table.file_names


@pytest.mark.parametrize(
    ('given', 'expected'),
    [('a.png', 'a.png'), (r'C:\x\a.jpg', 'a.jpg'), ('../a.jpg', 'a.jpg')],
)
def test_the_name_in_the_file_tells_images_of_one_stem_apart(folder, given, expected):
    write_files(
        folder, {'a.png': IMAGE, 'a.jpg': IMAGE, 'a.xml': voc_file(given, SIZE, [DOG])}
    )
    assert read(folder, 'all').file_names == [expected]


@pytest.mark.parametrize('given', ['', 'a', 'other.png', 'a.jpg'])
def test_the_name_in_the_file_does_not_matter_otherwise(folder, given):
    write_files(folder, USUAL | {'Annotations/a.xml': voc_file(given, SIZE, [DOG])})
    assert read(folder).file_names[0] == 'JPEGImages/a.png'


# Real data sets -----------------------------------------------------------------------


@pytest.mark.parametrize('place', ['lists', 'next to the images'])
def test_bccd_equals_its_coco_form(folder, place):
    """Its COCO file was made of VOC files whose boxes have all their pixels: exact."""
    bccd = SHARED_DATA / 'bccd'
    if not bccd.exists():
        pytest.skip('needs ../shared/data/bccd')
    expected = {}
    for split in ('train', 'val', 'test'):
        file = bccd / 'annotations' / f'instances_{split}.json'
        table = expected[split] = annotation_file.read(str(file))
        if place == 'lists':
            forms.link_images(table, bccd / 'images', folder / 'JPEGImages')
            forms.write_voc_annotations(table, folder / 'Annotations')
            stems = [name.removesuffix('.jpg') for name in table.file_names]
            write_files(folder, {f'{LISTS}/{split}.txt': '\n'.join(stems)})
        else:
            forms.link_images(table, bccd / 'images', folder / split)
            forms.write_voc_annotations(table, folder / split)
    counts = []
    for split, table in expected.items():
        records = forms.records(read(folder, split))
        forms.assert_same_records(records, forms.records(table), atol=0)
        counts.append(len(records))
    assert counts == [205, 87, 72]


def test_names_that_end_in_a_blank_and_a_digit(tmp_path):
    """They are not taken for a name with a flag in a second column."""
    files = {
        'ImageSets/Main/train.txt': 'photo 1\n',
        'ImageSets/Main/val.txt': 'photo  1\n',
    }
    for name in ('photo', 'photo 1'):
        files[f'Annotations/{name}.xml'] = A
        files[f'JPEGImages/{name}.png'] = IMAGE
    write_files(tmp_path, files)
    form = find(str(tmp_path))
    names = {split: form.read(split).file_names for split in ('train', 'val')}
    assert names == {
        'train': ['JPEGImages/photo 1.png'],
        'val': ['JPEGImages/photo.png'],
    }
