"""What the programs that `benchmarks/gpu.py` compares have in common.

Each measurement is a process of its own, so that memory of one job does not count for
another and the peak is that of one job. Imports only NumPy and the standard library.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import timing

NUM_CLASSES = 80
BOXES = 8  # objects per image; COCO has 7.3


@dataclasses.dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        work: 'ceiling', 'training' or 'inference'.
        batch: images per step.
        canvas: height, width of all images.
        depth: of the ResNet.
        dtype: what the network computes in.
        steps: number of steps that are timed together.
        repeats: number of times that `steps` steps are timed; the median counts.
        mapping: how our step is mapped over the device, the config's `parallel`.
        compiled: whether the peer uses torch.compile.
        matmul: side of the matrices whose product is the ceiling.
        profile: folder for a trace of `steps` steps; None: no trace.
    """

    work: str
    batch: int = 1
    canvas: tuple[int, int] = (800, 1344)
    depth: int = 50
    dtype: str = 'bfloat16'
    steps: int = 10
    repeats: int = 5
    mapping: str = 'pmap'
    compiled: bool = False
    matmul: int = 8192
    profile: str | None = None


def images(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise (B,H,W,3) uint8 that fills the canvas; boxes (B,n,4), labels (B,n)."""
    rng = np.random.default_rng(0)
    height, width = job.canvas
    image = rng.integers(0, 256, (job.batch, height, width, 3), np.uint8)
    limits = np.array([width, height], np.float32)
    sides = rng.uniform(0.05, 0.4, (job.batch, BOXES, 2)) * limits
    corner = rng.uniform(0, 1, sides.shape) * (limits - sides)
    boxes = np.concatenate([corner, corner + sides], -1).astype(np.float32)
    return image, boxes, rng.integers(0, NUM_CLASSES, (job.batch, BOXES), np.int32)


def measure(run: Callable[[int], None], job: Job) -> dict[str, float]:
    """Seconds of the first step, compilation included, and of each later one.

    Args:
        run: runs a number of steps and returns when the device has finished them.
        job: says how many steps, and how often.
    """
    began = time.perf_counter()
    run(1)
    first = time.perf_counter() - began
    median = timing.seconds(lambda: run(job.steps), job.repeats)
    return {'first_seconds': first, 'seconds': median / job.steps}


def main(do: Callable[[Job], dict[str, Any]]) -> None:
    """Runs the job given on the command line and prints its result as JSON.

    Running out of memory is a result, which the table shows; all else is an error.
    """
    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, 'canvas': tuple(fields['canvas'])})
    try:
        result = do(job)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(str(error).partition('\n')[0], file=sys.stderr)
        result = {'error': 'out of memory'}
    print(json.dumps(result))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the host has no memory left.

    Neither library uses one exception type for all cases, so the text decides.
    """
    words = ('resource_exhausted', 'out of memory', 'alloc_failed')
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in words)
