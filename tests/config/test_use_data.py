"""A user's own data in place of those that a config names."""

import copy

import pytest

from atss_jax.config import load_config
from atss_jax.config.own_data import splits_of, use_data, use_found_data
from atss_jax.data.forms.find import find
from configs import atss_r50_1x
from tests.support.forms import IMAGE, write_files
from tests.support.yolo_set import IN_SPLITS, LINE, USUAL


@pytest.fixture
def config():
    """The main recipe."""
    return atss_r50_1x.get_config()


@pytest.fixture
def data(tmp_path):
    """A YOLO data set of three classes."""
    write_files(tmp_path / 'animals', USUAL)
    return tmp_path / 'animals'


def test_each_section_reads_the_data(config):
    old = copy.deepcopy(config)
    use_data(config, 'no/such/folder')  # opens no files
    for section, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        new = config.data[section].to_dict()
        pipeline = new.pop('pipeline')
        assert pipeline == old.data[section].pipeline.to_dict()
        assert (new['type'], new['path'], new['split']) == (
            'auto',
            'no/such/folder',
            split,
        )
        assert new['classes'] is new['indices'] is None
        assert 'ann_file' not in new and 'img_prefix' not in new
    assert config.data.train.filter_empty_gt is True
    assert config.data.train.min_size == 32
    assert config.model.bbox_head.num_classes == 80
    assert config.data.samples_per_gpu == old.data.samples_per_gpu


def test_splits_by_name(config):
    use_data(config, 'x', train='a', val='b')
    splits = [config.data[section].split for section in ('train', 'val', 'test')]
    assert splits == ['a', 'b', 'b']
    use_data(config, 'x', test='c')
    splits = [config.data[section].split for section in ('train', 'val', 'test')]
    assert splits == ['train', 'val', 'c']


def test_what_a_config_says_about_images_is_kept(config):
    config.data.train.filter_empty_gt = False
    config.data.train.min_size = 8
    config.data.train.pipeline.img_scale = (320, 240)
    use_data(config, 'x')
    train = config.data.train
    assert (train.filter_empty_gt, train.min_size) == (False, 8)
    assert train.pipeline.img_scale == (320, 240)


def test_twice_is_the_same_as_once(config):
    use_data(config, 'x')
    once = config.to_dict()
    use_data(config, 'x')
    assert config.to_dict() == once


def test_splits_that_there_are(data):
    assert splits_of(find(str(data))) == {'train': 'train', 'val': 'val', 'test': 'val'}
    write_files(data, {'images/test/d.png': IMAGE, 'labels/test/d.txt': LINE})
    yaml = (data / 'data.yaml').read_text()
    (data / 'data.yaml').write_text(f'{yaml}test: images/test\n')
    assert splits_of(find(str(data)))['test'] == 'test'


def test_splits_that_are_missing(tmp_path):
    write_files(tmp_path / 'all', {'a.png': IMAGE, 'a.txt': LINE, 'classes.txt': 'cat'})
    with pytest.raises(ValueError, match=r'is not divided .* atss split .*all'):
        splits_of(find(str(tmp_path / 'all')))
    files = {name: IN_SPLITS[name] for name in IN_SPLITS if 'train' in name}
    write_files(tmp_path / 'one', {**files, 'data.yaml': 'names: [cat]\n'})
    with pytest.raises(ValueError, match=r'split val is needed.* has only train'):
        splits_of(find(str(tmp_path / 'one')))


def test_data_that_are_found_have_their_classes(config, data):
    form = use_found_data(config, str(data))
    assert form.name == 'YOLO'
    assert config.model.bbox_head.num_classes == 3
    assert config.data.val.path == str(data)


def test_a_config_with_other_data(data):
    config = load_config('atss_r50_1x', {'data.train.min_size': 16}, str(data))
    assert config.data.train.type == 'auto'
    assert config.data.train.min_size == 16  # overrides come last
    assert config.model.bbox_head.num_classes == 3


def test_there_is_nothing(config, tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        use_found_data(config, str(tmp_path / 'nowhere'))
