"""Batch, schedule, canvases and capacity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atss_jax.data.plan import canvas_of_each, default_canvases
from atss_jax.data.records import Record, Records
from atss_jax.tuning.recipe import (
    EPOCHS,
    IMAGES_SEEN,
    STARTS,
    batch_per_device,
    canvases_of,
    capacity,
    schedule,
)

GIB = 2**30


@pytest.mark.parametrize(
    'start, images, epochs',
    [
        ('zoo', 1, 100),
        ('zoo', 100, 100),
        ('zoo', 205, 49),
        ('imagenet', 205, 98),
        ('scratch', 205, 100),
        ('scratch', 1000, 24),
        ('zoo', 118_287, 12),
    ],
)
def test_epochs_by_the_number_of_images(start, images, epochs):
    plan = schedule(images, 10, 8, start, None)
    assert plan.epochs == epochs
    assert plan.steps_per_epoch == 10


@pytest.mark.parametrize(
    'epochs, milestones',
    [
        (1, ()),
        (2, (1,)),
        (3, (2,)),
        (4, (3,)),
        (5, (3,)),
        (6, (4,)),
        (8, (5, 7)),
        (12, (8, 11)),
        (24, (16, 22)),
        (100, (67, 92)),
    ],
)
def test_milestones(epochs, milestones):
    assert schedule(205, 26, 8, 'zoo', epochs).milestones == milestones


@given(
    images=st.integers(1, 200_000),
    steps=st.integers(1, 100_000),
    batch=st.integers(1, 512),
    start=st.sampled_from(STARTS),
    epochs=st.none() | st.integers(1, 300),
)
def test_schedules_are_possible(images, steps, batch, start, epochs):
    plan = schedule(images, steps, batch, start, epochs)
    if epochs is None:
        assert EPOCHS[0] <= plan.epochs <= EPOCHS[1]
        if EPOCHS[0] < plan.epochs < EPOCHS[1]:
            seen = plan.epochs * images
            assert abs(seen - IMAGES_SEEN[start]) <= images / 2
    else:
        assert plan.epochs == epochs
    assert list(plan.milestones) == sorted(set(plan.milestones))
    assert all(0 < milestone < plan.epochs for milestone in plan.milestones)
    assert 1 <= plan.warmup_steps <= 500
    assert plan.warmup_steps <= max(1, plan.epochs * steps / 10)
    assert plan.rate > 0


def test_the_rate_follows_the_batch_of_sgd_alone():
    rates = [schedule(205, 26, batch, 'zoo', 8).rate for batch in (16, 4)]
    assert rates == [0.01, 0.0025]
    rates = [schedule(205, 26, batch, 'scratch', 8).rate for batch in (16, 4)]
    assert rates[0] == rates[1]


def test_warm_up():
    assert schedule(205, 26, 8, 'zoo', 8).warmup_steps == 20  # of 208 steps
    assert schedule(1, 1, 8, 'zoo', 1).warmup_steps == 1
    assert schedule(118_287, 7393, 16, 'zoo', None).warmup_steps == 500


# The batch ----------------------------------------------------------------------------


@pytest.mark.parametrize('platform, largest', [('cpu', 8), ('gpu', 16), ('tpu', 16)])
@pytest.mark.parametrize('canvas', [(96, 96), (256, 320), (800, 1344)])
def test_the_batch_grows_with_the_memory(platform, largest, canvas):
    sizes = [0, 1, 2, 3, 4, 8, 16, 32, 80, 10_000]
    batches = [batch_per_device(canvas, size * GIB, platform) for size in sizes]
    assert batches == sorted(batches)
    assert (batches[0], batches[-1]) == (1, largest)
    assert batch_per_device(canvas, None, platform) == largest


def test_the_batch_shrinks_with_the_canvas():
    canvases = [(256, 320), (608, 800), (800, 1344), (2048, 2048), (9999, 9999)]
    batches = [batch_per_device(canvas, 16 * GIB, 'gpu') for canvas in canvases]
    # 0.7 * 16 GiB less 2 GiB are 9.88e9 bytes; 700 bytes per pixel.
    assert batches == [16, 16, 8, 2, 1]


# Canvases -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'sizes, canvases',
    [
        ([(480, 640)], ((256, 320),)),
        ([(640, 480)], ((320, 256),)),
        ([(480, 640), (640, 480)], None),
        ([(500, 500)], ((256, 256),)),
        ([(500, 500), (480, 640)], ((256, 320),)),
        ([(500, 500), (640, 480)], ((320, 256),)),
        ([(200, 800), (480, 640)], ((256, 320),)),
        ([(100, 800), (200, 800)], ((96, 320),)),
        ([(480, 640), (500, 499)], ((256, 320),)),  # square once padded
        ([], None),
    ],
)
def test_canvases(sizes, canvases):
    sizes = np.array(sizes, np.int32).reshape(-1, 2)
    assert canvases_of(sizes, (320, 240), 32) == canvases


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=8
    ),
    long=st.integers(32, 1333),
    ratio=st.floats(0.1, 1),
)
def test_canvases_hold_all_images(sizes, long, ratio):
    img_scale = long, max(1, round(long * ratio))
    canvases = canvases_of(np.array(sizes, np.int32), img_scale, 32)
    empty = np.zeros((0, 4), np.float32)
    labels, ignored = np.zeros(0, np.int32), np.zeros(0, bool)
    records = Records.from_list(
        [
            Record(index, 'x', size, empty, labels, ignored)
            for index, size in enumerate(sizes)
        ]
    )
    default = default_canvases(img_scale, True, 32)
    # Raises ValueError where an image fits none.
    canvas_of_each(records, canvases or default, img_scale, True, 32)
    if canvases is not None:
        assert len(canvases) == 1
        areas = [height * width for height, width in canvases + default]
        assert areas[0] <= max(areas[1:])


@pytest.mark.parametrize(
    'counts, expected',
    [([], 8), ([0], 8), ([8, 3], 8), ([9], 16), ([28, 1], 32), ([100], 104)],
)
def test_capacity(counts, expected):
    assert capacity(np.array(counts, int)) == expected
