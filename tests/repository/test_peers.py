"""The comparison with mmdetection: what it does without, and with one that differs."""

import functools
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from atss_jax.config import load_config
from benchmarks.peers import inputs, mmdet_cpu, ours
from tests.conftest import ROOT


def run(*flags):
    script = str(ROOT / 'benchmarks' / 'peers' / 'mmdet_cpu.py')
    command = [sys.executable, script, *flags]
    return subprocess.run(command, capture_output=True, text=True)


def error_of(*flags):
    """The one line that it ends with."""
    done = run(*flags)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_no_such_python(tmp_path):
    message = error_of(f'--mmdet_python={tmp_path}/python')
    assert message.startswith('mmdet_cpu.py: ')
    assert f'{tmp_path}/python' in message and 'mmdet-env' in message


def test_a_program_that_is_no_python():
    assert 'exit status 1' in error_of('--mmdet_python=/bin/false')


@pytest.mark.skipif(
    importlib.util.find_spec('mmdet') is not None, reason='mmdetection is here'
)
def test_a_python_without_mmdetection():
    message = error_of()
    assert 'cannot import mmdetection' in message and 'mmdet-env' in message


def echo(work, change):
    """In mmdetection's place: what we find ourselves, changed."""

    def peer(name, what, of, *arguments):
        return change(work(*arguments))

    return peer


def assigned(boxes, labels, canvas):
    (call, result), _ = ours.assignment(boxes, canvas)
    return np.array(result(call()))


def detected(*arguments):
    call, result = ours.detections(*arguments)
    return result(call())


def test_another_assignment_is_refused():
    def one_more(owner):
        owner[5] = 1 if owner[5] == 0 else 0
        return owner

    with pytest.raises(ValueError, match=r'8 boxes: anchors \[5\] differ'):
        mmdet_cpu.assignment_rows(echo(assigned, one_more), np.random.default_rng(0))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda b, s, l: (b[:-1], s[:-1], l[:-1]), 'detections differ'),
        (lambda b, s, l: (b, s, l[::-1]), 'detections differ'),
        (lambda b, s, l: (b + 0.01, s, l), 'boxes in pixels: .* differ by 1'),
        (lambda b, s, l: (b, s * np.float32(0.999), l), 'scores: .* differ by'),
    ],
)
def test_other_detections_are_refused(change, message):
    peer = echo(detected, lambda found: change(*found))
    with pytest.raises(ValueError, match=message):
        mmdet_cpu.detection_rows(peer, np.random.default_rng(0))


def test_both_sides_train_the_detector_of_the_recipe():
    config = load_config(str(mmdet_cpu.RECIPE))
    for name, value in mmdet_cpu.RECIPE_FIELDS.items():
        field = functools.reduce(getattr, name.split('.'), config)
        assert field == (tuple(value) if isinstance(value, list) else value), name


def test_the_drawn_objects_are_found():
    """Head outputs as of a trained detector: most objects, each several times."""
    canvas, rng = (256, 320), np.random.default_rng(0)
    outputs = inputs.random_outputs(canvas, 10, -7.0, rng)
    drawn, labels = inputs.random_boxes(10, canvas, np.random.default_rng(0))
    boxes, _, found = detected(outputs, canvas, (1.0, 1.0))
    sides = drawn[:, 2:] - drawn[:, :2]
    near = abs(boxes[:, None] - drawn).max(-1) < 0.2 * sides.max(-1)
    hits = (near & (found[:, None] == labels)).any(0)
    assert hits.sum() >= 8
    above = sum((level > np.log(0.05 / 0.95)).sum() for level in outputs.cls_logits)
    assert above > len(boxes)
