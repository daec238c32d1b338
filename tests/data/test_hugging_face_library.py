"""What the library `datasets` writes, saves and loads, and what it reads itself.

Real photographs of blood cells if they are there, else a small set of noise.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from tests.conftest import ROOT, SHARED_DATA
from tests.support import hub_server
from tests.support.hugging_face import encoded, rows_of_coco

datasets = pytest.importorskip('datasets')
pytestmark = pytest.mark.hf

SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}
BCCD = SHARED_DATA / 'bccd'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def bccd():
    if not BCCD.is_dir():
        pytest.skip('needs ../shared/data/bccd')
    return {
        split: rows_of_coco(BCCD / 'annotations' / f'instances_{split}.json')
        for split in SPLITS
    }


def features(names, number='float64'):
    value, every = datasets.Value, datasets.List
    objects = {
        'id': every(value('int64')),
        'bbox': every(every(value(number), length=4)),
        'category': every(datasets.ClassLabel(names=names)),
        'area': every(value('float64')),
        'iscrowd': every(value('int64')),
    }
    return datasets.Features(
        {
            'image_id': value('int64'),
            'image': datasets.Image(),
            'width': value('int32'),
            'height': value('int32'),
            'objects': objects,
        }
    )


def library_dataset(bccd, split, number='float64'):
    rows, names = bccd[split]
    rows = [
        {
            **{key: value for key, value in row.items() if key != 'file_name'},
            'image': {
                'bytes': (BCCD / 'images' / row['file_name']).read_bytes(),
                'path': row['file_name'],
            },
        }
        for row in rows
    ]
    return datasets.Dataset.from_list(rows, features=features(names, number))


@pytest.fixture(scope='module')
def forms(bccd, tmp_path_factory):
    """BCCD as the library writes it, by the name of the form."""
    folder = tmp_path_factory.mktemp('bccd')
    splits = {name: library_dataset(bccd, split) for split, name in SPLITS.items()}
    (folder / 'parquet' / 'data').mkdir(parents=True)
    for name, rows in splits.items():
        shards = 2 if name == 'train' else 1
        for index in range(shards):
            file = f'parquet/data/{name}-{index:05d}-of-{shards:05d}.parquet'
            rows.shard(shards, index, contiguous=True).to_parquet(folder / file)
    dictionary = datasets.DatasetDict(splits)
    dictionary.save_to_disk(
        folder / 'saved', num_shards={'train': 2, 'validation': 1, 'test': 1}
    )
    for split, name in SPLITS.items():
        write_imagefolder(bccd[split], folder / 'imagefolder' / name)
    return folder


def write_imagefolder(split, folder):
    folder.mkdir(parents=True)
    rows, names = split
    with open(folder / 'metadata.jsonl', 'w') as file:
        for row in rows:
            shutil.copy(BCCD / 'images' / row['file_name'], folder)
            objects = row['objects']
            texts = [names[index] for index in objects['category']]
            row = {**row, 'objects': {**objects, 'category': texts}}
            file.write(json.dumps(row) + '\n')


def coco(split, classes=None):
    ann_file = BCCD / 'annotations' / f'instances_{split}.json'
    return CocoDataset(str(ann_file), str(BCCD / 'images'), classes=classes)


@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('form', ['parquet', 'saved', 'imagefolder'])
def test_bccd_equals_the_coco_form(bccd, forms, form, split):
    classes = tuple(bccd[split][1])
    found = AutoDataset(str(forms / form), split, classes=classes)
    expected = coco(split, classes)
    assert found.records.digest() == expected.records.digest()
    assert [annotations(found, name) for name in ('area', 'iscrowd', 'bbox', 'id')] == [
        annotations(expected, name) for name in ('area', 'iscrowd', 'bbox', 'id')
    ]
    for index in range(len(expected.records)):
        np.testing.assert_array_equal(
            found.read_image(found.records[index]),
            expected.read_image(expected.records[index]),
        )


def annotations(source, name):
    """A value of each annotation, in the order of the ids."""
    rows = source.ground_truth()['annotations']
    return [row[name] for row in sorted(rows, key=lambda row: row['id'])]


def test_classes_of_the_features_keep_their_order(bccd, forms):
    assert AutoDataset(str(forms / 'parquet'), 'val').classes == tuple(bccd['val'][1])
    assert AutoDataset(str(forms / 'imagefolder'), 'val').classes == tuple(
        sorted(bccd['val'][1])
    )


def test_boxes_in_float32_are_as_exact_as_that(bccd, tmp_path):
    library_dataset(bccd, 'val', 'float32').to_parquet(tmp_path / 'val.parquet')
    found = AutoDataset(str(tmp_path), 'val').records
    np.testing.assert_allclose(found.boxes, coco('val').records.boxes, rtol=2e-7)


@pytest.mark.parametrize('split', ['val'])
def test_the_library_reads_the_same(forms, split):
    """Its own reader of `imagefolder` is the independent one."""
    rows = datasets.load_dataset(
        'imagefolder', data_dir=str(forms / 'imagefolder'), split=SPLITS[split]
    ).cast_column('image', datasets.Image(decode=False))
    found = find(str(forms / 'imagefolder')).read(split)
    assert found.image_ids.tolist() == rows['image_id']
    assert [pathlib.Path(name).name for name in found.file_names] == [
        pathlib.Path(image['path']).name for image in rows['image']
    ]
    assert found.image_sizes.tolist() == [
        list(size) for size in zip(rows['height'], rows['width'], strict=True)
    ]
    objects = list(rows['objects'])
    for column, name in ((found.boxes, 'bbox'), (found.areas, 'area')):
        assert column.tolist() == [value for each in objects for value in each[name]]
    names = [found.categories[index] for index in found.annotation_categories.tolist()]
    assert names == [value for each in objects for value in each['category']]


# The Hub ------------------------------------------------------------------------------

LOAD = """
import sys
from atss_jax.data.forms.dataset import AutoDataset
source = AutoDataset(sys.argv[1], sys.argv[2], classes=tuple(sys.argv[3:]))
source.read_image(source.records[0])
print(source.records.digest(), list(source.form.splits))
"""


class Hub:
    """A server for the library's own client; programs load from it."""

    def __init__(self, server, home):
        self.server = server
        own = {'HF_ENDPOINT': server.url, 'HF_HOME': str(home), 'XLA_FLAGS': ''}
        local = {'no_proxy': '127.0.0.1', 'NO_PROXY': '127.0.0.1'}
        # Neither the other protocol for large files, nor messages about usage.
        less = {'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_TELEMETRY': '1'}
        path = {'PYTHONPATH': str(ROOT)}
        self.environment = {**os.environ, **own, **local, **less, **path}

    def load(self, address, split, classes=(), **environment):
        return subprocess.run(
            [sys.executable, '-c', LOAD, address, split, *classes],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def hub(tmp_path):
    with hub_server.serving() as server:
        yield Hub(server, tmp_path / 'home')


@pytest.mark.parametrize('form', ['parquet', 'imagefolder'])
def test_a_data_set_on_the_hub(bccd, forms, hub, form):
    """It is downloaded once, then read without the network."""
    hub.server.repositories['owner/cells'] = forms / form
    classes = bccd['val'][1]
    expected = coco('val', tuple(classes)).records.digest()
    for address in ('hf://owner/cells', 'hf://datasets/owner/cells@main'):
        done = hub.load(address, 'val', classes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split(maxsplit=1) == [expected, "['train', 'val', 'test']\n"]
    files = [path for path in hub.server.requests if path.endswith('.parquet')]
    if form == 'parquet':
        assert {pathlib.Path(path).name for path in files} == {
            file.name for file in (forms / 'parquet' / 'data').iterdir()
        }
    asked = len(hub.server.requests)
    done = hub.load('hf://owner/cells', 'val', classes, HF_HUB_OFFLINE='1')
    assert done.stdout.split()[0] == expected, done.stderr
    assert len(hub.server.requests) == asked


def test_configurations(forms, hub, tmp_path):
    repository = tmp_path / 'repository'
    shutil.copytree(forms / 'parquet' / 'data', repository / 'full')
    (repository / 'mini').mkdir()
    for split in ('validation', 'test'):
        file = f'{split}-00000-of-00001.parquet'
        shutil.copy(forms / 'parquet' / 'data' / file, repository / 'mini')
    (repository / 'README.md').write_text(
        '---\nconfigs:\n'
        + ''.join(
            f'- config_name: {name}\n  data_files:\n'
            f'  - split: validation\n    path: {name}/validation-*\n'
            f'  - split: test\n    path: {name}/test-*\n'
            for name in ('full', 'mini')
        )
        + '---\n'
    )
    hub.server.repositories['owner/cells'] = repository
    done = hub.load('hf://owner/cells/mini', 'test', ['RBC'])
    assert done.returncode == 0 and "['val', 'test']" in done.stdout, done.stderr
    done = hub.load('hf://owner/cells', 'test', ['RBC'])
    assert "path = 'hf://owner/cells': " in done.stderr
    assert 'Add its name to the address: hf://OWNER/NAME/CONFIG' in done.stderr


def test_parquet_as_the_hub_itself_makes_it(bccd, forms, hub, tmp_path):
    """Folders for configurations, which nothing declares, and for splits."""
    for config, splits in (('full', SPLITS.values()), ('mini', ('test',))):
        for split in splits:
            folder = tmp_path / 'repository' / config / split
            folder.mkdir(parents=True)
            files = sorted((forms / 'parquet' / 'data').glob(f'{split}-*'))
            for index, file in enumerate(files):
                shutil.copy(file, folder / f'{index:04d}.parquet')
    hub.server.repositories['owner/cells'] = tmp_path / 'repository'
    classes = bccd['train'][1]
    done = hub.load('hf://owner/cells@refs%2Fconvert%2Fparquet/full', 'train', classes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == coco('train', tuple(classes)).records.digest()
    assert any('/refs%2Fconvert%2Fparquet' in path for path in hub.server.requests)


@pytest.mark.parametrize(
    ('category', 'message'),
    [
        ([4], 'hf://owner/cells: the categories are integers (4 to 4), and nothing'),
        ([4], 'Download the data set to a folder (hf download --repo-type=dataset'),
        (
            ['dog', 'cat'],
            'hf://owner/cells: cells-train.arrow row 1 (id 2): the lists of objects',
        ),
    ],
)
def test_messages_about_the_hub_name_the_address(hub, tmp_path, category, message):
    repository = tmp_path / 'repository'
    repository.mkdir()
    good = {'bbox': [[1.0, 1.0, 9.0, 9.0]] * len(category), 'category': category}
    bad = {**good, 'bbox': good['bbox'][:1]}
    image = encoded('a.png')
    rows = [{'image': image, 'objects': objects} for objects in (good, bad)]
    file = repository / 'train-00000-of-00001.parquet'
    datasets.Dataset.from_list(rows).to_parquet(file)
    hub.server.repositories['owner/cells'] = repository
    done = hub.load('hf://owner/cells', 'train')
    assert message in done.stderr


def test_what_the_hub_does_not_have(forms, hub, tmp_path):
    done = hub.load('hf://owner/nothing', 'val')
    assert "FileNotFoundError: path = 'hf://owner/nothing': " in done.stderr
    scripts = tmp_path / 'scripts'
    scripts.mkdir()
    (scripts / 'scripts.py').write_text('')
    hub.server.repositories['owner/scripts'] = scripts
    done = hub.load('hf://owner/scripts', 'val')
    assert "ValueError: path = 'hf://owner/scripts': " in done.stderr
    assert 'write hf://OWNER/NAME@refs%2Fconvert%2Fparquet/CONFIG' in done.stderr
