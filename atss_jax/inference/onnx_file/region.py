"""The valid region of each image, as `models/region.py` has it, in a graph."""

import functools

from atss_jax.inference.onnx_file.graph import Graph, Tensor

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
"""ONNX's numbers of the types."""


class Region:
    """The valid rows and columns of every image in the maps of one stride.

    Flax modules are given sizes (B,2), and see the rows and columns of a map from its
    shape. Here both come from the size of the canvas, computed once per stride.

    Attributes:
        size: (B,2) int64, valid rows and columns.
        height, width: rows and columns of the maps; one element each.
        multiple: a number that divides height and width.
    """

    def __init__(
        self, graph: Graph, size: Tensor, height: Tensor, width: Tensor, multiple: int
    ):
        self.size, self.height, self.width = size, height, width
        self.multiple = multiple
        self._graph = graph
        self._zeroed = {}

    @functools.cached_property
    def rows(self) -> Tensor:
        """(B,1) valid rows."""
        return self._graph.op('Gather', self.size, [0], axis=1)

    @functools.cached_property
    def columns(self) -> Tensor:
        """(B,1) valid columns."""
        return self._graph.op('Gather', self.size, [1], axis=1)

    @functools.cached_property
    def inside(self) -> Tensor:
        """(B,1,H,W) validity mask."""
        g = self._graph
        rows = g.op('Less', g.range(self.height), self.rows)
        columns = g.op('Less', g.range(self.width), self.columns)
        rows = g.op('Unsqueeze', rows, [1, 3])
        return g.op('And', rows, g.op('Unsqueeze', columns, [1, 2]))

    @functools.cached_property
    def mask(self) -> Tensor:
        """(B,1,H,W) float32: 1 in valid cells, else 0."""
        return self._graph.op('Cast', self.inside, to=FLOAT)

    @functools.cached_property
    def count(self) -> Tensor:
        """(B,1) float32, number of valid cells."""
        g = self._graph
        cells = g.op('Mul', self.rows, self.columns)
        return g.op('Cast', cells, to=FLOAT)

    @functools.cached_property
    def half(self) -> 'Region':
        """The region after a layer of stride 2, which keeps every second cell."""
        g = self._graph
        sides = (self.size, self.height, self.width)
        size, height, width = (g.ceil_divide(side, 2) for side in sides)
        multiple = self.multiple // 2 if self.multiple % 2 == 0 else 1
        return Region(g, size, height, width, multiple)

    @functools.cached_property
    def rounded_up(self) -> 'Region':
        """The region whose sizes are rounded up to what divides the canvas."""
        g = self._graph
        size = g.op('Mul', g.ceil_divide(self.size, self.multiple), self.multiple)
        canvas = g.op('Concat', self.height, self.width, axis=0)
        size = g.op('Min', size, canvas)
        return Region(g, size, self.height, self.width, self.multiple)

    def zero_outside(self, x: Tensor) -> Tensor:
        """(B,C,H,W) with zeros in all cells outside; computed once for each map."""
        if x not in self._zeroed:
            self._zeroed[x] = self._graph.op('Mul', x, self.mask)
            self.has_zeros_outside(self._zeroed[x])
        return self._zeroed[x]

    def has_zeros_outside(self, x: Tensor) -> None:
        """Notes that a map is zero outside already."""
        self._zeroed[x] = x


def region_at(region: Region, stride: int) -> Region:
    """The region at `stride` times the stride of the given one; a power of 2."""
    return region if stride == 1 else region_at(region.half, stride // 2)


def stretch(g: Graph, x: Tensor, region: Region, other: Region) -> Tensor:
    """Resizes the valid region from `region` to `other`, bilinearly.

    Two matrix products, as in `models/region.py`.
    """
    rows = _weights(g, (region.rows, region.height), (other.rows, other.height))
    columns = _weights(g, (region.columns, region.width), (other.columns, other.width))
    x = g.op('MatMul', g.op('Unsqueeze', rows, [1]), region.zero_outside(x))
    columns = g.transpose(columns, 0, 2, 1)
    return g.op('MatMul', x, g.op('Unsqueeze', columns, [1]))


def _weights(g, old, new):
    """(B,new,old) share of each old cell in each new one, along one side.

    Args:
        g: the graph.
        old: valid cells (B,1) and all cells.
        new: the same of the result.
    """
    old_steps, new_steps = (
        g.op('Cast', g.op('Sub', size, 1), to=FLOAT) for size in (old[0], new[0])
    )
    old_place, new_place = (
        g.op('Cast', g.range(length), to=FLOAT) for length in (old[1], new[1])
    )
    scale = g.op('Div', old_steps, g.op('Max', new_steps, 1.0))
    position = g.op('Unsqueeze', g.op('Mul', new_place, scale), [2])
    distance = g.op('Abs', g.op('Sub', position, old_place))
    return g.op('Max', g.op('Sub', 1.0, distance), 0.0)
