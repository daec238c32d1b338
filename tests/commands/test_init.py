"""`atss init` and `atss train --data`, called as a user does, on small data sets."""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil

import pytest

from atss_jax.commands import init
from atss_jax.config import load_config
from atss_jax.tuning import from_data, recipe
from tests.support.documents import Command
from tests.support.dry_run import check_command
from tests.support.forms import IMAGE, write_files
from tests.support.opened import opened
from tests.support.small_run import saved_steps, small_overrides, tree_of
from tests.support.voc_set import USUAL as VOC
from tests.support.yolo_set import IN_SPLITS, LINE, USUAL

SMALL = '--img_scale=96x64'  # one choice: one program to compile


@pytest.fixture
def data(tmp_path):
    """A YOLO data set of three classes: two images to train on, one for evaluation."""
    folder = tmp_path / 'animals'
    write_files(folder, USUAL)
    return folder


@pytest.fixture
def atss_init(call, tmp_path):
    """`atss_init(folder, *flags)` writes `out`, or fails."""

    def run(folder, *flags, out=tmp_path / 'own.py'):
        return call('atss', 'init', folder, f'--out={out}', *flags)

    return run


# What it writes -----------------------------------------------------------------------


def test_a_config_that_fits_the_data(atss_init, data, tmp_path):
    result = atss_init(data, SMALL, '--epochs=20', '--batch=2')
    assert result.status == 0, result.err
    assert result.err == ''
    lines = result.out.splitlines()
    assert f'{data}: YOLO with train (' in ' '.join(result.out.split())
    assert '2 training images; settings tried with 3 of their objects' in lines
    assert lines[-1] == (
        f'wrote {tmp_path}/own.py; to train: '
        f'atss train --config={tmp_path}/own.py --workdir=W'
    )
    config = load_config(tmp_path / 'own.py')
    assert config.model.bbox_head.num_classes == 3
    assert config.load_from == 'mmdet://atss_r50_fpn_1x_coco'
    for split, name in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        assert config.data[split].path == str(data)
        assert config.data[split].split == name
        assert config.data[split].pipeline.img_scale == (96, 64)
    assert config.data.canvases == ((64, 96),)
    assert config.data.max_boxes == 8
    assert config.data.samples_per_gpu == 2
    assert config.auto_scale_lr.base_batch_size == 16  # eight devices
    assert config.total_epochs == 20


def test_everything_is_chosen_by_default(atss_init, data, tmp_path):
    assert atss_init(data).status == 0
    config = load_config(tmp_path / 'own.py')
    assert config.total_epochs == recipe.EPOCHS[1]  # of so few images
    assert config.data.train.pipeline.img_scale in [(96, 64), (128, 80)]
    assert config.data.samples_per_gpu in (1, 2, 4, 8)


def test_the_written_command_writes_the_same_again(atss_init, call, data, tmp_path):
    atss_init(data, SMALL)
    text = (tmp_path / 'own.py').read_text()
    command = text.partition('Written by\n\n')[2].partition('\n\n')[0]
    (tmp_path / 'own.py').unlink()
    program, *words = shlex.split(command.replace('\\\n', ''))
    assert (program, call('atss', *words).status) == ('atss', 0)
    assert (tmp_path / 'own.py').read_text() == text


def test_the_command_that_it_names_can_run(atss_init, data, tmp_path):
    result = atss_init(data, SMALL)
    words = tuple(result.out.splitlines()[-1].partition('to train: ')[2].split())
    own = str(tmp_path / 'own.py')
    check_command(Command('output', words), {own: pathlib.Path(own)})


def test_a_name_with_spaces_is_quoted(atss_init, data, tmp_path):
    out = tmp_path / 'my own.py'
    result = atss_init(data, SMALL, out=out)
    command = result.out.splitlines()[-1].partition('to train: ')[2]
    assert shlex.split(command) == ['atss', 'train', f'--config={out}', '--workdir=W']


@pytest.mark.parametrize(
    ('words', 'flag'),
    [
        (('init', '--out=own.py'), '--on_error=skip'),
        (('split', '--out=new', '--join'), '--on_error=skip'),
        (('convert-data', 'new.json', '--split=train'), '--on_error=skip'),
        (('train', '--workdir=w', '--data'), '--config.data.on_error=skip'),
    ],
)
def test_a_malformed_record_names_the_flag_of_the_command(
    call, data, tmp_path, monkeypatch, words, flag
):
    monkeypatch.chdir(tmp_path)
    write_files(data, {'labels/train/b.txt': '7 0.5 0.5 0.1 0.1\n'})
    command, *flags = words
    places = [*flags, data] if command == 'train' else [data, *flags]
    result = call('atss', command, *places)
    result.refuses('labels/train/b.txt:1', f'({flag} leaves such records out)')
    assert 'in a config' not in result.err


def test_a_folder_for_the_file_is_made(atss_init, data, tmp_path):
    out = tmp_path / 'new' / 'folder' / 'own.py'
    assert atss_init(data, SMALL, out=out).status == 0
    assert load_config(out).total_epochs


