"""The search for the largest batch, with programs of known size."""

import dataclasses

import pytest

from atss_jax.compilation.compiled import Memory, OutOfMemory
from atss_jax.compilation.search import largest_batch

HBM = 16_000


@dataclasses.dataclass(frozen=True)
class Program:
    """What the search reads of a compiled program."""

    samples: int
    memory: Memory


def compiler(needed, tells=True):
    """Compiles programs that need `needed(samples)` bytes; keeps what it compiled."""
    compiled = []

    def compile_with(samples):
        compiled.append(samples)
        size = needed(samples)
        if size > HBM:
            raise OutOfMemory('too much', size if tells else None)
        return Program(samples, Memory(0, 0, size, 0, 0))

    return compile_with, compiled


def test_what_fits_is_compiled_once():
    compile_with, compiled = compiler(lambda n: 1000 * n)
    search = largest_batch(compile_with, HBM, start=2)
    assert search.largest.samples == 2 and compiled == [2]
    assert search.too_many is None and search.tried == {2: 2000}


def test_from_too_many_downwards():
    """With 1,000 bytes and 1,250 an image, 12 fit: 16 do not."""
    compile_with, compiled = compiler(lambda n: 1000 + 1250 * n)
    search = largest_batch(compile_with, HBM, start=16)
    assert search.largest.samples == 12 and search.is_exact
    assert compiled == [16, 12, 13]


def test_upwards_until_one_more_does_not_fit():
    compile_with, compiled = compiler(lambda n: 3000 + 1000 * n)
    search = largest_batch(compile_with, HBM, start=2, upwards=True)
    assert search.largest.samples == 13 and search.is_exact
    assert len(compiled) <= 5 and search.too_many == 14


def test_nothing_fits():
    compile_with, _ = compiler(lambda n: 20_000 + n)
    search = largest_batch(compile_with, HBM, start=1)
    assert search.largest is None and search.is_exact and search.too_many == 1


def test_a_compiler_that_does_not_say_how_much():
    compile_with, compiled = compiler(lambda n: 1000 * n, tells=False)
    search = largest_batch(compile_with, HBM, start=20)
    assert compiled[:2] == [20, 10]
    assert search.largest.samples in range(14, 17)


@pytest.mark.parametrize('fixed', [0, 500, 9000])
@pytest.mark.parametrize('each', [90, 700, 1600, 5000])
@pytest.mark.parametrize('start', [1, 2, 8, 64])
def test_few_tries_and_a_true_answer(fixed, each, start):
    """Whatever it ends with fits, and nothing is compiled twice."""
    compile_with, compiled = compiler(lambda n: fixed + each * n + 37 * (n % 3))
    search = largest_batch(compile_with, HBM, start, upwards=True)
    assert len(compiled) == len(set(compiled)) <= 5
    if search.largest is not None:
        assert search.largest.memory.total <= HBM
        fitting = [n for n, size in search.tried.items() if size <= HBM]
        assert search.largest.samples == max(fitting)
    if search.is_exact:
        assert search.too_many in compiled
