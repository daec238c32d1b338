"""The benchmark of whole trainings: what it counts, and what it says of failures."""

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


def test_what_a_program_takes(tmp_path):
    """A second of processor time and 64 MB in a process of its own."""
    code = """
import os, time
if os.fork():
    os.wait()
else:
    block = b'x' * 2**26
    while time.process_time() < 1:
        pass
"""
    cost = training.measure([sys.executable, '-c', code], tmp_path / 'log')
    assert cost.user + cost.system >= 1
    assert cost.memory > 64
    assert cost.faults > 2**26 / 2**21  # pages may be of 2 MB
    assert cost.seconds > 0


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
    assert error.startswith(f'training.py: --data={tmp_path}: expected annotations/')


def test_no_such_python(monkeypatch, capsys, tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'instances_train.json').write_text('{}')
    python = tmp_path / 'python'
    flags = f'--data={tmp_path}', f'--mmdet_python={python}'
    status, error = run(monkeypatch, capsys, *flags)
    assert status == 1
    assert error == f'training.py: --mmdet_python={python}: is no program\n'
