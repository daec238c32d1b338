"""prepare-tfds: what it writes is exact, whole or not there, and readable by others."""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from atss_jax.commands import main as commands
from atss_jax.data.tfds import prepare as tfds_prepare
from atss_jax.data.tfds.dataset import TFDSDataset
from atss_jax.data.tfds.index import index_name
from atss_jax.files.lock import locked
from tests.data.test_tfds import assert_same_records
from tests.support.coco_folder import Folder
from tests.support.small_run import tree_of
from tests.support.tfds_data import write_official

NAME = 'mine:2.0.1'


class Data(Folder):
    """The annotation file to spoil, images that are some bytes, a place to write."""

    def __init__(self, path):
        super().__init__(path)
        self.data_dir = path / 'data' / 'sets'
        for image in self.content['images']:
            content = image['file_name'].encode() * 50
            (self.images / image['file_name']).write_bytes(content)

    def prepare(self, split='train', name=NAME, **kwargs):
        self.file.write_text(json.dumps(self.content))
        return tfds_prepare.prepare(
            str(self.file), str(self.images), str(self.data_dir), name, split, **kwargs
        )

    def open(self, split='train', name=NAME, **kwargs):
        return TFDSDataset(str(self.data_dir), name, split, **kwargs)

    def refuses(self, *parts, error=ValueError, **kwargs):
        """Preparing fails, names all the parts, and changes nothing."""
        before = tree_of(self.data_dir)
        with pytest.raises(error) as caught:
            self.prepare(**kwargs)
        for part in parts:
            assert str(part) in str(caught.value)
        after = tree_of(self.data_dir)
        locks = {name for name in after if name.endswith('.lock')}
        folders = {name for name in after if (self.data_dir / name).is_dir()}
        assert {k: v for k, v in after.items() if k in before} == before
        assert set(after) - set(before) <= locks | folders
        assert not list(self.data_dir.rglob('dataset_info.json')) or before


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


# What is written ---------------------------------------------------------------------


@pytest.mark.parametrize('name', [NAME, 'coco/2017:1.1.0'])
@pytest.mark.filterwarnings('ignore:.*not trained on, as in mmdet')
def test_everything_survives(data, name):
    """Crowds, `ignore`, missing areas, boxes outside, boxes that training drops."""
    annotations = data.content['annotations']
    annotations[0] |= {'bbox': [0.1, 1 / 3, 10.123456789012345, 2e-17], 'ignore': 1}
    annotations[1] |= {'bbox': [-5.5, -2, 1e6, 20], 'area': 1e15, 'id': 2**40}
    annotations.append(annotations[2] | {'id': 4, 'bbox': [3, 4, -5, 0], 'area': -1.5})
    data.prepare(name=name)
    for kwargs in ({'filter_empty_gt': False, 'min_size': 0}, {'classes': ('dog',)}):
        expected, found = data.load(**kwargs), data.open(name=name, **kwargs)
        assert_same_records(found, expected)
        assert found.ground_truth() == expected.ground_truth()


def test_malformed_records_can_be_left_out(data):
    data.content['annotations'][2]['image_id'] = 77
    data.refuses('annotations[2] (id 3)', 'image_id')
    with pytest.warns(UserWarning, match='left out'):
        data.prepare(on_error='skip')
    with pytest.warns(UserWarning, match='left out'):
        expected = data.load(on_error='skip')
    assert_same_records(data.open(), expected)
    assert data.open().ground_truth() == expected.ground_truth()


def test_images_alone_can_be_prepared(data):
    """A test set: no annotations, and sizes are read from the images."""
    del data.content['annotations']
    for image in data.content['images']:
        size = image.pop('height'), image.pop('width')
        content = cv2.imencode('.png', np.zeros((*size, 3), np.uint8))[1].tobytes()
        (data.images / image['file_name']).write_bytes(content)
    with pytest.warns(UserWarning, match='3 of 3 images have no height and width'):
        data.prepare()
    records = data.open(test_mode=True).records
    assert records.sizes.tolist() == [[40, 60], [50, 30], [40, 40]]
    assert not len(records.boxes)


