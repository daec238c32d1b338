"""How far the outputs of an exported detector are from those of the model in JAX."""

import dataclasses

import numpy as np

from atss_jax.structures import Detections

HEAD_TOLERANCE = 1e-4
BOX_TOLERANCE = 1e-2  # pixels of the original image
SCORE_TOLERANCE = 1e-4
_SAME_BOX, _SAME_SCORE = 1.0, 0.01  # within these, two detections are of one object


@dataclasses.dataclass
class Differences:
    """The largest absolute differences.

    Attributes:
        heads: of logits, deltas and centerness, in valid cells.
        boxes: of detections, in pixels of the original image.
        scores: of detections.
        images: number of images compared.
        matched: number of detections compared.
        unmatched: detections without a counterpart. There may be some where scores or
            overlaps are equal except for rounding.
        unexplained: those without a counterpart even if JAX starts from ONNX's own
            head outputs.
    """

    heads: float = 0.0
    boxes: float = 0.0
    scores: float = 0.0
    images: int = 0
    matched: int = 0
    unmatched: int = 0
    unexplained: int = 0

    def text(self, heads_only: bool = False) -> str:
        """For the user; `heads_only`: there are no detections in the file."""
        heads = (
            f'compared with JAX on {self.images} images: heads differ by at most '
            f'{self.heads:.1e}'
        )
        if heads_only:
            return heads
        if not self.matched + self.unmatched:
            return f'{heads}; they have no detections (--images compares on others)'
        text = (
            f'{heads}, {self.matched} detections by {self.boxes:.1e} px and '
            f'{self.scores:.1e} in the score'
        )
        if not self.unmatched:
            return text
        return f'{text}; {self.unmatched} detections have no counterpart'

    def problem(self) -> str | None:
        """What is beyond the tolerances; None if nothing is."""
        limits = (
            ('heads', self.heads, HEAD_TOLERANCE),
            ('boxes', self.boxes, BOX_TOLERANCE),
            ('scores', self.scores, SCORE_TOLERANCE),
            ('detections without a counterpart', self.unexplained, 0),
        )
        # Not `value > limit`, which is false for NaN.
        wrong = [
            f'{name} {value:.2g} (at most {limit:g})'
            for name, value, limit in limits
            if not value <= limit
        ]
        return ', '.join(wrong) or None

    def add_heads(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Compares arrays of head outputs."""
        self.heads = _larger(self.heads, np.abs(ours - theirs).max())

    def add_detections(self, ours: Detections, theirs: Detections) -> None:
        """Compares the detections in one image; both without padding."""
        pairs = match(ours, theirs)
        for i, j in pairs:
            self.boxes = _larger(self.boxes, _box_distance(ours, i, theirs, j))
            distance = abs(ours.scores[i] - theirs.scores[j])
            self.scores = _larger(self.scores, distance)
        self.matched += len(pairs)
        self.unmatched += len(ours.scores) + len(theirs.scores) - 2 * len(pairs)


def _larger(a, b):
    """The maximum; NaN if one of them is."""
    return float(np.maximum(a, b))


def match(ours: Detections, theirs: Detections) -> list[tuple[int, int]]:
    """Pairs of indices of detections that are the same except for rounding."""
    pairs, free = [], set(range(len(theirs.scores)))
    for i, label in enumerate(ours.labels):
        near = [
            (_box_distance(ours, i, theirs, j), j)
            for j in free
            if theirs.labels[j] == label
            and abs(theirs.scores[j] - ours.scores[i]) < _SAME_SCORE
        ]
        distance, j = min(near, default=(np.inf, -1))
        if distance < _SAME_BOX:
            pairs.append((i, j))
            free.remove(j)
    return pairs


def _box_distance(ours, i, theirs, j):
    return float(np.abs(ours.boxes[i] - theirs.boxes[j]).max())
