"""Builds an ONNX graph node by node, with names from the paths of the modules."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

OPSET = 19
"""The first with DeformConv."""

IR_VERSION = 9
"""The one that came with the opset: what is older than a runtime, it can read."""

PRODUCER = 'atss-jax'
"""Name of this package in the files that it writes."""

CONSTANTS = 'constants/'
"""How the names of numbers and arrays begin that are no weights."""

Tensor = str
"""The name of a tensor in the graph."""

Value = Tensor | int | float | list | np.ndarray
"""A tensor, or a constant: ints and lists become int64, floats float32."""


class Node(NamedTuple):
    """One operation, as ONNX describes it."""

    kind: str
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any]


class Port(NamedTuple):
    """An input or output of the graph: numbers, and names of free sizes."""

    name: Tensor
    dtype: type
    shape: tuple[int | str, ...] | None


class Graph:
    """Collects nodes, weights and constants.

    It knows which module is being written: its path names nodes and finds parameters.

    Args:
        variables: those of the Flax module, `params` and perhaps `batch_stats`.

    Attributes:
        nodes: operations, in an order in which they can be computed.
        initializers: weights and constants by name.
        inputs: what the user gives.
        outputs: what the user gets.
    """

    def __init__(self, variables: Mapping[str, Any]):
        self.nodes: list[Node] = []
        self.initializers: dict[Tensor, np.ndarray] = {}
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self._variables = variables
        self._path: list[str] = []
        self._names: dict[str, int] = {}
        self._constants: dict[tuple, Tensor] = {}
        self._read: set[tuple[str, ...]] = set()

    # Modules -------------------------------------------------------------------------

    @contextlib.contextmanager
    def module(self, name: str) -> Iterator[None]:
        """Within the block, a module of this name below the current one is written."""
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def parameter(self, name: str, collection: str = 'params') -> np.ndarray:
        """A variable of the current module, in float32."""
        path = (collection, *self._path, name)
        value = self._variables
        for key in path:
            value = value[key]
        self._read.add(path)
        return np.asarray(value, np.float32)

    def has_parameter(self, name: str) -> bool:
        """Whether the current module has this parameter."""
        return name in self._subtree()

    def has_module(self, name: str) -> bool:
        """Whether the current module has parameters in a module of this name."""
        return isinstance(self._subtree().get(name), Mapping)

    def _subtree(self):
        tree = self._variables['params']
        for key in self._path:
            tree = tree[key]
        return tree

    def unread_parameters(self) -> list[str]:
        """Paths of the parameters that no writer asked for."""

        def paths(tree, above):
            for key, value in tree.items():
                if isinstance(value, Mapping):
                    yield from paths(value, (*above, key))
                else:
                    yield (*above, key)

        unread = set(paths(self._variables['params'], ('params',))) - self._read
        return sorted('/'.join(path[1:]) for path in unread)

    # Tensors -------------------------------------------------------------------------

    def weight(self, name: str, value: np.ndarray) -> Tensor:
        """An initializer of the current module; the same for every use of the name."""
        full = '/'.join((*self._path, name))
        self.initializers[full] = np.asarray(value, np.float32, order='C')
        return full

    def constant(self, value: Any) -> Tensor:
        """A number or array that is no parameter; equal ones are shared."""
        if isinstance(value, float):
            value = np.float32(value)
        elif isinstance(value, int | list | tuple):
            value = np.array(value, np.int64)
        array = np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            name = f'{CONSTANTS}{len(self._constants)}'
            self._constants[key] = name
            self.initializers[name] = array
        return self._constants[key]

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> Tensor:
        """Adds a node with one output, and gives it."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(
        self, kind: str, count: int, *inputs: Value, **attributes: Any
    ) -> tuple[Tensor, ...]:
        """Adds a node with `count` outputs, and gives them."""
        tensors = tuple(x if isinstance(x, str) else self.constant(x) for x in inputs)
        name = self._unique('/'.join((*self._path, kind)))
        names = (name,) if count == 1 else tuple(f'{name}:{i}' for i in range(count))
        self.nodes.append(Node(kind, name, tensors, names, attributes))
        return names

    def input(self, name: str, dtype: type, shape: tuple[int | str, ...]) -> Tensor:
        """Declares an input."""
        self.inputs.append(Port(name, dtype, shape))
        return name

    def output(
        self,
        name: str,
        tensor: Tensor,
        dtype: type,
        shape: tuple[int | str, ...] | None,
    ) -> None:
        """Declares that a tensor is an output, under a name of its own.

        Without a shape it may have any.
        """
        self.nodes.append(Node('Identity', f'{name}/Identity', (tensor,), (name,), {}))
        self.outputs.append(Port(name, dtype, shape))

    def _unique(self, name):
        number = self._names[name] = self._names.get(name, 0) + 1
        return name if number == 1 else f'{name}_{number}'

    # What several writers need -------------------------------------------------------

    def shape(self, *sides: int | Tensor) -> Tensor:
        """A shape, of numbers and of tensors with one element."""
        if all(isinstance(side, int) for side in sides):
            return self.constant(list(sides))
        parts = [s if isinstance(s, str) else self.constant([s]) for s in sides]
        return self.op('Concat', *parts, axis=0)

    def reshape(self, x: Tensor, *sides: int | Tensor) -> Tensor:
        """As `numpy.reshape`; 0 keeps a side, -1 is computed."""
        return self.op('Reshape', x, self.shape(*sides))

    def transpose(self, x: Tensor, *axes: int) -> Tensor:
        """As `numpy.transpose`."""
        return self.op('Transpose', x, perm=list(axes))

    def range(self, length: Tensor) -> Tensor:
        """0, 1, ... up to a length, which is a tensor with one element."""
        return self.op('Range', 0, self.op('Squeeze', length, [0]), 1)

    def ceil_divide(self, x: Tensor, divisor: int) -> Tensor:
        """Quotient rounded up; of numbers that are not negative."""
        if divisor == 1:
            return x
        return self.op('Div', self.op('Add', x, divisor - 1), divisor)

    def divmod(self, x: Tensor, divisor: Value) -> tuple[Tensor, Tensor]:
        """Quotient and remainder of numbers that are not negative."""
        return self.op('Div', x, divisor), self.op('Mod', x, divisor)


def to_model(graph: Graph, metadata: Mapping[str, str]) -> Any:
    """The `onnx.ModelProto` of a graph; `metadata` are strings by name.

    Raises:
        ImportError: the package onnx is not installed.
    """
    from onnx import helper, numpy_helper

    def value_info(port):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype))
        return helper.make_tensor_value_info(port.name, kind, port.shape)

    def attribute(value):
        is_array = isinstance(value, np.ndarray)
        return numpy_helper.from_array(value) if is_array else value

    used = {name for node in graph.nodes for name in node.inputs}
    proto = helper.make_graph(
        [
            helper.make_node(
                node.kind,
                node.inputs,
                node.outputs,
                name=node.name,
                **{key: attribute(value) for key, value in node.attributes.items()},
            )
            for node in graph.nodes
        ],
        'detector',
        [value_info(port) for port in graph.inputs],
        [value_info(port) for port in graph.outputs],
        [
            numpy_helper.from_array(value, name)
            for name, value in graph.initializers.items()
            if name in used
        ],
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid('', OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
    )
    helper.set_model_props(model, dict(metadata))
    return model
