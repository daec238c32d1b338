"""Data sets of TensorFlow Datasets: the same bits as the folder they were made from."""

import pickle
import shutil
import subprocess
import sys
import urllib.parse

import cv2
import fsspec
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem

from atss_jax.config import build_experiment, load_config
from atss_jax.data.batch import Pipeline, load_row
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.loader import EvalBatches, TrainBatches, prefetch
from atss_jax.data.plan import TrainPlan, eval_batches
from atss_jax.data.tfds import index as tfds_index
from atss_jax.data.tfds.dataset import TFDSDataset
from atss_jax.data.tfds.index import COCO_IDS
from atss_jax.data.tfds.prepare import prepare
from atss_jax.evaluation import coco_metric
from tests.conftest import ROOT
from tests.support.batches import assert_same
from tests.support.file_server import serving
from tests.support.tfds_data import write_official

NAME = 'coco/2017:1.1.0'
PIPELINE = Pipeline((64, 32), flip_ratio=0.5, max_boxes=40)
SPLITS = {'train': 'train', 'validation': 'val'}


@pytest.fixture(scope='module')
def data_dir(small_data, tmp_path_factory):
    """The small data, prepared; several files a split."""
    folder = tmp_path_factory.mktemp('tfds')
    for split, name in SPLITS.items():
        file, images = str(small_data / f'{name}.json'), str(small_data / name)
        prepare(file, images, str(folder), NAME, split, shard_bytes=20_000)
    return folder


@pytest.fixture(scope='module')
def tiny_dir(coco_tiny, tmp_path_factory):
    """160 images of COCO, prepared."""
    folder = tmp_path_factory.mktemp('tiny')
    for split, name in SPLITS.items():
        file = coco_tiny / 'annotations' / f'instances_{name}2017.json'
        prepare(str(file), str(coco_tiny / f'{name}2017'), str(folder), NAME, split)
    return folder


@pytest.fixture
def own_dir(data_dir, tmp_path):
    """A copy, to spoil; the folder of the data set."""
    shutil.copytree(data_dir, tmp_path / 'own')
    return tmp_path / 'own' / 'coco' / '2017' / '1.1.0'


def coco(small_data, name='train', **kwargs):
    file, images = str(small_data / f'{name}.json'), str(small_data / name)
    return CocoDataset(file, images, **kwargs)


def tiny(coco_tiny, name='train', **kwargs):
    file = coco_tiny / 'annotations' / f'instances_{name}2017.json'
    return CocoDataset(str(file), str(coco_tiny / f'{name}2017'), **kwargs)


def load(data_dir, split='train', **kwargs):
    return TFDSDataset(str(data_dir), NAME, split, **kwargs)


def train_batches(source, pipeline=PIPELINE):
    index = pipeline.canvas_index(source)
    plan = TrainPlan(index, pipeline.all_canvases(), 4, seed=3)
    return TrainBatches(source, plan, pipeline, (0, 4))


def assert_same_records(one, other):
    assert one.classes == other.classes and one.category_ids == other.category_ids
    for name in ('image_ids', 'sizes', 'offsets', 'boxes', 'labels', 'ignored'):
        found, expected = getattr(one.records, name), getattr(other.records, name)
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, err_msg=name)


# Equal to the folder -----------------------------------------------------------------


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        {'filter_empty_gt': False},
        {'filter_empty_gt': False, 'min_size': 40},
        {'test_mode': True},
        {'classes': ('blue', 'red')},
        {'indices': 5},
    ],
)
def test_records(small_data, data_dir, kwargs):
    found, expected = load(data_dir, **kwargs), coco(small_data, **kwargs)
    assert_same_records(found, expected)
    assert found.ground_truth() == expected.ground_truth()


def test_training_batches(small_data, data_dir):
    found, expected = train_batches(load(data_dir)), train_batches(coco(small_data))
    stream = prefetch(found, 0, 13, workers=0)
    for step in range(13):
        assert_same(next(stream), expected(step))


