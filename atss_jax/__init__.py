"""ATSS (arXiv 1912.02424) in JAX and Flax, exact to mmdetection.

Letters in array shapes, everywhere in the package:

    B batch        H W height, width      C classes     A anchors over all levels
    L levels       G padded boxes         K candidates  N detections

Boxes are float32 `xyxy` in continuous pixels (no +1) of the resized image unless
a name says otherwise (`boxes_original`). Labels are 0..C-1. Validity is always a
bool array, never a sentinel value.
"""

__version__ = '0.1.0'
