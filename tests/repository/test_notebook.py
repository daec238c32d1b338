"""The notebook for Colab and Kaggle: as it is committed, and run in an empty folder.

It is run on a CPU with small settings, which take the place of its own in the cell that
is tagged `parameters`, as papermill does it.
"""

import base64
import copy
import json
import re
import shlex
import zipfile

import cv2
import nbclient
import nbformat
import numpy as np
import pytest

from atss_jax.config import build_model, load_config
from tests.conftest import ROOT
from tests.support.documents import Command
from tests.support.dry_run import check_command
from tests.support.file_server import serving
from tests.support.small_run import small_overrides
from tests.support.zoo import Zoo, quick_state_dict

NOTEBOOK = ROOT / 'notebooks' / 'try_atss.ipynb'
CLASSES = ('cat', 'dog', 'remote')
# A model of two levels, which compiles in a fraction of the time.
SMALL_MODEL = {
    'backbone.num_stages': 2,
    'backbone.out_indices': (1,),
    'neck.in_channels': (128,),
    'neck.start_level': 0,
    'neck.out_channels': 32,
    'neck.num_outs': 2,
    'bbox_head.in_channels': 32,
    'bbox_head.feat_channels': 32,
    'bbox_head.stacked_convs': 1,
    'bbox_head.norm_cfg.num_groups': 8,
    'bbox_head.anchor_generator.strides': (8, 16),
}
SMALLER = {
    'IMAGE': 'photo one.png',
    'SHAPES': '--config.data.train.num_images=8 --config.data.val.num_images=4',
    'INIT': '--start=scratch --depth=18 --epochs=1 --batch=4 --img_scale=96x96',
    'TRAIN': shlex.join(f'--config.model.{k}={x}' for k, x in SMALL_MODEL.items()),
    'EXPORT': 'detector.stablehlo',  # needs no extra
}


@pytest.fixture(scope='module')
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def settings_of(notebook):
    """The names and values that the cell of parameters sets."""
    (cell,) = (
        cell for cell in notebook.cells if 'parameters' in cell.metadata.get('tags', ())
    )
    values = {}
    exec(cell.source, {}, values)
    return values


def with_settings(notebook, values):
    """A copy with a cell after the cell of parameters that sets them anew."""
    assert values.keys() <= settings_of(notebook).keys()
    changed = copy.deepcopy(notebook)
    place = next(k for k, cell in enumerate(changed.cells) if cell.metadata.get('tags'))
    source = '\n'.join(f'{name} = {value!r}' for name, value in values.items())
    changed.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    return changed


