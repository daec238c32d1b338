"""ATSS (arXiv 1912.02424) in JAX and Flax, exact to mmdetection.

    from atss_jax import Detector

    detector = Detector.load('atss_r50_fpn_1x_coco')  # or a workdir
    (detections,) = detector.predict(['street.jpg'])

Letters in array shapes, everywhere in the package:

    B batch        H W height, width      C classes     A anchors over all levels
    L levels       G padded boxes         K candidates  N detections

Boxes are float32 `xyxy` in continuous pixels (no +1) of the resized image unless
a name says otherwise (`boxes_original`). Labels are 0..C-1. Validity is always a
bool array, never a sentinel value.
"""

import importlib
import os

__version__ = '0.2.0'

_PUBLIC = {
    'Detector': 'atss_jax.inference.detector',
    'evaluate': 'atss_jax.evaluation.evaluate',
    'load_config': 'atss_jax.config',
}

__all__ = [*_PUBLIC, '__version__', 'train']


def __getattr__(name):
    """Imports a public name when it is first used: JAX takes seconds to load."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def train(config, workdir, profile=None, began=None, callbacks=()):
    """Trains, evaluates and saves as a config says; resumes what the workdir holds.

    Arguments, result and errors are those of `atss_jax.training.loop.train`, with the
    COCO metric as the evaluation.
    """
    from atss_jax.drawing.detections import make_drawing_evaluator
    from atss_jax.training import loop

    workdir = os.path.expanduser(workdir)
    evaluator = make_drawing_evaluator
    return loop.train(config, workdir, evaluator, profile, began, callbacks)


def __dir__():
    return __all__
