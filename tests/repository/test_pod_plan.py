"""The plan for a pod: its formulas by hand, its simulations on small pods."""

import math
import sys

import numpy as np
import pytest

from benchmarks import pod_plan
from benchmarks.pod_plan import (
    HOURS,
    Pod,
    best_interval,
    check_hosts,
    lost_share,
    make_plan,
    waiting_share,
)


def test_the_best_interval_by_hand():
    # A save of 2 s and a failure every 10,000 s: sqrt(40,000) = 200 s.
    assert best_interval(2, 10_000) == 200
    # 1 % for saves, 1 % for half an interval per failure, 3 % for restarts.
    assert lost_share(200, 2, 10_000, 300) == pytest.approx(0.01 + 0.01 + 0.03)


def test_no_interval_loses_less():
    for factor in (0.5, 0.9, 1.1, 2):
        assert lost_share(200 * factor, 2, 1e4, 0) > lost_share(200, 2, 1e4, 0)


def test_hours_between_failures():
    # One device of Llama 3's: 5.8 years. Its 16,384: about 3 hours.
    assert HOURS['Llama 3'] / 24 / 365 == pytest.approx(5.8, abs=0.1)
    assert HOURS['Llama 3'] / 16384 == pytest.approx(3.1, abs=0.1)
    assert HOURS['OPT-175B'] / 992 == pytest.approx(14.4)


# Waiting -----------------------------------------------------------------------------


def test_loading_in_advance_hides_what_is_faster_than_a_step():
    seconds = np.full((50, 3), 0.9)
    assert waiting_share(seconds, 1.0, workers=1, ahead=2) == pytest.approx(0, abs=1e-9)
    # Without a batch in advance, each is loaded while the one before is trained on.
    assert waiting_share(seconds, 1.0, workers=1, ahead=1) == pytest.approx(0, abs=1e-9)


def test_a_slow_host_decides():
    seconds = np.full((50, 3), 0.5)
    seconds[:, 1] = 4.0
    # Two workers: a batch every 2 s, of which a step takes 1.
    share = waiting_share(seconds, 1.0, workers=2, ahead=6)
    assert share == pytest.approx(0.5, abs=0.05)


def test_batches_in_advance_hide_a_stall():
    seconds = np.full((100, 2), 0.1)
    seconds[50, 0] = 3.5
    # Begun 4 steps earlier, it is there in time; begun 1 step earlier, 2.5 s late.
    assert waiting_share(seconds, 1.0, workers=4, ahead=4) == pytest.approx(0, abs=1e-9)
    late = waiting_share(seconds, 1.0, workers=4, ahead=1)
    assert late == pytest.approx(2.5 / (99 + 2.5))


# Stream ------------------------------------------------------------------------------


def test_every_row_has_one_host():
    pod = Pod(hosts=8, devices_per_host=2, samples_per_gpu=1)
    assert (pod.rows, pod.batch) == (2, 16)
    steps = make_plan(100, pod).steps_per_epoch
    assert steps == math.ceil(74 / 16) + math.ceil(26 / 16)  # about 74 are landscape
    assert check_hosts(100, pod, steps) == 100


def test_it_prints_its_tables(monkeypatch, capsys):
    words = ['--parts', 'stream', 'failures', '--images', '500']
    words += ['--hosts', '4', '--save', '2', '--restart', '60']
    monkeypatch.setattr(sys, 'argv', ['pod_plan.py', *words])
    assert pod_plan.main() == 0
    printed = capsys.readouterr().out
    assert '4 hosts, 32 images per step' in printed
    assert '| images seen by all hosts in an epoch | 500 |' in printed
    between = 3600 * HOURS['Llama 3'] / 16
    minutes = math.sqrt(4 * between) / 60
    assert f'| best interval | {minutes:.1f} min' in printed


def test_the_bytes_of_an_evaluation():
    table = pod_plan.evaluation(Pod(hosts=4), images=10)
    # 25 bytes for each of 100 detections, 16 for the image; three images at most.
    assert '| bytes of an image | 2,516 |' in table
    assert '| largest part of a host | 7.5 kB |' in table


@pytest.mark.slow
def test_a_state_is_saved_and_restored():
    assert '| files | ' in pod_plan.checkpoint(Pod(hosts=2))
