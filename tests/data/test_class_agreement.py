"""Classes that look alike or differ between splits: read, checked, and refused."""

import json
import shlex
import warnings

import cv2
import numpy as np
import pytest

from atss_jax.commands.main import main
from atss_jax.data.check.decoded import pixel_digest
from atss_jax.data.class_agreement import alike, disagreement, quoted
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find


def test_names_that_look_alike():
    assert alike(['Cat', 'dog', 'cat ', 'CAT']) == [('Cat', 'cat ', 'CAT')]
    assert alike(['traffic  light', 'Traffic light', 'traffic_light']) == [
        ('traffic  light', 'Traffic light')
    ]
    assert alike(['a', 'b', 'a']) == []
    assert quoted(['a ']) == "'a '"


def test_disagreement_names_what_looks_alike():
    assert disagreement({'train': ('a', 'b'), 'val': ('a', 'b')}) == ''
    assert disagreement({'train': ('a', 'Cat'), 'val': ('a', 'cat')}) == (
        'classes differ in name or order, so labels would mean different things: '
        "train: ('a', 'Cat'); val: ('a', 'cat'); 'Cat' and 'cat' differ only in case "
        'or white space'
    )


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def coco_file(folder, split, names, number):
    """A COCO file of `number` images with an object of each class."""
    images, annotations = [], []
    for i in range(1, number + 1):
        write_image(folder / 'images' / f'{split}{i}.png', (number, i))
        images.append({'id': i, 'file_name': f'{split}{i}.png'})
        images[-1] |= {'height': 40, 'width': 50}
        for label in range(len(names)):
            annotations.append(
                {'id': len(annotations) + 1, 'image_id': i, 'category_id': label + 1}
                | {'bbox': [2 + label, 3, 30, 20]}
            )
    categories = [{'id': i, 'name': name} for i, name in enumerate(names, 1)]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    folder.mkdir(exist_ok=True)
    (folder / f'{split}.json').write_text(json.dumps(content))


def write_coco(folder, number=3):
    coco_file(folder, 'all', ('Cat', 'cat', 'dog'), number)


def write_yolo(folder, number=3):
    for i in range(number):
        write_image(folder / 'images' / 'train' / f'{i}.png', i)
        labels = folder / 'labels' / 'train'
        labels.mkdir(parents=True, exist_ok=True)
        lines = [f'{label} 0.5 0.5 0.{label + 3} 0.4\n' for label in range(3)]
        (labels / f'{i}.txt').write_text(''.join(lines))
    (folder / 'data.yaml').write_text('names: [Cat, cat, dog]\ntrain: images/train\n')


def write_voc(folder, number=3):
    (folder / 'Annotations').mkdir(parents=True)
    for i in range(number):
        write_image(folder / 'JPEGImages' / f'{i}.png', i)
        objects = ''.join(
            f'<object><name>{name}</name><bndbox><xmin>{5 + k}</xmin><ymin>6</ymin>'
            '<xmax>40</xmax><ymax>30</ymax></bndbox></object>'
            for k, name in enumerate(('Cat', 'cat', 'dog'))
        )
        size = '<size><width>50</width><height>40</height></size>'
        (folder / 'Annotations' / f'{i}.xml').write_text(
            f'<annotation><filename>{i}.png</filename>{size}{objects}</annotation>'
        )


def write_hugging_face(folder, number=3):
    lines = []
    for i in range(number):
        write_image(folder / 'train' / f'{i}.png', i)
        objects = {
            'bbox': [[5, 5, 30, 20], [8, 9, 20, 20], [1, 2, 20, 20]],
            'categories': ['Cat', 'cat', 'dog'],
        }
        lines.append(json.dumps({'file_name': f'{i}.png', 'objects': objects}))
    (folder / 'train' / 'metadata.jsonl').write_text('\n'.join(lines))


WRITERS = {
    'coco': write_coco,
    'yolo': write_yolo,
    'voc': write_voc,
    'hugging_face': write_hugging_face,
}


@pytest.fixture(params=WRITERS)
def undivided(request, tmp_path, monkeypatch):
    """The path of a data set without val, in each form, from the working folder."""
    monkeypatch.chdir(tmp_path)
    WRITERS[request.param](tmp_path / 'my data', 6)
    return 'my data'


