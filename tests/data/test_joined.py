"""Data sets of unlike forms, joined: classes, ids, images, batches, ground truth."""

import dataclasses
import json
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.joined import JoinedDataset, Member, set_times
from atss_jax.data.tfds.prepare import prepare
from atss_jax.training.setup import make_batches
from tests.conftest import ROOT
from tests.support.batches import assert_same
from tests.support.small_run import small_config

NAME = 'mine:1.0.0'


def write_set(folder, ids, names, shade):
    """A COCO set with one gray image and one object per id; categories as named."""
    folder.mkdir()
    content = {'images': [], 'annotations': [], 'categories': []}
    for number, name in enumerate(names):
        content['categories'].append({'id': 10 * (number + 1), 'name': name})
    for number, image_id in enumerate(ids):
        file_name = f'{image_id}.png'
        pixels = np.full((40, 60, 3), shade + number, np.uint8)
        cv2.imwrite(str(folder / file_name), pixels)
        image = {'id': image_id, 'file_name': file_name, 'height': 40, 'width': 60}
        content['images'].append(image)
        content['annotations'].append(
            {
                'id': number + 1,
                'image_id': image_id,
                'category_id': 10 * (number % len(names) + 1),
                'bbox': [1, 2, 20, 30],
                'area': 600,
                'iscrowd': 0,
            }
        )
    (folder / 'a.json').write_text(json.dumps(content))
    return CocoDataset(str(folder / 'a.json'), str(folder))


def joined(tmp_path, other_ids=(7, 8), other_names=('dog', 'cat'), classes=None):
    first = write_set(tmp_path / 'a', (3, 1), ('cat', 'dog'), 100)
    second = write_set(tmp_path / 'b', other_ids, other_names, 200)
    return JoinedDataset([Member('A', first), Member('B', second, 3)], classes)


# By hand -----------------------------------------------------------------------------


def test_ids_that_differ_are_kept_and_labels_follow_names(tmp_path):
    source = joined(tmp_path)
    assert source.classes == ('cat', 'dog') and source.category_ids == (10, 20)
    assert source.records.image_ids.tolist() == [3, 1, 7, 8]
    # In the second set 'dog' is category 10 and has the first image.
    assert source.records.labels.tolist() == [0, 1, 1, 0]
    assert source.times.tolist() == [1, 1, 3, 3] == set_times(source).tolist()
    shades = [source.read_image(source.records[k])[0, 0, 0] for k in range(4)]
    assert shades == [100, 101, 200, 201]
    truth = source.ground_truth()
    pairs = [(a['image_id'], a['category_id']) for a in truth['annotations']]
    assert pairs == [(3, 10), (1, 20), (7, 20), (8, 10)]
    assert [a['id'] for a in truth['annotations']] == [1, 2, 3, 4]
    assert truth['categories'] == [
        {'id': 10, 'name': 'cat'},
        {'id': 20, 'name': 'dog'},
    ]


def test_ids_that_collide_are_renumbered_in_the_order_of_the_sets(tmp_path):
    source = joined(tmp_path, other_ids=(1, 9))
    assert source.records.image_ids.tolist() == [1, 2, 3, 4]
    shades = [source.read_image(source.records[k])[0, 0, 0] for k in range(4)]
    assert shades == [100, 101, 200, 201]
    truth = source.ground_truth()
    images = [(image['id'], image['file_name']) for image in truth['images']]
    assert images == [(1, '3.png'), (2, '1.png'), (3, '1.png'), (4, '9.png')]
    assert [a['image_id'] for a in truth['annotations']] == [1, 2, 3, 4]


def test_classes_give_the_order(tmp_path):
    source = joined(tmp_path, classes=('dog', 'cat'))
    assert source.classes == ('dog', 'cat') and source.category_ids == (20, 10)
    assert source.records.labels.tolist() == [1, 0, 0, 1]


def test_no_such_image(tmp_path):
    source = joined(tmp_path)
    for image_id in (2, 99, -1):
        record = dataclasses.replace(source.records[0], image_id=image_id)
        with pytest.raises(ValueError, match=f'id {image_id}'):
            source.read_image(record)


def test_counts_of_what_is_not_learned_are_added(tmp_path):
    sources = [
        write_set(tmp_path / name, ids, ('cat', 'dog'), 100)
        for name, ids in (('a', (1, 2)), ('b', (3,)))
    ]
    for number, source in enumerate(sources):
        source.untrained = {'small': number + 1, f'only {number}': 5}
    found = JoinedDataset([Member(str(n), s) for n, s in enumerate(sources)]).untrained
    assert found == {'small': 3, 'only 0': 5, 'only 1': 5}


