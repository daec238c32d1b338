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
