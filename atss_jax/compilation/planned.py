"""A program of a config as the compiler plans it: optimized, with a place in memory for
each array, but without machine code.

Generating the code is most of the work of the compiler for TPUs, minutes to an hour,
and says little more. It cannot be told to leave that out. So it runs in a process of
its own, writes the optimized program and the plan of memory into files before it goes
on to the code, and is stopped then.
"""

import contextlib
import multiprocessing
import os
import pathlib
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from typing import NamedTuple

import jax
from jaxlib import _hlo, _jax  # JAX has no public way to count operations of a text

from atss_jax.compilation import hlo
from atss_jax.compilation.bounds import bounds
from atss_jax.compilation.compiled import (
    Compiled,
    Memory,
    OutOfMemory,
    compile_program,
)
from atss_jax.compilation.operations import repeated
from atss_jax.compilation.programs import largest_canvas
from atss_jax.compilation.topology import Topology, mesh_of
from atss_jax.compilation.traffic import traffic
from atss_jax.config.experiment import Experiment
from atss_jax.data.plan import Canvas

CODE_PER_INSTRUCTION = 45_000
"""Bytes by which a program grows per instruction when its code is generated.

The most of the shipped configs' programs that were compiled to their end for a v5e or
v6e: 0.1 to 0.5 GiB of code, and up to 0.15 GiB of temporaries.
"""

# In the order in which they are written. The third has the text of the first again, and
# is begun when the others are complete and the compiler found that all arrays fit.
_TEXT = '*.after_optimizations.txt'
_PLAN = '*.after_optimizations-buffer-assignment.txt'
_NEXT = '*.after_optimizations_after_buffer_assignment.txt'
_SECONDS_BETWEEN_LOOKS = 0.1
_HBM = 0  # number of the memory space; others are on the chip


def plan_program(
    program: str,
    experiment: Experiment,
    topology: Topology,
    canvas: Canvas | None = None,
    samples: int | None = None,
) -> Compiled:
    """Has a program planned, which takes seconds to a few minutes.

    If the compiler does not write what it should, which a later version may not do, it
    runs to its end, and the result has code.

    Args:
        program: one of `PROGRAMS`.
        experiment: what the config describes.
        topology: the chips.
        canvas: height and width; None: the largest of the config.
        samples: images per chip; None: as the config says.

    Raises:
        OutOfMemory: it does not fit into the HBM of a chip, an estimate of its code
            included.
        ValueError: as `compile_program`.
        OSError: the compiler's process was killed.
    """
    canvas = largest_canvas(experiment, program) if canvas is None else canvas
    samples = experiment.samples_per_gpu if samples is None else samples
    began, cpu_began = time.perf_counter(), _cpu_of_children()
    with tempfile.TemporaryDirectory() as folder:
        arguments = program, experiment, topology, canvas, samples
        with _compiling(folder, arguments) as pipe:
            while not pipe.poll(_SECONDS_BETWEEN_LOOKS):
                if any(pathlib.Path(folder).glob(_NEXT)):
                    break
            else:
                return _answer(pipe)
        text, plan = (_only(folder, pattern).read_text() for pattern in (_TEXT, _PLAN))
    parsed = hlo.parse(text)
    moved = traffic(parsed)
    operations = _count_operations(text) + repeated(parsed)
    planned = Compiled(
        program=program,
        topology=topology,
        canvas=canvas,
        samples=samples,
        memory=_memory(plan, moved.instructions * CODE_PER_INSTRUCTION),
        operations=operations,
        traffic=moved,
        bounds=bounds(topology, operations, moved),
        text=text,
        seconds=time.perf_counter() - began,
        cpu_seconds=_cpu_of_children() - cpu_began,
        has_code=False,
    )
    _check_fit(planned)
    return planned


# The compiler's process ---------------------------------------------------------------


@contextlib.contextmanager
def _compiling(folder, arguments) -> Iterator[connection.Connection]:
    """The pipe of a process that compiles; it is killed at the end."""
    context = multiprocessing.get_context('spawn')
    pipe, end = context.Pipe()
    process = context.Process(
        target=_compile, args=(end, folder, *arguments), daemon=True
    )
    process.start()
    end.close()  # so that the pipe ends with the process
    try:
        yield pipe
    finally:
        process.kill()
        process.join()


def _compile(end, folder, program, experiment, topology, canvas, samples):
    """Sends what `compile_program` returns or raises."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    try:
        mesh = mesh_of(topology)
        result = compile_program(
            program, experiment, topology, mesh, canvas, samples, options
        )
    except ValueError as error:
        result = error
    end.send(result)


def _end_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _answer(pipe):
    try:
        result = pipe.recv()
    except EOFError:
        raise OSError(
            "the compiler's process was killed; it needs up to 8 GB of memory"
        ) from None
    if isinstance(result, ValueError):
        raise result
    return result


def _cpu_of_children():
    times = os.times()
    return times.children_user + times.children_system


# What it wrote ------------------------------------------------------------------------


def _only(folder, pattern):
    (path,) = pathlib.Path(folder).glob(pattern)
    return path


def _count_operations(text):
    """Operations of an optimized program, as `cost_analysis` of a compiled one."""
    client = jax.local_devices(backend='cpu')[0].client
    module = _hlo.hlo_module_from_text(text)
    return float(_jax.hlo_module_cost_analysis(client, module)['flops'])


class _Allocation(NamedTuple):
    """A range of memory: `allocation 3: size 512, parameter 30, maybe-live-out:`."""

    size: int
    is_argument: bool
    is_output: bool


def _allocations(plan: str) -> Iterator[_Allocation]:
    """Those in HBM."""
    for match in re.finditer(r'^allocation \d+: size (\d+)(.*)', plan, re.MULTILINE):
        # Names of shapes hold commas.
        words = re.sub(r'\|.*?\|', '', match[2])
        space = re.search(r'color (\d+)', words)
        if space is None or int(space[1]) == _HBM:
            yield _Allocation(
                int(match[1]), ' parameter ' in words, 'maybe-live-out' in words
            )


def _memory(plan, code):
    """Bytes by the plan of memory, the text of XLA's `buffer-assignment`."""
    found = list(_allocations(plan))
    arguments = [x for x in found if x.is_argument]
    outputs = [x for x in found if x.is_output and not x.is_argument]
    others = [x for x in found if not x.is_output and not x.is_argument]
    return Memory(
        arguments=sum(x.size for x in arguments),
        outputs=sum(x.size for x in outputs),
        temporaries=sum(x.size for x in others),
        code=code,
        aliased=sum(x.size for x in arguments if x.is_output),
    )


def _check_fit(planned):
    needed, available = planned.memory.total, planned.topology.chip.available
    if needed > available:
        gib = 2**30
        raise OutOfMemory(
            f'{planned.program}: {planned.samples} images per chip do not fit into the '
            f'HBM of a chip: {needed / gib:.2f} of {available / gib:.2f} GiB, '
            f'{planned.memory.code / gib:.2f} GiB for its code included',
            needed,
        )
