"""A program of a config, compiled for a topology, and what the compiler says of it.

`compile_program` compiles it to its end, machine code included. `planned.py` stops the
compiler before that.
"""

import contextlib
import dataclasses
import gc
import importlib.metadata
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from atss_jax.compilation import hlo
from atss_jax.compilation.bounds import Bounds, bounds
from atss_jax.compilation.operations import repeated
from atss_jax.compilation.programs import largest_canvas, lowered
from atss_jax.compilation.topology import Topology, mesh_of
from atss_jax.compilation.traffic import Traffic, traffic
from atss_jax.config.experiment import Experiment
from atss_jax.data.plan import Canvas

_NUMBER = r'([\d.]+)([KMGT]?)'
# The two ways in which the compiler says how much too much it is.
_TOO_MUCH = re.compile(
    rf'Used {_NUMBER} of {_NUMBER} hbm|'
    rf'\({_NUMBER}\) exceeds available HBM \({_NUMBER}\)',
    re.IGNORECASE,
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Memory(NamedTuple):
    """Bytes of HBM of one chip.

    Attributes:
        arguments: weights, state of the optimizer and the batch.
        outputs: what the program returns, where it does not reuse arguments.
        temporaries: everything between.
        code: the program itself; of a program that is only planned an estimate.
        aliased: bytes of arguments that outputs reuse, which do not count twice.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    aliased: int

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.arguments + self.outputs + self.temporaries + self.code


class OutOfMemory(ValueError):
    """The compiler needs more HBM than the chip has.

    Attributes:
        needed: bytes that the program needs; None: the compiler does not say.
    """

    def __init__(self, message: str, needed: int | None):
        super().__init__(message, needed)  # all of it, so that it can be pickled
        self.needed = needed

    def __str__(self) -> str:
        return self.args[0]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program.

    Attributes:
        program: its name, one of `PROGRAMS`.
        topology: the chips.
        canvas: height and width of the images.
        samples: images per chip.
        memory: HBM of one chip.
        operations: floating-point operations of one chip.
        traffic: what one chip moves.
        bounds: least times.
        text: the program, as XLA writes it.
        seconds: wall-clock time of tracing and compiling here.
        cpu_seconds: the same in processor time.
        has_code: whether its machine code was generated. Before that the compiler has
            no cycles of instructions.
    """

    program: str
    topology: Topology
    canvas: Canvas
    samples: int
    memory: Memory
    operations: float
    traffic: Traffic
    bounds: Bounds
    text: str
    seconds: float
    cpu_seconds: float
    has_code: bool = True

    @property
    def estimated_seconds(self) -> float | None:
        """Time of one run by the cycles that the compiler estimates; None: by none."""
        if not self.traffic.cycles:
            return None
        return self.traffic.cycles / self.topology.chip.clock

    def to_json(self) -> dict[str, Any]:
        """All but the text, as plain values."""
        moved = self.traffic
        return {
            'program': self.program,
            'topology': str(self.topology),
            'chips': self.topology.chips,
            'canvas': list(self.canvas),
            'samples_per_gpu': self.samples,
            'hbm_bytes': self.topology.chip.hbm,
            'memory_bytes': {**self.memory._asdict(), 'total': self.memory.total},
            'operations': self.operations,
            'traffic_bytes': moved.size,
            'traffic_by_kind': moved.by_kind(),
            'traffic_by_module': moved.by_module(),
            'all_reduce_bytes': sum(moved.all_reduces),
            'all_reduces': len(moved.all_reduces),
            'between_slices_bytes': sum(moved.between_slices),
            'instructions': moved.instructions,
            'loops_counted_once': moved.unknown_loops,
            'bounds_seconds': self.bounds._asdict(),
            'estimated_cycles': moved.cycles or None,
            'estimated_seconds': self.estimated_seconds,
            'estimated_cycles_by_module': moved.cycles_by_module(),
            'compile_seconds': self.seconds,
            'compile_cpu_seconds': self.cpu_seconds,
            'has_code': self.has_code,
            'versions': _versions(),
        }


def compile_program(
    program: str,
    experiment: Experiment,
    topology: Topology,
    canvas: Canvas | None = None,
    samples: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compiles a program of a config, which takes seconds to many minutes.

    Args:
        program: one of `PROGRAMS`.
        experiment: what the config describes.
        topology: the chips.
        canvas: height and width; None: the largest of the config.
        samples: images per chip; None: as the config says.
        options: options of XLA, by name.

    Raises:
        OutOfMemory: it does not fit into the HBM of a chip.
        ValueError: the canvas does not suit the model; libtpu is missing; or the
            compiler refuses the program for another reason.
    """
    canvas = largest_canvas(experiment, program) if canvas is None else canvas
    _check_canvas(canvas, experiment.model.size_divisor)
    mesh = mesh_of(topology)
    samples = experiment.samples_per_gpu if samples is None else samples
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        with without_cache(), _without_collection():
            compiled = lowered(program, experiment, mesh, canvas, samples).compile(
                dict(options or {})
            )
    except jax.errors.JaxRuntimeError as error:
        raise _refusal(error, program, topology, samples) from error
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    text, counted = compiled.as_text(), compiled.cost_analysis()['flops']
    return Compiled(
        program=program,
        topology=topology,
        canvas=canvas,
        samples=samples,
        memory=_memory(compiled.memory_analysis()),
        **work_of(topology, text, counted),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )


def work_of(topology: Topology, text: str, counted: float) -> dict[str, Any]:
    """What a program does, as the fields of `Compiled` of these names.

    Args:
        topology: the chips.
        text: the program, as XLA writes it.
        counted: its operations by XLA's count, which has each loop once.
    """
    parsed = hlo.parse(text)
    operations, moved = float(counted) + repeated(parsed), traffic(parsed)
    return {
        'operations': operations,
        'traffic': moved,
        'bounds': bounds(topology, operations, moved),
        'text': text,
    }


@contextlib.contextmanager
def without_cache():
    """Turns JAX's cache off: it writes programs for other machines, but reads none."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', enabled)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def _without_collection():
    """Turns garbage collection off: tracing creates a million objects that stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_canvas(canvas, divisor):
    if any(side < 1 or side % divisor for side in canvas):
        height, width = canvas
        raise ValueError(
            f'--canvas={height}x{width}: expected multiples of {divisor}, the divisor '
            'of image sizes of this model'
        )


def _memory(stats):
    aliased = stats.alias_size_in_bytes
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - aliased,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        aliased=aliased,
    )


def _refusal(error, program, topology, samples):
    """The error to raise for one of the compiler."""
    text = str(error)
    match = _TOO_MUCH.search(text)
    if match is None and 'RESOURCE_EXHAUSTED' not in text:
        return ValueError(f'the compiler refuses {program} for {topology}: {text}')
    needed = None
    message = f'{program}: {samples} images per chip do not fit into the HBM of a chip'
    if match:
        numbers = [group for group in match.groups() if group is not None]
        needed, available = _bytes(*numbers[:2]), _bytes(*numbers[2:])
        gib = 2**30
        message += f': {needed / gib:.2f} of {available / gib:.2f} GiB'
    return OutOfMemory(message, needed)


def _bytes(number, unit):
    return int(float(number) * _UNITS[unit.upper()])


def _versions():
    return {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}
