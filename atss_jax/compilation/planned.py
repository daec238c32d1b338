"""A program of a config as the compiler plans it: optimized, with a place in memory for
each array, but without machine code.

Generating the code is most of the work of the compiler for TPUs, minutes to an hour,
and says little more. It cannot be told to leave that out. So it runs in a process of
its own, writes the optimized program and the plan of memory into files before it goes
on to the code, and is stopped then.
"""

import contextlib
import functools
import importlib.metadata
import multiprocessing
import os
import pathlib
import re
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing import connection
from typing import NamedTuple

from jaxlib import _hlo, _jax  # JAX has no public way to count operations of a text
from jaxlib.xla_client import make_cpu_client

from atss_jax.compilation import hlo
from atss_jax.compilation.compiled import (
    Compiled,
    Memory,
    OutOfMemory,
    compile_program,
    work_of,
)
from atss_jax.compilation.programs import largest_canvas
from atss_jax.compilation.topology import Topology
from atss_jax.config.experiment import Experiment
from atss_jax.data.plan import Canvas
from atss_jax.files.child_process import (
    InChild,
    end_with_parent,
    ignore_stop_signals,
    sendable,
    stop_signals_blocked,
)

CODE_PER_INSTRUCTION = 45_000
"""Bytes by which a program grows per instruction when its code is generated, about.

The most of the shipped configs' programs that were compiled to their end, with 8 images
for a v5e or v6e: 0.1 to 0.5 GiB of code, and up to 0.15 GiB of temporaries.
"""

# In the order in which they are written. The last has the text of the first again, and
# is begun when the others are complete and the compiler found that all arrays fit.
_TEXT = '*.after_optimizations.txt'
_PLAN = '*.after_optimizations-buffer-assignment.txt'
_VALUES = '*.after_optimizations-buffer-assignment-values.txt'
_NEXT = '*.after_optimizations_after_buffer_assignment.txt'
_SECONDS_BETWEEN_LOOKS = 0.1


def plan_program(
    program: str,
    experiment: Experiment,
    topology: Topology,
    canvas: Canvas | None = None,
    samples: int | None = None,
    code_per_instruction: int = CODE_PER_INSTRUCTION,
) -> Compiled:
    """Has a program planned, which takes seconds to a few minutes.

    If the compiler does not write its plan, which a later version may not do, it runs
    to its end: the result has code, and there is a warning.

    Args:
        program: one of `PROGRAMS`.
        experiment: what the config describes.
        topology: the chips.
        canvas: height and width; None: the largest of the config.
        samples: images per chip; None: as the config says.
        code_per_instruction: bytes that its code is reckoned to take.

    Raises:
        OutOfMemory: it does not fit into the HBM of a chip, its code included.
        ValueError: as `compile_program`.
        OSError: the compiler's process ended early, or its files are incomplete.
    """
    canvas = largest_canvas(experiment, program) if canvas is None else canvas
    samples = experiment.samples_per_gpu if samples is None else samples
    began, cpu_began = time.perf_counter(), _cpu_of_children()
    with tempfile.TemporaryDirectory() as folder:
        whole = _wait_for_plan(folder, (program, experiment, topology, canvas, samples))
        if whole is not None:
            return whole
        text, allocations = _read(folder)
    work = work_of(topology, text, _count_operations(text))
    code = work['traffic'].instructions * code_per_instruction
    planned = Compiled(
        program=program,
        topology=topology,
        canvas=canvas,
        samples=samples,
        memory=_memory(allocations, code),
        **work,
        seconds=time.perf_counter() - began,
        cpu_seconds=_cpu_of_children() - cpu_began,
        has_code=False,
    )
    _check_fit(planned)
    return planned


# The compiler's process ---------------------------------------------------------------


def _wait_for_plan(folder, arguments):
    """Has the plan written into a folder; gives the result of a whole compilation."""
    with _compiling(folder, arguments) as (process, pipe):
        while not pipe.poll(_SECONDS_BETWEEN_LOOKS):
            if any(pathlib.Path(folder).glob(_NEXT)):
                return None
        return _answer(process, pipe)


@contextlib.contextmanager
def _compiling(
    folder, arguments
) -> Iterator[tuple[multiprocessing.Process, connection.Connection]]:
    """A process that compiles, and its pipe; it is killed at the end."""
    context = multiprocessing.get_context('spawn')
    pipe, end = context.Pipe()
    process = context.Process(
        target=_compile, args=(end, folder, arguments), daemon=True
    )
    with stop_signals_blocked():
        process.start()
    end.close()  # so that the pipe ends with the process
    try:
        yield process, pipe
    finally:
        process.kill()
        process.join()


