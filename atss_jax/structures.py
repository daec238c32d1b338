"""The two things that flow between the parts: head outputs and detections."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


class HeadOutputs(NamedTuple):
    """What the head says, before sigmoid and before decoding; one entry a level.

    With several anchors a cell (`a` of them) the channels are anchor-major: `a*C`,
    `a*4` and `a`, so that a reshape to `(-1, C)` lists anchors in row, column, anchor
    order. A single image has no leading B.
    """

    cls_logits: tuple[Float[Array, '*B Hl Wl _c'], ...]
    deltas: tuple[Float[Array, '*B Hl Wl _d'], ...]
    centerness: tuple[Float[Array, '*B Hl Wl _a'], ...]


class Detections(NamedTuple):
    """Objects found in one image, best first; rows beyond the last have valid=False."""

    boxes: Float[Array, '*B N 4']
    scores: Float[Array, '*B N']
    labels: Int[Array, '*B N']
    valid: Bool[Array, '*B N']
