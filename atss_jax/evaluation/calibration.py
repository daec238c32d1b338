"""Whether a detection with score 0.7 is right in 7 cases of 10."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores against the share of right detections, in bins of equal width.

    Attributes:
        edges: (n+1,) of the bins, 0 to 1.
        counts: (n,) detections.
        scores: (n,) their mean score; nan in an empty bin.
        precision: (n,) share of them that is right; nan in an empty bin.
        error: mean distance of the two, weighted by counts (the expected calibration
            error); nan without detections.
    """

    edges: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    precision: np.ndarray
    error: float


def calibrate(scores: np.ndarray, correct: np.ndarray, bins: int = 10) -> Calibration:
    """Compares scores (N,) in 0..1 with what was right (N,) bool.

    Bins are closed at their lower edge, the last one at both.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599).
    """
    edges = np.linspace(0, 1, bins + 1)
    own = np.clip(np.searchsorted(edges, scores, side='right') - 1, 0, bins - 1)
    counts = np.bincount(own, minlength=bins)

    def mean(values):
        total = np.bincount(own, weights=values, minlength=bins)
        empty = np.full(bins, np.nan)
        return np.divide(total, counts, out=empty, where=counts > 0)

    means, precision = mean(scores), mean(correct.astype(float))
    gaps = np.nan_to_num(np.abs(means - precision)) * counts
    error = float(gaps.sum() / counts.sum()) if counts.any() else float('nan')
    return Calibration(edges, counts, means, precision, error)
