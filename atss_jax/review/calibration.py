"""How the strength of evidence becomes the probability of a fault.

The evidence for a kind of fault is a number that is larger the more it looks like one.
How large it is if there is a fault is known from faults that are rehearsed: made on
purpose, one at a time, next to the same detections. How large it is at all is known
from the annotations as they are. With `share` of the annotations faulty, Bayes' rule is

    P(fault | evidence) = share * density_rehearsed(evidence) / density(evidence)

in which the densities are estimated under the condition that the result does not fall
when the evidence grows.
"""

import numpy as np

SHARE = 0.05
"""Share of the annotations that have a fault of one kind, before they are looked at."""


def fault_probability(
    evidence: np.ndarray, rehearsed: np.ndarray, share: float, count: int | None = None
) -> np.ndarray:
    """(N,) probability that each suspect is a fault; it never falls with the evidence.

    Args:
        evidence: (N,) of the suspects as they are.
        rehearsed: (M,) of the rehearsed faults.
        share: of the annotations that are expected to be faulty.
        count: number of annotations; None: each is a suspect once.
    """
    if not len(evidence) or not len(rehearsed):
        return np.zeros(len(evidence))
    faults = share * (len(evidence) if count is None else count)
    values = np.concatenate([evidence, rehearsed])
    is_rehearsed = np.repeat([0.0, 1.0], [len(evidence), len(rehearsed)])
    weights = np.where(is_rehearsed > 0, faults / len(rehearsed), 1.0)
    part = rising_mean(values, is_rehearsed, weights)[: len(evidence)]
    # The share that is rehearsed, of all that has such evidence; as a ratio of the two.
    return np.minimum(part / np.maximum(1 - part, 1e-9), 1.0)


def rising_mean(
    places: np.ndarray, values: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(N,) the nearest values, in weighted squares, that do not fall along `places`.

    Equal places have equal results. For example the values 1, 3, 2, 5 at the places
    0, 1, 2, 3 with equal weights give 1, 2.5, 2.5, 5.

    Source: isotonic regression by pooling adjacent violators (Ayer et al., 1955).
    """
    unique, index = np.unique(places, return_inverse=True)
    totals = np.bincount(index, weights, len(unique))
    sums = np.bincount(index, weights * values, len(unique))
    blocks: list[list[float]] = []  # sum, weight, number of places
    for block_sum, weight in zip(sums.tolist(), totals.tolist(), strict=True):
        blocks.append([block_sum, weight, 1])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    means = np.repeat([_mean(block) for block in blocks], [b[2] for b in blocks])
    return means[index]


def _mean(block):
    return block[0] / block[1]
