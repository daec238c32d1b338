"""Data loading without what Windows lacks, and without TensorFlow Datasets.

Simulated: the modules and functions are hidden before anything is imported.
"""

import os
import subprocess
import sys

import pytest

from atss_jax.config import build_experiment, load_config
from tests.conftest import ROOT

LIKE_WINDOWS = """
import os, signal, sys
sys.modules['fcntl'] = None
for name in ('pthread_sigmask', 'SIGKILL', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'):
    delattr(signal, name)
del os.getppid
"""
BATCHES = """
import multiprocessing
from tests.support.batches import assert_same, shapes_batches
from atss_jax.data.loader import prefetch

if __name__ == '__main__':
    batches = shapes_batches()
    for step, batch in enumerate(prefetch(batches, 0, 6, workers=2)):
        assert_same(batch, batches(step))
    assert step == 5 and not multiprocessing.active_children()
    print('loaded')
"""

WITHOUT_TFDS = """
import builtins, sys
sys.modules['tensorflow_datasets'] = None
real = builtins.__import__

def hiding(name, globals=None, *rest, **named):
    # Other libraries need these two; they are hidden from this package only.
    importer = (globals or {}).get('__name__') or ''
    is_hidden = name.partition('.')[0] in ('etils', 'array_record')
    if is_hidden and importer.startswith('atss_jax'):
        raise ImportError(f'no {name} for {importer}')
    return real(name, globals, *rest, **named)

builtins.__import__ = hiding
"""


def run(program, path, *arguments):
    path.write_text(program)
    return subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


TRAIN = """
from atss_jax import train
from tests.support.small_run import small_config
import pathlib, sys

if __name__ == '__main__':
    folder = pathlib.Path(sys.argv[1])
    config = small_config(folder, {'data.workers_per_gpu': 0})
    print(int(train(config, sys.argv[2]).step))
"""


def test_training_on_a_coco_folder(small_data, tmp_path):
    program = LIKE_WINDOWS + WITHOUT_TFDS + TRAIN
    done = run(program, tmp_path / 'script.py', small_data, tmp_path / 'workdir')
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) > 0


def test_shapes_load_in_worker_processes(tmp_path):
    done = run(LIKE_WINDOWS + WITHOUT_TFDS + BATCHES, tmp_path / 'script.py')
    assert done.stdout == 'loaded\n', done.stderr


@pytest.mark.parametrize('missing', ['tensorflow_datasets', 'array_record', 'etils'])
def test_a_tfds_config_names_what_to_install(monkeypatch, missing):
    config = load_config(str(ROOT / 'configs' / 'atss_r50_1x_tfds.py'))
    data = build_experiment(config).data['train']
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ValueError, match=rf"pip install 'atss-jax\[tfds\]' .*{missing}"
    ):
        data.open()


def test_prepare_tfds_names_what_to_install(tmp_path):
    command = 'from atss_jax.commands.main import main; main(sys.argv[1:])'
    flags = ['--ann_file=a', '--img_prefix=b', '--data_dir=c', '--name=d:1.0.0']
    script = tmp_path / 'script.py'
    done = run(WITHOUT_TFDS + command, script, 'prepare-tfds', *flags, '--split=train')
    assert "pip install 'atss-jax[tfds]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
