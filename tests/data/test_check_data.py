"""`check-data` on small sets on disk, each with a defect made by hand."""

import json
import zlib

import cv2
import numpy as np
import pytest

from atss_jax.commands.main import main
from atss_jax.data.check.checked import Expectations
from atss_jax.data.check.verdict import check, openers_of
from atss_jax.data.forms.find import find
from tests.support import voc_set, yolo_set
from tests.support.forms import IMAGE, write_files


class DataSet:
    """A COCO data set of noise images with splits, damaged by tests."""

    def __init__(self, folder):
        self.folder = folder
        self.splits = {}

    def image(self, split, name, size=(60, 80), seed=None):
        """Adds an image; equal seeds and sizes make equal pixels."""
        content = self.splits.setdefault(
            split,
            {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'cat'}]},
        )
        number = len(content['images']) + 1
        rng = np.random.default_rng(zlib.crc32(name.encode()) if seed is None else seed)
        pixels = rng.integers(0, 255, (*size, 3), np.uint8)
        path = self.folder / 'images' / name
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), pixels)
        content['images'].append(
            {'id': number, 'file_name': name, 'height': size[0], 'width': size[1]}
        )
        return number

    def box(self, split, image, bbox, category=1, **fields):
        annotations = self.splits[split]['annotations']
        annotations.append(
            {'id': len(annotations) + 1, 'image_id': image, 'category_id': category}
            | {'bbox': list(bbox)}
            | fields
        )

    def write(self):
        (self.folder / 'annotations').mkdir(exist_ok=True)
        for split, content in self.splits.items():
            file = self.folder / 'annotations' / f'instances_{split}.json'
            file.write_text(json.dumps(content))

    def findings(self, **expected):
        self.write()
        form = find(str(self.folder))
        openers = openers_of(str(self.folder), form.splits)
        return check('x', 'x', openers, Expectations(**expected)).findings


@pytest.fixture
def data(tmp_path):
    """Two sound images in train and one in val, ten objects each."""
    data = DataSet(tmp_path)
    for split, names in (('train', ('a.png', 'b.png')), ('val', ('c.png',))):
        for name in names:
            number = data.image(split, name)
            for k in range(10):
                data.box(split, number, (5 + k, 6, 30, 20 + k))
    return data


def only(findings, text):
    """The one finding with `text`."""
    matching = [each for each in findings if text in each.text]
    assert len(matching) == 1, findings
    return matching[0]


def test_a_sound_set_has_no_findings(data):
    assert data.findings() == []


def test_copies_between_splits_are_found_by_pixels_whatever_the_file(data):
    data.image('train', 'd.png', seed=3)
    data.image('val', 'e.bmp', seed=3)
    finding = only(data.findings(), 'train and val: 1 image of val is also in train')
    assert finding.names == ('d.png = e.bmp',)
    assert not finding.stops


def test_copies_within_a_split(data):
    for name in ('d.png', 'e.png', 'f.png'):
        data.image('val', name, seed=3)
    finding = only(data.findings(), 'val: 2 images are copies of others')
    assert finding.names == ('d.png = e.png', 'd.png = f.png')


def test_unusable_images_by_reason(data):
    for name in ('gone.png', 'cut.png', 'text.png', 'large.png', 'turned.png'):
        number = data.image('train', name)
        data.box('train', number, (5, 6, 30, 20))
    images = data.folder / 'images'
    (images / 'gone.png').unlink()
    content = (images / 'cut.png').read_bytes()
    (images / 'cut.png').write_bytes(content[:-200])
    (images / 'text.png').write_text('no image')
    cv2.imwrite(str(images / 'large.png'), np.zeros((70, 90, 3), np.uint8))
    cv2.imwrite(str(images / 'turned.png'), np.zeros((80, 60, 3), np.uint8))
    findings = [each for each in data.findings() if 'cannot be used' in each.text]
    reasons = {each.text.split(': ')[2].split(' (')[0]: each for each in findings}
    assert {reason: each.names for reason, each in reasons.items()} == {
        'missing': ('gone.png',),
        'cut off': ('cut.png',),
        'not an image': ('text.png',),
        'not of the annotated size': ('large.png',),
        'width and height are swapped, often by an EXIF orientation': ('turned.png',),
    }
    assert all(each.stops for each in findings)


