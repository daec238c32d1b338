"""An exported detector gives the detections of its checkpoint, without its config."""

import json
import shutil
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

from atss_jax.commands import main as commands
from atss_jax.data.image_file import read
from atss_jax.inference import export
from atss_jax.inference.detector import Detector
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def exported(small_run, tmp_path_factory):
    """The file, written in a process without the shape checks of tests."""
    out = tmp_path_factory.mktemp('exported') / 'deep' / 'model.stablehlo'
    words = '-m', 'atss_jax', 'export', '--workdir', small_run.workdir, '--out', out
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'wrote {out} and {out}.json: 3 classes\n'
    return out


@pytest.fixture(scope='module')
def paths(small_data):
    return sorted((small_data / 'val').iterdir())


def test_the_same_detections(exported, small_run, paths):
    """In batches of two, since batch size and image size are free."""
    expected = Detector.load(small_run.workdir, batch_size=2).predict(paths)
    detector = Detector.load(exported, batch_size=2)
    detections = detector.predict(paths)
    assert sum(map(len, expected)) > 50
    for one, other in zip(detections, expected, strict=True):
        assert one.names == other.names and one.size == other.size
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_the_backend_that_resizes(exported, tmp_path):
    """Files of version 0.1 do not name it: there was OpenCV only."""
    page = json.loads(exported.with_name('model.stablehlo.json').read_text())
    assert (page['format'], page['backend']) == (2, 'cv2')
    out = tmp_path / 'model.stablehlo'
    shutil.copy(exported, out)
    for changes in ({'backend': 'pillow'}, {'format': 1, 'backend': 'cv2'}):
        changed = page | changes
        if changed['format'] == 1:
            del changed['backend']
        (tmp_path / 'model.stablehlo.json').write_text(json.dumps(changed))
        assert export.read(out).pipeline.backend == changes['backend']


def test_it_needs_nothing_of_this_package(exported, paths):
    """As docs/predict.md shows it."""
    program = jax.export.deserialize(bytearray(exported.read_bytes()))
    assert program.platforms == ('cpu', 'cuda', 'tpu')
    page = json.loads(exported.with_name('model.stablehlo.json').read_text())
    assert page['classes'] == ['red', 'green', 'blue']
    canvas = np.zeros((1, 64, 96, 3), np.uint8)
    image = read(paths[0])
    canvas[0, :40, :80] = image
    batch = {
        'image': canvas,
        'image_size': np.array([[40, 80]], np.int32),
        'scale': np.ones((1, 2), np.float32),
    }
    detections = program.call(batch)
    assert detections['boxes'].shape == (1, 20, 4) and detections['valid'].any()
    assert np.all(np.asarray(detections['boxes']) <= [80, 40, 80, 40])


def test_what_is_refused(exported, small_run, tmp_path, capsys):
    words = ['export', '--workdir', str(small_run.workdir), '--out']
    for name in ('model.bin', 'model.ONNX', 'model'):
        with pytest.raises(SystemExit):
            commands.main([*words, str(tmp_path / name)])
        problem = 'expected a name that ends in .onnx, .stablehlo, .html'
        assert problem in capsys.readouterr().err
    with pytest.raises(ValueError, match=r'ends in \.onnx, \.stablehlo or \.html'):
        export.write(tmp_path / 'model.bin', None)
    (tmp_path / 'folder.stablehlo').mkdir()
    assert commands.main([*words, str(tmp_path / 'folder.stablehlo')]) == 1
    assert 'is a folder; expected the name of a file' in capsys.readouterr().err
    out = str(tmp_path / 'model.stablehlo')
    assert commands.main([*words, out, '--platforms', 'gpu']) == 1
    assert "no platform ['gpu']" in capsys.readouterr().err
    with pytest.raises(ValueError, match='no exported detector at'):
        Detector.load(out)
    with pytest.raises(ValueError, match='is exported'):
        Detector.load(exported, overrides={'test_cfg.score_thr': 0.3})
    shutil.copy(f'{exported}.json', f'{out}.json')
    (tmp_path / 'model.stablehlo').write_bytes(exported.read_bytes()[:-1])
    with pytest.raises(ValueError, match='is not the file that'):
        Detector.load(out)
    page = json.loads((tmp_path / 'model.stablehlo.json').read_text())
    (tmp_path / 'model.stablehlo.json').write_text(json.dumps(page | {'format': 3}))
    with pytest.raises(ValueError, match='not the page of an export of format 1 to 2'):
        Detector.load(out)
    shutil.copy(exported, out)
    del page['classes']
    (tmp_path / 'model.stablehlo.json').write_text(json.dumps(page))
    with pytest.raises(
        ValueError, match=r"does not describe a detector .KeyError.'cla"
    ):
        Detector.load(out)
    (tmp_path / 'model.stablehlo.json').write_text('[]')
    with pytest.raises(ValueError, match='not the page of an export'):
        Detector.load(out)