def test_a_sample_of_the_images(atss_init, data):
    result = atss_init(data, SMALL, '--images=1')
    assert result.status == 0
    (number,) = re.findall(r'tried with (\d) of their objects', result.out)
    assert number in ('1', '2')


def test_the_data_are_not_touched(atss_init, data):
    before = tree_of(data)
    assert atss_init(data, SMALL).status == 0
    assert tree_of(data) == before


@pytest.mark.parametrize('form', ['COCO', 'Pascal VOC'])
def test_other_forms(atss_init, small_data, tmp_path, form):
    folder = small_data
    if form == 'Pascal VOC':
        folder = tmp_path / 'voc'
        write_files(folder, VOC)
    result = atss_init(folder, SMALL)
    assert result.status == 0, result.err
    assert f'{folder}: {form} with' in ' '.join(result.out.split())


# Odd data -----------------------------------------------------------------------------


def test_one_image_of_one_object(atss_init, tmp_path):
    write_files(tmp_path / 'one', {**IN_SPLITS, 'data.yaml': 'names: [cat]\n'})
    result = atss_init(tmp_path / 'one', SMALL)
    assert result.status == 0, result.err
    assert '1 training image.' in (tmp_path / 'own.py').read_text()


def test_images_of_both_orientations(atss_init, small_data, tmp_path):
    result = atss_init(small_data, SMALL, '--batch=1')
    assert result.status == 0, result.err
    config = load_config(tmp_path / 'own.py')
    assert config.data.canvases is None
    # Of 21 images 17 have objects, 11 of them landscape: each canvas fills its own
    # batches of 8.
    assert 'epochs are 300 steps' in (tmp_path / 'own.py').read_text()


def coco(folder, boxes, crowd=0):
    """A COCO data set of one image per split, whose training objects are given."""
    for split in ('train', 'val'):
        annotations = [
            {
                'id': index + 1,
                'image_id': 1,
                'category_id': 1,
                'bbox': box,
                'area': max(box[2] * box[3], 1),
                'iscrowd': crowd if split == 'train' else 0,
            }
            for index, box in enumerate(boxes)
        ]
        image = {'id': 1, 'file_name': 'a.png', 'height': 50, 'width': 80}
        content = {
            'images': [image],
            'annotations': annotations,
            'categories': [{'id': 1, 'name': 'cat'}],
        }
        write_files(folder, {f'{split}/a.png': IMAGE})
        (folder / f'{split}.json').write_text(json.dumps(content))
    return folder


def test_an_object_larger_than_its_image(atss_init, tmp_path):
    folder = coco(tmp_path / 'coco', [[-100, -100, 500, 500]])
    result = atss_init(folder, SMALL)
    assert result.status == 0, result.err
    # Clipped to the image of 96x60 pixels.
    assert '\n64 to 128           1' in result.out


# Refused ------------------------------------------------------------------------------


def test_an_existing_file_is_kept(atss_init, tmp_path):
    (tmp_path / 'own.py').write_text('mine')
    # Before the data are looked for.
    result = atss_init(tmp_path / 'nowhere')
    result.refuses('own.py already exists; give another --out')
    assert (tmp_path / 'own.py').read_text() == 'mine'


@pytest.mark.parametrize('name', ['own.json', 'own', 'own.py.txt'])
def test_a_file_that_is_not_python(atss_init, tmp_path, name):
    result = atss_init(tmp_path / 'nowhere', out=tmp_path / name)
    result.refuses(f'--out {tmp_path / name}: expected the name of a .py file')


def test_a_folder_that_is_a_file(atss_init, tmp_path):
    (tmp_path / 'file').write_text('')
    result = atss_init(tmp_path / 'nowhere', out=tmp_path / 'file' / 'own.py')
    result.refuses(tmp_path / 'file', 'cannot be written to')


def test_a_depth_without_trained_detector(atss_init, tmp_path):
    result = atss_init(tmp_path / 'nowhere', '--start=zoo', '--depth=18')
    result.refuses('--depth 18', '50, 101', '--start imagenet, --start scratch')


def test_no_data(atss_init, tmp_path):
    atss_init(tmp_path / 'nowhere').refuses(tmp_path / 'nowhere', 'no such file')
    (tmp_path / 'empty').mkdir()
    atss_init(tmp_path / 'empty').refuses('no annotations in a known form')
    assert not (tmp_path / 'own.py').exists()


def test_data_that_are_not_divided(atss_init, tmp_path):
    folder = tmp_path / 'all'
    write_files(folder, {'a.png': IMAGE, 'a.txt': LINE, 'classes.txt': 'cat\n'})
    result = atss_init(folder)
    result.refuses(f'atss split {folder}', 'is not divided into splits')
    assert 'split = ' not in result.err  # there is no such flag
    assert not (tmp_path / 'own.py').exists()


