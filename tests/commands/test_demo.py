"""Every command on the workdir that `make demo` leaves, as a user starts them.

`make demo` takes minutes and is not run here: run it first, or set ATSS_DEMO to the
workdir of one.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from atss_jax.inference.detector import Detector
from tests.conftest import ROOT

DEMO = pathlib.Path(os.environ.get('ATSS_DEMO', ROOT / 'work_dirs' / 'demo'))
COUNT = 40  # held-out images; of the 200, the first ones
FEWER = f'--config.data.val.num_images={COUNT}'
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DEMO / 'config.json').is_file(),
        reason=f'no workdir {DEMO}: run `make demo`, or set ATSS_DEMO to one',
    ),
]


def run(*words):
    """Runs a program of the repository; what it prints."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {'XLA_FLAGS': ''},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{words}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """A folder: `run`, a copy of the workdir, and `data`, its images as files."""
    folder = tmp_path_factory.mktemp('demo')
    shutil.copytree(DEMO, folder / 'run')
    shutil.rmtree(folder / 'run' / 'evaluation', ignore_errors=True)
    config, data = folder / 'run' / 'config.json', folder / 'data'
    few = '--config.data.train.num_images=1'
    run('-m', 'atss_jax', 'write-shapes', '--config', config, '--out', data, FEWER, few)
    return folder


@pytest.fixture(scope='module')
def evaluated(demo):
    """What `eval.py --report` wrote: numbers, detections, and the page."""
    said = run('eval.py', '--workdir', demo / 'run', '--report', FEWER)
    assert f'{COUNT} images' in said and all(name in said for name in CLASSES)
    kinds = 'val_*_scores.json', 'val_*_detections.json', 'val_*_report.html'
    numbers, results, page = (next((demo / 'run/evaluation').glob(k)) for k in kinds)
    return json.loads(numbers.read_text()), results, page.read_text()


@pytest.fixture(scope='module')
def exported(demo):
    out = demo / 'demo.stablehlo'
    run('-m', 'atss_jax', 'export', '--workdir', demo / 'run', '--out', out)
    return out


def boxes_of(file):
    """Rows image_id, category_id, score, x, y, width, height; by image and score."""
    results = json.loads(file.read_text())
    rows = [[r['image_id'], r['category_id'], r['score'], *r['bbox']] for r in results]
    return np.array(sorted(rows, key=lambda row: (row[0], -row[2])))


def test_evaluation_and_report(evaluated):
    numbers, _, page = evaluated
    assert numbers['AP'] > 0.4, 'the demo reaches 0.64 on 200 images'
    assert '<h2>Worst images' in page and 'data:image/jpeg;base64,' in page
    assert 'src="http' not in page and 'href="http' not in page


def test_evaluation_of_a_file_of_results(demo, evaluated):
    numbers, results, _ = evaluated
    copy = shutil.copy(results, demo / 'results.json')
    truth = f'--ann_file={demo}/data/val.json', f'--img_prefix={demo}/data/val'
    run('eval.py', f'--results={copy}', *truth, '--report')
    again = json.loads((demo / 'results_scores.json').read_text())
    assert again['AP'] == pytest.approx(numbers['AP'], abs=1e-6)
    assert (demo / 'results_report.html').stat().st_size > 100_000


def test_evaluation_with_test_time_augmentation(demo, evaluated):
    run('eval.py', '--workdir', demo / 'run', '--tta', FEWER)
    (file,) = (demo / 'run' / 'evaluation').glob('val_*_tta_scores.json')
    augmented, plain = json.loads(file.read_text())['AP'], evaluated[0]['AP']
    assert augmented != plain and abs(augmented - plain) < 0.1


@pytest.mark.parametrize('weights', ['run', 'demo.stablehlo'])
def test_predictions_are_those_of_the_evaluation(demo, evaluated, exported, weights):
    out = demo / f'found in {weights}'
    flags = '--score_thr=0', '--no_pictures', f'--ann_file={demo}/data/val.json'
    run(
        'predict.py',
        '--workdir',
        demo / weights,
        demo / 'data/val',
        '--out',
        out,
        *flags,
    )
    found, expected = boxes_of(out / 'detections.json'), boxes_of(evaluated[1])
    assert len(found) == len(expected) > COUNT
    np.testing.assert_array_equal(found[:, :2], expected[:, :2])
    np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=1e-4)
    np.testing.assert_allclose(found[:, 3:], expected[:, 3:], atol=1e-3)


def test_detector_finds_the_same(demo, evaluated, exported):
    truth = json.loads((demo / 'data' / 'val.json').read_text())
    paths = [demo / 'data' / 'val' / one['file_name'] for one in truth['images']]
    expected = boxes_of(evaluated[1])
    for weights in (demo / 'run', exported):
        detector = Detector.load(weights, batch_size=8)
        assert detector.classes == CLASSES
        for image, found in zip(truth['images'], detector.predict(paths), strict=True):
            rows = expected[expected[:, 0] == image['id']]
            corners = np.concatenate([rows[:, 3:5], rows[:, 3:5] + rows[:, 5:]], 1)
            np.testing.assert_array_equal(found.labels + 1, rows[:, 1])
            np.testing.assert_allclose(found.scores, rows[:, 2], atol=1e-4)
            np.testing.assert_allclose(found.boxes, corners, atol=1e-3)


def test_images_a_folder_a_pattern_and_a_video(demo):
    files = sorted((demo / 'data' / 'val').iterdir())
    (demo / 'few').mkdir()
    for file in files[:4]:
        shutil.copy(file, demo / 'few')
    code = cv2.VideoWriter_fourcc(*'mp4v')
    video = cv2.VideoWriter(str(demo / 'clip.mp4'), code, 5.0, (96, 96))
    for file in files[4:8]:
        video.write(cv2.imread(str(file)))
    video.release()
    inputs = files[8], demo / 'few', demo / 'data' / 'val' / '00001*.png'
    out = demo / 'drawn'
    run(
        'predict.py',
        '--workdir',
        demo / 'run',
        *inputs,
        demo / 'clip.mp4',
        '--out',
        out,
    )
    listed = json.loads((out / 'pictures.json').read_text())['images']
    assert len(listed) == 1 + 4 + 10 + 4
    assert len(list((out / 'pictures').rglob('*.jpg'))) == 1 + 4 + 10
    assert cv2.VideoCapture(str(out / 'pictures' / 'clip.mp4')).read()[0]
    rows = (out / 'detections.csv').read_text().splitlines()
    assert len(rows) > 8 and len(rows) - 1 == len(boxes_of(out / 'detections.json'))


@pytest.mark.parametrize(
    ('what', 'flags'),
    [
        ('detections', []),
        ('data', []),
        ('batch', ['--step', 800]),
        ('assignment', ['--image_ids', 11, 6]),
        ('run', []),
    ],
)
def test_drawing(demo, what, flags):
    out = demo / f'{what}.png'
    words = 'draw', what, '--workdir', demo / 'run', '--out', out, *flags
    assert f'wrote {out}' in run('-m', 'atss_jax', *words)
    image = cv2.imread(str(out))
    assert min(image.shape[:2]) > 300 and len(np.unique(image)) > 100


def test_config_and_cost(demo):
    config = demo / 'run' / 'config.json'
    shown = run('-m', 'atss_jax', 'show-config', config, '--config.optimizer.lr=0.5')
    assert 'ShapesDataset' in shown and '0.5' in shown
    cost = run('-m', 'atss_jax', 'flops', config, '--canvas', '96x96')
    assert '96x96' in cost.replace(' ', '')
