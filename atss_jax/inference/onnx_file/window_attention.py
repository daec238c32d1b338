"""Attention within windows of a map, as in `models/window_attention.py`.

The cells of a map are (B,H*W,C), row by row. What cuts them into shifted windows of
each image depends on sizes that are known only when the file runs: indices, computed
once for each stage.
"""

import jax.numpy as jnp
import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.linear import linear, product
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.swin import SwinTransformer
from atss_jax.models.window_attention import position_bias
from atss_jax.models.windows import OTHER_REGION


class Windows:
    """How the cells of maps are cut into windows.

    Attributes:
        window_size: side of a window, in cells.
        into: (B,I*J*N,1) index of the cell that comes to each place of I x J windows
            of N cells; the number of cells, where it lies outside the valid region.
        back: (B,H*W,1) index of the place where each cell went.
        apart: (B*I*J,1,N,N) summand of the logits of two cells that only the wrapped
            shift made neighbors; None without a shift.
    """

    def __init__(self, g: Graph, region: Region, window_size: int, shift: int):
        self.window_size = window_size
        self._graph, self._shift = g, shift
        sides = (region.rows, region.height), (region.columns, region.width)
        rows, columns = (_Side(g, *side, window_size, shift) for side in sides)
        self.into = self._into(rows, columns, region)
        self.back = self._back(rows, columns, region)
        self.apart = self._apart(rows, columns) if shift else None

    def _into(self, rows, columns, region):
        g = self._graph
        row, column = self._grid(rows.source, columns.source)
        cell = g.op('Add', g.op('Mul', row, region.width), column)
        is_row, is_column = self._grid(rows.is_valid, columns.is_valid)
        is_valid = g.op('And', is_row, is_column)
        outside = g.op('Mul', region.height, region.width)
        return g.reshape(g.op('Where', is_valid, cell, outside), 0, -1, 1)

    def _back(self, rows, columns, region):
        g, side = self._graph, self.window_size
        (i, a), (j, b) = (g.divmod(s.destination, side) for s in (rows, columns))
        # The place of a cell is ((i * J + j) * side + a) * side + b.
        i = g.op('Mul', g.op('Mul', i, columns.windows), side**2)
        row = g.op('Add', i, g.op('Mul', a, side))
        column = g.op('Add', g.op('Mul', j, side**2), b)
        row, column = g.op('Unsqueeze', row, [2]), g.op('Unsqueeze', column, [1])
        place = g.reshape(g.op('Add', row, column), 0, -1, 1)
        batch = g.op('Shape', region.size, end=1)
        return g.op('Expand', place, g.shape(batch, 1, 1))

    def _apart(self, rows, columns):
        g = self._graph
        row, column = self._grid(rows.is_wrapped, columns.is_wrapped)
        number = g.op('Add', g.op('Mul', row, 2), column)
        number = g.reshape(number, -1, 1, self.window_size**2)
        one, other = g.op('Unsqueeze', number, [3]), g.op('Unsqueeze', number, [2])
        return g.op('Where', g.op('Equal', one, other), 0.0, float(OTHER_REGION))

    def _grid(self, row, column):
        """Values of rows and columns, as they broadcast to (B,I,J,side,side)."""
        side = self.window_size
        row = self._graph.reshape(row, 0, -1, 1, side, 1)
        return row, self._graph.reshape(column, 0, 1, -1, 1, side)


class _Side:
    """The rows, or the columns, of windows.

    Attributes:
        windows: number of windows; one element.
        source: (B,length) row that comes to each place of whole windows.
        is_valid: whether it is a row of the image.
        is_wrapped: 1 for places that may hold rows from the other end, else 0.
        destination: (B,rows) place where each row went.
    """

    def __init__(self, g, valid, length, window_size, shift):
        self.windows = g.ceil_divide(length, window_size)
        place = g.range(g.op('Mul', self.windows, window_size))
        row = g.range(length)
        if shift:
            period = g.op('Mul', g.ceil_divide(valid, window_size), window_size)
            self.source = _rolled(g, place, period, shift)
            # Not `row - shift`, whose remainder could be negative.
            back = g.op('Sub', period, shift)
            self.destination = _rolled(g, row, period, back)
            is_wrapped = g.op('Less', place, back)
            self.is_wrapped = g.op('Where', is_wrapped, 0, 1)
        else:
            self.source = g.op('Unsqueeze', place, [0])
            self.destination = g.op('Unsqueeze', row, [0])
        self.is_valid = g.op('Less', self.source, valid)


def _rolled(g, place, period, shift):
    """(B,n) places moved by `shift` in a cycle; those beyond the period stay."""
    moved = g.op('Mod', g.op('Add', place, shift), period)
    return g.op('Where', g.op('Less', place, period), moved, place)


def shift_window_msa(
    g: Graph, module: SwinTransformer, num_heads: int, x: Tensor, windows: Windows
) -> Tensor:
    """Multi-head self-attention within the windows of a map.

    Args:
        g: the graph.
        module: for the fields that all blocks share.
        num_heads: heads of this stage.
        x: (B,H*W,C) cells.
        windows: cut from the map.
    """
    with g.module('w_msa'):
        # A last cell of zeros, which comes to all places outside the valid region.
        x = g.op('Pad', x, [0, 0, 0, 0, 1, 0])
        x = g.op('GatherND', x, windows.into, batch_dims=1)
        y = _window_msa(g, module, num_heads, x, windows)
        y = g.op('GatherND', y, windows.back, batch_dims=1)
        return linear(g, 'proj', y)


def _window_msa(g, module, num_heads, x, windows):
    """Attention of (B,I*J*N,C) cells of windows."""
    with g.module('qkv'):
        kernel = g.parameter('kernel')
        channels = len(kernel)
        per_head = channels // num_heads
        # The factor of the queries.
        factor = np.ones(3 * channels, np.float32)
        factor[:channels] = module.qk_scale or per_head**-0.5
        bias = g.parameter('bias') * factor if module.qkv_bias else None
        qkv = product(g, x, kernel * factor, bias)
    cells = windows.window_size**2
    qkv = g.reshape(qkv, -1, cells, 3, num_heads, per_head)
    qkv = g.ops('Split', 3, qkv, axis=2, num_outputs=3)
    query, key, value = (g.op('Squeeze', part, [2]) for part in qkv)
    query, value = (g.transpose(z, 0, 2, 1, 3) for z in (query, value))
    logits = g.op('MatMul', query, g.transpose(key, 0, 2, 3, 1))
    table = jnp.asarray(g.parameter('relative_position_bias_table'))
    bias = np.asarray(position_bias(table, windows.window_size))
    logits = g.op('Add', logits, g.weight('position_bias', bias))
    if windows.apart is not None:
        logits = g.op('Add', logits, windows.apart)
    y = g.op('MatMul', g.op('Softmax', logits, axis=-1), value)
    batch = g.op('Shape', x, end=1)
    return g.reshape(g.transpose(y, 0, 2, 1, 3), batch, -1, channels)