@pytest.mark.parametrize(
    ('names', 'parts'),
    [
        (('dog', 'Cat'), ["B lacks 'cat'", "only B has 'Cat'"]),
        (('dog',), ["B lacks 'cat'"]),
        (('dog', 'cat', 'bus'), ["only B has 'bus'", '`classes`']),
    ],
)
def test_classes_that_do_not_agree(tmp_path, names, parts):
    with pytest.raises(ValueError) as caught:
        joined(tmp_path, other_names=names)
    assert 'A and B are joined, but their classes differ' in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_the_ground_truth_is_that_of_one_file(tmp_path):
    """As if somebody had put the annotations of both into a single file."""
    source = joined(tmp_path, other_ids=(1, 9))
    box = {'bbox': [1, 2, 20, 30], 'area': 600, 'iscrowd': 0}
    names = ('3.png', '1.png', '1.png', '9.png')
    content = {
        'images': [
            {'id': k, 'file_name': name, 'height': 40, 'width': 60}
            for k, name in enumerate(names, start=1)
        ],
        'annotations': [
            {'id': k, 'image_id': k, 'category_id': category, **box}
            for k, category in enumerate((10, 20, 20, 10), start=1)
        ],
        'categories': [{'id': 10, 'name': 'cat'}, {'id': 20, 'name': 'dog'}],
    }
    (tmp_path / 'both.json').write_text(json.dumps(content))
    both = CocoDataset(str(tmp_path / 'both.json'), str(tmp_path))
    assert source.ground_truth() == both.ground_truth()
    assert source.records.digest() == both.records.digest()


def test_images_that_are_left_out_have_no_ground_truth(tmp_path):
    write_set(tmp_path / 'a', (3, 1), ('cat',), 100)
    first = CocoDataset(str(tmp_path / 'a' / 'a.json'), str(tmp_path / 'a'), indices=1)
    second = write_set(tmp_path / 'b', (1,), ('cat',), 200)
    source = JoinedDataset([Member('A', first), Member('B', second)])
    assert source.records.image_ids.tolist() == [3, 1]
    truth = source.ground_truth()
    assert [image['id'] for image in truth['images']] == [3, 1]
    assert [a['image_id'] for a in truth['annotations']] == [3, 1]


# A config ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tfds_dir(small_data, tmp_path_factory):
    """The evaluation images of the small data, prepared as a training split."""
    folder = tmp_path_factory.mktemp('joined_tfds')
    prepare(
        str(small_data / 'val.json'),
        str(small_data / 'val'),
        str(folder),
        NAME,
        'train',
    )
    return folder


def overrides(small_data, tfds_dir, **fields):
    """The training data: a COCO folder, and a TFDS data set three times."""
    config = small_config(small_data)
    coco = {
        'type': 'CocoDataset',
        'ann_file': str(small_data / 'train.json'),
        'img_prefix': str(small_data / 'train'),
        'filter_empty_gt': False,
    }
    tfds = {'type': 'TFDSDataset', 'data_dir': str(tfds_dir), 'name': NAME}
    tfds |= {'split': 'train', 'times': 3}
    kept = {name: config.data.train[name] for name in ('times', 'oversample_thr')}
    return {
        'data.train': {
            'type': 'ConcatDataset',
            'datasets': (coco, tfds),
            'classes': None,
            'pipeline': config.data.train.pipeline.to_dict(),
            **kept,
            **fields,
        }
    }


def batches_of(small_data, tfds_dir, rows=(0, 8), **fields):
    config = small_config(small_data, overrides(small_data, tfds_dir, **fields))
    experiment = build_experiment(config)
    return make_batches(experiment, experiment.data['train'].open(), 8, rows)


def test_each_set_has_settings_of_its_own(small_data, tfds_dir):
    batches = batches_of(small_data, tfds_dir)
    source = batches.source
    coco, tfds = (member.source for member in source.members)
    assert len(coco.records) == 21 and len(tfds.records) == 8  # one has no object
    assert len(source.records) == 29
    assert batches.plan.occurrences.tolist() == [1] * 21 + [3] * 8
    twice = batches_of(small_data, tfds_dir, times=2).plan
    assert twice.occurrences.tolist() == [2] * 21 + [6] * 8


