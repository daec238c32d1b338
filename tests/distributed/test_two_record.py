"""Callbacks and writers of a run of two processes, of which the first alone calls them.

Whatever happens to the first, the other learns of it and does not wait.
"""

import os
import subprocess
import sys
import time

import pytest

from benchmarks.kill_resume import join_flags
from tests.conftest import ROOT
from tests.support.small_run import metrics_of, saved_steps

PROGRAM = """
import argparse, dataclasses, json, sys

from atss_jax.commands import command_line
from atss_jax.config import load_config
from atss_jax.drawing.detections import make_drawing_evaluator
from atss_jax.training import loop
from benchmarks.kill_resume import OVERRIDES

parser = argparse.ArgumentParser()
command_line.add_host_flags(parser)
parser.add_argument('--case')
parser.add_argument('--workdir')
flags = parser.parse_args()


class Stops:
    def after_checkpoint(self, step, folder):
        return True


class StopsAtEntry:
    def after_step(self, step, metrics):
        return step == 3


class Fails:
    def after_step(self, step, metrics):
        if step == 3:
            raise OSError('no space for my notes')


class Leaves:
    def after_evaluation(self, step, numbers):
        sys.exit(4)


def no_image(source, record, detections):
    raise OSError('image is gone')


def make_evaluator(*arguments):
    evaluator = make_drawing_evaluator(*arguments)
    if flags.case == 'examples':
        evaluator = dataclasses.replace(evaluator, draw=no_image)
    return evaluator


def action():
    fields = {'data.samples_per_gpu': 2, 'total_epochs': 2, 'evaluation.interval': 1}
    config = load_config('configs/atss_shapes.py', OVERRIDES | fields)
    kinds = {'stop': Stops, 'entry': StopsAtEntry, 'fail': Fails, 'leave': Leaves}
    called = [kinds[flags.case]()] if flags.case in kinds else []
    state = loop.train(config, flags.workdir, make_evaluator, callbacks=called)
    print('ended after step', int(state.step), flush=True)


sys.exit(command_line.run(flags, 'two', action))
"""


def outputs(case, workdir):
    """Exit statuses and outputs of both processes."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [
                *(sys.executable, '-c', PROGRAM, *flags, '--collective_timeout=100'),
                *(f'--case={case}', f'--workdir={workdir}'),
            ],
            cwd=ROOT,
            env=os.environ | {'XLA_FLAGS': ''},  # one device each
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags in join_flags(2)
    ]
    texts = [process.communicate(timeout=300)[0] for process in running]
    assert 'no progress' not in ''.join(texts) and time.monotonic() - began < 250
    return [process.returncode for process in running], texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ('case', 'step'),
    [
        ('stop', 10),
        # At an entry of the log no step is on its way: the stop is heard there.
        ('entry', 3),
    ],
)
def test_a_callback_stops_both(tmp_path, case, step):
    statuses, texts = outputs(case, tmp_path)
    assert statuses == [0, 0], texts
    assert all(f'ended after step {step}\n' in text for text in texts)
    assert f'the run ends after step {step} of 20: callback Stops' in texts[0]
    assert saved_steps(tmp_path) == [step]
    assert len(metrics_of(tmp_path, 'train')) == {3: 1, 10: 4}[step]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('case', 'step', 'problem'),
    [
        ('fail', 3, 'Fails.after_step failed at step 3: OSError: no space for my'),
        ('leave', 10, 'Leaves.after_evaluation failed at step 10: SystemExit: 4'),
    ],
)
def test_a_callback_that_fails_ends_both_with_its_error(tmp_path, case, step, problem):
    statuses, texts = outputs(case, tmp_path)
    assert statuses == [1, 1], texts
    for text in texts:
        assert f'CallbackError: callback {problem}' in text
        assert 'The state of the run is saved: run again to resume' in text
    assert saved_steps(tmp_path) == [step]
    statuses, texts = outputs('none', tmp_path)
    assert statuses == [0, 0], texts
    assert f'resuming after step {step}' in texts[0]


@pytest.mark.slow
def test_a_writer_that_cannot_be_opened_ends_both(tmp_path):
    (tmp_path / 'tensorboard').write_text('no folder')
    statuses, texts = outputs('none', tmp_path)
    assert statuses == [1, 1], texts
    assert all('File exists' in text and 'tensorboard' in text for text in texts)


@pytest.mark.slow
def test_an_example_that_cannot_be_drawn_ends_both(tmp_path):
    statuses, texts = outputs('examples', tmp_path)
    assert statuses == [1, 1], texts
    assert all('image is gone' in text for text in texts)
    assert saved_steps(tmp_path) == [10]
