"""Command lines: what a user reads when something is wrong, and that it is one line.

Called in this process, except for what must be seen from outside: exit, workers, hangs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

import atss_jax
from atss_jax import commands
from atss_jax.commands.command_line import other_command
from atss_jax.commands.main import COMMANDS, main
from atss_jax.drawing.detections import describe
from tests.conftest import ROOT
from tests.support.command_line import Result
from tests.support.small_run import small_overrides, tree_of

SHAPES = str(ROOT / 'configs' / 'atss_shapes.py')
R50 = str(ROOT / 'configs' / 'atss_r50_1x.py')


def test_a_stop_before_training_claims_nothing():
    """Nothing is saved while the data are read and the config is chosen."""
    script = (
        'import argparse, os, signal\n'
        'from atss_jax.commands import command_line\n'
        'flags = argparse.Namespace(coordinator=None, num_processes=None, '
        'process_id=None, start_timeout=9, collective_timeout=9)\n'
        'stop = lambda: os.kill(os.getpid(), signal.SIGTERM)\n'
        "command_line.run(flags, 'atss train', stop)\n"
    )
    result = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 75, result.stderr
    assert 'nothing new is saved; run again to resume, or to begin' in result.stderr
    assert 'all is saved' not in result.stderr


@pytest.fixture
def train(call, small_data, tmp_path):
    """`train({'optimizer.lr': 1})` starts train.py on the small config."""

    def run(overrides=None, data=None):
        fields = small_overrides(data or small_data) | (overrides or {})
        flags = [f'--config.{name}={value!r}' for name, value in fields.items()]
        workdir = f'--workdir={tmp_path / "workdir"}'
        return call('train', f'--config={SHAPES}', workdir, *flags)

    return run


@pytest.fixture
def own_data(small_data, tmp_path):
    """A copy of the data, to spoil."""
    return shutil.copytree(small_data, tmp_path / 'data')


@pytest.fixture
def own_run(small_run, tmp_path):
    """A copy of the finished run, to evaluate or spoil."""
    return shutil.copytree(small_run.workdir, tmp_path / 'run')


def spoil(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Flags and configs


@pytest.mark.parametrize(
    ('name', 'parts'),
    [
        ('train', ('--config', '--workdir', '--config.optimizer.lr=0.005')),
        ('eval', ('--workdir', '--split', '--step', '--config.FIELD=VALUE')),
        ('atss', ('draw', 'convert', 'import-mmdet')),
    ],
)
def test_help(call, name, parts):
    result = call(name, '--help')
    assert result.status == 0
    for part in parts:
        assert part in result.out


@pytest.mark.parametrize('name', ['train', 'eval', 'atss'])
def test_missing_flags(call, name):
    result = call(name)
    assert result.status == 2
    assert 'required' in result.err


def test_a_misspelt_override(call, tmp_path):
    result = call(
        'train',
        f'--config={SHAPES}',
        f'--workdir={tmp_path / "w"}',
        '--config.optimizer.learning_rat=1',
    )
    result.refuses("'optimizer.learning_rat'", 'nothing reads')
    result = call(
        'train',
        f'--config={SHAPES}',
        f'--workdir={tmp_path / "w"}',
        '--config.model.bbox_head.num_clases=3',
    )
    result.refuses("did you mean 'model.bbox_head.num_classes'?")
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
    ('override', 'part'),
    [
        ('--config.optimizer.lr=fast', 'expected a number above 0'),
        ('--optimizer.lr=1', '--config.FIELD=VALUE'),
        ('--config.optimizer.lr', '--config.FIELD=VALUE'),
        ('--config.optimizer=3', "'optimizer' is a section"),
    ],
)
def test_a_wrong_override(call, tmp_path, override, part):
    result = call('train', f'--config={SHAPES}', f'--workdir={tmp_path}', override)
    result.refuses(override.partition('=')[0].removeprefix('--config.'), part)


def test_no_such_config(call, tmp_path):
    path = tmp_path / 'none.py'
    result = call('train', f'--config={path}', f'--workdir={tmp_path / "w"}')
    result.refuses(f'no config file at {path}')


def test_a_config_of_no_known_kind(call, tmp_path):
    path = tmp_path / 'config.yaml'
    path.write_text('model: {}')
    result = call('train', f'--config={path}', f'--workdir={tmp_path / "w"}')
    result.refuses(f'{path} is no config', '.py or .json')


@pytest.mark.parametrize('name', ['train', 'eval', 'predict', 'atss'])
def test_help_says_every_default(call, name, monkeypatch):
    parsers, make = [], argparse.ArgumentParser.__init__

    def remember(parser, *args, **kwargs):
        make(parser, *args, **kwargs)
        parsers.append(parser)

    monkeypatch.setattr(argparse.ArgumentParser, '__init__', remember)
    assert call(name, '--help').status == 0
    for parser in parsers:
        for action in parser._actions:
            words = parser._get_formatter()._expand_help(action) if action.help else ''
            is_command = isinstance(action, argparse._SubParsersAction)
            assert words or is_command, (parser.prog, action)
            if action.default not in (None, False, argparse.SUPPRESS):
                assert f'(default: {action.default})' in words, (parser.prog, action)


# Data


def test_no_annotation_file(call, tmp_path):
    """What a newcomer sees first: the R50 config without COCO."""
    flags = f'--config={R50}', f'--workdir={tmp_path / "w"}'
    file = tmp_path / 'instances.json'
    result = call('train', *flags, f'--config.data.train.ann_file={file}')
    embedded = 'atss train --config=atss_shapes --workdir=shapes'
    result.refuses(f"config.data.train.ann_file = '{file}': file not found", embedded)
    assert not (tmp_path / 'w').exists()


def test_no_image_folder(train, own_data):
    shutil.rmtree(own_data / 'train')
    train(data=own_data).refuses(
        f"config.data.train.img_prefix = '{own_data / 'train'}' is not a folder",
        own_data / 'train.json',
        'atss train --config=atss_shapes --workdir=shapes',
    )


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        ('not json', 'not a JSON file'),
        ('', 'not a JSON file'),
        ('[1, 2]', 'not a COCO annotation file'),
        ('{"shapes": [], "version": 1}', "found ['shapes', 'version']"),
        ('{"images": [], "annotations": [], "categories": []}', 'no classes'),
    ],
)
def test_json_that_is_not_coco(train, own_data, content, part):
    (own_data / 'train.json').write_text(content)
    train(data=own_data).refuses(own_data / 'train.json', part)


def test_classes_unlike_the_model(train):
    train({'model.bbox_head.num_classes': 80}).refuses(
        'model.bbox_head.num_classes = 80',
        'data.train has 3 classes',
        '--config.model.bbox_head.num_classes=3',
    )


def test_classes_unlike_in_training_and_validation(train, own_data):
    def swap(content):
        names = [c['name'] for c in content['categories']]
        for category, name in zip(content['categories'], names[::-1], strict=True):
            category['name'] = name

    spoil(own_data / 'val.json', swap)
    train(data=own_data).refuses('data.train', 'data.val', 'differ in name or order')


def test_too_many_boxes(train):
    train({'data.max_boxes': 1}).refuses('data.max_boxes = 1', 'image id', '2 boxes')


def test_no_canvas_holds_an_image(train):
    train({'data.canvases': ((32, 64),)}).refuses(
        'data.canvases', 'image id 986', '40x80', '32x64'
    )


def test_an_image_that_is_not_there(train, own_data, tmp_path):
    """Found when its batch is loaded, in the first epoch."""
    file = own_data / 'train' / '993.png'
    file.unlink()
    result = train({'data.max_bad_pictures': 0}, own_data)
    result.refuses(file, 'No such file', 'image id 993', own_data / 'train.json')
    assert not (tmp_path / 'workdir' / 'checkpoints').exists() or not list(
        (tmp_path / 'workdir' / 'checkpoints').iterdir()
    )


def test_an_image_that_is_no_image(train, own_data):
    for file in (own_data / 'train').iterdir():
        file.write_bytes(b'oops')
    train(data=own_data).refuses('.png', 'not an image', 'image id')


def test_an_image_of_another_size(train, own_data):
    for file in (own_data / 'train').iterdir():
        cv2.imwrite(str(file), np.zeros((30, 50, 3), np.uint8))
    train(data=own_data).refuses('50x30 (width x height)', 'annotated as', 'image id')


def test_an_image_that_is_not_there_in_worker_processes(own_data, tmp_path):
    """The whole command, as a user runs it: one line, exit status 1, and it ends."""
    for file in (own_data / 'train').iterdir():
        file.unlink()
    fields = small_overrides(own_data) | {'data.workers_per_gpu': 2}
    fields['auto_scale_lr.base_batch_size'] = 1
    done = subprocess.run(
        [
            sys.executable,
            'train.py',
            f'--config={SHAPES}',
            f'--workdir={tmp_path / "workdir"}',
            *(f'--config.{name}={value!r}' for name, value in fields.items()),
        ],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': '', 'PYTHONWARNINGS': 'ignore'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    result.refuses('train.py: ', '.png: No such file', 'image id')
    assert '1 cpu device(s)' in done.stdout


# Workdirs


def test_a_workdir_of_another_config(call, own_run, small_data):
    before = tree_of(own_run)
    fields = small_overrides(small_data) | {'optimizer.lr': 0.5, 'total_epochs': 3}
    flags = [f'--config.{name}={value!r}' for name, value in fields.items()]
    result = call('train', f'--config={SHAPES}', f'--workdir={own_run}', *flags)
    result.refuses(
        own_run,
        'optimizer.lr: 0.02 there, 0.5 now',
        'total_epochs: 2 there, 3 now',
        'another --workdir',
        lines=4,
    )
    assert tree_of(own_run) == before


def test_training_and_evaluating(call, own_run, small_data):
    """A finished run once more, then the commands that follow it."""
    fields = small_overrides(small_data)
    flags = [f'--config.{name}={value!r}' for name, value in fields.items()]
    result = call('train', f'--config={SHAPES}', f'--workdir={own_run}', *flags)
    assert result.status == 0
    assert f'python eval.py --workdir={own_run}' in result.out
    result = call('eval', f'--workdir={own_run}', '--config.data.val.indices=3')
    assert result.status == 0
    assert 'on data.val, 3 images' in result.out
    for part in ('AP75', 'AR100', 'red', 'green', 'blue', '_detections.json'):
        assert part in result.out


def test_evaluating_with_test_time_augmentation(call, own_run):
    """Next to the plain numbers, not over them."""
    for flags in ((), ('--tta',)):
        result = call('eval', f'--workdir={own_run}', *flags)
        assert result.status == 0 and 'on data.val, 9 images' in result.out
    best = []
    for kind in ('', '_tta'):
        (file,) = (own_run / 'evaluation').glob(f'val_?{kind}_detections.json')
        results = json.loads(file.read_text())
        ids = sorted({one['image_id'] for one in results})
        scores = [[r['score'] for r in results if r['image_id'] == id_] for id_ in ids]
        assert all(0 < len(one) <= 20 for one in scores)
        best.append([max(one) for one in scores])
    plain, augmented = np.array(best)
    assert (augmented >= plain - 1e-6).all() and (augmented > plain + 1e-6).any()


@pytest.mark.parametrize(
    ('spoiled', 'flags', 'parts'),
    [
        ('config.json', (), ('is not the workdir of a run', 'config.json')),
        ('checkpoints', (), ('no checkpoints in',)),
        (None, ('--step=5',), ('no checkpoint 5', '6]')),
        (None, ('--config.data.val.indecis=5',), ("mean 'data.val.indices'?",)),
        (
            None,
            ('--config.data.val.ann_file=no.json',),
            ("config.data.val.ann_file = 'no.json': file not found",),
        ),
        (
            None,
            ('--config.data.test.indices=5',),
            (
                'config.data.test.indices has no effect, since data.val is scored',
                'set --config.data.val.indices instead, or choose --split=test',
            ),
        ),
        (
            None,
            ('--split=test', '--config.data.val.indices=5'),
            ('since data.test is scored', 'or choose --split=val'),
        ),
        (None, ('--config.model.neck.num_outs=3',), ('config.',)),
        (
            None,
            ('--config.model.bbox_head.stacked_convs=2',),
            ('of another model than the config',),
        ),
    ],
)
def test_what_eval_refuses(call, own_run, spoiled, flags, parts):
    if spoiled:
        path = own_run / spoiled
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = tree_of(own_run)
    call('eval', f'--workdir={own_run}', *flags).refuses('eval.py: ', *parts)
    assert tree_of(own_run) == before


def test_eval_of_a_folder_that_is_not_there(call, tmp_path):
    path = tmp_path / 'none'
    call('eval', f'--workdir={path}').refuses(path, 'not the workdir of a run')
    assert not path.exists()


@pytest.mark.parametrize('words', [['eval'], ['predict', 'a.png', '--out=found']])
def test_a_workdir_without_a_name(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.png').touch()
    call(*words, '--workdir=').refuses('an empty name')


def test_eval_finds_an_image_missing(call, own_run, own_data):
    file = own_data / 'val' / '993.png'
    file.unlink()
    flags = (
        f'--config.data.val.ann_file={own_data / "val.json"}',
        f'--config.data.val.img_prefix={own_data / "val"}',
        '--config.data.max_bad_pictures=0',
    )
    call('eval', f'--workdir={own_run}', *flags).refuses(file, 'image id 993')
    assert not (own_run / 'evaluation').exists()


# Images


def test_drawing_detections(call, own_run, tmp_path):
    file = tmp_path / 'new folder' / 'sheet.png'
    flags = '--count=4', '--columns=2', '--min_score=0'
    result = call(
        'atss',
        'draw',
        'detections',
        f'--workdir={own_run}',
        f'--out={file}',
        *flags,
    )
    assert result.status == 0, result.err
    assert result.out.startswith(f'wrote {file}: detections: ')
    assert result.out.endswith(', images: 4\n')
    assert file.read_bytes().startswith(b'\x89PNG')
    sheet = cv2.imread(str(file))
    assert sheet.shape[0] > 80 and sheet.shape[1] > 300
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 50


def test_a_sheet_without_detections_says_so():
    scores = np.array([0.12, 0.21, 0.4])
    assert describe(scores, 2, 0.3) == 'detections: 1, images: 2'
    said = describe(scores, 2, 0.5)
    assert 'score of 0.5 or more' in said and 'best has 0.400' in said
    assert 'lower --min_score' in said
    assert 'no detections in 2 images' in describe(scores[:0], 2, 0.3)


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        (('--workdir=nowhere', '--out=a.png'), ('nowhere', 'not the workdir')),
        (('--out=a.txt',), ('a.txt', '.png')),
        (('--out=a.png', '--count=0'), ('--count', 'at least 1')),
        (('--out=a.png', '--columns=0'), ('--columns', 'at least 1')),
    ],
)
def test_what_drawing_refuses(call, own_run, monkeypatch, tmp_path, flags, parts):
    monkeypatch.chdir(tmp_path)
    if '--workdir=nowhere' not in flags:
        flags = (f'--workdir={own_run}', *flags)
    result = call('atss', 'draw', 'detections', *flags)
    result.refuses('atss draw', *parts)


# The command itself


def test_help_of_the_command_lists_all(call):
    result = call('atss', '--help')
    assert result.status == 0
    for name in COMMANDS:
        assert f'\n  {name} ' in result.out
    assert call('atss', '--version').out == f'atss-jax {atss_jax.__version__}\n'


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_has_help(call, name):
    result = call('atss', name, '--help')
    assert result.status == 0
    assert result.out.startswith(f'usage: atss {name}')


@pytest.mark.parametrize(
    ('words', 'parts'),
    [
        ((), ('COMMAND is required', '--help')),
        (('tarin',), ("'tarin'", 'did you mean train?')),
        (('--workdir=w',), ("'--workdir=w'", '--help')),
    ],
)
def test_no_such_command(call, words, parts):
    result = call('atss', *words)
    assert result.status == 2
    for part in parts:
        assert part in result.err


@pytest.mark.parametrize(
    ('called', 'expected'),
    [
        (str(ROOT / 'train.py'), 'python eval.py'),
        ('/usr/bin/atss', 'atss eval'),
        ('/usr/lib/atss_jax/__main__.py', 'python -m atss_jax eval'),
    ],
)
def test_the_next_command_is_named_as_this_one_was_called(
    monkeypatch, called, expected
):
    monkeypatch.setattr(sys, 'argv', [called])
    assert other_command('eval') == expected


def test_ctrl_c_while_libraries_are_imported(monkeypatch, capsys, tmp_path):
    """Before a command could listen for it."""
    monkeypatch.delitem(sys.modules, 'atss_jax.commands.models', raising=False)
    (tmp_path / 'models.py').write_text('raise KeyboardInterrupt')
    monkeypatch.setattr(commands, '__path__', [str(tmp_path)])
    assert main(['models']) == 130
    assert capsys.readouterr().err == 'atss models: interrupted\n'
