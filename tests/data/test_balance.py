"""How often an epoch shows each image: against mmdetection's rule in plain loops."""

import hashlib
import math

import numpy as np
import pytest

from atss_jax.data.balance import occurrences, repeat_factors
from atss_jax.data.plan import TrainPlan
from tests.data.test_plan import CANVAS_INDEX, CANVASES, epoch, records_with

ONCE = np.ones


def test_by_hand():
    # Class 0 is in all four images, class 1 in one of them: frequencies 1 and 1/4.
    records = records_with([[0], [0, 0], [0], [0, 1, 1]])
    # sqrt(0.5 / 0.25) is 1.41, sqrt(1 / 0.25) is 2, sqrt(1.1 / 0.25) is 2.1.
    factors = repeat_factors(records, ONCE(4), 0.5)
    np.testing.assert_allclose(factors, [1, 1, 1, math.sqrt(2)])
    for threshold, expected in ((0.2, 1), (0.25, 1), (0.5, 2), (1.0, 2), (1.1, 3)):
        shown = occurrences(records, ONCE(4, int), threshold)
        others = math.ceil(max(1, math.sqrt(threshold)))
        assert shown.tolist() == [others, others, others, expected]
        assert shown.dtype == np.int64


def test_without_a_threshold_only_the_sets_count():
    records = records_with([[0], [1], [1]])
    assert occurrences(records, np.array([3, 1, 1])).tolist() == [3, 1, 1]


def test_a_set_that_is_repeated_counts_as_often():
    # The first image stands for 3 of 5, so class 0 is no rarer than 3/5.
    records = records_with([[0], [1], [1]])
    shown = occurrences(records, np.array([3, 1, 1]), 0.6)
    assert shown.tolist() == [3, 2, 2]
    assert occurrences(records, np.array([1, 1, 1]), 0.6).tolist() == [2, 1, 1]


def test_images_without_objects_occur_once():
    records = records_with([[], [0], []])
    assert occurrences(records, ONCE(3, int), 0.9).tolist() == [1, 2, 1]
    assert occurrences(records_with([[], []]), ONCE(2, int), 0.9).tolist() == [1, 1]


def repeats_of_mmengine(labels, threshold):
    """Loops as in mmengine's ClassBalancedDataset: how often each image occurs."""
    frequency = {}
    for in_image in labels:
        for label in set(in_image):
            frequency[label] = frequency.get(label, 0) + 1
    factor = {
        label: max(1.0, math.sqrt(threshold / (count / len(labels))))
        for label, count in frequency.items()
    }
    return [
        math.ceil(max((factor[label] for label in set(in_image)), default=1.0))
        for in_image in labels
    ]


@pytest.mark.parametrize('seed', range(8))
def test_random_sets(seed):
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.full(7, 0.3))
    labels = [
        random.choice(7, random.integers(0, 5), p=share).tolist() for _ in range(60)
    ]
    records = records_with(labels)
    for threshold in (1e-3, 0.04, 0.25, 1.0, 3.0):
        shown = occurrences(records, ONCE(60, int), threshold)
        assert shown.tolist() == repeats_of_mmengine(labels, threshold)


# The plan ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('times', 'steps', 'digest'),
    [
        (1, 6, '391a5654239a62d74c4fb6483460ec4a4e4c00bbb4e888ca628f682dab4e988a'),
        (3, 15, 'd3ee9f4ad7e1142713b54934dd35410da2e727ae8db6d9104defe6ee74088c2d'),
    ],
)
def test_plans_of_version_0_1(times, steps, digest):
    """Three epochs, as they were when all images occurred equally often."""
    shown = np.full(len(CANVAS_INDEX), times)
    plans = [TrainPlan(CANVAS_INDEX, CANVASES, 4, 3, shown)]
    if times == 1:
        plans.append(TrainPlan(CANVAS_INDEX, CANVASES, 4, 3))
    for plan in plans:
        assert plan.steps_per_epoch == steps
        batches = np.stack([plan.records(step) for step in range(3 * steps)])
        assert hashlib.sha256(batches.tobytes()).hexdigest() == digest


def test_each_record_occurs_as_often_as_it_should():
    shown = np.random.default_rng(0).integers(1, 5, len(CANVAS_INDEX))
    plan = TrainPlan(CANVAS_INDEX, CANVASES, 1, 3, shown)
    assert plan.steps_per_epoch == shown.sum()
    for number in (0, 1):
        counts = np.bincount(epoch(plan, number), minlength=len(shown))
        np.testing.assert_array_equal(counts, shown)
    assert epoch(plan, 0).tolist() != epoch(plan, 1).tolist()


def test_the_last_batch_of_a_canvas_is_filled_up():
    shown = np.random.default_rng(1).integers(1, 5, len(CANVAS_INDEX))
    plan = TrainPlan(CANVAS_INDEX, CANVASES, 4, 3, shown)
    counts = np.bincount(epoch(plan, 0), minlength=len(shown))
    assert (counts >= shown).all() and counts.sum() - shown.sum() < 2 * 4
    for step in range(plan.steps_per_epoch):
        assert len(set(CANVAS_INDEX[plan.records(step)])) == 1