def test_random_numbers_survive(data):
    random = np.random.default_rng(0)
    annotations = data.content['annotations']
    for k in range(200):
        values = (random.uniform(-50, 50, 4) * 10.0 ** random.integers(-3, 3)).tolist()
        extra = {'id': 100 + k, 'bbox': values, 'area': float(random.uniform(0, 1e4))}
        annotations.append(annotations[k % 3] | extra)
    expected = data.load(test_mode=True).ground_truth()
    data.prepare()
    assert data.open(test_mode=True).ground_truth() == expected


def test_others_can_read_it(data):
    """By both of the ways that TensorFlow Datasets has; features of coco/2017 first."""
    data.prepare('train', 'coco/2017:1.1.0')
    folder = data.data_dir / 'coco' / '2017' / '1.1.0'
    by_name = tfds.builder('coco/2017:1.1.0', data_dir=data.data_dir)
    for builder in (tfds.builder_from_directory(folder), by_name):
        assert builder.info.full_name == 'coco/2017/1.1.0'
        assert builder.info.splits['train'].num_examples == 3
        decoders = {'image': tfds.decode.SkipDecoding()}
        rows = builder.as_data_source('train', decoders=decoders)
        assert [row['image/id'] for row in rows] == [7, 3, 5]
        row = rows[0]
        assert row['image'] == b'a.png' * 50
        assert row['image/filename'] == b'a.png'
        assert (row['image/height'], row['image/width']) == (40, 60)
        objects = row['objects']
        assert builder.info.features['objects']['label'].names == ['cat', 'dog']
        assert [list(map(int, objects[k])) for k in ('id', 'label', 'area')] == [
            [2, 3],
            [0, 1],
            [50, 20],
        ]
        assert [bool(crowd) for crowd in objects['is_crowd']] == [True, False]
        # Clipped: xmin -5.5 and xmax 94.5 of 60; the exact ones next to it.
        expected = np.array(
            [[2 / 40, 0, 22 / 40, 1], [0, 0, 5 / 40, 4 / 60]], np.float32
        )
        np.testing.assert_array_equal(objects['bbox'], expected)
        exact = [[-5.5, 2, 100, 20], [0, 0, 4, 5]]
        np.testing.assert_array_equal(objects['bbox_exact'], exact)
        assert [float(area) for area in objects['area_exact']] == [50, 20]
        assert list(map(int, objects['category_id'])) == [9, 4]


def test_features_are_those_of_coco_and_more(data, tmp_path):
    """As TensorFlow Datasets writes them down itself."""
    for annotation in data.content['annotations']:
        annotation |= {'bbox': [1, 2, 3, 4], 'area': 12, 'iscrowd': 0}
    folder = data.prepare()
    write_official(tmp_path / 'official', {'train': (data.file, data.images)})
    official = tmp_path / 'official' / 'coco' / '2017' / '1.1.0'

    def features(path):
        content = json.loads((path / 'features.json').read_text())
        top = content['featuresDict']['features']
        objects = top.pop('objects')['sequence']['feature']['featuresDict']['features']
        return top | {f'objects/{name}': value for name, value in objects.items()}

    ours, theirs = features(folder), features(official)
    assert {name: ours.get(name) for name in theirs} == theirs
    assert set(ours) - set(theirs) == {
        'image/height',
        'image/width',
        'objects/area_exact',
        'objects/bbox_exact',
        'objects/category_id',
        'objects/ignore',
    }