def test_data_without_evaluation_images(atss_init, tmp_path):
    files = {name: IN_SPLITS[name] for name in IN_SPLITS if 'train' in name}
    write_files(tmp_path / 'train_only', {**files, 'data.yaml': 'names: [cat]\n'})
    atss_init(tmp_path / 'train_only').refuses(
        'the split val is needed', 'has only train'
    )


def test_no_objects(atss_init, data):
    for name in ('a', 'b'):
        (data / 'labels' / 'train' / f'{name}.txt').write_text('')
    result = atss_init(data)
    result.refuses(data)


@pytest.mark.filterwarnings('ignore')  # about each reason
def test_no_object_that_can_be_learned(atss_init, tmp_path):
    folder = coco(tmp_path / 'crowd', [[1, 2, 30, 40]], crowd=1)
    result = atss_init(folder)
    result.refuses(folder, '1 with iscrowd: 1')


def test_classes_that_differ(atss_init, small_data, tmp_path):
    folder = shutil.copytree(small_data, tmp_path / 'data')
    content = json.loads((folder / 'val.json').read_text())
    content['categories'].reverse()
    (folder / 'val.json').write_text(json.dumps(content))
    result = atss_init(folder)
    result.refuses('classes differ in name or order', "train: ('red', 'green', 'blue')")


@pytest.mark.parametrize(
    'flag',
    ['--img_scale=96', '--img_scale=0x10', '--batch=0', '--epochs=x', '--start=coco'],
)
def test_wrong_flags(atss_init, data, flag):
    result = atss_init(data, flag)
    assert result.status == 2
    assert flag.partition('=')[0] in result.err


# Flags --------------------------------------------------------------------------------


def test_the_flags_offer_what_there_is():
    actions = {action.dest: action for action in init.parser()._actions}
    assert actions['start'].choices == recipe.STARTS
    assert actions['depth'].choices == from_data.DEPTHS
    defaults = from_data.Wishes()
    for name in ('start', 'depth', 'img_scale', 'batch', 'epochs', 'images'):
        assert actions[name].default == getattr(defaults, name)
    assert all(
        action.help
        for action in actions.values()
        if not isinstance(action, argparse._HelpAction)
    )


# Training -----------------------------------------------------------------------------


@pytest.fixture
def small_flags(tmp_path):
    """Overrides that make the written config small enough to train in a test."""
    fields = {
        name: value
        for name, value in small_overrides(tmp_path).items()
        if name.startswith('model.') and not name.endswith('num_classes')
    }
    fields |= {
        'model.backbone.depth': 18,
        'model.pretrained': None,
        'load_from': None,
        'data.workers_per_gpu': 0,
        'data.samples_per_gpu': 1,
        'data.canvases': None,
        'total_epochs': 1,
        'lr_config.step': (1,),
    }
    for split in ('train', 'val', 'test'):
        fields[f'data.{split}.pipeline.img_scale'] = (64, 32)
    return [f'--config.{name}={value!r}' for name, value in fields.items()]


def test_the_written_config_trains(atss_init, call, data, tmp_path, small_flags):
    assert atss_init(data, SMALL, '--batch=1').status == 0
    workdir = tmp_path / 'w'
    result = call(
        'atss', 'train', f'--config={tmp_path}/own.py', f'--workdir={workdir}',
        *small_flags,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert saved_steps(workdir) == [1]


def test_training_on_data_alone(call, data, tmp_path, small_flags):
    workdir = tmp_path / 'w'

    def train(folder):
        flags = f'--data={folder}', f'--workdir={workdir}', *small_flags
        return call('atss', 'train', *flags)

    with opened(data) as counts:
        result = train(data)
    assert result.status == 0, result.err
    labels = {path: n for path, n in counts.items() if path.startswith('labels/')}
    assert labels == {f'labels/{x}.txt': 1 for x in ('train/a', 'train/b', 'val/c')}
    assert saved_steps(workdir) == [1]
    saved = json.loads((workdir / 'config.json').read_text())
    assert saved['data']['train']['path'] == str(data)
    assert saved['model']['bbox_head']['num_classes'] == 3
    before = (workdir / 'config.json').read_bytes()

    # The same command again continues the run, which has ended.
    with opened(data) as counts:
        assert train(data).status == 0
    assert {path: counts[path] for path in labels} == labels
    assert saved_steps(workdir) == [1]
    assert (workdir / 'config.json').read_bytes() == before

    # Other data are another run.
    other = shutil.copytree(data, tmp_path / 'other')
    train(other).refuses(workdir, 'data.train.path', 'another --workdir', lines=5)


def test_training_on_nothing(call, tmp_path):
    result = call('atss', 'train', f'--workdir={tmp_path / "w"}')
    assert result.status == 2
    assert '--config or --data is required' in result.err
    result = call('atss', 'train', f'--data={tmp_path}/x', f'--workdir={tmp_path}/w')
    result.refuses(tmp_path / 'x', 'no such file')
    assert not os.path.exists(tmp_path / 'w')
