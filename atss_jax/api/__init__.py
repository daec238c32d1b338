"""The former place of the Python API, kept for `from atss_jax.api import Detector`."""

from atss_jax.inference.detector import Detector

__all__ = ['Detector']