def test_worker_processes(small_data, data_dir, tmp_path):
    """In a program of its own, as worker processes import what started them."""
    (tmp_path / 'batches').write_bytes(pickle.dumps(train_batches(load(data_dir))))
    code = f"""
import pathlib, pickle
import numpy as np
from atss_jax.data.loader import prefetch

if __name__ == '__main__':
    batches = pickle.loads(pathlib.Path({str(tmp_path / 'batches')!r}).read_bytes())
    stream = prefetch(batches, 0, 100, workers=2)
    found = [next(stream) for _ in range(4)]
    stream.close()
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
    expected = train_batches(coco(small_data))
    for step, batch in enumerate(pickle.loads((tmp_path / 'found').read_bytes())):
        assert_same(batch, expected(step))


def test_evaluation_batches(small_data, data_dir):
    sources = [
        load(data_dir, 'validation', test_mode=True),
        coco(small_data, 'val', test_mode=True),
    ]
    index = PIPELINE.canvas_index(sources[1])
    batches = eval_batches(index, 4)
    found, expected = (EvalBatches(s, PIPELINE, batches, (0, 4)) for s in sources)
    for position in range(len(batches)):
        assert_same(found(position), expected(position))


def some_results(source):
    """Detections near the truth, with scores of all sizes."""
    random = np.random.default_rng(5)
    return [
        {
            'image_id': annotation['image_id'],
            'category_id': annotation['category_id'],
            'bbox': (
                np.array(annotation['bbox']) * random.uniform(0.8, 1.2, 4)
            ).tolist(),
            'score': random.random(),
        }
        for annotation in source.ground_truth()['annotations']
    ]


def scores(source, results):
    found = coco_metric.evaluate(
        source.ground_truth(), results, source.classes, source.category_ids
    )
    return list(found.summary.values()), found.per_class


def test_coco_itself(coco_tiny, tiny_dir):
    found, expected = load(tiny_dir), tiny(coco_tiny)
    assert_same_records(found, expected)
    one, other = train_batches(found), train_batches(expected)
    for step in range(4):
        assert_same(one(step), other(step))
    found = load(tiny_dir, 'validation', test_mode=True)
    expected = tiny(coco_tiny, 'val', test_mode=True)
    results = some_results(expected)
    np.testing.assert_equal(scores(found, results), scores(expected, results))


def test_a_copy_for_a_worker_is_the_same_and_small(coco_tiny, tiny_dir):
    source = load(tiny_dir)
    fresh = len(pickle.dumps(source))
    image, truth = source.read_image(source.records[3]), source.ground_truth()
    content = pickle.dumps(source)
    assert len(content) == fresh  # neither the index nor open files
    assert fresh < len(pickle.dumps(tiny(coco_tiny))) / 2
    copy = pickle.loads(content)
    assert_same_records(copy, source)
    np.testing.assert_array_equal(copy.read_image(copy.records[3]), image)
    assert copy.ground_truth() == truth


def test_from_a_config(data_dir, small_data):
    config = load_config(
        str(ROOT / 'configs' / 'atss_r50_1x_tfds.py'),
        {f'data.{name}.data_dir': str(data_dir) for name in ('train', 'val', 'test')}
        | {'data.train.indices': 3},
    )
    data = build_experiment(config).data
    assert_same_records(data['train'].open(), coco(small_data, indices=3))
    assert_same_records(data['val'].open(), coco(small_data, 'val', test_mode=True))


# As TensorFlow Datasets prepares COCO ------------------------------------------------


@pytest.fixture(scope='module')
def official_tiny(coco_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp('official')
    file = coco_tiny / 'annotations' / 'instances_train2017.json'
    write_official(folder, {'train': (file, coco_tiny / 'train2017')})
    return folder


@pytest.fixture
def official(small_data, tmp_path):
    files = {'train': (small_data / 'train.json', small_data / 'train')}
    write_official(tmp_path / 'official', files)
    return tmp_path / 'official'


def by_id(rows):
    return {row['id']: row for row in rows}


def test_official_coco_has_the_same_boxes(coco_tiny, official_tiny):
    found, expected = load(official_tiny), tiny(coco_tiny)
    assert found.classes == expected.classes
    assert found.category_ids == expected.category_ids == COCO_IDS
    found, expected = found.ground_truth(), expected.ground_truth()
    assert found['categories'] == expected['categories']
    assert by_id(found['images']) == by_id(expected['images'])
    assert len(found['annotations']) == len(expected['annotations']) == 705
    expected = by_id(expected['annotations'])
    for annotation in found['annotations']:
        area = int(expected[annotation['id']]['area']) + 0.5
        assert annotation == expected[annotation['id']] | {'area': area}


def test_official_coco_has_the_same_rows(coco_tiny, official_tiny):
    """In another order: rows of a batch, image by image."""
    found, expected = load(official_tiny), tiny(coco_tiny)
    order = {image_id: k for k, image_id in enumerate(found.records.image_ids.tolist())}
    assert list(order) != expected.records.image_ids.tolist()
    for index, image_id in enumerate(expected.records.image_ids.tolist()[:20]):
        one = load_row(found, order[image_id], (64, 64), PIPELINE, flip=True)
        other = load_row(expected, index, (64, 64), PIPELINE, flip=True)
        assert_same(one, other)


def test_official_features_of_other_data(small_data, official):
    found, expected = load(official), coco(small_data)
    assert found.classes == expected.classes
    assert found.category_ids == (1, 2, 3)  # records do not say
    pairs = dict(zip(expected.category_ids, found.category_ids, strict=True))
    annotations = by_id(found.ground_truth()['annotations'])
    for annotation in expected.ground_truth()['annotations']:
        own = annotations[annotation['id']]
        assert own['bbox'] == annotation['bbox']
        assert own['category_id'] == pairs[annotation['category_id']]
        assert own['iscrowd'] == annotation['iscrowd']


def test_truncated_areas_are_neither_none_nor_small():
    """32 x 32 and 32.01 x 32 pixels: small and medium; 0.4 pixels: not nothing."""
    from atss_jax.data.tfds.index import _objects

    found = {
        'area': [int(0.4), int(32.01 * 32)],
        'bbox': [np.zeros(4)] * 2,
        'id': [1, 2],
        'is_crowd': [False] * 2,
        'label': [0, 0],
    }
    areas = _objects(found, 5, (10, 10))['areas']
    assert areas[0] > 0 and areas[1] > 32**2


def test_the_scan_is_kept_beside_the_data(official, monkeypatch):
    truth = load(official).ground_truth()
    assert (official / 'coco/2017/1.1.0/atss_jax-train.npz').exists()
    monkeypatch.setattr(tfds_index, 'scan', None)  # another one would fail
    assert load(official).ground_truth() == truth


@pytest.fixture
def read_only(official, monkeypatch):
    """As if nothing could be written next to the data (these tests may run as root)."""
    real = tfds_index.save

    def save(path, *arguments):
        if str(path).startswith(str(official)):
            raise PermissionError(13, 'Permission denied', str(path))
        real(path, *arguments)

    monkeypatch.setattr(tfds_index, 'save', save)


def test_the_scan_is_kept_in_the_cache(official, read_only, monkeypatch, tmp_path):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    truth = load(official).ground_truth()
    assert len(list((tmp_path / 'cache' / 'tfds').glob('*-train.npz'))) == 1
    monkeypatch.setattr(tfds_index, 'scan', None)
    assert load(official).ground_truth() == truth


def test_a_scan_that_cannot_be_kept_is_said(official, read_only, monkeypatch, tmp_path):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'cache').write_text('no folder')
    with pytest.warns(UserWarning, match='ATSS_JAX_CACHE'):
        assert len(load(official).records) == 17


def test_an_index_of_other_records_is_not_used(small_data, official):
    load(official)
    folder = official / 'coco' / '2017' / '1.1.0'
    index = (folder / 'atss_jax-train.npz').read_bytes()
    shutil.rmtree(official / 'coco')
    write_official(official, {'train': (small_data / 'val.json', small_data / 'val')})
    (folder / 'atss_jax-train.npz').write_bytes(index)
    found = load(official, filter_empty_gt=False).records.image_ids
    expected = coco(small_data, 'val', filter_empty_gt=False).records.image_ids
    assert sorted(found.tolist()) == sorted(expected.tolist())


def test_other_features_are_refused(small_data, tmp_path):
    files = {'train': (small_data / 'train.json', small_data / 'train')}
    write_official(tmp_path, files, leave_out=('objects', 'image/id'))
    with pytest.raises(ValueError, match=r'no image/id, objects; expected image,'):
        load(tmp_path)


def test_no_image_no_size(small_data, tmp_path):
    """No feature has it: it stands in the image alone."""
    images = shutil.copytree(small_data / 'val', tmp_path / 'images')
    (images / '986.png').write_bytes(b'GIF87')
    write_official(tmp_path, {'train': (small_data / 'val.json', images)})
    with pytest.raises(ValueError, match=r'986.png: its size is not known.*id 986'):
        load(tmp_path)


# What can be wrong -------------------------------------------------------------------


def test_nothing_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match='prepare-tfds --data_dir') as error:
        load(tmp_path)
    assert str(tmp_path / 'coco' / '2017' / '1.1.0') in str(error.value)


@pytest.mark.parametrize(
    'name', ['coco/2017', 'Coco:1.0.0', 'coco:1.0', 'coco/..:1.0.0']
)
def test_bad_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}': expected dataset/config:version"):
        TFDSDataset(str(tmp_path), name, 'train')


def test_bad_split(data_dir):
    with pytest.raises(ValueError, match="no split 'val', it has train, validation"):
        load(data_dir, 'val')


def test_no_image_left(data_dir):
    with pytest.raises(ValueError, match=r'1.1.0 train: none of its 21 images'):
        load(data_dir, min_size=41)


def test_bad_class(data_dir):
    with pytest.raises(ValueError, match=r"no category 'Red', did you mean 'red'"):
        load(data_dir, classes=('Red',))


def test_files_of_another_format(own_dir):
    info = own_dir / 'dataset_info.json'
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match='prepared as tfrecord, which cannot be read'):
        load(own_dir.parents[2])


def test_missing_index(own_dir):
    (own_dir / 'atss_jax-train.npz').unlink()
    with pytest.raises(
        ValueError, match='missing, or not the index of the records next to it'
    ):
        load(own_dir.parents[2])


def test_index_of_another_split(own_dir):
    shutil.copy(own_dir / 'atss_jax-validation.npz', own_dir / 'atss_jax-train.npz')
    with pytest.raises(ValueError, match='not the index of the records next to it'):
        load(own_dir.parents[2])


@pytest.mark.parametrize('content', [b'', b'no zip file', b'PK\x03\x04' + bytes(50)])
def test_damaged_index(own_dir, content):
    (own_dir / 'atss_jax-train.npz').write_bytes(content)
    with pytest.raises(ValueError, match=r'atss_jax-train.npz: a damaged index'):
        load(own_dir.parents[2])


def shard(folder, number=0):
    return sorted(folder.glob('coco-train.array_record-*'))[number]


@pytest.mark.parametrize('damage', ['missing', 'cut', 'zeroed'])
def test_damaged_files(own_dir, damage):
    source = load(own_dir.parents[2])
    content = shard(own_dir).read_bytes()
    shard(own_dir).unlink()
    if damage != 'missing':
        new = {'cut': content[:-70_000], 'zeroed': bytes(len(content))}[damage]
        (own_dir / 'coco-train.array_record-00000-of-00007').write_bytes(new)
    with pytest.raises(OSError, match=r'1000.png \(record 0, image id 1000, ') as error:
        source.read_image(source.records[0])
    assert 'train' in str(error.value)
    # Storage that fails is not a bad image, which training would pass over.
    assert not isinstance(error.value, UNUSABLE)


def test_files_of_other_data_sets(own_dir):
    """Nothing but the image's id could tell."""
    source = load(own_dir.parents[2])
    shutil.copy(shard(own_dir, 1), shard(own_dir, 0))
    with pytest.raises(ValueError, match=r'record 0 has image id 979, .* 1000'):
        source.read_image(source.records[0])