def test_one_unusable_image_is_allowed_as_in_training(data):
    (data.folder / 'images' / 'a.png').unlink()
    assert not only(data.findings(), 'missing').stops
    assert only(data.findings(max_bad=0), 'missing').stops


def test_odd_boxes_are_counted_and_marked(data):
    data.box('train', 1, (10, 10, 0.5, 8))
    data.box('train', 1, (100, 10, 8, 8))
    data.box('train', 2, (70, 10, 20, 20))
    findings = data.findings()
    tiny = only(findings, '1 of 23 boxes are narrower or lower than 1 pixel')
    assert tiny.objects == {('train', 20)} and tiny.names == ('a.png',)
    outside = only(findings, '1 of 23 boxes are outside of their images')
    assert outside.objects == {('train', 21)}
    over = only(findings, '1 of 23 boxes reach more than 2 pixels outside')
    assert over.objects == {('train', 22)} and over.names == ('b.png',)


def test_identical_boxes_of_the_same_and_of_another_class(data):
    data.splits['train']['categories'].append({'id': 2, 'name': 'dog'})
    data.splits['val']['categories'].append({'id': 2, 'name': 'dog'})
    data.box('train', 1, (5, 6, 30, 20))
    data.box('train', 2, (5, 6, 30, 20), category=2)
    findings = data.findings()
    assert only(findings, '1 boxes repeat another').objects == {('train', 20)}
    twins = only(findings, '2 boxes are the same as one of another class')
    assert twins.objects == {('train', 10), ('train', 21)}
    only(findings, 'val: no object of 1 of 2 classes: dog')
    only(findings, 'train: 1 of 2 classes has fewer than 10 objects')


def test_images_without_objects_and_small_ones(data):
    data.image('train', 'empty.png')
    number = data.image('train', 'small.png', size=(20, 80))
    data.box('train', number, (5, 6, 10, 10))
    findings = data.findings()
    assert only(findings, '1 of 4 images has no objects').names == ('empty.png',)
    assert only(findings, 'smaller than min_size = 32').names == ('small.png',)


def test_sizes_against_anchors_at_the_resized_scale(data):
    # 30 x 20 and more of 60 x 80 images: sides of 24.5 to 29.5, resized 13.3 times.
    assert data.findings(anchors=(200, 400)) == []
    small = only(data.findings(anchors=(2000,)), 'train: 20 of 20 (100%) objects are')
    assert 'smaller than half of the smallest anchor, 2000 pixels' in small.text
    large = [each for each in data.findings(anchors=(8, 16)) if 'larger' in each.text]
    assert len(large) == 2


def test_too_many_boxes_stop_training(data):
    findings = data.findings(max_boxes=9, from_config=True)
    finding = only(findings, 'set --config.data.max_boxes=10')
    assert finding.stops and finding.names == ('a.png', 'b.png')


def test_too_many_boxes_for_the_usual_capacity_stop_nothing(data, capsys):
    """Without a config `init` chooses the capacity, and check-data takes no fields."""
    finding = only(data.findings(max_boxes=9), '2 images have more than 9 boxes')
    assert not finding.stops and '--config' not in finding.text
    for k in range(100):
        data.box('train', 1, (k % 9, 1, 12 + k % 7, 20 + k % 11))
    data.write()
    assert main(['check-data', str(data.folder)]) == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert '1 image has more than 100 boxes' in printed
    assert 'a config by atss init holds all, up to 110' in printed


