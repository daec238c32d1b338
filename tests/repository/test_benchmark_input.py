"""The measure of the loader: what it counts, and what it says when it cannot."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from benchmarks import input_cores
from tests.conftest import ROOT

COMMAND = [sys.executable, 'benchmarks/input.py']
CONFIG = '--config=configs/atss_r50_1x.py'
SMALL = ('--count=3', '--batch_size=2', '--rounds=1', '--workers=0')


def run(*flags):
    return subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for name in 'abcd':
        image = random.integers(0, 256, (36, 48, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f'{name}.jpg'), image)
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def test_it_counts_the_images_it_built(small_data):
    done = run(
        CONFIG,
        f'--config.data.train.ann_file={small_data}/train.json',
        f'--config.data.train.img_prefix={small_data}/train',
        '--config.data.train.pipeline.img_scale=(80, 40)',
        '--config.model.bbox_head.num_classes=3',
        '--batches=3',
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('6 images: ')


def test_stages_add_up_to_the_whole(images):
    done = run(f'--images={images}', *SMALL)
    assert done.returncode == 0, done.stderr
    assert '; 3 images, ' in done.stdout
    found = re.findall(r'^\| ([\w ,]+) \| (-?[\d.]+) ms \|', done.stdout, re.M)
    contenders, stages = dict(found[:2]), dict(found[2:])
    assert list(contenders) == ['OpenCV alone', 'atss_jax']
    *parts, (last, whole) = stages.items()
    assert [name for name, _ in parts][:3] == [
        'read',
        'check the header',
        'decode to RGB',
    ]
    assert last == 'all'
    # Each is rounded to a hundredth.
    assert sum(float(x) for _, x in parts) == pytest.approx(float(whole), abs=0.05)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ((CONFIG, '--config.data.train.ann_file=none.json'), 'none.json'),
        (('--images=configs', *SMALL), 'configs: no images in it'),
        ((f'--mmdet_python={ROOT}/none', *SMALL), f'cannot run {ROOT}/none'),
    ],
)
def test_what_is_missing_is_an_error_of_one_line(flags, message):
    done = run(*flags)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count('\n') == 1


def test_the_cost_of_each_transform(images):
    """One row for each pipeline, and the plain one is what they are compared with."""
    command = [sys.executable, 'benchmarks/augment.py', f'--images={images}']
    small = ('--count=3', '--batch_size=1', '--rounds=1', '--steps=1')
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r'^\| (.+) \| [\d.]+ ms \| \d+ \| ([\d.]+) \|', done.stdout, re.M)
    assert len(rows) == 13 and rows[0] == ('plain: resize, flip', '1.00')


def test_the_model_of_threads():
    """Without a lock all cores count, with nothing else one does; between by hand."""
    assert input_cores.thread_rate(1, 0.004, 0.001) == pytest.approx(250)
    assert input_cores.thread_rate(8, 0.004, 0) == pytest.approx(2000)
    assert input_cores.thread_rate(8, 0.004, 0.004) == pytest.approx(250)
    # One thread is at the lock for 1/4 of the time; a second one waits so often.
    assert input_cores.thread_rate(2, 4, 1) == pytest.approx(2 / (3 + 1 + 1 / 4))
    assert input_cores.thread_rate(10**4, 4, 1) == pytest.approx(1)


def test_the_model_of_workers():
    """All cores count until the process of the run is busy with what they send."""
    assert input_cores.worker_rate(8, 0.004, 0.001) == pytest.approx(1000)
    assert input_cores.worker_rate(4, 0.004, 0.001) == pytest.approx(800)


@pytest.mark.long
def test_threads_and_workers_are_measured(images):
    command = [sys.executable, 'benchmarks/input_cores.py', f'--images={images}']
    small = ('--count=3', '--batch_size=1', '--batches=2', '--rounds=1', '--cores=1')
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ways = re.findall(r'^\| (1 \w+) \| \d+ \| ([\d.]+) ms \|', done.stdout, re.M)
    assert [name for name, _ in ways] == ['1 threads', '1 workers']
    assert re.search(r'lock held: [\d.]+% of the time', done.stdout)
    assert re.findall(r'^\| (\d+) \|', done.stdout, re.M)[-1] == '64'


@pytest.mark.long
def test_photographs_are_compared(images):
    command = [sys.executable, 'benchmarks/input_photographs.py', f'--images={images}']
    small = ('--count=1', '--rounds=1')
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r'^\| (\d+) megapixels, .* \| (1/\d) \|', done.stdout, re.M)
    assert found == [('12', '1/2'), ('24', '1/4')]