def test_a_file_with_too_few_records(own_dir, small_data):
    """array_record hands out empty ones then."""
    from array_record.python.array_record_module import ArrayRecordWriter

    source = load(own_dir.parents[2])
    ArrayRecordWriter(str(shard(own_dir)), 'group_size:1').close()
    with pytest.raises(ValueError, match=r'1000.png .*not a record of this data set'):
        source.read_image(source.records[0])


@pytest.mark.parametrize(
    'content', [b'', b'no image', cv2.imencode('.png', np.zeros((9, 7)))[1].tobytes()]
)
def test_bad_images_are_the_folders_bad_images(small_data, tmp_path, content):
    images = shutil.copytree(small_data / 'val', tmp_path / 'images')
    (images / '986.png').write_bytes(content)
    file = str(small_data / 'val.json')
    prepare(file, str(images), str(tmp_path), NAME, 'train')
    messages = []
    sources = CocoDataset(file, str(images)), load(tmp_path)
    for source in sources:
        record = source.records[source.records.image_ids.tolist().index(986)]
        with pytest.raises(BadImage, match=r'986.png: .*\(image id 986, ') as error:
            source.read_image(record)
        message = str(error.value).partition('986.png: ')[2]
        messages.append(message.partition(' (image')[0])
    assert messages[0] == messages[1]


