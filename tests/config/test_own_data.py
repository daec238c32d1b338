"""A user's data in place of a config's: `load_config(..., data=PATH)`."""

import os

import pytest

from atss_jax.config import as_dict, build_experiment, load_config
from atss_jax.config.own_data import splits_of, use_data, use_found_data
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from tests.support import yolo_set
from tests.support.every_form import WRITERS
from tests.support.forms import write_files

R50 = 'atss_r50_1x'
SPLITS = ('train', 'val', 'test')


@pytest.fixture
def folder(small_data, tmp_path, monkeypatch):
    """A YOLO data set in the current folder."""
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    WRITERS['YOLO'](small_data, tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    return 'set'


@pytest.mark.parametrize('name', [R50, 'atss_r50_1x_tfds', 'atss_shapes'])
def test_any_config_reads_the_folder(folder, name):
    """Whatever type of data it has; all else stays as it is."""
    config, before = (load_config(name, data=d) for d in (folder, None))
    assert config.model.bbox_head.num_classes == 3
    config, before = as_dict(config), as_dict(before)
    for split, ours in zip(SPLITS, ('train', 'val', 'val'), strict=True):
        section = config['data'][split]
        assert (section['type'], section['path']) == ('auto', folder)
        assert section['split'] == ours
        assert section['pipeline'] == before['data'][split]['pipeline']
    config['model']['bbox_head']['num_classes'] = None
    before['model']['bbox_head']['num_classes'] = None
    for split in SPLITS:
        config['data'][split] = before['data'][split] = None
    assert config == before


def test_the_data_open(folder):
    experiment = build_experiment(load_config(R50, data=folder))
    train, val, test = (experiment.data[split].open() for split in SPLITS)
    assert isinstance(train, AutoDataset)
    assert len(train.records) < 21  # images without objects are left out
    assert len(val.records) == len(test.records) == 9
    assert train.classes == val.classes == ('red', 'green', 'blue')


def test_fields_that_say_how_to_train_are_kept(folder):
    config = {
        'data': {
            split: {'type': 'CocoDataset', 'ann_file': 'x', 'indices': 5, 'classes': 7}
            for split in SPLITS
        }
    }
    config['data']['train'] |= {'filter_empty_gt': False, 'times': 4, 'min_size': 1}
    use_data(config, folder, 'a', 'b', 'c')
    sections = config['data']
    common = {'type': 'auto', 'path': folder, 'classes': None, 'indices': None}
    train = {'filter_empty_gt': False, 'times': 4, 'min_size': 1}
    assert sections['train'] == {**common, 'split': 'a', **train}
    assert sections['val'] == {**common, 'split': 'b'}
    assert sections['test'] == {**common, 'split': 'c'}


def test_overrides_come_after(folder):
    overrides = {'data.train.indices': 2, 'model.bbox_head.num_classes': 2}
    config = load_config(
        R50, overrides | {'data.train.classes': ('red', 'blue')}, folder
    )
    assert config.data.train.indices == 2 and config.model.bbox_head.num_classes == 2
    source = build_experiment(config).data['train'].open()
    assert source.classes == ('red', 'blue') and len(source.records) == 2


@pytest.mark.parametrize('path', ['set/', './set', 'x/../set//', 'yolo:set/'])
def test_one_spelling_of_a_path(folder, path):
    """A run is resumed with each of them."""
    os.mkdir('x')
    expected = 'yolo:set' if ':' in path else 'set'
    assert load_config(R50, data=path).data.train.path == expected


def test_an_address_stays_as_it_is():
    config = as_dict(load_config(R50))
    use_data(config, 'hf://owner/name@main')
    assert config['data']['train']['path'] == 'hf://owner/name@main'


def test_a_test_split_is_used_if_there_is_one(tmp_path):
    files = yolo_set.IN_SPLITS | {'data.yaml': yolo_set.NAMES}
    write_files(tmp_path, files)
    splits = {'train': 'train', 'val': 'val', 'test': 'val'}
    assert splits_of(find(str(tmp_path))) == splits
    image = yolo_set.IN_SPLITS['train/images/a.png']
    write_files(tmp_path, {'test/images/d.png': image})
    assert splits_of(find(str(tmp_path))) == splits | {'test': 'test'}


def test_what_is_refused(folder, small_data):
    with pytest.raises(FileNotFoundError, match="path = 'none': there is no such"):
        load_config(R50, data='none')
    with pytest.raises(ValueError, match='is not divided into splits'):
        load_config(R50, data=str(small_data / 'train.json'))
    config = as_dict(load_config(R50))
    with open('set/labels/train/1000.txt', 'a') as file:
        file.write('9 0.5 0.5 0.1 0.1\n')
    with pytest.raises(ValueError, match=r'labels/train/1000\.txt:3: class must be'):
        use_found_data(config, folder)
    config['data']['on_error'] = 'skip'
    with pytest.warns(UserWarning, match='1 of .* lines of label files left out'):
        assert use_found_data(config, folder).name == 'YOLO'
