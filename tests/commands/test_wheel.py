"""The wheel in a new environment, used in an empty folder outside of the repository.

Installs from the package index, so it is a group of its own: `make test-wheel`.
"""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT
from tests.support.small_run import small_overrides
from tests.training.test_convert import CONFIG

pytestmark = pytest.mark.wheel


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the repository as git sees it."""
    folder = tmp_path_factory.mktemp('wheel')
    listed = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, folder / 'source' / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    pip = [sys.executable, '-m', 'pip', '--quiet', 'wheel', '--no-deps']
    subprocess.run(
        [*pip, '--wheel-dir', str(folder), str(folder / 'source')], check=True
    )
    (file,) = folder.glob('*.whl')
    return file


@pytest.fixture(scope='module')
def run(wheel, tmp_path_factory):
    """`run('atss', 'train', ...)`: a program of the new environment; its output."""
    environment = tmp_path_factory.mktemp('environment')
    subprocess.run([sys.executable, '-m', 'venv', str(environment)], check=True)
    programs = environment / ('Scripts' if os.name == 'nt' else 'bin')
    pip = [str(programs / 'python'), '-m', 'pip', 'install', '--quiet']
    subprocess.run([*pip, '-c', str(ROOT / 'constraints.txt'), str(wheel)], check=True)
    folder = tmp_path_factory.mktemp('empty')
    variables = os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': ''}

    def call(program, *arguments, status=0):
        done = subprocess.run(
            [str(programs / program), *map(str, arguments)],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    call.folder = folder
    return call


def test_what_the_wheel_has(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        'atss_jax/py.typed',
        'atss_jax/configs/atss_r50_1x.py',
        'atss_jax/commands/train.py',
        'atss_jax/report/assets/report.css',
        'atss_jax/weights/model_zoo.json',
    ):
        assert name in names
    roots = {name.split('/')[0] for name in names}
    assert {root.partition('-')[0] for root in roots} == {'atss_jax'}


def test_tensorflow_datasets_is_an_extra(run):
    """Not installed; a config that needs it says which extra has it."""
    missing = run('python', '-c', 'import tensorflow_datasets', status=1)
    assert 'No module named' in missing
    flags = '--config=atss_r50_1x_tfds', '--workdir=t', '--config.model.pretrained=None'
    said = run('atss', 'train', *flags, status=1)
    assert "pip install 'atss-jax[tfds]'" in said and 'Traceback' not in said


def test_the_demo_by_name(run):
    """A few steps of the generated shapes, by nothing but the command."""
    small = (
        '--config.data.train.num_images=32',
        '--config.data.val.num_images=8',
        '--config.data.samples_per_gpu=8',
        '--config.total_epochs=1',
        '--config.lr_config.step=(1,)',
    )
    said = run('atss', 'train', '--config=atss_shapes', '--workdir=shapes', *small)
    (last,) = (line for line in said.splitlines() if line.startswith('done; '))
    assert last.startswith('done; best AP 0.') and 'at step 4; to evaluate:' in last
    assert 'atss eval --workdir=shapes; to predict: atss predict --workdir=' in last
    assert 'AP50' in run('atss', 'eval', '--workdir=shapes')


def test_own_data_and_mmdetection(run, small_data):
    """Train, evaluate, detect, convert to mmdetection's form, and import that again."""
    fields = small_overrides(small_data)
    flags = [f'--config.{name}={value!r}' for name, value in fields.items()]
    run('atss', 'train', '--config=atss_shapes', '--workdir=mine', *flags)
    run('atss', 'eval', '--workdir=mine')
    said = run('atss', 'predict', small_data / 'val', '--workdir=mine', '--out=found')
    assert said.startswith('9 images, ')
    assert len(json.loads((run.folder / 'found/pictures.json').read_text())) == 2
    run('atss', 'convert', 'mine', 'mine.pth')
    config = run.folder / 'mmdet_config.py'
    config.write_text(CONFIG.format(folder=f'{small_data}/', metainfo=''))
    run('atss', 'import-mmdet', config, 'mine.pth', '--workdir=imported')
    run('atss', 'eval', '--workdir=imported')
    numbers = []
    for workdir in ('mine', 'imported'):
        (file,) = (run.folder / workdir / 'evaluation').glob('val_*_scores.json')
        numbers.append(json.loads(file.read_text()))
    assert numbers[0]['AP'] == pytest.approx(numbers[1]['AP'], abs=1e-6)


def test_a_config_of_any_folder_builds_on_the_shipped_ones(run):
    file = run.folder / 'my_config.py'
    file.write_text(
        'from atss_jax.configs import atss_r50_1x\n\n\n'
        'def get_config():\n'
        '    config = atss_r50_1x.get_config()\n'
        '    config.optimizer.lr = 0.25\n'
        '    return config\n'
    )
    assert '"lr": 0.25' in run('atss', 'show-config', file)


def test_the_library_by_its_public_names(run):
    code = (
        'import atss_jax; from atss_jax import Detector, evaluate, load_config, train'
    )
    run('python', '-c', code)
    run('python', '-c', 'from atss_jax.api import Detector')
    assert 'usage: atss COMMAND' in run('python', '-m', 'atss_jax', '--help')
