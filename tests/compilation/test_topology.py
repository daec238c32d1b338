"""Names of slices of TPU chips."""

import math
import sys

import pytest

from atss_jax.compilation.chips import CHIPS
from atss_jax.compilation.topology import mesh_of, read_topology


@pytest.mark.parametrize(
    ('name', 'shape', 'slices', 'chips'),
    [
        ('v5e:2x4', (2, 4), 1, 8),
        ('v4:2x2x4', (2, 2, 4), 1, 16),
        ('v6e:16x16', (16, 16), 1, 256),
        ('v5e:4x4 x2', (4, 4), 2, 32),
    ],
)
def test_a_name(name, shape, slices, chips):
    topology = read_topology(name)
    assert (topology.shape, topology.slices) == (shape, slices)
    assert topology.chips == chips and str(topology) == name


@pytest.mark.parametrize(
    'name', ['v5e', 'v5e:3x3', 'v7:2x2', 'v5e:2x2x1', 'v4:2x2', 'v5e:2x2 x0', 'v5e:2']
)
def test_others_are_refused_with_a_list(name):
    with pytest.raises(ValueError, match=r'v5e:1x1 2x2 2x4.*v6e:') as caught:
        read_topology(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize('chip', CHIPS.values(), ids=CHIPS)
def test_slices_have_up_to_256_chips(chip):
    sizes = [math.prod(map(int, shape.split('x'))) for shape in chip.shapes]
    assert sizes == sorted(set(sizes)) and sizes[-1] == 256


@pytest.mark.parametrize(
    ('name', 'links'),
    [
        ('v5e:1x1', 0),
        # A square: each chip has two neighbors.
        ('v5e:2x2', 2),
        # The corner of a grid, not closed to rings.
        ('v5e:8x8', 2),
        ('v5e:8x16', 3),
        ('v5e:16x16', 4),
        ('v5p:4x4x4', 6),
        ('v4:2x4x4', 3),
        ('v4:4x4x8', 6),
        ('v5p:2x2x1', 2),
    ],
)
def test_links_of_a_corner(name, links):
    assert read_topology(name).fewest_links == links


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'libtpu', None)
    with pytest.raises(ValueError, match=r"pip install 'atss-jax\[tpu\]'"):
        mesh_of(read_topology('v5e:2x2'))