def test_malformed_records_stop_training_unless_they_are_skipped(data):
    data.box('train', 1, (1, 2, 3))
    finding = only(data.findings(), '1 of 21 annotations left out')
    assert finding.stops and 'annotations[20]' in finding.text
    assert finding.text.endswith(
        'Fix them, or leave them out with atss init --on_error=skip'
    )
    finding = only(data.findings(from_config=True), 'left out')
    assert finding.text.endswith("Fix them, or set --config.data.on_error='skip'")
    assert not only(data.findings(skips_malformed=True), 'left out').stops


def test_boxes_by_corners_are_suspected(data):
    for number in (1, 2):
        for _ in range(4):
            data.box('train', number, (50, 40, 75, 55))
    only(data.findings(), 'Are they x1, y1, x2, y2?')


def test_relative_boxes_are_suspected(data):
    for annotation in data.splits['train']['annotations']:
        annotation['bbox'] = [0.1, 0.2, 0.3, 0.4]
    findings = data.findings()
    only(findings, 'relative to the size of the image')
    assert only(findings, 'no object that can be learned').stops


def test_ids_off_by_one_are_suspected(data):
    for size in ((60, 80), (200, 300), (60, 80)):
        data.image('train', f'{size[0]}{len(data.splits["train"]["images"])}.png', size)
    for _ in range(10):
        data.box('train', 5, (100, 100, 150, 90))
    for annotation in data.splits['train']['annotations']:
        if annotation['image_id'] < 3:
            annotation['image_id'] += 1
    only(data.findings(), 'are the image ids off by one?')


def test_a_class_at_the_border_is_suspected(data):
    for annotation in data.splits['train']['annotations']:
        annotation['bbox'][0] = 0
    only(data.findings(), '20 of 20 boxes of cat touch the border')


def test_a_broken_split_does_not_hide_the_others(data, capsys):
    data.write()
    file = data.folder / 'annotations' / 'instances_val.json'
    content = json.loads(file.read_text())
    content['categories'] = [{'id': 1}]
    file.write_text(json.dumps(content))
    assert main(['check-data', str(data.folder)]) == 1
    out = capsys.readouterr().out
    assert 'problems that stop training' in out and 'instances_val.json' in out
    assert 'train       2      0         0       20        1' in out


def test_command_status_split_width_and_page(data, capsys, tmp_path):
    data.box('train', 1, (10, 10, 0.5, 8))
    data.write()
    page = tmp_path / 'pages' / 'p.html'
    assert main(['check-data', str(data.folder), f'--report={page}']) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()[1:]
    assert 'COCO with train' in ' '.join(out.split())  # it is wrapped
    assert max(map(len, lines[3:-1])) <= 80
    assert 'verdict: nothing stops training; 1 thing to look at' in out
    text = page.read_text()
    assert 'a.png' in text and 'truth background' in text and '<img' in text
    assert main(['check-data', str(data.folder), '--split=val']) == 0
    assert 'train ' not in capsys.readouterr().out.partition('\n\n')[2]


def test_bad_input(data, capsys, tmp_path):
    data.write()
    assert main(['check-data', str(tmp_path / 'none')]) == 1
    assert 'there is no such file or folder' in capsys.readouterr().err
    assert main(['check-data', str(data.folder), '--split=test']) == 1
    assert 'has only train, val' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['check-data'])
    with pytest.raises(SystemExit):
        main(['check-data', str(data.folder), '--config.data.max_boxes=3'])


def test_a_config_gives_scale_limits_and_data(data, capsys):
    data.write()
    base = ['check-data', '--config=atss_r50_1x', '--config.data.max_boxes=9']
    assert main([base[0], str(data.folder), *base[1:]]) == 1
    assert 'data.max_boxes = 9' in capsys.readouterr().out
    places = [
        f'--config.data.{split}.{field}={value}'
        for split in ('train', 'val', 'test')
        for field, value in (
            ('ann_file', data.folder / 'annotations/instances_train.json'),
            ('img_prefix', data.folder / 'images'),
        )
    ]
    classes = '--config.model.bbox_head.num_classes=1'
    status = main([*base[:2], '--split=train', classes, *places])
    assert status == 0, capsys.readouterr().out
    assert 'the data of atss_r50_1x' in capsys.readouterr().out


