"""The data stream: a function of (seed, step) and of nothing else."""

import json
import subprocess
import sys

import numpy as np
import pytest

from atss_jax.data.plan import TrainPlan, canvas_of_each, default_canvases, eval_batches
from atss_jax.data.records import Record, Records
from tests.conftest import ROOT

CANVASES = ((32, 64), (64, 32))
# 13 records on the first canvas, 6 on the second.
CANVAS_INDEX = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0])


def make_plan(batch_size=4, seed=3, canvas_index=CANVAS_INDEX):
    return TrainPlan(canvas_index, CANVASES, batch_size, seed)


def epoch(plan, number):
    steps = range(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch)
    return np.concatenate([plan.records(step) for step in steps])


def records_of(sizes):
    return Records.from_list(
        [
            Record(
                image_id=100 + row,
                file_name=f'{row}.png',
                size=size,
                boxes=np.zeros((0, 4), np.float32),
                labels=np.zeros(0, np.int32),
                ignored=np.zeros(0, bool),
            )
            for row, size in enumerate(sizes)
        ]
    )


def records_with(labels):
    """Records of images with objects of these labels, a list per image."""
    return Records.from_list(
        [
            Record(
                image_id=100 + row,
                file_name=f'{row}.png',
                size=(40, 60),
                boxes=np.tile(np.float32([1, 2, 11, 12]), (len(in_image), 1)),
                labels=np.array(in_image, np.int32),
                ignored=np.zeros(len(in_image), bool),
            )
            for row, in_image in enumerate(labels)
        ]
    )


def choose(sizes, canvases, img_scale=(1333, 800), keep_ratio=True, divisor=32):
    return canvas_of_each(records_of(sizes), canvases, img_scale, keep_ratio, divisor)


@pytest.mark.parametrize(
    ('img_scale', 'keep_ratio', 'divisor', 'expected'),
    [
        ((1333, 800), True, 32, ((800, 1344), (1344, 800))),
        ((800, 1333), True, 32, ((800, 1344), (1344, 800))),
        ((96, 96), True, 32, ((96, 96),)),
        ((100, 97), True, 32, ((128, 128),)),
        ((1333, 800), True, 128, ((896, 1408), (1408, 896))),
        ((320, 240), False, 32, ((256, 320),)),  # (width, height) exactly
    ],
)
def test_default_canvases(img_scale, keep_ratio, divisor, expected):
    assert default_canvases(img_scale, keep_ratio, divisor) == expected


@pytest.mark.parametrize('keep_ratio', [True, False])
def test_default_canvases_hold_any_image(keep_ratio):
    sizes = [(480, 640), (640, 480), (1, 5000), (5000, 1), (7, 7), (4000, 3000)]
    canvases = default_canvases((333, 201), keep_ratio, 32)
    assert len(choose(sizes, canvases, (333, 201), keep_ratio)) == len(sizes)


def test_canvas_is_the_smallest_that_fits():
    canvases = ((1344, 1344), (800, 1344), (800, 1088), (1344, 800))
    sizes = [
        (480, 640),  # becomes 800x1067, padded 800x1088
        (427, 640),  # becomes 800x1199
        (640, 480),
        (400, 400),  # becomes 800x800
        (480, 640),
    ]
    assert choose(sizes, canvases).tolist() == [2, 1, 3, 2, 2]


def test_of_two_canvases_with_one_area_the_first_is_taken():
    assert choose([(64, 64)], ((96, 64), (64, 96)), (64, 64)).tolist() == [0]
    assert choose([(64, 64)], ((64, 96), (96, 64)), (64, 64)).tolist() == [0]


def test_the_padded_image_must_fit_not_only_the_image():
    # 33 wide is padded to 64 before any layer sees it.
    with pytest.raises(ValueError, match='64x32'):
        choose([(32, 33)], ((32, 48),), (33, 32))


def test_an_image_that_fits_no_canvas_is_named():
    with pytest.raises(ValueError) as caught:
        choose([(480, 640), (640, 480)], ((800, 1344),))
    sizes = ('480x640 (width x height)', 'becomes 800x1088')
    for part in ('image id 101', '1.png', *sizes, 'data.canvases'):
        assert part in str(caught.value)


def test_steps_per_epoch_counts_each_canvas_alone():
    assert make_plan().steps_per_epoch == 4 + 2  # ceil(13/4) + ceil(6/4)
    assert make_plan(batch_size=1).steps_per_epoch == 19
    assert make_plan(batch_size=50).steps_per_epoch == 2
    assert make_plan(canvas_index=np.zeros(8, int)).steps_per_epoch == 2


