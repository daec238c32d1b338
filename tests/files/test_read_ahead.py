"""Results in order, a few items ahead of the reader and no more."""

import pytest

from atss_jax.files.read_ahead import map_ahead


def test_keeps_order():
    assert list(map_ahead(lambda x: x * x, range(50), 3)) == [x * x for x in range(50)]


def test_stops_with_its_reader():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda x: 1 // (x - 3), items(), 2)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert len(taken) < 12


def test_one_thread_calls_in_order_and_works_ahead():
    called, taken = [], []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    results = map_ahead(lambda x: called.append(x) or x, items(), 1, ahead=5)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3, 4]
    assert list(results) == list(range(1, 20)) and called == list(range(20))