def test_images_and_boxes_are_those_of_the_sets(small_data, tfds_dir):
    source = batches_of(small_data, tfds_dir).source
    start = 0
    for member in source.members:
        for k in range(len(member.source.records)):
            own, here = member.source.records[k], source.records[start + k]
            np.testing.assert_array_equal(here.boxes, own.boxes)
            np.testing.assert_array_equal(
                source.read_image(here), member.source.read_image(own)
            )
        start += len(member.source.records)


def test_two_hosts_load_slices_of_one_batch(small_data, tfds_dir):
    whole = batches_of(small_data, tfds_dir)
    hosts = [batches_of(small_data, tfds_dir, rows) for rows in ((0, 3), (3, 8))]
    for step in (0, 4, 11):
        slices = [host(step) for host in hosts]
        both = {k: np.concatenate([s[k] for s in slices]) for k in slices[0]}
        assert_same(both, whole(step))


@pytest.mark.long
def test_batches_do_not_depend_on_workers(small_data, tfds_dir, tmp_path):
    """In a program of its own, as worker processes import what started them."""
    batches = batches_of(small_data, tfds_dir, oversample_thr=0.9)
    (tmp_path / 'batches').write_bytes(pickle.dumps(batches))
    code = f"""
import pathlib, pickle
from atss_jax.data.loader import prefetch

if __name__ == '__main__':
    batches = pickle.loads(pathlib.Path({str(tmp_path / 'batches')!r}).read_bytes())
    found = {{n: list(prefetch(batches, 2, 7, workers=n)) for n in (0, 2)}}
    pathlib.Path({str(tmp_path / 'found')!r}).write_bytes(pickle.dumps(found))
"""
    (tmp_path / 'script.py').write_text(code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / 'script.py')],
        env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    for stream in pickle.loads((tmp_path / 'found').read_bytes()).values():
        assert len(stream) == 5
        for step, batch in enumerate(stream, start=2):
            assert_same(batch, batches(step))


def tuple_form(small_data, **fields):
    files = tuple(str(small_data / f'{name}.json') for name in ('train', 'val'))
    folders = tuple(str(small_data / name) for name in ('train', 'val'))
    return {
        f'data.train.{name}': value
        for name, value in {
            'ann_file': files,
            'img_prefix': folders,
            **fields,
        }.items()
    }


def test_tuples_of_files(small_data):
    """mmdetection's older way to join; the ids of the two sets collide."""
    config = small_config(small_data, tuple_form(small_data))
    source = build_experiment(config).data['train'].open()
    assert len(source.records) == 21 + 9  # filter_empty_gt is False
    assert source.records.image_ids.tolist() == list(range(1, 31))
    val = CocoDataset(str(small_data / 'val.json'), str(small_data / 'val'))
    first = val.records[0]
    here = source.records[21]
    assert here.file_name == first.file_name
    np.testing.assert_array_equal(source.read_image(here), val.read_image(first))


def test_one_folder_for_all_files(small_data):
    fields = tuple_form(small_data, img_prefix=str(small_data / 'train'))
    fields['data.train.ann_file'] = (str(small_data / 'train.json'),) * 2
    source = build_experiment(small_config(small_data, fields)).data['train'].open()
    assert len(source.records) == 42
    np.testing.assert_array_equal(
        source.read_image(source.records[21]), source.read_image(source.records[0])
    )


@pytest.mark.parametrize(
    ('fields', 'parts'),
    [
        ({'img_prefix': ('a',)}, ['data.train.img_prefix', '1 folders', '2 files']),
        ({'ann_file': 'a.json'}, ['data.train.img_prefix', "'a.json'", 'one folder']),
        ({'ann_file': ()}, ['data.train.ann_file = ()']),
        ({'ann_file': ('a.json', 3)}, ['data.train.ann_file', 'a tuple of several']),
        ({'indices': 5}, ['data.train.indices = 5', 'expected None']),
    ],
)
def test_tuples_that_are_refused(small_data, fields, parts):
    with pytest.raises(ValueError) as caught:
        small_config(small_data, tuple_form(small_data, **fields))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ('fields', 'parts'),
    [
        ({'datasets': ()}, ['data.train.datasets = ()', 'one or more sections']),
        ({'datasets': 'a'}, ["data.train.datasets = 'a'", 'one or more sections']),
        ({'datasets': {'type': 'auto'}}, ['datasets is a section', 'one or more']),
        (
            {'datasets': ({'type': 'ConcatDataset', 'datasets': ()},)},
            ["data.train.datasets.0.type = 'ConcatDataset'", "'CocoDataset' or 'auto'"],
        ),
        (
            {'datasets': ({'type': 'auto', 'path': 'a', 'classes': ('b',)},)},
            ["'data.train.datasets.0.classes' that nothing reads"],
        ),
        (
            {'datasets': ({'type': 'auto', 'path': 'a', 'times': 0},)},
            ['data.train.datasets.0.times = 0', 'at least 1'],
        ),
        ({'datasets': ({'type': 'auto'},)}, ["no field 'data.train.datasets.0.path'"]),
        ({'oversample_thr': 0}, ['data.train.oversample_thr = 0', 'a number above 0']),
        ({'oversample_thr': -0.1}, ['data.train.oversample_thr = -0.1']),
    ],
)
def test_fields_that_are_refused(small_data, tfds_dir, fields, parts):
    with pytest.raises(ValueError) as caught:
        small_config(small_data, overrides(small_data, tfds_dir, **fields))
    for part in parts:
        assert part in str(caught.value)


