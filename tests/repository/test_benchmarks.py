"""What the benchmarks compute from their measurements; one of them is run, small."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import bars
import breakdown
import timing


def test_the_parts_of_a_step_add_up_to_the_step():
    seconds = {
        'forward': 5.0,
        'assignment': 0.25,
        'losses': 1.0,
        'update': 2.0,
        'step': 16.0,
    }
    parts = breakdown.parts(seconds)
    assert parts == {
        'forward': 5.0,
        'assign': 0.25,
        'loss': 0.75,
        'backward': 8.0,
        'update': 2.0,
    }
    assert sum(parts.values()) == seconds['step']


@pytest.fixture
def clock(monkeypatch):
    """`clock.append(SECONDS)` lets time pass."""
    passed = []
    monkeypatch.setattr('time.perf_counter', lambda: sum(passed))
    return passed


def test_the_median_of_calls_in_turns(clock):
    order, slow, fast = [], iter([9, 9, 5, 1, 3]), iter([1, 1, 7, 2, 2])

    def call(name, seconds):
        order.append(name)
        clock.append(next(seconds))

    calls = {'slow': lambda: call('slow', slow), 'fast': lambda: call('fast', fast)}
    assert timing.interleaved(calls, repeats=3) == {'slow': 3, 'fast': 2}
    assert order[4:] == ['slow', 'fast'] * 3


def test_short_calls_are_timed_many_at_once(clock):
    calls = []

    def call():
        calls.append(1)
        clock.append(1 / 1024)

    assert timing.seconds(call, repeats=2) == pytest.approx(1 / 1024)
    assert len(calls) == 2 + 2 * 52  # 0.05 s each time


PAGE = """# Page

## Other

| a | b |
|---|---|
| wrong | 1 s |

## Times

Words.

| what | before | after |
|---|---|---|
| one | 2 s | 500 ms |
| two | 3 ms | 1.5 ms |

## Later
"""


def test_bars_are_as_long_as_the_table_says(tmp_path):
    header, rows = bars.read_table(PAGE, 'Times')
    assert header == ['what', 'before', 'after']
    assert [[bars.seconds(cell) for cell in row[1:]] for row in rows] == [
        [2, 0.5],
        [0.003, 0.0015],
    ]
    image = bars.draw(header, rows)
    lengths = [
        int((image[y] == bars._COLORS[number]).all(-1)[bars._LEFT :].sum())
        for y, number in zip(bar_rows(len(rows)), [0, 1, 0, 1], strict=True)
    ]
    full = lengths[0]
    assert lengths == pytest.approx([full, full / 4, full, full / 2], abs=2)


def bar_rows(count):
    """A row of pixels in each bar."""
    group = 2 * bars._BAR + bars._GAP
    return [
        3 * bars._GAP + index * group + bar * bars._BAR + 3
        for index in range(count)
        for bar in range(2)
    ]


@pytest.mark.parametrize(
    ('heading', 'message'), [('None', 'no table'), ('Page', 'no table')]
)
def test_a_page_without_the_table(heading, message):
    with pytest.raises(ValueError, match=message):
        bars.read_table('# Page\n\nNo table.\n', heading)


@pytest.mark.parametrize('text', ['12', 'ms', '1.2 h', ''])
def test_a_cell_that_is_no_time(text):
    with pytest.raises(ValueError, match='expected a time'):
        bars.seconds(text)


def test_parts_prints_a_table():
    words = '--config=configs/atss_shapes.py --canvases 64x96 --dtypes float32'
    words += ' --parts assignment --boxes 3 5 --repeats 2'
    done = subprocess.run(
        [sys.executable, 'benchmarks/parts.py', *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = [line.split(' | ')[0] for line in done.stdout.splitlines()[-2:]]
    assert names == ['| assignment, 3 boxes', '| assignment, 5 boxes']


def test_example_boxes_lie_on_the_canvas():
    import programs

    batch = programs.example_batch((64, 96), 2, boxes=20, num_classes=3, capacity=30)
    boxes = batch['gt_boxes'][batch['gt_valid']]
    assert boxes.shape == (40, 4)
    assert boxes.min() >= 0 and (boxes[:, 2:] <= [96, 64]).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 15.99).all()
    assert np.count_nonzero(batch['gt_valid'].sum(1) - 20) == 0