def _compile(end, folder, arguments):
    """Sends what `compile_program` returns, or raises and where."""
    ignore_stop_signals()
    end_with_parent(lambda: shutil.rmtree(folder, ignore_errors=True))
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    try:
        answer = compile_program(*arguments, options=options), ''
    except Exception as error:  # the parent raises whatever it is
        answer = sendable(error), traceback.format_exc()
    end.send(answer)


def _answer(process, pipe):
    try:
        result, place = pipe.recv()
    except EOFError:
        process.join()
        raise _ended(process.exitcode) from None
    if isinstance(result, Exception):
        raise result from InChild(place)
    version = importlib.metadata.version('libtpu')
    warnings.warn(
        f'libtpu {version} wrote no plan of the program, and compiled it to its end',
        stacklevel=2,
    )
    return result


def _ended(status):
    """The error that says why the compiler's process may have ended with `status`."""
    if status == -9:
        reason = (
            'memory ran out? A plan needs 2 to 4 GB of it, and code up to 8; fewer at '
            'once need less'
        )
    else:
        reason = 'the lines above may say why'
    return OSError(f"the compiler's process ended with status {status}: {reason}")


def _cpu_of_children():
    times = os.times()
    return times.children_user + times.children_system


# What it wrote ------------------------------------------------------------------------


class _Allocation(NamedTuple):
    """A range of memory: `allocation 3: size 512, parameter 30, maybe-live-out:`."""

    size: int
    space: int
    is_argument: bool
    is_output: bool


def _read(folder):
    """The optimized program, and all ranges of memory."""
    text, plan, values = (_only(folder, x) for x in (_TEXT, _PLAN, _VALUES))
    allocations = list(_allocations(plan))
    total = re.search(r'^Total bytes used: (\d+)', values, re.MULTILINE)
    is_whole = total and int(total[1]) == sum(x.size for x in allocations)
    if not is_whole or not text.rstrip().endswith('}'):
        raise OSError(
            f'{folder}: what the compiler wrote there is incomplete; is the disk full? '
            'TMPDIR=FOLDER in the environment has it write elsewhere'
        )
    return text, allocations


def _only(folder, pattern):
    (path,) = pathlib.Path(folder).glob(pattern)
    return path.read_text()


def _allocations(plan):
    """The ranges of memory of XLA's `buffer-assignment`."""
    for match in re.finditer(r'^allocation \d+: size (\d+)(.*)', plan, re.MULTILINE):
        words = re.sub(r'\|.*?\|', '', match[2])  # names of shapes hold commas
        space = re.search(r'color (\d+)', words)
        yield _Allocation(
            size=int(match[1]),
            space=int(space[1]) if space else hlo.HBM,
            is_argument=' parameter ' in words,
            is_output='maybe-live-out' in words,
        )


def _memory(allocations, code):
    in_hbm = [x for x in allocations if x.space == hlo.HBM]
    arguments = [x for x in in_hbm if x.is_argument]
    outputs = [x for x in in_hbm if x.is_output and not x.is_argument]
    others = [x for x in in_hbm if not x.is_output and not x.is_argument]
    return Memory(
        arguments=sum(x.size for x in arguments),
        outputs=sum(x.size for x in outputs),
        temporaries=sum(x.size for x in others),
        code=code,
        aliased=sum(x.size for x in arguments if x.is_output),
    )


@functools.cache
def _cpu_client():
    """Not one of JAX, which has none if JAX_PLATFORMS names other platforms only."""
    return make_cpu_client()


def _count_operations(text):
    """Operations of an optimized program, as `cost_analysis` of a compiled one."""
    module = _hlo.hlo_module_from_text(text)
    return float(_jax.hlo_module_cost_analysis(_cpu_client(), module)['flops'])


def _check_fit(planned):
    needed, available = planned.memory.total, planned.topology.chip.available
    if needed > available:
        gib = 2**30
        raise OutOfMemory(
            f'{planned.program}: {planned.samples} images per chip do not fit into the '
            f'HBM of a chip: {needed / gib:.2f} of {available / gib:.2f} GiB, '
            f'{planned.memory.code / gib:.2f} GiB of them by an estimate of its code',
            needed,
        )
