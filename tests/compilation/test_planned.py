"""Programs that are planned, by compilers that are not there: what is made of it."""

import multiprocessing
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import pytest

from atss_jax.compilation import planned
from atss_jax.compilation.compiled import Memory, OutOfMemory
from atss_jax.compilation.topology import read_topology
from atss_jax.config import build_experiment
from tests.support.tpu import small_config

GIB = 2**30
PROGRAM = """\
HloModule jit_step, is_scheduled=true

ENTRY %main (image: f32[8,128,128]) -> f32[8,128,128] {
  %image = f32[8,128,128]{2,1,0:T(8,128)} parameter(0)
  ROOT %double = f32[8,128,128]{2,1,0:T(8,128)} add(%image, %image)
}
"""
# Shortened from what XLA writes. Of the commas in a shape none divides its words.
PLAN = """\
BufferAssignment:
allocation 0: size 512, thread-local:
 value: <3 c @0> (size=4,offset=0): s32[]{:T(128)}
allocation 1: size 1024, parameter 21, shape |f32[2,128]| at ShapeIndex {}, \
maybe-live-out:
 value: <7 p @0> (size=1024,offset=0): f32[2,128]{1,0:T(2,128)}
allocation 2: size 4096, parameter 3, shape |f32[1024]| at ShapeIndex {}:
allocation 3: size 2048, output shape is |(f32[2,128], pred[])|, maybe-live-out:
allocation 4: size 700, constant:
allocation 5: size 9000, color 1, preallocated-temp:
allocation 6: size 60000, preallocated-temp:
"""


@pytest.fixture(scope='module')
def experiment():
    return build_experiment(small_config())


def plan(experiment):
    return planned.plan_program('train', experiment, read_topology('v5e:2x2'))


def write(folder, next_one=True):
    names = {planned._TEXT: PROGRAM, planned._PLAN: PLAN}
    names |= {planned._NEXT: ''} if next_one else {}
    for pattern, text in names.items():
        pathlib.Path(folder, pattern.replace('*', 'module_0.jit_step')).write_text(text)


def plans_and_goes_on(end, folder, *_):
    write(folder)
    time.sleep(600)


def refuses(end, folder, *_):
    write(folder, next_one=False)
    end.send(OutOfMemory('8 images do not fit', 20 * GIB))


def runs_to_its_end(end, *_):
    end.send('compiled')


def is_killed(*_):
    os._exit(9)


def test_the_compiler_is_stopped_when_it_has_planned(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', plans_and_goes_on)
    result = plan(experiment)
    assert not multiprocessing.active_children()
    assert result.text == PROGRAM and not result.has_code
    assert result.traffic.size == 3 * 8 * 128 * 128 * 4
    assert result.operations == 8 * 128 * 128
    code = 2 * planned.CODE_PER_INSTRUCTION
    assert result.memory == Memory(5120, 2048, 61212, code, 1024)
    assert result.samples == experiment.samples_per_gpu
    assert result.estimated_seconds is None
    assert result.to_json()['estimated_seconds'] is None


def test_a_program_that_does_not_fit_with_its_code(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', plans_and_goes_on)
    monkeypatch.setattr(planned, 'CODE_PER_INSTRUCTION', 8 * GIB)
    with pytest.raises(
        OutOfMemory, match=r'do not fit .* 16.00 of 15.75 GiB, 16.00 GiB for its code'
    ) as caught:
        plan(experiment)
    assert caught.value.needed == 16 * GIB + 5120 + 2048 + 61212


def test_what_the_compiler_refuses(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', refuses)
    with pytest.raises(OutOfMemory, match=r'^8 images do not fit$') as caught:
        plan(experiment)
    assert caught.value.needed == 20 * GIB


def test_a_compiler_that_writes_no_plan(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', runs_to_its_end)
    assert plan(experiment) == 'compiled'


def test_a_compiler_that_is_killed(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', is_killed)
    with pytest.raises(OSError, match="compiler's process was killed"):
        plan(experiment)


def test_operations_are_those_of_a_compiled_program():
    """As counted by XLA of a program for the CPU, with borders of convolutions."""

    def function(x, kernel):
        y = jax.lax.conv(x, kernel, (2, 2), 'SAME')
        return jnp.tanh(y).sum()

    shapes = [(2, 3, 17, 19), (5, 3, 3, 3)]
    arguments = [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
    compiled = jax.jit(jax.grad(function)).lower(*arguments).compile()
    count = planned._count_operations(compiled.as_text())
    assert count == compiled.cost_analysis()['flops'] > 1000
