"""YOLO data sets: found in every usual place, and read exactly."""

import os
import pathlib
import pickle
import shutil
import unicodedata

import numpy as np
import pytest

from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe, find
from atss_jax.data.forms.yolo_labels import label_path
from tests.conftest import SHARED_DATA
from tests.support import forms
from tests.support.forms import IMAGE, read, write_files
from tests.support.yolo_set import (
    CVAT,
    IN_SPLITS,
    LINE,
    LISTS,
    NAMES,
    NEXT_TO,
    USUAL,
    YAML,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'set'


# Values -------------------------------------------------------------------------------


def test_boxes_are_pixels_of_their_image(folder):
    write_files(folder, USUAL)
    table = read(folder)
    assert table.categories == {1: 'cat', 2: 'dog', 3: 'owl'}
    assert table.file_names == ['images/train/a.png', 'images/train/b.png']
    assert table.image_sizes.tolist() == [[50, 80], [50, 80]]
    assert table.annotation_images.tolist() == [1, 1, 2]
    assert table.annotation_ids.tolist() == [1, 2, 3]
    assert table.annotation_categories.tolist() == [1, 3, 2]
    np.testing.assert_allclose(
        table.boxes, [[32, 15, 16, 20], [0, 0, 16, 10], [0, 0, 40, 50]], atol=1e-12
    )
    np.testing.assert_allclose(table.areas, [320, 160, 2000])
    assert not table.crowds.any() and not table.dropped.any()
    assert read(folder, 'val').image_ids.tolist() == [1]  # counted in each split


def test_a_polygon_becomes_the_box_around_it(folder):
    """Each line for itself: files may have boxes and polygons."""
    text = f'1 0.1 0.2 0.3 0.2 0.2 0.6\n{LINE}\n0 0.5 0.5 1 0.5 1 1 0.5 1\n'
    write_files(folder, USUAL | {'labels/train/a.txt': text})
    boxes = read(folder).boxes[:3]
    expected = [[8, 10, 16, 20], [32, 15, 16, 20], [40, 25, 40, 25]]
    np.testing.assert_allclose(boxes, expected, atol=1e-12)


def test_keypoints_are_not_taken_for_a_polygon(folder):
    text = f'{LINE} 0.9 0.9 2 0 0 0\n'
    write_files(
        folder, USUAL | {'data.yaml': f'{YAML}kpt_shape: [2, 3]\n'} | pose(text)
    )
    np.testing.assert_allclose(read(folder).boxes, [[32, 15, 16, 20]], atol=1e-12)
    write_files(folder, pose(f'{LINE}\n'))
    with pytest.raises(ValueError, match=r'a.txt:1: line must be class .* 6 values of'):
        read(folder)


def pose(text):
    return {'labels/train/a.txt': text, 'labels/train/b.txt': ''}


def test_repeated_lines_count_once(folder):
    """As Ultralytics does it; the order of the others stays."""
    text = f'2 0.1 0.1 0.2 0.2\n{LINE}\n0  0.50 .5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n'
    write_files(folder, USUAL | {'labels/train/a.txt': text})
    with pytest.warns(
        UserWarning, match=r'1 of 5 lines .* twice \(labels/train/a.txt:3'
    ):
        table = read(folder)
    assert table.annotation_categories.tolist() == [3, 1, 2, 2]


def test_images_without_label_file_have_no_objects(folder):
    write_files(
        folder, {**USUAL, 'images/train/d.png': IMAGE, 'images/train/e.png': IMAGE}
    )
    write_files(folder, {'labels/train/e.txt': ''})
    assert len(read(folder).image_ids) == 4
    shown = AutoDataset(str(folder), 'train')
    assert [r.file_name[-5:] for r in shown.records] == ['a.png', 'b.png']
    every = AutoDataset(str(folder), 'train', filter_empty_gt=False)
    assert [len(r.boxes) for r in every.records] == [2, 1, 0, 0]


def test_no_label_file_at_all_is_an_error_in_training(folder):
    write_files(folder, USUAL)
    shutil.rmtree(folder / 'labels' / 'train')
    with pytest.raises(ValueError, match=r'none of the 2 images .* labels/train/a.txt'):
        read(folder)
    assert len(read(folder, training=False).image_ids) == 2


def test_labels_may_lie_outside_of_a_folder_named_images(tmp_path):
    """Ultralytics would look in /labels for a data set that lies in /images."""
    image = str(tmp_path / 'images' / 'set' / 'train' / 'a.png')
    assert label_path(image, str(tmp_path / 'images' / 'set')) == f'{image[:-4]}.txt'
    nested = str(tmp_path / 'images' / 'images' / 'x.y' / 'a.b.png')
    expected = str(tmp_path / 'images' / 'labels' / 'x.y' / 'a.b.txt')
    assert label_path(nested, str(tmp_path)) == expected


@pytest.mark.parametrize('yaml', [True, False])
def test_folders_whose_names_differ_in_case(tmp_path, yaml):
    """Data sets made on Windows, where `Images` is `images`."""
    files = {
        'Train/Images/a.PNG': IMAGE,
        'Train/Labels/a.txt': LINE,
        'Valid/Images/c.PNG': IMAGE,
        'Valid/Labels/c.txt': LINE,
        'classes.txt': 'cat\n',
    }
    if yaml:
        text = 'train: ../train/images\nval: ../valid/images\nnames: [cat]\n'
        files['data.yaml'] = text
    write_files(tmp_path, files)
    for split, name in (('train', 'Train/Images/a.PNG'), ('val', 'Valid/Images/c.PNG')):
        table = read(tmp_path, split)
        assert table.file_names == [name] and len(table.boxes) == 1


def test_case_matters_where_both_are_there(tmp_path):
    write_files(
        tmp_path,
        {
            'images/a.png': IMAGE,
            'labels/a.txt': LINE,
            'Images/b.png': IMAGE,
            'Labels/a.txt': '1 0.5 0.5 0.2 0.2',
            'classes.txt': 'cat\ndog\n',
        },
    )
    table = read(tmp_path, 'all')
    assert table.file_names == ['images/a.png']
    assert table.annotation_categories.tolist() == [1]


# Places -------------------------------------------------------------------------------

PLACES = {
    'images, then splits': USUAL,
    'splits, then images': IN_SPLITS | {'data.yaml': f'train: train/images\n{NAMES}'},
    'Roboflow': IN_SPLITS
    | {'data.yaml': f'train: ../train/images\nval: ../valid/images\nnc: 3\n{NAMES}'},
    'the folder of a split': IN_SPLITS
    | {'data.yaml': f'train: train\nval: valid\n{NAMES}'},
    'moved from another machine': USUAL
    | {'data.yaml': f'path: /content/d\ntrain: /content/d/images/train\n{NAMES}'},
    'path of the folder above': USUAL | {'data.yaml': f'path: set\n{YAML}'},
    'path below': USUAL
    | {f'd/{name}': content for name, content in USUAL.items() if name != 'data.yaml'}
    | {'data.yaml': f'path: d\n{YAML}'},
    'names alone': USUAL | {'data.yaml': NAMES},
    'names alone, other nesting': IN_SPLITS | {'my set.yml': NAMES},
    'two folders': USUAL
    | {'data.yaml': f'train:\n- images/val\n- images/train\n{NAMES}'},
    'lists': USUAL | LISTS,
    'names by index': USUAL
    | {'data.yaml': 'train: images/train\nnames:\n  1: dog\n  0: cat\n  2: owl  # x\n'},
    'a BOM, CRLF': USUAL | {'data.yaml': '\ufeff' + YAML.replace('\n', '\r\n')},
    'no test': USUAL | {'data.yaml': f'{YAML}test:  # optional\n'},
    'classes.txt': IN_SPLITS | {'classes.txt': 'cat\r\ndog\r\nowl\r\n\r\n'},
    'Darknet': NEXT_TO
    | {f'{each}/_darknet.labels': 'cat\ndog\nowl' for each in ('train', 'valid')},
    'CVAT': CVAT,
    'other files': IN_SPLITS
    | {'args.yaml': 'lr: 1\n', 'x.yaml': f'{NAMES}backbone: []\n', 'y.yaml': NAMES},
}  # fmt: skip


@pytest.mark.parametrize('place', PLACES)
def test_where_data_sets_lie(folder, place):
    write_files(folder, PLACES[place])
    form = find(str(folder))
    assert form.name == 'YOLO' and 'train' in form.splits
    assert pickle.loads(pickle.dumps(form)) == form
    table = form.read('train')
    assert list(table.categories.values()) == ['cat', 'dog', 'owl']
    for name, size in zip(table.file_names, table.image_sizes.tolist(), strict=True):
        assert os.path.isfile(os.path.join(form.folder, name)) and size == [50, 80]
    first = table.file_names.index(
        next(n for n in table.file_names if n.endswith('a.png'))
    )
    box = table.boxes[table.annotation_images == table.image_ids[first]][0]
    np.testing.assert_allclose(box, [32, 15, 16, 20], atol=1e-12)


def test_the_yaml_file_may_lie_elsewhere(folder, tmp_path):
    write_files(folder, USUAL)
    write_files(tmp_path / 'other', {'mine.yaml': f'path: {folder}\n{YAML}'})
    table = read(tmp_path / 'other')
    assert len(table.boxes) == 3
    assert table.file_names[0] == str(folder / 'images' / 'train' / 'a.png')
    lines = f'{folder}/images/val/c.png\n../set/images/train/b.png\n'
    lists = {'data.yaml': f'train: a.txt\n{NAMES}', 'a.txt': lines}
    write_files(tmp_path / 'lists', lists)
    assert len(read(tmp_path / 'lists').boxes) == 2


def test_folders_that_may_not_be_read(folder):
    """As `lost+found` on a disk of its own."""
    if os.geteuid() == 0:
        pytest.skip('root may read everything')
    write_files(folder, USUAL | {'lost+found/a.txt': ''})
    (folder / 'lost+found').chmod(0)
    with pytest.warns(UserWarning, match=r'lost\+found: not searched'):
        assert len(read(folder).boxes) == 3


def test_the_yaml_file_may_be_given(folder, tmp_path):
    write_files(folder, USUAL)
    write_files(tmp_path, {'mine.yaml': f'path: {folder}\n{YAML}'})
    assert len(read(tmp_path / 'mine.yaml').boxes) == 3
    assert len(read(folder / 'data.yaml').boxes) == 3


def test_a_set_without_splits(folder, tmp_path):
    """As labelImg writes it: classes.txt is among the labels."""
    names = {'labels/classes.txt': 'cat\ndog\n'}
    write_files(folder, {'images/a.png': IMAGE, 'labels/a.txt': LINE} | names)
    assert describe(find(str(folder))).endswith('YOLO with all (images)')
    assert len(read(folder, 'all').boxes) == 1
    other = tmp_path / 'other'
    write_files(other, {'a.png': IMAGE, 'a.txt': LINE, 'classes.txt': 'cat\n'})
    assert len(read(other, 'all').boxes) == 1


def test_nc_alone_numbers_the_classes(folder):
    """As Ultralytics does it."""
    write_files(folder, USUAL | {'data.yaml': 'train: images/train\nnc: 3\n'})
    assert read(folder).categories == {1: 'class_0', 2: 'class_1', 3: 'class_2'}


def test_words_of_yaml_are_names(folder):
    yaml = USUAL | {'data.yaml': 'train: images/train\nnames: [no, 7, null]\n'}
    write_files(folder, yaml)
    assert list(read(folder).categories.values()) == ['no', '7', 'null']


def test_unlike_names_of_files(folder):
    """Spaces, accents in both forms, capital endings, dots, links, long names."""
    names = ['ä ö.JPG', unicodedata.normalize('NFD', 'é.PNG'), 'x.rf.1.jpeg', 'n' * 200]
    names[-1] += '.png'
    write_files(folder, USUAL)
    for name in names:
        label = f'{pathlib.Path(name).stem}.txt'
        write_files(
            folder,
            {f'images/train/sub/{name}': IMAGE, f'labels/train/sub/{label}': LINE},
        )
    (folder / 'images/train/sub/loop').symlink_to(folder / 'images' / 'train')
    (folder / 'images' / 'val' / 'more').symlink_to(folder / 'images' / 'train' / 'sub')
    write_files(folder, {'images/train/._a.png': b'', 'images/train/.x/b.png': b''})
    shutil.copytree(folder / 'labels' / 'train' / 'sub', folder / 'labels/val/more')
    table = read(folder)
    assert {pathlib.Path(name).name for name in table.file_names} == {
        'a.png',
        'b.png',
        *names,
    }
    assert len(table.boxes) == 3 + len(names)
    assert len(read(folder, 'val').boxes) == 1 + len(names)


@pytest.mark.parametrize(
    'text',
    [
        f'\ufeff{LINE}\r\n\r\n',
        f'\n  \n\t{LINE}  \n\n',
        '0.0 5e-1 0.5 0.2 0.4',
        '0 0.5 0.5 0.2 0.4\r',
    ],
)
def test_sloppy_labels_that_are_clear(folder, text):
    write_files(folder, USUAL | {'labels/val/c.txt': text})
    np.testing.assert_allclose(
        read(folder, 'val').boxes, [[32, 15, 16, 20]], atol=1e-12
    )


def test_points_a_hair_outside_stay_as_they_are(folder):
    write_files(folder, USUAL | {'labels/val/c.txt': '0 0.5 0.5 1.0005 1'})
    assert read(folder, 'val').boxes[0, 2] == 80 * 1.0005


# All of a real data set ---------------------------------------------------------------


@pytest.mark.parametrize('nesting', ['{split}/images', 'images/{split}'])
def test_bccd_equals_its_coco_form(folder, nesting):
    """Boxes in fractions with all digits of float64 are pixels again to 1e-12."""
    bccd = SHARED_DATA / 'bccd'
    if not bccd.exists():
        pytest.skip('needs ../shared/data/bccd')
    lines = ['names: [RBC, WBC, Platelets]']
    for split in ('train', 'val', 'test'):
        file = bccd / 'annotations' / f'instances_{split}.json'
        images = folder / nesting.format(split=split)
        table = annotation_file.read(str(file))
        forms.link_images(table, bccd / 'images', images)
        forms.write_yolo_labels(
            table, pathlib.Path(str(images).replace('images', 'labels'))
        )
        lines.append(f'{split}: {nesting.format(split=split)}')
    write_files(folder, {'data.yaml': '\n'.join(lines)})
    counts = []
    for split in ('train', 'val', 'test'):
        file = bccd / 'annotations' / f'instances_{split}.json'
        expected = forms.records(annotation_file.read(str(file)))
        records = forms.records(read(folder, split))
        forms.assert_same_records(records, expected, atol=1e-12)
        counts.append(len(records))
    assert counts == [205, 87, 72]
