"""The benchmark of whole trainings: what it counts, and what it says of failures."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import training


def run(monkeypatch, capsys, *flags):
    """Exit status, and what it wrote of errors."""
    monkeypatch.setattr(sys, 'argv', ['training.py', *flags])
    status = training.main()
    return status, capsys.readouterr().err


USES_MUCH = """
import os, time
if os.fork():
    os.wait()
else:
    block = bytearray(b'x') * 200_000_000
    while time.process_time() < 1:
        pass
"""

MEASURES = """
import dataclasses, json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import training
cost = training.measure([sys.executable, '-c', sys.argv[2]], pathlib.Path(sys.argv[3]))
print(json.dumps(dataclasses.asdict(cost)))
"""


def test_what_a_program_takes(tmp_path):
    """A second of processor time and 200 MB, in a process that the program starts.

    Measured by a small process: Linux counts the memory of the one that starts a
    program as the program's.
    """
    words = [MEASURES, str(ROOT / 'benchmarks'), USES_MUCH, str(tmp_path / 'log')]
    done = subprocess.run(
        [sys.executable, '-c', *words], capture_output=True, text=True, check=True
    )
    cost = json.loads(done.stdout)
    assert cost['user'] + cost['system'] >= 1
    assert 200 < cost['memory'] < 250
    assert cost['faults'] > 2e8 / 2**21  # pages may be of 2 MB
    assert cost['seconds'] > 0


def test_caches_of_the_environment_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
    code = 'import os; print(os.environ.get("JAX_COMPILATION_CACHE_DIR"))'
    training.measure([sys.executable, '-c', code], tmp_path / 'log')
    assert (tmp_path / 'log').read_text() == 'None\n'


def test_a_program_that_fails_is_named_with_what_it_wrote(tmp_path):
    program = tmp_path / 'broken.py'
    program.write_text('raise ValueError("no such cell")')
    with pytest.raises(ValueError, match=r'(?s)broken\.py ended with 1.*no such cell'):
        training.measure([sys.executable, str(program)], tmp_path / 'log')


def test_the_last_score_of_either_program():
    ours = """evaluation after epoch 1
      AP    AP50    AP75     APs     APm     APl
   0.044   0.127   0.018   0.000   0.104   0.069
     AR1    AR10   AR100     ARs     ARm     ARl
   0.036   0.137   0.234   0.000   0.105   0.390
AP of each class
RBC        0.086 | WBC        0.046
"""
    assert training.last_score(ours) == '0.044'
    assert training.last_score(ours + ours.replace('0.044', '0.242')) == '0.242'
    theirs = 'Epoch(val) [3][87/87] coco/bbox_mAP: 0.3080  coco/bbox_mAP_50: 0.5640\n'
    assert training.last_score(theirs) == '0.3080'
    with pytest.raises(ValueError, match='without an AP'):
        training.last_score('epoch 1 step 13/104')


def test_no_data(monkeypatch, capsys, tmp_path):
    status, error = run(monkeypatch, capsys, f'--data={tmp_path}')
    assert status == 1
    assert error.startswith(f'training.py: --data={tmp_path}: {tmp_path}/annotations/')
    assert error.endswith('instances_train.json is missing\n')


def test_no_epochs(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, capsys, '--epochs=0')
    assert '--epochs=0: expected at least 1' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['missing', 'folder', 'file'])
def test_no_such_python(monkeypatch, capsys, tmp_path, name):
    for folder in ('annotations', 'images', 'folder'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'file').write_text('no program')
    for split in ('train', 'val', 'test'):
        (tmp_path / 'annotations' / f'instances_{split}.json').write_text('{}')
    python = tmp_path / name
    flags = f'--data={tmp_path}', f'--mmdet_python={python}'
    status, error = run(monkeypatch, capsys, *flags)
    assert status == 1
    assert error.startswith(f'training.py: {python} cannot be run: ')
