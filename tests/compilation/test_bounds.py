"""Least times, worked out by hand."""

import pytest

from atss_jax.compilation.bounds import bounds
from atss_jax.compilation.topology import read_topology
from atss_jax.compilation.traffic import Traffic

# 128 MB of gradients, of which each chip sends 8 MB to other slices.
REDUCES = Traffic((), 1, (128_000_000,), (8_000_000,), 0)


def test_one_slice():
    times = bounds(read_topology('v5e:4x4'), 197e9, REDUCES)
    assert times.matrix_unit == pytest.approx(1e-3)
    assert times.hbm == 0
    # 2 x 15/16 x 128 MB = 240 MB from each chip, over two links of 50 GB/s in a corner.
    assert times.links == pytest.approx(2.4e-3)
    assert times.between_slices == 0 and times.least == times.links


def test_one_chip_sends_nothing():
    assert bounds(read_topology('v5e:1x1'), 1, REDUCES).links == 0


def test_several_slices():
    """Each of 16 chips sends 2 x 1/2 x 8 MB to the other slice at 3.125 GB/s."""
    times = bounds(read_topology('v5e:4x4 x2'), 1, REDUCES)
    assert times.links == pytest.approx(2.4e-3)
    assert times.between_slices == pytest.approx(2.56e-3)
    assert times.least == times.between_slices


def test_an_unknown_network_gives_no_bound():
    times = bounds(read_topology('v4:2x2x4 x2'), 1, REDUCES)
    assert times.between_slices is None and times.least == times.links