def test_every_form_warns_of_names_that_look_alike(undivided):
    (split,) = find(undivided).splits
    with pytest.warns(UserWarning, match="white space: 'Cat' of 6 objects, 'cat' of 6"):
        source = AutoDataset(undivided, split)
    assert source.classes == ('Cat', 'cat', 'dog')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        AutoDataset(undivided, split, classes=('dog',))


def test_check_data_names_them_and_the_command_that_divides(undivided, capsys):
    """The command works as it is printed, and then nothing stops training."""
    assert main(['check-data', undivided]) == 1
    printed = capsys.readouterr().out
    text = ' '.join(printed.split())
    assert "white space: 'Cat' of 6 objects" in text and "('Cat' in " in text
    assert 'training needs the splits train and val, but ' in text
    (command,) = [line for line in printed.splitlines() if 'atss split' in line]
    assert command == "    atss split 'my data' --out 'my data_divided'"
    assert main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    assert main(['check-data', 'my data_divided']) == 0
    assert main(['check-data', undivided, '--split', *find(undivided).splits]) == 0


def test_train_names_the_same_command(undivided, tmp_path, capsys):
    assert main(['train', '--data', undivided, '--workdir', str(tmp_path / 'w')]) == 1
    error = capsys.readouterr().err
    assert "To divide it: atss split 'my data' --out 'my data_divided'" in error


@pytest.mark.parametrize('first', ['train', 'trainval'])
def test_the_test_images_of_a_set_without_val_are_kept(
    tmp_path, monkeypatch, capsys, first
):
    monkeypatch.chdir(tmp_path)
    write_lists(tmp_path / 'data', {first: 7, 'test': 3})
    (tmp_path / 'data_divided').mkdir()
    assert main(['check-data', 'data']) == 1
    printed = capsys.readouterr().out
    assert 'no val' in printed
    assert f'To divide {first} into' in ' '.join(printed.split())
    command = f'atss split data --out data_divided2 --split {first}'
    assert f'    {command}\n' in printed
    for other in (['init', 'data'], ['train', '--data', 'data', '--workdir', 'w']):
        assert main(other) == 1
        error = capsys.readouterr().err
        assert error.endswith(f'and keep test: {command}\n')
        assert 'split = ' not in error
    assert main(shlex.split(command)[1:]) == 0
    assert 'test is kept as it is: 3 images' in capsys.readouterr().out
    assert list(find('data_divided2').splits) == ['train', 'val', 'test']
    before = AutoDataset('data', 'test', test_mode=True)
    after = AutoDataset('data_divided2', 'test', test_mode=True)
    assert digests(after) == digests(before)
    numbers = [
        len(AutoDataset('data_divided2', split, test_mode=True).records)
        for split in ('train', 'val')
    ]
    assert sum(numbers) == 7 and min(numbers) > 0


def digests(source):
    """Digest of the pixels, and boxes, of each image."""
    return [
        (pixel_digest(source.read_image(record)), record.boxes.tolist())
        for record in map(source.records.__getitem__, range(len(source.records)))
    ]


def write_lists(folder, counts):
    """A VOC data set with a list for each split."""
    write_voc(folder, sum(counts.values()))
    lists = folder / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    start = 0
    for split, count in counts.items():
        numbers = map(str, range(start, start + count))
        (lists / f'{split}.txt').write_text('\n'.join(numbers))
        start += count


def test_splits_whose_classes_differ_in_case_stop_training(tmp_path, capsys):
    coco_file(tmp_path / 'data', 'train', ('Cat', 'dog'), 2)
    coco_file(tmp_path / 'data', 'val', ('cat', 'dog'), 1)
    path = str(tmp_path / 'data')
    assert main(['check-data', path]) == 1
    text = ' '.join(capsys.readouterr().out.split())
    message = "'Cat' and 'cat' differ only in case or white space"
    assert 'problems that stop training - val: classes differ' in text
    assert message in text
    assert main(['init', path, f'--out={tmp_path / "c.py"}']) == 1
    assert message in capsys.readouterr().err
