"""Linear layers and GELU, as in `models/linear.py`; the channels are the last axis."""

import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor


def linear(g: Graph, name: str, x: Tensor) -> Tensor:
    """Matrix product over the channels, then the bias that it has, if any."""
    with g.module(name):
        kernel = g.parameter('kernel')
        bias = g.parameter('bias') if g.has_parameter('bias') else None
        return product(g, x, kernel, bias)


def product(g: Graph, x: Tensor, kernel: np.ndarray, bias: np.ndarray | None) -> Tensor:
    """Matrix product with a given (in,out) kernel, in the current module."""
    y = g.op('MatMul', x, g.weight('kernel', kernel))
    return y if bias is None else g.op('Add', y, g.weight('bias', bias))


def gelu(g: Graph, x: Tensor) -> Tensor:
    """x times the normal distribution function of x, exact.

    Written as runtimes expect it that compute it as one operation.
    """
    erf = g.op('Erf', g.op('Div', x, float(2**0.5)))
    return g.op('Mul', g.op('Mul', x, g.op('Add', erf, 1.0)), 0.5)