# What is wrong with all of a data set -------------------------------------------------


def stopping(folder, capsys):
    """The problems that stop training, in one line."""
    assert main(['check-data', str(folder)]) == 1
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'all: no object' not in printed and 'train: no object' not in printed
    return printed.partition('problems that stop training')[2].partition('things to')[0]


def test_the_cause_is_named_where_every_record_is_malformed(tmp_path, capsys):
    """Not only that nothing remains of a data set whose bad records are left out."""
    xml = voc_set.A.replace('<annotation>', '<annotation><source>Zoë</source>')
    latin = '<?xml version="1.0" encoding="utf-8"?>' + xml
    files = {'a.xml': latin.encode('latin-1'), 'a.png': IMAGE}
    write_files(tmp_path / 'latin', files)
    text = stopping(tmp_path / 'latin', capsys)
    assert 'a.xml: content must be XML' in text and 'line 1, column' in text
    assert 'on_error' not in text
    lists = {'train.txt': 'C:\\me\\a.jpg\n', 'val.txt': 'C:\\me\\c.jpg\n'}
    yaml = 'train: train.txt\nval: val.txt\nnames: [cat]\n'
    write_files(tmp_path / 'lists', {'data.yaml': yaml, **lists})
    assert 'train.txt:1: path must be an image' in stopping(tmp_path / 'lists', capsys)


def test_to_leave_all_out_is_no_advice(tmp_path, capsys):
    """The value and a guess are given instead."""
    labels = {
        'labels/train/a.txt': '0 32 15 16 20\n',
        'labels/train/b.txt': '1 9 9 4 4',
    }
    write_files(tmp_path / 'pixels', yolo_set.USUAL | labels)
    text = stopping(tmp_path / 'pixels', capsys)
    assert 'such as 32: these look like pixels' in text
    assert 'labels/train/a.txt:1: box must be numbers from 0 to 1' in text
    assert 'found 32.0. Fix them' in text and 'on_error' not in text
    assert 'no object that can be learned' not in text
    assert text.count('look like pixels') == 1
    foreign = {'classes.txt': 'person\nbus\n', 'a.xml': voc_set.A, 'a.png': IMAGE}
    write_files(tmp_path / 'foreign', foreign)
    text = stopping(tmp_path / 'foreign', capsys)
    assert 'classes.txt, which has none of the names that the annotation files' in text
    assert "found 'dog'. Fix them" in text and 'on_error' not in text


def test_images_that_are_all_missing_come_before_the_way_to_divide(tmp_path, capsys):
    """And the message says where they were looked for."""
    data = DataSet(tmp_path)
    data.box('all', data.image('all', 'a.png'), (5, 6, 30, 20))
    data.write()
    (tmp_path / 'images' / 'a.png').unlink()
    text = stopping(tmp_path, capsys)
    assert '1 of 1 images cannot be used: missing. The first: ' in text
    assert text.index('a.png') < text.index('atss split')
    assert str(tmp_path) in text.partition('missing')[2].partition('atss split')[0]


def test_a_fault_is_told_once(data, tmp_path, capsys):
    """Classes that differ in case, and a split that data.yaml names in vain."""
    data.splits['val']['categories'][0]['name'] = 'Cat'
    findings = data.findings()
    assert len(findings) == 1 and findings[0].stops
    files = {name: yolo_set.USUAL[name] for name in yolo_set.USUAL if 'val' not in name}
    write_files(tmp_path / 'yolo', files)
    with pytest.warns(UserWarning, match='val is images/val, which is not there'):
        text = stopping(tmp_path / 'yolo', capsys)
    assert 'there is no val. To divide it' in text and 'is not there' not in text


def test_the_root_category_of_roboflow_is_nothing_to_look_at(data):
    for content in data.splits.values():
        content['categories'][0]['supercategory'] = 'animals'
        content['categories'].append(
            {'id': 0, 'name': 'animals', 'supercategory': 'none'}
        )
    assert data.findings() == []
