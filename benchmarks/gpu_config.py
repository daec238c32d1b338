"""A worker of `gpu_everything.py`: the training step of any config, timed when asked.

    python -m benchmarks.gpu_config JSON

Compiles and runs one step, and prints its seconds as JSON. For each line on its input
it then runs some steps and prints the seconds of one; at the end of its input it prints
the peak of the memory. So several processes, each with XLA flags of its own, can be
timed in turns.
"""

import dataclasses
import json
import sys
import time
from typing import Any

import jax

from atss_jax.config import build_experiment, load_config
from atss_jax.data.plan import round_up
from atss_jax.distributed import devices
from atss_jax.structures import BATCH_AXIS
from benchmarks.gpu_work import is_out_of_memory
from benchmarks.programs import Programs


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step to time.

    Attributes:
        config: name or path.
        overrides: fields of the config by path.
        batch: images.
        canvas: height, width of all images, rounded up to what the model takes.
        dtype: what the network computes in.
        steps: number of steps that are timed together.
    """

    config: str
    overrides: dict[str, Any]
    batch: int
    canvas: tuple[int, int]
    dtype: str
    steps: int


def say(**values: Any) -> None:
    """Prints a line for the program that reads it."""
    print(json.dumps(values), flush=True)


def serve(step: Step) -> None:
    """Compiles, then times once for each line of the input."""
    experiment = build_experiment(load_config(step.config, step.overrides))
    divisor = experiment.model.size_divisor
    canvas = tuple(round_up(side, divisor) for side in step.canvas)
    began = time.perf_counter()
    built = Programs(experiment, canvas, step.batch, step.dtype)
    function, (state, batch), _ = built.train_step()
    by_rows = jax.sharding.PartitionSpec(BATCH_AXIS)
    batch = jax.device_put(
        batch, jax.sharding.NamedSharding(devices.device_mesh(), by_rows)
    )

    def run(count):
        nonlocal state
        for _ in range(count):
            state, metrics = function(state, batch)
        jax.block_until_ready((state, metrics))

    run(1)
    say(first_seconds=time.perf_counter() - began)
    for _ in sys.stdin:
        began = time.perf_counter()
        run(step.steps)
        say(seconds=(time.perf_counter() - began) / step.steps)
    stats = jax.local_devices()[0].memory_stats() or {}
    say(
        peak_bytes=stats.get('peak_bytes_in_use'),
        version=f'jax {jax.__version__}',
        device=jax.local_devices()[0].device_kind,
    )


def main() -> None:
    """Reads the step from the command line; running out of memory is a result."""
    fields = json.loads(sys.argv[1])
    try:
        serve(Step(**{**fields, 'canvas': tuple(fields['canvas'])}))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        say(error='out of memory')


if __name__ == '__main__':
    main()