def test_large_sets_are_many_files(data):
    """750 bytes of images: as many files as keep each below what is asked for."""
    for limit, lengths in (
        (1000, [3]),
        (400, [2, 1]),
        (250, [1, 1, 1]),
        (1, [1, 1, 1]),
    ):
        name = f'mine:1.0.{limit}'
        folder = data.prepare(name=name, shard_bytes=limit)
        files = sorted(folder.glob('mine-train.array_record-*'))
        assert [ArrayRecordReader(str(file)).num_records() for file in files] == lengths
        assert files[-1].name.endswith(f'-{len(files) - 1:05d}-of-{len(files):05d}')
        rows = data.open(name=name, test_mode=True)._rows
        assert [bytes(rows[k]['image'][:5]) for k in range(3)] == [
            b'a.png',
            b'b.png',
            b'c.png',
        ]


def test_splits_are_added(data):
    folder = data.prepare('train')
    before = tree_of(folder)
    data.content['images'] = data.content['images'][:2]
    data.content['annotations'] = data.content['annotations'][1:]
    data.prepare('validation')
    after = tree_of(folder)
    assert {k: v for k, v in after.items() if k in before} | {
        'dataset_info.json': before['dataset_info.json']
    } == before
    assert data.open('train', test_mode=True).records.image_ids.tolist() == [7, 3, 5]
    validation = data.open('validation', test_mode=True)
    assert validation.records.image_ids.tolist() == [7, 3]
    assert set(tfds.builder_from_directory(folder).info.splits) == {
        'train',
        'validation',
    }


# Interrupted -------------------------------------------------------------------------


def interrupted(data, monkeypatch, where, **kwargs):
    """Stops a preparation in the middle of `where`, after its first effect."""
    real = getattr(tfds_prepare, where)

    def stop(*arguments):
        result = real(*arguments)
        if where == 'examples':
            return stopped(result)
        raise KeyboardInterrupt

    def stopped(records):
        yield next(records)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfds_prepare, where, stop)
        data.prepare(**kwargs)


@pytest.mark.parametrize(
    'where', ['examples', '_write_shard', '_write_shards', '_describe']
)
@pytest.mark.parametrize('has_other_split', [False, True])
def test_an_interruption_leaves_nothing(data, monkeypatch, where, has_other_split):
    if has_other_split:
        data.prepare('validation')
    before = tree_of(data.data_dir)
    interrupted(data, monkeypatch, where, shard_bytes=250)
    left = {k for k in tree_of(data.data_dir) if not k.endswith('.lock')} - set(before)
    assert left <= {'mine'}
    with pytest.raises((FileNotFoundError, ValueError), match=r'prepared|no split'):
        data.open()
    data.prepare()
    assert len(data.open(test_mode=True).records) == 3


def test_killed_while_writing(data):
    """No clean-up ran: what is left does not count, and goes away at the next start."""
    folder = data.data_dir / 'mine' / '2.0.1'
    staging = folder.with_name('2.0.1.incomplete')
    staging.mkdir(parents=True)
    (staging / 'mine-train.array_record-00007-of-00009').write_bytes(b'half')
    (staging / 'dataset_info.json').write_bytes(b'{')
    with pytest.raises(FileNotFoundError, match='no data set is prepared here'):
        data.open()
    data.prepare()
    assert len(data.open(test_mode=True).records) == 3
    assert not staging.exists() and not list(folder.glob('*00009'))


@pytest.mark.parametrize('moved', range(6))
def test_killed_while_moving_a_second_split(data, monkeypatch, moved):
    """After any number of moves the first split is whole and the second not there."""
    folder = data.prepare('validation')
    real, calls = tfds_prepare.os.replace, []

    def replace(source, target):
        if '.incomplete' in str(source) and not source.name.startswith('.'):
            if len(calls) == moved:
                raise KeyboardInterrupt
            calls.append(target)
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tfds_prepare.os, 'replace', replace)
        data.prepare('train', shard_bytes=400)
    assert len(data.open('validation', test_mode=True).records) == 3
    with pytest.raises(ValueError, match="no split 'train', it has validation"):
        data.open('train')
    data.prepare('train')  # one file now: those of the other try must go
    assert len(list(folder.glob('*-train.*'))) == 2
    assert len(data.open('train', test_mode=True).records) == 3