def execute(notebook, folder):
    """Runs all cells in a folder; stops at the first that raises an error."""
    place = {'metadata': {'path': str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place).execute()


# As it is committed -------------------------------------------------------------------


def test_it_is_valid_and_has_ten_cells_of_code(notebook):
    nbformat.validate(notebook)
    assert len(code_cells(notebook)) == 10
    # Each but the first is explained by the cell of text before it.
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ['markdown'] + ['markdown', 'code'] * 10


def test_it_is_committed_without_outputs(notebook):
    for cell in code_cells(notebook):
        assert cell.outputs == [] and cell.execution_count is None


def test_its_flags_are_real(notebook):
    """Also those of the settings, in place of the names in braces."""
    values = settings_of(notebook) | {'image': 'photo.jpg', 'images': 'a.png b.png'}
    values['DATA'] = 'shapes'
    commands = []
    for cell in code_cells(notebook):
        for line in re.findall(r'^\s*!(atss .*)', cell.source, re.MULTILINE):
            line = re.sub(r'{(\w+)}', lambda match: values[match[1]], line)
            commands.append(Command('notebook', tuple(shlex.split(line))))
    for command in commands:
        check_command(command, {})
    names = [command.words[1] for command in commands]
    for name in ('write-shapes', 'init', 'check-data', 'train', 'eval', 'export'):
        assert names.count(name) == 1
    assert names.count('predict') == 2


# Run ----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path):
    """An empty folder, in which the notebook lies for its reader."""
    folder = tmp_path / 'here'
    folder.mkdir()
    return folder


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A small detector with the name of the notebook's, on a server of this machine."""
    overrides = small_overrides(tmp_path)
    config = load_config('atss_shapes', overrides)
    (tmp_path / 'small.json').write_text(config.to_json_best_effort())
    weights = quick_state_dict(build_model(config))
    with serving(monkeypatch) as server:
        zoo = Zoo(server, tmp_path, monkeypatch)
        zoo.add_weights('atss_r50_fpn_1x_coco', 'small.json', weights, CLASSES)
        yield zoo


def texts(cell):
    return ''.join(out.text for out in cell.outputs if out.output_type == 'stream')


def images(cell):
    """The images among the outputs of a cell, decoded."""
    shown = [out.data for out in cell.outputs if out.output_type == 'display_data']
    encoded = [x.get('image/png') or x.get('image/jpeg') for x in shown]
    files = [np.frombuffer(base64.b64decode(x), np.uint8) for x in encoded if x]
    return [cv2.imdecode(file, cv2.IMREAD_COLOR) for file in files]


@pytest.mark.long
def test_it_runs(notebook, here, zoo, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    photo = np.random.default_rng(0).integers(0, 256, (40, 80, 3)).astype(np.uint8)
    cv2.imwrite(str(here / SMALLER['IMAGE']), photo)
    book = with_settings(notebook, SMALLER)
    execute(book, here)
    _, _, install, device, named, data, check, train, evaluated, detect, export = (
        code_cells(book)
    )
    for cell in code_cells(book):
        assert 'Traceback' not in texts(cell)
        assert not [out for out in cell.outputs if out.get('name') == 'stderr']
    assert re.search(r'^atss-jax \d', texts(install))
    assert 'CpuDevice' in texts(device)
    assert zoo.downloads and [image.shape[1] for image in images(named)] == [640]
    assert '8 training images' in texts(data)
    assert 'verdict: nothing stops training' in texts(check) and len(images(check)) == 1
    assert 'done; best AP' in texts(train) and len(images(train)) == 1
    assert re.search(r'^ +AP +AP50.*\n +\d\.\d{3}', texts(evaluated), re.MULTILINE)
    (frame,) = (x.data['text/html'] for x in evaluated.outputs if 'data' in x)
    assert '<iframe srcdoc="' in frame and '&lt;html' in frame
    assert '4 images' in texts(detect) and len(images(detect)) == 4
    assert '5 classes' in texts(export)
    with zipfile.ZipFile(here / 'atss.zip') as archive:
        sizes = {file.filename: file.file_size for file in archive.infolist()}
    exported = {'detector.stablehlo', 'detector.stablehlo.json'}
    assert sizes.keys() == exported | {
        'report.html',
        'config.py',
        'found/detections.csv',
    }
    assert min(sizes.values()) > 0
    assert json.loads((here / 'run' / 'config.json').read_text())['total_epochs'] == 1


@pytest.fixture
def without_package(here, monkeypatch):
    """An environment in which `atss_jax` cannot be imported, and `pip` only tells."""
    programs = here.parent / 'programs'
    programs.mkdir()
    (programs / 'sitecustomize.py').write_text(
        'import importlib.util, sysconfig\n'
        'find = importlib.util.find_spec\n'
        'importlib.util.find_spec = lambda name, *rest: (\n'
        "    None if name == 'atss_jax' else find(name, *rest)\n"
        ')\n'
        f'sysconfig.get_path = lambda *_, **__: {str(programs)!r}\n'
    )
    (programs / 'pip').write_text('#!/bin/sh\necho "pip: $*"\nexit $PIP_STATUS\n')
    (programs / 'atss').write_text('#!/bin/sh\necho atss-jax 0.0\n')
    for name in ('pip', 'atss'):
        (programs / name).chmod(0o755)
    monkeypatch.setenv('PYTHONPATH', str(programs))
    monkeypatch.setenv('PIP_STATUS', '0')


def install(notebook, folder, value):
    """Runs the notebook up to the cell that installs; what that cell printed."""
    book = with_settings(notebook, {'INSTALL': value})
    place = book.cells.index(code_cells(book)[2])
    book.cells = book.cells[: place + 1]
    execute(book, folder)
    return texts(book.cells[-1])


@pytest.mark.long
def test_what_pip_is_asked_to_install(notebook, here, without_package, monkeypatch):
    wheel = here / 'atss_jax-9.9-py3-none-any.whl'
    wheel.touch()
    printed = install(notebook, here, wheel.name)
    assert re.search(rf'\[onnx(,tpu|,cuda)?\] @ {wheel.as_uri()}\s', printed)
    address = 'git+https://127.0.0.1/atss-jax'
    assert f'] @ {address}' in install(notebook, here, address)
    monkeypatch.setenv('PIP_STATUS', '1')
    with pytest.raises(nbclient.exceptions.CellExecutionError, match='pip did not'):
        install(notebook, here, address)


@pytest.mark.long
@pytest.mark.parametrize('value', ['', 'atss_jax-9.9-py3-none-any.whl'])
def test_without_something_to_install(notebook, here, without_package, value):
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        install(notebook, here, value)
    message = f'INSTALL is {value!r}, neither a wheel or clone in this runtime nor'
    assert message in str(error.value)
