"""`~` stands for the home folder in every path that a user gives.

A shell expands it at the beginning of a word only: not in `--workdir=~/run`, in quotes,
in a config file, or in a string in Python.
"""

import argparse
import importlib
import json
import shutil

import pytest

import atss_jax
from atss_jax.commands import command_line
from atss_jax.commands.main import COMMANDS
from atss_jax.config import build_experiment, load_config
from atss_jax.config.fields import FOLDER, PATH
from atss_jax.inference import export
from atss_jax.inference.detector import to_array
from tests.support.configs import R50
from tests.support.small_run import CLASSES, small_config, tree_of

NO_PATHS = (
    *('help', 'overrides', 'run', 'coordinator', 'split', 'classes', 'device'),
    *('platforms', 'base_url', 'name', 'on_error', 'what', 'model', 'data_split'),
    *('start', 'group_by', 'topology', 'programs', 'canvas'),
)


@pytest.fixture
def home(small_data, tmp_path, monkeypatch):
    """A home folder with the small data set in `data`."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    shutil.copytree(small_data, tmp_path / 'home' / 'data')
    return tmp_path / 'home'


def parsers(parser):
    """The parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize('command', COMMANDS)
def test_every_flag_that_is_a_path(command):
    name = command.replace('-', '_')
    module = importlib.import_module(f'atss_jax.commands.{name}')
    for parser in parsers(module.parser()):
        for action in parser._actions:
            is_text = action.type is None and action.nargs != 0
            assert not is_text or action.dest in NO_PATHS, action.dest


def test_every_field_that_is_a_path(home):
    for check in (PATH, FOLDER):
        assert check.convert('~/data') == f'{home}/data'
    overrides = {'load_from': '~/a.pth', 'resume_from': '~/run'}
    experiment = build_experiment(load_config(R50, overrides))
    assert experiment.load_from == f'{home}/a.pth'
    assert experiment.resume_from == f'{home}/run'
    tfds = {'type': 'TFDSDataset', 'data_dir': '~/tfds', 'name': 'a', 'split': 'b'}
    tfds |= {'classes': None, 'indices': None}
    pipeline = load_config(R50).data.val.pipeline.to_dict()
    config = load_config(R50, {'data.val': {**tfds, 'pipeline': pipeline}})
    arguments = build_experiment(config).data['val'].arguments
    assert arguments['data_dir'] == f'{home}/tfds'


def test_scores_of_results(call, home):
    (home / 'results.json').write_text('[]')
    flags = ['--ann_file=~/data/val.json', '--results=~/results.json']
    result = call('eval', *flags)
    assert result.status == 0, result.err
    assert (home / 'results_scores.json').is_file()


def test_data_of_a_config(home):
    config = small_config(home / 'data', {'data.val.ann_file': '~/data/val.json'})
    config.data.val.img_prefix = '~/data/val'
    source = build_experiment(config).data['val'].open()
    assert source.classes == CLASSES
    assert source.read_image(source.records[0]).ndim == 3


def test_an_empty_folder_of_images_is_the_current_one(home, monkeypatch):
    monkeypatch.chdir(home / 'data' / 'val')
    config = small_config(home / 'data', {'data.val.img_prefix': ''})
    source = build_experiment(config).data['val'].open()
    assert source.read_image(source.records[0]).ndim == 3


def test_a_config_file(call, home):
    (home / 'own.py').write_text('from atss_jax.configs.atss_r50_1x import *\n')
    for words in (['~/own.py'], ['--config=~/own.py']):
        result = call('atss', 'show-config', *words)
        assert json.loads(result.out.rpartition('parameters')[0])['seed'] == 0


def test_a_missing_file_is_named_by_its_whole_path(call, home):
    result = call('predict', '~/none.jpg', '--workdir=~/run', '--out=~/out')
    assert result.refuses(f'{home}/none.jpg')
    result = call('eval', '--workdir=~/none')
    assert result.refuses(f'{home}/none')


def test_the_python_api(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = tree_of(tmp_path)
    assert to_array(next((home / 'data' / 'val').glob('*.png'))).ndim == 3
    name = next((home / 'data' / 'val').glob('*.png')).name
    assert to_array(f'~/data/val/{name}').ndim == 3
    for function in (atss_jax.evaluate, atss_jax.Detector.load, export.read):
        with pytest.raises(ValueError, match=f'{home}/none'):
            function('~/none')
    config = small_config(home / 'data', {'load_from': '~/none.pth'})
    with pytest.raises(ValueError, match=f'{home}/none.pth'):
        atss_jax.train(config, '~/run')
    (home / 'file').write_text('')
    with pytest.raises(ValueError, match=f'{home}/file is a file'):
        atss_jax.train(config, '~/file')
    assert tree_of(tmp_path).keys() - before.keys() <= {
        str(path.relative_to(tmp_path)) for path in home.rglob('*')
    }


def test_the_compilation_cache(home, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '~/cache')
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    command_line.prepare_compiling(argparse.Namespace(compile_cache=None, workdir='w'))
    assert command_line.os.environ['JAX_COMPILATION_CACHE_DIR'] == f'{home}/cache'
