"""`atss compile`: what it refuses, and asks of the compiler, which is not needed."""

import dataclasses
import json
import sys

import pytest

from atss_jax.compilation import compiled, planned
from atss_jax.compilation import topology as topology_of
from atss_jax.compilation.compiled import OutOfMemory
from tests.compilation.test_describe import COMPILED, GIB


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


def test_batches_that_fit_only_without_their_code(call, monkeypatch, tmp_path):
    """Of 8, 7 and 6 images the arrays fit; with its code only 6."""
    asked = []

    def plan(name, experiment, topology, canvas, samples, code):
        asked.append(('plan', samples, code))
        return dataclasses.replace(COMPILED, samples=samples, has_code=False)

    def compile_it(name, experiment, topology, canvas, samples):
        asked.append(('compile', samples))
        if samples > 6:
            raise OutOfMemory('does not fit', 17 * GIB)
        return dataclasses.replace(COMPILED, samples=samples)

    monkeypatch.setattr(planned, 'plan_program', plan)
    monkeypatch.setattr(compiled, 'compile_program', compile_it)
    monkeypatch.setattr(compiled, '_versions', dict)  # without libtpu there is none
    monkeypatch.setattr(topology_of, 'mesh_of', lambda topology: None)
    result = call(
        *('atss', 'compile', 'atss_r18_bccd', '--topology=v5e:2x2', '--programs=train'),
        *('--code', '--config.data.samples_per_gpu=8', f'--json={tmp_path}/n.json'),
    )
    assert result.status == 3, result.err
    assert asked == [('plan', 8, 0), *(('compile', n) for n in (8, 7, 6))]
    assert result.out.startswith('train: 8 images per chip do not fit; 6 fit: the')
    numbers = json.loads((tmp_path / 'n.json').read_text())['train']
    assert numbers['too_many'] == 7 and numbers['largest_is_exact']
    assert list(numbers['tried']) == ['8', '7', '6']
