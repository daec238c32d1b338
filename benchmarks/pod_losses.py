"""What a pod loses to failures, to checkpoints and to its slowest host."""

import math

import numpy as np

# Hours between failures of one device with its share of host and network.
HOURS = {
    # 419 unexpected interruptions of 16,384 H100 in 54 days: arXiv 2407.21783, 3.3.4.
    'Llama 3': 54 * 24 * 16384 / 419,
    # Over 100 hosts replaced in two months of 992 A100: arXiv 2205.01068, 2.5.
    'OPT-175B': 60 * 24 * 992 / 100,
}


def best_interval(save: float, between: float) -> float:
    """Seconds between checkpoints that lose least: Young's `sqrt(2 save between)`.

    Args:
        save: seconds that steps wait for a save.
        between: mean seconds between failures.

    Source: J. W. Young, "A first order approximation to the optimum checkpoint
    interval", Communications of the ACM 17(9), 1974. Daly's correction (Future
    Generation Computer Systems 22(3), 2006) is below 1 % for these numbers.
    """
    return math.sqrt(2 * save * between)


def lost_share(interval: float, save: float, between: float, restart: float) -> float:
    """Share of the time that checkpoints and failures cost.

    A failure costs a restart and, on average, half of an interval.

    Args:
        interval: seconds between checkpoints.
        save: seconds that steps wait for a save.
        between: mean seconds between failures.
        restart: seconds from a failure to the next step.
    """
    return save / interval + (interval / 2 + restart) / between


def waiting_share(
    batch_seconds: np.ndarray, step_seconds: float, workers: int, ahead: int
) -> float:
    """Share of the time that a pod waits for the slowest host's next batch.

    Each host has workers that load whole batches in turns; none begins a batch before
    the step `ahead` batches earlier has begun. A step begins when all hosts have their
    batch and the step before is done.

    Args:
        batch_seconds: (steps, hosts) seconds that a worker loads a batch.
        step_seconds: seconds of a step.
        workers: per host.
        ahead: number of batches that may be finished and wait; at least 1.
    """
    steps, hosts = batch_seconds.shape
    ready = np.zeros((steps, hosts))
    starts = np.zeros(steps)
    for step in range(steps):
        free = ready[step - workers] if step >= workers else np.zeros(hosts)
        allowed = starts[step - ahead] if step >= ahead else 0.0
        ready[step] = np.maximum(free, allowed) + batch_seconds[step]
        before = starts[step - 1] + step_seconds if step else 0.0
        starts[step] = max(before, ready[step].max())
    whole = starts[-1] - starts[0]
    return max(0.0, 1 - (steps - 1) * step_seconds / whole)