# A bucket ----------------------------------------------------------------------------


class Bucket(LocalFileSystem):
    """A folder under the name of a bucket: what etils' paths see of `gs://`."""

    protocol = 'gs'
    folder = None

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path)
        if path.startswith('gs://bucket'):
            path = path.replace('gs://bucket', str(cls.folder), 1)
        return super()._strip_protocol(path)


@pytest.fixture
def file_systems(monkeypatch):
    """`file_systems(make)`: what etils asks for a bucket; it keeps what it got."""
    kept = backend.fsspec_backend._get_filesystem
    kept.cache_clear()
    yield lambda make: monkeypatch.setattr(fsspec, 'filesystem', make)
    kept.cache_clear()


def test_bucket(data_dir, small_data, monkeypatch, file_systems):
    """Metadata go through etils, records through array_record's own reader."""
    monkeypatch.setattr(Bucket, 'folder', data_dir)
    file_systems(lambda _name, **_options: Bucket())
    with serving(monkeypatch) as server:
        monkeypatch.setenv('CLOUD_STORAGE_EMULATOR_ENDPOINT', server.url)
        for path in data_dir.rglob('*.array_record-*'):
            name = urllib.parse.quote(str(path.relative_to(data_dir)), safe='')
            address = f'/storage/v1/b/bucket/o/{name}?alt=media'
            server.files[address] = path.read_bytes()
        source, expected = load('gs://bucket'), coco(small_data)
        assert server.requests == []
        assert_same_records(source, expected)
        assert source.ground_truth() == expected.ground_truth()
        for index in (16, 0):
            np.testing.assert_array_equal(
                source.read_image(source.records[index]),
                expected.read_image(expected.records[index]),
            )
        asked = [address for address, _ in server.requests]
        files = {address.partition('array_record-')[2][:5] for address in asked}
        assert files == {'00000', '00006'}  # those of the two images


def test_bucket_without_its_library(file_systems):
    def missing(_name, **_options):
        raise ImportError('Please install gcsfs')

    file_systems(missing)
    with pytest.raises(ValueError, match=r'gs://bucket.*pip install gcsfs'):
        load('gs://bucket/tfds')
