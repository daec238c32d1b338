"""Time, compile time, memory and arithmetic of each part of ATSS.

    python benchmarks/parts.py
    python benchmarks/parts.py --canvases 256x320 --dtypes float32 --repeats 10

Forward, training step, assignment, losses with their gradient, post-processing. Times
are medians of synchronized calls. Memory is what XLA plans for arguments, results and
work together. FLOP/s of a part, as XLA counts its operations, are given as a share of
those of a large matrix product in float32 and in bfloat16, measured in the same run.
"""

import argparse
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import programs
import timing

from atss_jax.commands.command_line import canvas
from atss_jax.config import build_experiment, load_config, parse_overrides

_MATMUL = {'cpu': 2048}
_MATMUL_ACCELERATOR = 8192
_MIB = 2**20


class Measured(NamedTuple):
    """Of one program.

    Attributes:
        seconds: of a call.
        compile_seconds: tracing included.
        bytes: arguments, results and work; None where XLA does not say.
        flops: of a call, as XLA counts; None likewise.
    """

    seconds: float
    compile_seconds: float
    bytes: int | None
    flops: float | None


def measure(program: programs.Program, repeats: int) -> Measured:
    """Compiles and times a program."""
    began = time.perf_counter()
    compiled = program.function.lower(*program.arguments).compile()
    compile_seconds = time.perf_counter() - began
    arguments = list(program.arguments)

    def call():
        result = jax.block_until_ready(compiled(*arguments))
        if program.carries:
            arguments[0] = result[0]

    seconds = timing.seconds(call, repeats)
    return Measured(seconds, compile_seconds, _bytes(compiled), _flops(compiled))


def _bytes(compiled):
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return total + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def _flops(compiled):
    counted = compiled.cost_analysis()
    counted = counted[0] if isinstance(counted, list) else counted
    return (counted or {}).get('flops')


def ceiling(dtype: str, repeats: int) -> float:
    """FLOP/s of a large square matrix product."""
    side = _MATMUL.get(jax.default_backend(), _MATMUL_ACCELERATOR)
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a, b: a @ b)
    best = timing.seconds(lambda: product(x, x).block_until_ready(), repeats, 2)
    return 2 * side**3 / best


def parts(
    made: programs.Programs, boxes: list[int], wanted: list[str]
) -> dict[str, programs.Program]:
    """Programs by name, in the order of the table; those wanted are built."""
    builders = {
        'forward': made.forward,
        'train step': made.train_step,
        'losses': made.losses,
        'post-processing': made.post_processing,
    }
    for count in boxes:
        name = f'assignment, {count} boxes'
        builders[name] = lambda count=count: made.assignment(count)
    for name, build in builders.items():
        if any(name.startswith(start) for start in wanted):
            yield name, build()


def row(name: str, found: Measured, limit: float) -> list[str]:
    """A line of the table."""
    memory = '' if found.bytes is None else f'{found.bytes / _MIB:.0f} MiB'
    work = rate = ''
    if found.flops:
        work = f'{found.flops / 1e9:.3g}'
        rate = f'{found.flops / found.seconds / limit:.0%}'
    times = timing.milliseconds(found.seconds), f'{found.compile_seconds:.1f} s'
    return [name, *times, memory, work, rate]


_HEADER = ('part', 'time', 'compile', 'memory', 'GFLOP', 'of matmul')
_PARTS = ('forward', 'train step', 'losses', 'post-processing', 'assignment')


def report(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Measures and prints a table for each canvas and type."""
    config = load_config(flags.config, parse_overrides(overrides))
    experiment = build_experiment(config)
    device = jax.devices()[0]
    print(f'{timing.machine()}; jax {jax.__version__}, {device.device_kind}')
    for dtype in flags.dtypes:
        limit = ceiling(dtype, 5)
        print(f'\n{dtype} matrix product: {limit / 1e9:.0f} GFLOP/s')
        for size in flags.canvases:
            made = programs.Programs(experiment, size, flags.batch_size, dtype)
            rows = []
            for name, program in parts(made, flags.boxes, flags.parts):
                print(f'{name} ...', file=sys.stderr, flush=True)
                rows.append(row(name, measure(program, flags.repeats), limit))
            print(f'\n{dtype}, canvas {size[0]}x{size[1]}, batch {flags.batch_size}\n')
            print(timing.table(_HEADER, rows), flush=True)


def main() -> int:
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--config', default='configs/atss_r50_1x.py')
    parser.add_argument(
        '--canvases', type=canvas, nargs='+', default=[(256, 320), (800, 1344)]
    )
    types = ('float32', 'bfloat16')
    parser.add_argument('--dtypes', nargs='+', default=types, choices=types)
    parser.add_argument('--parts', nargs='+', default=_PARTS, choices=_PARTS)
    parser.add_argument('--boxes', type=int, nargs='+', default=[8, 100, 500])
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    flags, overrides = parser.parse_known_args()
    try:
        report(flags, overrides)
    except (ValueError, OSError) as error:
        print(f'parts.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