def test_one_at_a_time(data):
    data.data_dir.mkdir(parents=True)
    with locked(data.data_dir / 'mine' / '.2.0.1.lock'):
        data.refuses('another process is at work', error=OSError)
    data.prepare()


# Bad input ---------------------------------------------------------------------------


def test_missing_images(data):
    (data.images / 'b.png').unlink()
    (data.images / 'c.png').unlink()
    data.refuses('b.png', 'image id 3', '2 of 3 images', error=FileNotFoundError)


def test_missing_files(data):
    data.file.write_text('{}')
    for file, folder in ((data.file, 'none'), ('none.json', data.images)):
        with pytest.raises(FileNotFoundError, match='none'):
            tfds_prepare.prepare(str(file), str(folder), str(data.data_dir), NAME, 'a')


def test_malformed_annotations(data):
    data.content['annotations'][1]['bbox'] = [1, 2, 3]
    data.refuses(data.file, 'annotations[1] (id 2)', '4 finite numbers')


def test_no_images(data):
    data.content['images'] = data.content['annotations'] = []
    data.refuses(data.file, 'has no images')


def test_no_categories(data):
    data.content['categories'] = data.content['annotations'] = []
    data.refuses(data.file, 'has no categories')


@pytest.mark.parametrize('name', [' dog', 'two\nlines', 'a\u2028b'])
def test_names_that_cannot_be_stored(data, name):
    data.content['categories'][1]['name'] = name
    data.refuses(data.file, 'category id 4', repr(name))


@pytest.mark.parametrize('split', ['Train', 'train[:10%]', 'a-b', ''])
def test_bad_split(data, split):
    data.refuses(f'split = {split!r}', split=split)


def test_bad_name(data):
    data.refuses("'mine'", 'dataset:version', name='mine')


def test_into_a_bucket(data):
    data.file.write_text('{}')
    with pytest.raises(ValueError, match=r'expected a local folder.*docs/data.md'):
        tfds_prepare.prepare(
            str(data.file), str(data.images), 'gs://b/x', NAME, 'train'
        )


def test_a_split_that_is_there(data):
    data.prepare()
    data.refuses("split 'train' is prepared already", 'delete this folder')


def test_splits_of_other_categories(data):
    data.prepare()
    data.content['categories'].reverse()
    data.refuses("split 'train'", 'same order', split='validation')
    data.content['categories'].append({'id': 1, 'name': 'cow'})
    data.refuses('same order', split='validation')


def test_beside_data_of_others(data, tmp_path):
    for annotation in data.content['annotations']:
        annotation |= {'bbox': [1, 2, 3, 4], 'area': 12, 'iscrowd': 0}
    data.file.write_text(json.dumps(data.content))
    write_official(data.data_dir, {'train': (data.file, data.images)})
    data.refuses('other features', name='coco/2017:1.1.0', split='validation')


def test_a_full_disk(data):
    """`/dev/full` takes nothing."""
    with pytest.raises(OSError, match=r'/dev/full: .*No space left'):
        tfds_prepare._write_shard(pathlib.Path('/dev/full'), [b'x' * 99], Bar())


class Bar:
    def update(self):
        pass


# Command -----------------------------------------------------------------------------


def test_command(small_data, tmp_path, capsys):
    command = ['prepare-tfds', '--data_dir', str(tmp_path / 'tfds'), '--name', NAME]
    files = ['--ann_file', str(small_data / 'val.json')]
    images = ['--img_prefix', str(small_data / 'val'), '--split', 'validation']
    assert commands.main([*command, *files, *images]) == 0
    folder = tmp_path / 'tfds' / 'mine' / '2.0.1'
    assert f'prepared split validation in {folder}' in capsys.readouterr().out
    assert (folder / index_name('validation')).exists()
    assert commands.main([*command, *files, *images]) == 1
    printed = capsys.readouterr().err
    assert 'prepared already' in printed and len(printed.splitlines()) == 1
    shutil.rmtree(folder)
    assert commands.main([*command, *files, *images]) == 0
