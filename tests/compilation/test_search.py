"""The search for the largest batch, with programs of known size."""

import dataclasses
import functools
import itertools
import operator

import pytest

from atss_jax.compilation.compiled import Memory, OutOfMemory
from atss_jax.compilation.search import largest_batch

HBM = 16_000


@dataclasses.dataclass(frozen=True)
class Program:
    """What the search reads of a planned program."""

    samples: int
    memory: Memory


def planner(needed, tells=True):
    """Plans programs that need `needed(samples)` bytes; keeps what it planned."""
    planned = []

    def plan_with(samples):
        planned.append(samples)
        size = needed(samples)
        if size > HBM:
            raise OutOfMemory('too much', size if tells else None)
        return Program(samples, Memory(0, 0, size, 0, 0))

    return plan_with, planned


def test_what_fits_is_planned_once():
    plan_with, planned = planner(lambda n: 1000 * n)
    search = largest_batch(plan_with, HBM, start=2)
    assert search.largest.samples == 2 and planned == [2]
    assert search.too_many is None and search.tried == {2: 2000}


def test_from_too_many_downwards():
    """With 1,000 bytes and 1,250 an image, 12 fit: 16 do not."""
    plan_with, planned = planner(lambda n: 1000 + 1250 * n)
    search = largest_batch(plan_with, HBM, start=16)
    assert search.largest.samples == 12 and search.is_exact
    assert planned == [16, 12, 14, 13]


def test_upwards_until_one_more_does_not_fit():
    plan_with, planned = planner(lambda n: 3000 + 1000 * n)
    search = largest_batch(plan_with, HBM, start=2, upwards=True)
    assert search.largest.samples == 13 and search.is_exact
    assert len(planned) <= 8 and search.too_many == 14


def test_nothing_fits():
    plan_with, _ = planner(lambda n: 20_000 + n)
    search = largest_batch(plan_with, HBM, start=1)
    assert search.largest is None and search.is_exact and search.too_many == 1


def test_a_compiler_that_does_not_say_how_much():
    plan_with, planned = planner(lambda n: 1000 * n, tells=False)
    search = largest_batch(plan_with, HBM, start=20)
    assert planned[:2] == [20, 10]
    assert search.largest.samples in range(14, 17)


def test_among_multiples():
    """19 fit: 16 is the largest multiple of 8, and 24 is known to be too many."""
    plan_with, planned = planner(lambda n: 3000 + 680 * n)
    search = largest_batch(plan_with, HBM, start=8, upwards=True, step=8)
    assert planned == [8, 16, 24] and search.is_exact and search.too_many == 24
    assert search.largest.samples == 16


def test_below_the_step_all_numbers_are_tried():
    plan_with, planned = planner(lambda n: 3000 * n)
    search = largest_batch(plan_with, HBM, start=8, step=8)
    assert planned == [8, 5, 6] and search.is_exact and search.largest.samples == 5


def test_where_arrays_are_computed_twice():
    """Up to 30 images bytes grow; up to 45 the compiler keeps them below the capacity.

    As it does for the training of R50: 8, 32, 40, 48 and 56 images fit, 64 do not.
    """
    plan_with, planned = planner(
        lambda n: 500 * n if n <= 30 else 15_000 + n if n <= 45 else 400 * n
    )
    search = largest_batch(plan_with, HBM, start=8, upwards=True)
    assert search.largest.samples == 45 and search.is_exact
    assert len(planned) <= 8


@pytest.mark.parametrize('step', [2, 4, 8])
@pytest.mark.parametrize('upwards', [False, True])
def test_any_start_and_any_step(upwards, step):
    """It ends, and what it calls the largest is that among those to be tried."""
    for start, fitting in itertools.product(range(1, 40), range(40)):
        each = HBM // fitting if fitting else 2 * HBM
        plan_with, planned = planner(functools.partial(operator.mul, each))
        search = largest_batch(plan_with, HBM, start, upwards, step)
        assert len(planned) == len(set(planned)) <= 8
        if search.is_exact:
            among = [n for n in range(1, fitting + 1) if n < step or n % step == 0]
            number = search.largest.samples if search.largest else 0
            assert number == max(among, default=0)


def test_bytes_that_hardly_grow_do_not_lead_to_thousands_of_images():
    """A chip pads batches to 8 images, so that one needs what two do."""
    plan_with, planned = planner(lambda n: 1000 * -(-n // 8) * 8 + n)
    search = largest_batch(plan_with, HBM, start=1, upwards=True)
    assert max(planned) < 100 and search.largest.samples == 8


@pytest.mark.parametrize('fixed', [0, 500, 9000])
@pytest.mark.parametrize('each', [90, 700, 1600, 5000])
@pytest.mark.parametrize('start', [1, 2, 8, 64])
def test_few_tries_and_a_true_answer(fixed, each, start):
    """Whatever it ends with fits, and nothing is planned twice."""
    plan_with, planned = planner(lambda n: fixed + each * n + 37 * (n % 3))
    search = largest_batch(plan_with, HBM, start, upwards=True)
    assert len(planned) == len(set(planned)) <= 8
    if search.largest is not None:
        assert search.largest.memory.total <= HBM
        fitting = [n for n, size in search.tried.items() if size <= HBM]
        assert search.largest.samples == max(fitting)
    if search.is_exact:
        number = search.largest.samples if search.largest else 0
        assert fixed + each * (number + 1) + 37 * ((number + 1) % 3) > HBM
