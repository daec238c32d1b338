"""The measure of the loader counts the pictures that it builds."""

import subprocess
import sys

from tests.conftest import ROOT

COMMAND = [sys.executable, 'benchmarks/input_speed.py']
CONFIG = '--config=configs/atss_r50_1x.py'


def run(*flags):
    return subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True)


def test_it_counts_the_pictures_it_built(small_data):
    done = run(
        CONFIG,
        f'--config.data.train.ann_file={small_data}/train.json',
        f'--config.data.train.img_prefix={small_data}/train',
        '--config.data.train.pipeline.img_scale=(80, 40)',
        '--config.model.bbox_head.num_classes=3',
        '--batches=3',
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('6 pictures: ')


def test_missing_data_is_an_error_of_one_line(tmp_path):
    done = run(CONFIG, f'--config.data.train.ann_file={tmp_path}/none.json')
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
    assert 'Traceback' not in done.stderr
