"""Programs that are planned, by compilers that are not there: what is made of it."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from atss_jax.compilation import compiled, planned
from atss_jax.compilation.compiled import Memory, OutOfMemory
from atss_jax.compilation.topology import read_topology
from atss_jax.config import build_experiment
from tests.conftest import ROOT
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


VALUES = 'BufferAssignment OrderedValues:\n\nTotal bytes used: 77380 (75.6KiB)\n'
FILES = {
    planned._TEXT: PROGRAM,
    planned._PLAN: PLAN,
    planned._VALUES: VALUES,
    planned._NEXT: '',
}
COMPILE = planned._compile


@pytest.fixture(scope='module')
def experiment():
    return build_experiment(small_config())


def plan(experiment, **changed):
    topology = read_topology('v5e:2x2')
    return planned.plan_program('train', experiment, topology, **changed)


# Compilers, each the content of a process ---------------------------------------------


def write(folder, **changed):
    for pattern, text in {**FILES, **changed}.items():
        pathlib.Path(folder, pattern.replace('*', 'module_0.jit_step')).write_text(text)


def plans_and_goes_on(end, folder, arguments):
    write(folder)
    time.sleep(600)


def has_no_room_for_the_plan(end, folder, arguments):
    write(folder, **{planned._PLAN: PLAN[:300]})
    time.sleep(600)


def has_no_room_for_the_text(end, folder, arguments):
    write(folder, **{planned._TEXT: PROGRAM[:-10]})
    time.sleep(600)


def runs_to_its_end(end, folder, arguments):
    end.send(('compiled', ''))


def is_killed(end, folder, arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def compiles(function):
    def compile_program(*arguments, options):
        function(pathlib.Path(options['xla_dump_to']))

    planned.compile_program = compile_program


def refuses(end, folder, arguments):
    def function(_):
        raise OutOfMemory('8 images do not fit', 20 * GIB)

    compiles(function)
    COMPILE(end, folder, arguments)


def has_a_fault(end, folder, arguments):
    def function(_):
        raise TypeError('a fault of ours')

    compiles(function)
    COMPILE(end, folder, arguments)


def says_where_it_is_and_waits(end, folder, arguments):
    def function(_):
        print(os.getpid(), folder, flush=True)
        time.sleep(600)

    compiles(function)
    COMPILE(end, folder, arguments)


# Tests --------------------------------------------------------------------------------


def test_the_compiler_is_stopped_when_it_has_planned(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', plans_and_goes_on)
    monkeypatch.setattr(compiled, '_versions', dict)  # without libtpu there is none
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
    with pytest.raises(
        OutOfMemory, match=r'do not fit .* 16.00 of 15.75 GiB, 16.00 GiB of them by'
    ) as caught:
        plan(experiment, code_per_instruction=8 * GIB)
    assert caught.value.needed == 16 * GIB + 5120 + 2048 + 61212


def test_what_the_compiler_refuses(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', refuses)
    with pytest.raises(OutOfMemory, match=r'^8 images do not fit$') as caught:
        plan(experiment)
    assert caught.value.needed == 20 * GIB


def test_what_is_refused_before_the_compiler_begins(experiment):
    with pytest.raises(ValueError, match='--canvas=100x128: expected multiples of'):
        plan(experiment, canvas=(100, 128))


def test_a_fault_in_the_process_is_raised_with_its_place(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', has_a_fault)
    with pytest.raises(TypeError, match='a fault of ours') as caught:
        plan(experiment)
    assert 'in compile_program' in str(caught.value.__cause__)


def test_a_compiler_that_writes_no_plan(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', runs_to_its_end)
    monkeypatch.setattr(planned.importlib.metadata, 'version', lambda name: '9.9')
    with pytest.warns(UserWarning, match='libtpu 9.9 wrote no plan'):
        assert plan(experiment) == 'compiled'


def test_a_compiler_that_is_killed(experiment, monkeypatch):
    monkeypatch.setattr(planned, '_compile', is_killed)
    with pytest.raises(OSError, match=r'process ended with status -9: memory ran out'):
        plan(experiment)


@pytest.mark.parametrize(
    'compiler', [has_no_room_for_the_plan, has_no_room_for_the_text]
)
def test_a_full_disk(experiment, monkeypatch, compiler):
    monkeypatch.setattr(planned, '_compile', compiler)
    with pytest.raises(OSError, match=r'incomplete; is the disk full.* TMPDIR=FOLDER'):
        plan(experiment)


@pytest.mark.skipif(os.name != 'posix', reason='signals')
@pytest.mark.parametrize('stop', [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_run_that_was_stopped(stop):
    """Neither the compiler, which would go on for minutes, nor its files."""
    program = (
        'import signal\n'
        'from tests.compilation import test_planned as test\n'
        'from atss_jax.compilation import planned\n'
        'if __name__ == "__main__":\n'
        # Jobs in the background inherit that it is ignored.
        '    signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        '    planned._compile = test.says_where_it_is_and_waits\n'
        '    test.plan(test.build_experiment(test.small_config()))\n'
    )
    parent = subprocess.Popen(
        [sys.executable, '-c', program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with parent:
        child, folder = parent.stdout.readline().split()
        # As Ctrl-C and launchers do, to all processes of the job.
        for pid in (
            (int(child), parent.pid) if stop != signal.SIGKILL else (parent.pid,)
        ):
            os.kill(pid, stop)
        assert parent.wait(60) != 0
        parent.stdout.read()  # ends with the last process that has it
    assert not pathlib.Path(folder).exists()


def test_operations_are_those_of_a_compiled_program():
    """As counted by XLA of a program for the CPU, with borders of convolutions."""

    def function(x, kernel):
        y = jax.lax.conv(x, kernel, (2, 2), 'SAME')
        return jnp.tanh(y).sum()

    shapes = [(2, 3, 17, 19), (5, 3, 3, 3)]
    arguments = [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
    program = jax.jit(jax.grad(function)).lower(*arguments).compile()
    count = planned._count_operations(program.as_text())
    assert count == program.cost_analysis()['flops'] > 1000
