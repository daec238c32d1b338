"""The Python API by its former name: `from atss_jax.api import Detector` goes on."""

from atss_jax.inference.detector import Detector

__all__ = ['Detector']
