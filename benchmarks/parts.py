"""Time, compile time, memory and arithmetic of each part of ATSS.

    python benchmarks/parts.py
    python benchmarks/parts.py --canvases 256x320 --dtypes float32 --repeats 10

The parts are forward, training step, assignment, losses with their gradient, and
post-processing. Times are medians of synchronized calls. Memory is what XLA plans for
arguments, results and temporaries together. The FLOP/s of a part, by XLA's count of its
operations, are given as a share of those of a large matrix product of the same dtype,
measured in the same run.
"""

import argparse
import sys
import time
from collections.abc import Iterator
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
    """The measurements of one program.

    Attributes:
        seconds: of a call.
        compile_seconds: of tracing and compiling.
        bytes: arguments, results and temporaries; None where XLA does not say.
        flops: of a call, by XLA's count; None where XLA does not say.
    """

    seconds: float
    compile_seconds: float
    bytes: int | None
    flops: float | None


def measure(program: programs.Program, repeats: int) -> Measured:
    """Compiles and times a program."""
    began = time.perf_counter()
    compiled = program.compile()
    compile_seconds = time.perf_counter() - began
    seconds = timing.seconds(program.caller(compiled), repeats)
    return Measured(seconds, compile_seconds, _bytes(compiled), _flops(compiled))


def _bytes(compiled):
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes
    return total + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def _flops(compiled):
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return (costs or {}).get('flops')


def ceiling(dtype: str, repeats: int) -> float:
    """FLOP/s of a large square matrix product."""
    side = _MATMUL.get(jax.default_backend(), _MATMUL_ACCELERATOR)
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a, b: a @ b)
    median = timing.seconds(lambda: product(x, x).block_until_ready(), repeats, 2)
    return 2 * side**3 / median


def parts(
    built: programs.Programs, boxes: list[int], selected: list[str]
) -> Iterator[tuple[str, programs.Program]]:
    """Names and programs of the selected parts, in the order of the table."""
    builders = {
        'forward': built.forward,
        'train step': built.train_step,
        'losses': built.losses,
        'post-processing': built.post_processing,
    }
    for count in boxes:
        name = f'assignment, {count} boxes'
        builders[name] = lambda count=count: built.assignment(count)
    for name, build in builders.items():
        if any(name.startswith(start) for start in selected):
            yield name, build()


def row(name: str, measured: Measured, limit: float) -> list[str]:
    """A line of the table."""
    memory = '' if measured.bytes is None else f'{measured.bytes / _MIB:.0f} MiB'
    flops = share = ''
    if measured.flops:
        flops = f'{measured.flops / 1e9:.3g}'
        share = f'{measured.flops / measured.seconds / limit:.0%}'
    times = timing.milliseconds(measured.seconds), f'{measured.compile_seconds:.1f} s'
    return [name, *times, memory, flops, share]


_HEADER = ('part', 'time', 'compile', 'memory', 'GFLOP', 'of matmul')
_PARTS = ('forward', 'train step', 'losses', 'post-processing', 'assignment')


def report(flags: argparse.Namespace, overrides: list[str]) -> None:
    """Measures and prints a table for each canvas and dtype."""
    config = load_config(flags.config, parse_overrides(overrides))
    experiment = build_experiment(config)
    device = jax.devices()[0]
    print(f'{timing.machine()}; jax {jax.__version__}, {device.device_kind}')
    for dtype in flags.dtypes:
        limit = ceiling(dtype, 5)
        print(f'\n{dtype} matrix product: {limit / 1e9:.0f} GFLOP/s')
        for size in flags.canvases:
            built = programs.Programs(experiment, size, flags.batch_size, dtype)
            rows = []
            for name, program in parts(built, flags.boxes, flags.parts):
                print(f'{name} ...', file=sys.stderr, flush=True)
                rows.append(row(name, measure(program, flags.repeats), limit))
            print(f'\n{dtype}, canvas {size[0]}x{size[1]}, batch {flags.batch_size}\n')
            print(timing.table(_HEADER, rows), flush=True)


def main() -> int:
    """Reads the flags and measures."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--config', default='configs/atss_r50_1x.py')
    parser.add_argument(
        '--canvases', type=canvas, nargs='+', default=[(256, 320), (800, 1344)]
    )
    dtypes = ('float32', 'bfloat16')
    parser.add_argument('--dtypes', nargs='+', default=dtypes, choices=dtypes)
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
