"""YOLO and Pascal VOC data sets, read as independent programs read them."""

import collections
import csv
import os

import numpy as np
import pytest

from atss_jax.data.annotations import Annotations
from atss_jax.data.forms.find import find
from tests.conftest import ROOT
from tests.support import forms
from tests.support.image_files import RGB, png

NAMES = ('cat', 'dog', 'owl')
DEEPFOREST = ROOT / '.cache' / 'deepforest' / 'deepforest' / 'data'


def random_table() -> Annotations:
    """Boxes of whole pixels in six images of unlike sizes, with 0 to 5 boxes each."""
    random = np.random.default_rng(3)
    sizes = random.integers(40, 90, (6, 2))
    images = np.repeat(np.arange(6), np.arange(6))
    corners = random.integers(0, 20, (15, 2))
    sides = np.minimum(random.integers(1, 60, (15, 2)), sizes[images, ::-1] - corners)
    return Annotations(
        path='random',
        image_ids=np.arange(6) + 1,
        file_names=[f'{name}.png' for name in 'abcdef'],
        image_sizes=sizes,
        annotation_ids=np.arange(15) + 1,
        annotation_images=images + 1,
        annotation_categories=random.integers(1, 4, 15),
        boxes=np.concatenate([corners, sides], 1).astype(np.float64),
        areas=sides.prod(1).astype(np.float64),
        crowds=np.zeros(15, bool),
        dropped=np.zeros(15, bool),
        categories=dict(enumerate(NAMES, 1)),
    )


@pytest.fixture
def sets(tmp_path):
    """The same data set in both forms."""
    table = random_table()
    for name, size in zip(table.file_names, table.image_sizes.tolist(), strict=True):
        image = png(size, 8, RGB, b'abc')
        forms.write_files(tmp_path / 'yolo' / 'images', {name: image})
        forms.write_files(tmp_path / 'voc' / 'JPEGImages', {name: image})
    forms.write_yolo_labels(table, tmp_path / 'yolo' / 'labels')
    forms.write_voc_annotations(table, tmp_path / 'voc' / 'Annotations')
    names = {'data.yaml': f'train: images\nnames: [{", ".join(NAMES)}]\n'}
    forms.write_files(tmp_path / 'yolo', names)
    return tmp_path


def corners_by_image(table):
    """Name and corners of the objects of each image that has some, by its name."""
    by_image = collections.defaultdict(list)
    for name, _, classes, boxes in forms.records(table):
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        for (class_, _), box in zip(classes, corners, strict=True):
            by_image[name].append((class_, box))
    return dict(by_image)


def assert_same_objects(ours, theirs, atol):
    assert ours.keys() == theirs.keys()
    for name, objects in ours.items():
        assert [class_ for class_, _ in objects] == [
            class_ for class_, _ in theirs[name]
        ]
        boxes, others = ([box for _, box in each] for each in (objects, theirs[name]))
        np.testing.assert_allclose(boxes, others, rtol=0, atol=atol, err_msg=name)


def test_both_forms_give_what_was_written(sets):
    expected = forms.records(random_table())
    yolo = find(str(sets / 'yolo')).read('train')
    forms.assert_same_records(forms.records(yolo), expected, atol=1e-12)
    voc = find(str(sets / 'voc')).read('all')
    forms.assert_same_records(forms.records(voc), expected, atol=0)


def test_as_globox(sets):
    """It takes the corners of VOC as they are written."""
    globox = pytest.importorskip('globox')
    theirs = globox.AnnotationSet.from_yolo_v5(
        sets / 'yolo' / 'labels',
        image_folder=sets / 'yolo' / 'images',
        image_extension='.png',
    )
    boxes = {
        each.image_id: [(NAMES[int(box.label)], box.ltrb) for box in each.boxes]
        for each in theirs
    }
    ours = corners_by_image(find(str(sets / 'yolo')).read('train'))
    assert_same_objects(ours, boxes, atol=1e-12)

    theirs = globox.AnnotationSet.from_pascal_voc(sets / 'voc' / 'Annotations')
    shift = np.array([1, 1, 0, 0])
    boxes = {
        each.image_id: [(box.label, box.ltrb - shift) for box in each.boxes]
        for each in theirs
        if each.boxes
    }
    assert_same_objects(
        corners_by_image(find(str(sets / 'voc')).read('all')), boxes, atol=0
    )


def of_supervision(theirs):
    return {
        os.path.basename(path): [
            (theirs.classes[class_], box)
            for class_, box in zip(each.class_id, each.xyxy, strict=True)
        ]
        for path, each in theirs.annotations.items()
        if len(each)
    }


@pytest.mark.torch
def test_as_supervision(sets):
    """It counts the pixels of VOC as we do. Its boxes are float32."""
    supervision = pytest.importorskip('supervision')
    polygons = {
        'f.txt': '2 0.1 0.2 0.5 0.2 0.4 0.9\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n'
    }
    forms.write_files(sets / 'yolo' / 'labels', polygons)
    folders = (str(sets / 'yolo' / each) for each in ('images', 'labels', 'data.yaml'))
    theirs = supervision.DetectionDataset.from_yolo(*folders)
    ours = corners_by_image(find(str(sets / 'yolo')).read('train'))
    assert len(ours['f.png']) == 2
    assert_same_objects(ours, of_supervision(theirs), atol=1e-5)

    folders = (str(sets / 'voc' / each) for each in ('JPEGImages', 'Annotations'))
    theirs = supervision.DetectionDataset.from_pascal_voc(*folders)
    ours = corners_by_image(find(str(sets / 'voc')).read('all'))
    assert_same_objects(ours, of_supervision(theirs), atol=0)


@pytest.mark.torch
def test_the_aerial_images_of_deepforest():
    """Their VOC files have the numbers of the CSV files next to them."""
    assert DEEPFOREST.is_dir(), 'make test-torch downloads them'
    with pytest.warns(UserWarning, match='2 images have no annotation file'):
        table = find(str(DEEPFOREST)).read('all')
    assert table.categories == {1: 'Alive', 2: 'Dead', 3: 'Tree'}
    ours = corners_by_image(table)
    counts = {name: len(objects) for name, objects in ours.items()}
    assert counts == {
        '2019_YELL_2_528000_4978000_image_crop2.png': 574,
        '2019_YELL_2_541000_4977000_image_crop.png': 279,
        'OSBS_029.tif': 61,  # named in the file; there is OSBS_029.png too
        'SOAP_061.png': 37,
    }
    for file in ('OSBS_029.csv', 'testfile_multi.csv'):
        theirs = collections.defaultdict(list)
        with open(DEEPFOREST / file, newline='') as lines:
            for row in csv.DictReader(lines):
                box = [float(row[key]) for key in forms.CORNERS]
                shifted = np.array(box) - [1, 1, 0, 0]
                theirs[row['image_path']].append((row['label'], shifted))
        assert_same_objects({name: ours[name] for name in theirs}, theirs, atol=0)