def test_errors_of_a_set_name_its_section(small_data, tfds_dir, tmp_path):
    fields = overrides(small_data, tfds_dir)
    first, second = fields['data.train']['datasets']
    missing = first | {'ann_file': str(tmp_path / 'missing.json')}
    fields['data.train']['datasets'] = (second, missing)
    config = small_config(small_data, fields)
    with pytest.raises(
        FileNotFoundError, match=r'config\.data\.train\.datasets\.1\.ann_'
    ):
        build_experiment(config).data['train'].open()


def test_classes_of_a_config_that_do_not_agree(small_data, tfds_dir, tmp_path):
    write_set(tmp_path / 'a', (3, 1), ('red', 'cyan'), 100)
    fields = overrides(small_data, tfds_dir)
    other = {'type': 'auto', 'path': str(tmp_path / 'a' / 'a.json'), 'split': 'all'}
    fields['data.train']['datasets'] += (other,)
    data = build_experiment(small_config(small_data, fields)).data
    with pytest.raises(ValueError) as caught:
        data['train'].open()
    for part in ('data.train.datasets.0', "data.train.datasets.2 lacks 'blue'", 'cyan'):
        assert part in str(caught.value)
    fields['data.train']['classes'] = ('red',)
    source = build_experiment(small_config(small_data, fields)).data['train'].open()
    assert source.classes == ('red',) and len(source.members) == 3
    assert set(source.records.labels.tolist()) == {0}


def test_errors_of_a_file_in_a_tuple(small_data, tmp_path):
    files = (str(small_data / 'train.json'), str(tmp_path / 'missing.json'))
    fields = tuple_form(small_data, ann_file=files)
    data = build_experiment(small_config(small_data, fields)).data
    with pytest.raises(FileNotFoundError) as caught:
        data['train'].open()
    assert str(caught.value).startswith(f'config.data.train.ann_file = {files[1]!r}: ')
    write_set(tmp_path / 'a', (3, 1), ('red', 'cyan'), 100)
    files = (files[0], str(tmp_path / 'a' / 'a.json'))
    fields = tuple_form(small_data, ann_file=files)
    data = build_experiment(small_config(small_data, fields)).data
    with pytest.raises(ValueError) as caught:
        data['train'].open()
    assert f"{files[1]} (in data.train.ann_file) lacks 'blue'" in str(caught.value)


def test_a_python_config(small_data, tmp_path):
    """It has generated images; fields of one set can be set on the command line."""
    (tmp_path / 'own.py').write_text(
        """from atss_jax.configs import atss_shapes

def get_config():
    config = atss_shapes.get_config()
    shapes = config.data.train.to_dict()
    fields = {k: x for k, x in shapes.items() if k not in ('pipeline', 'times')}
    config.data.train = dict(
        type='ConcatDataset',
        datasets=(fields | {'num_images': 3}, fields | {'seed': 9, 'num_images': 2}),
        classes=None,
        times=2,
        pipeline=config.data.train.pipeline,
    )
    return config
"""
    )
    experiment = build_experiment(load_config(tmp_path / 'own.py'))
    batches = make_batches(experiment, experiment.data['train'].open(), 1, (0, 1))
    assert batches.plan.steps_per_epoch == 2 * (3 + 2)
    records = batches.source.records
    assert records.image_ids.tolist() == [1, 2, 3, 4, 5]
    images = [batches.source.read_image(records[k]) for k in (0, 3)]
    assert (images[0] != images[1]).any()
    fields = {'data.train.datasets.0.min_size': 3}
    with pytest.raises(ValueError, match='min_size'):
        build_experiment(load_config(tmp_path / 'own.py', fields)).data['train'].open()