@pytest.mark.parametrize('batch_size', [1, 3, 4, 19, 50])
def test_each_epoch_covers_every_record(batch_size):
    plan = make_plan(batch_size)
    for number in range(3):
        assert set(epoch(plan, number)) == set(range(len(CANVAS_INDEX)))


def test_last_batches_are_filled_up_from_the_start_of_the_order():
    """As mmdet 2.x's GroupSampler: as few repeats as can be, spread over records."""
    rows = epoch(make_plan(), 0)
    counts = np.bincount(rows)
    assert len(rows) == 16 + 8
    assert counts[CANVAS_INDEX == 0].sum() == 16
    assert counts[CANVAS_INDEX == 1].sum() == 8
    assert counts.max() == 2


def test_fewer_records_than_rows_fill_the_batch_evenly():
    counts = np.bincount(epoch(make_plan(batch_size=20), 0))
    assert set(counts[CANVAS_INDEX == 0]) == {1, 2}
    assert set(counts[CANVAS_INDEX == 1]) == {3, 4}


def test_a_batch_has_one_canvas():
    plan = make_plan()
    for step in range(3 * plan.steps_per_epoch):
        canvases = CANVAS_INDEX[plan.records(step)]
        assert len(set(canvases)) == 1
        assert plan.canvas(step) == CANVASES[canvases[0]]


def test_epochs_and_canvases_are_shuffled():
    plan = make_plan()
    assert not np.array_equal(epoch(plan, 0), epoch(plan, 1))
    orders = {
        tuple(plan.canvas(e * 6 + step)[0] for step in range(6)) for e in range(8)
    }
    assert len(orders) > 1


def test_another_seed_is_another_stream():
    one, other = make_plan(seed=0), make_plan(seed=1)
    assert not np.array_equal(epoch(one, 0), epoch(other, 0))
    assert one.random(5, 2).random() != other.random(5, 2).random()


def test_random_numbers_differ_between_rows_and_steps():
    plan = make_plan()
    numbers = {plan.random(s, row).random() for s in range(20) for row in range(4)}
    assert len(numbers) == 80
    assert plan.random(7, 1).random() == make_plan().random(7, 1).random()


def test_any_step_alone_in_any_order():
    steps = 5 * make_plan().steps_per_epoch
    in_order = [make_plan().records(step) for step in range(steps)]
    plan = make_plan()
    plan.records(1000)  # what was asked before does not matter
    for step in np.random.default_rng(0).permutation(steps):
        np.testing.assert_array_equal(plan.records(int(step)), in_order[step])


def test_the_same_stream_in_another_process():
    code = (
        'import json, tests.data.test_plan as t\n'
        'p = t.make_plan()\n'
        'print(json.dumps([[p.records(s).tolist(), p.random(s, 1).random()]'
        ' for s in (17, 2, 40)]))'
    )
    run = [sys.executable, '-c', code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    plan = make_plan()
    here = [[plan.records(s).tolist(), plan.random(s, 1).random()] for s in (17, 2, 40)]
    assert json.loads(done.stdout.splitlines()[-1]) == here


def test_the_stream_is_pinned():
    """Resuming a run of last month needs last month's stream."""
    plan = make_plan()
    rows = [plan.records(step).tolist() for step in (0, 1, 11)]
    assert rows == [[9, 15, 7, 5], [0, 2, 6, 10], [2, 3, 0, 15]]
    assert plan.random(3, 1).random() == 0.18039828522501655


@pytest.mark.parametrize('batch_size', [1, 4, 6, 50])
def test_evaluation_takes_each_record_once(batch_size):
    batches = eval_batches(CANVAS_INDEX, batch_size)
    rows = np.concatenate([records for _, records in batches])
    assert sorted(rows[rows >= 0]) == list(range(len(CANVAS_INDEX)))
    assert set(rows[rows < 0]) <= {-1}
    for canvas, records in batches:
        assert len(records) == batch_size
        assert records[0] >= 0  # no batch of filling alone
        assert set(CANVAS_INDEX[records[records >= 0]]) == {canvas}


def test_evaluation_passes_over_canvases_without_images():
    batches = eval_batches(np.array([2, 2, 0]), 2)
    assert [(c, r.tolist()) for c, r in batches] == [(0, [2, -1]), (2, [0, 1])]
