"""`atss compile`: what it refuses, before it needs the compiler."""

import sys

import pytest


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--topology=v5e:3x3'], "topology 'v5e:3x3': expected CHIP:SHAPE"),
        (['--topology=v5e:2x2', '--config.model.depth=3'], 'model.depth'),
    ],
)
def test_what_cannot_be(call, arguments, message):
    result = call('atss', 'compile', 'atss_r18_bccd', *arguments)
    assert result.status == 1 and message in result.err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--topology'),
        (['--topology=v5e:2x2', '--programs=eval'], "'eval': expected train or detect"),
        (['--topology=v5e:2x2', '--canvas=800'], 'expected HEIGHTxWIDTH'),
    ],
)
def test_flags_that_cannot_be(call, arguments, message):
    result = call('atss', 'compile', 'atss_r18_bccd', *arguments)
    assert result.status == 2 and message in result.err


def test_without_libtpu(call, monkeypatch):
    monkeypatch.setitem(sys.modules, 'libtpu', None)
    result = call('atss', 'compile', 'atss_r18_bccd', '--topology=v5e:2x2')
    assert result.status == 1
    assert "pip install 'atss-jax[tpu]'" in result.err
