"""A pickle reader that runs nothing: torch's tensors become NumPy, the rest is refused.

A pickle is a small program. Python's own machine calls whatever the file names, and
even with `find_class` overridden a file can still rewrite, by BUILD, the objects that
it was handed. So the machine is written out here. A name in the file is a record
(`Placeholder`), never the object that it names; calling it looks the name up in
`_FUNCTIONS`, a few functions of this file. Anything else is refused by its name.

One exception: names of `OPEN_NAMESPACES`. mmengine's training checkpoints carry objects
of its own classes (`message_hub` holds a `HistoryBuffer` for every logged number), and
one stream holds them and the weights. Those stay `Placeholder`s: what the file said,
with no behaviour.
"""

import collections
import dataclasses
import math
import pickletools
import re
from collections.abc import Callable
from typing import BinaryIO

import ml_dtypes
import numpy as np

OPEN_NAMESPACES = ('mmengine.', 'mmcv.', 'mmdet.')

STORAGES = {
    'torch.FloatStorage': np.dtype(np.float32),
    'torch.DoubleStorage': np.dtype(np.float64),
    'torch.HalfStorage': np.dtype(np.float16),
    'torch.BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'torch.LongStorage': np.dtype(np.int64),
    'torch.IntStorage': np.dtype(np.int32),
    'torch.ShortStorage': np.dtype(np.int16),
    'torch.CharStorage': np.dtype(np.int8),
    'torch.ByteStorage': np.dtype(np.uint8),
    'torch.BoolStorage': np.dtype(np.bool_),
    'torch.ComplexFloatStorage': np.dtype(np.complex64),
    'torch.ComplexDoubleStorage': np.dtype(np.complex128),
}
# As values, in an optimizer's or a sampler's settings: `torch.float32`.
_TORCH_DTYPES = frozenset(
    f'torch.{name}'
    for name in (
        *('float16', 'float32', 'float64', 'bfloat16', 'complex64', 'complex128'),
        *('uint8', 'int8', 'int16', 'int32', 'int64', 'bool'),
    )
)


@dataclasses.dataclass(eq=False)
class Placeholder:
    """What a checkpoint says about something that is not loaded; it does nothing.

    Attributes:
        name: 'module.name' of the class or function.
        args: what the file would call it with; None where it only names it.
        state: what the file would set on the object.
        items: what the file would append to it, or its (key, value) pairs.
    """

    name: str
    args: tuple | None = None
    state: object = None
    items: list = dataclasses.field(default_factory=list)


def unpickle(stream: BinaryIO, storage: Callable[[tuple], np.ndarray]) -> object:
    """Reads one pickle, up to its STOP.

    Args:
        stream: `read(n)` must not allocate more than what is left of it (a file object
            would: a four-byte string may claim 2**60 bytes).
        storage: maps a persistent id, `('storage', type, key, ...)`, to a flat array.

    Raises:
        ValueError: a name that is not allowed ('posix.system'), or a damaged pickle.
    """
    machine = _Machine(storage)
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            if opcode.name == 'STOP':
                return machine.stack.pop()
            machine.step(opcode.name, arg)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f'damaged pickle: {error!r}') from error
    raise ValueError('damaged pickle: it has no end')


def storage_dtype(name: object) -> np.dtype:
    """The element type of a `torch.FloatStorage` or one of its kin."""
    if not isinstance(name, Placeholder) or name.name not in STORAGES:
        raise ValueError(f'{name!r} where a torch storage type should be')
    return STORAGES[name.name]


# The functions that a checkpoint may call --------------------------------------------


def _tensor(storage, offset, size, stride, *_unused) -> np.ndarray:
    """A view of the storage, as `torch.Tensor.set_`: torch's strides count elements."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise ValueError(f'damaged tensor: size {size}, stride {stride}')
    if min(offset, *size, *stride, 0) < 0:
        raise ValueError(f'damaged tensor: {offset=}, {size=}, {stride=}')
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.size:
        raise ValueError(
            f'a tensor of size {size}, stride {stride} and offset {offset} reaches '
            f'element {last} of a storage of {storage.size}'
        )
    item = storage.itemsize
    start = storage[offset:] if 0 not in size else storage[:0]
    return np.lib.stride_tricks.as_strided(start, size, [item * step for step in stride])


def _parameter(data, *_unused) -> np.ndarray:
    return data


def _plain_dtype(record: object) -> np.dtype:
    """A dtype of plain numbers or text from how NumPy pickles it; never objects."""
    if not isinstance(record, Placeholder) or record.name != 'numpy.dtype':
        raise ValueError(f'{record!r} where a NumPy dtype should be')
    code = _text(record.args[0])
    if not re.fullmatch(r'b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d*', code):
        raise ValueError(f'NumPy data of type {code!r}; only plain numbers and text')
    order = _text(record.state[1]) if record.state else '='
    return np.dtype(code).newbyteorder(order)


def _numpy_dtype(*args) -> Placeholder:
    return Placeholder('numpy.dtype', args)


def _numpy_scalar(dtype, data) -> np.generic:
    return np.frombuffer(_bytes(data), _plain_dtype(dtype), count=1)[0]


def _numpy_empty(*_unused) -> np.ndarray:
    return np.empty(0, np.int8)  # BUILD fills it: see `_fill_array`


def _numpy_from_buffer(data, dtype, shape, order) -> np.ndarray:
    return np.frombuffer(_bytes(data), _plain_dtype(dtype)).reshape(shape, order=order)


def _fill_array(array: np.ndarray, state: tuple) -> None:
    """NumPy's own `__setstate__`, given nothing that it could trip over."""
    _, shape, dtype, fortran, data = state
    dtype, data = _plain_dtype(dtype), _bytes(data)
    if array.size or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f'damaged NumPy array: {shape} {dtype} from {len(data)} bytes')
    array.__setstate__((1, tuple(shape), dtype, bool(fortran), data))


def _encode(text, encoding) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise ValueError(f"calls '_codecs.encode' with {encoding!r}: refused")
    return text.encode('latin-1')


def _attribute(owner, name) -> Placeholder:
    """How protocol 2 writes `HistoryBuffer.min`; `getattr` of anything else is not."""
    if not isinstance(owner, Placeholder) or not owner.name.startswith(OPEN_NAMESPACES):
        raise ValueError(f"calls 'builtins.getattr' on {owner!r}: refused")
    return Placeholder(f'{owner.name}.{_text(name)}')


def _text(value: object) -> str:
    """Python 2 wrote its names as bytes."""
    return value.decode('ascii') if isinstance(value, bytes) else str(value)


def _bytes(value: object) -> bytes:
    """Python 2 wrote its bytes as text."""
    return value.encode('latin-1') if isinstance(value, str) else bytes(value)


_FUNCTIONS: dict[str, Callable] = {
    'collections.OrderedDict': collections.OrderedDict,
    'collections.Counter': collections.Counter,  # milestones of a MultiStepLR
    'collections.defaultdict': lambda *_factory: {},
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch.Size': tuple,
    'torch.device': lambda *parts: ':'.join(map(str, parts)),
    'numpy.dtype': _numpy_dtype,
    'numpy.core.multiarray.scalar': _numpy_scalar,
    'numpy.core.multiarray._reconstruct': _numpy_empty,
    'numpy.core.numeric._frombuffer': _numpy_from_buffer,
    '_codecs.encode': _encode,
    'builtins.getattr': _attribute,
    'builtins.set': set,
    'builtins.frozenset': frozenset,
    'builtins.complex': complex,
}
# What it may name besides, as an argument of those.
_VALUES = {*STORAGES, *_TORCH_DTYPES, 'numpy.ndarray', 'builtins.dict', 'builtins.list'}


# The machine -------------------------------------------------------------------------

_NEW = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
}
_LITERAL = re.compile(r'(SHORT_)?(BIN)?(INT|LONG|FLOAT|STRING|BYTES|UNICODE)[1248]?')


class _Machine:
    """The stack machine: one `step` for each opcode that `pickletools` decodes."""

    def __init__(self, storage: Callable[[tuple], np.ndarray]):
        self.stack: list = []
        self._below: list[list] = []  # the stacks under the open MARKs
        self._memo: dict[int, object] = {}
        self._storage = storage

    def step(self, name: str, arg: object) -> None:
        """Runs one opcode."""
        if _LITERAL.fullmatch(name):
            self.stack.append(arg)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name not in ('PROTO', 'FRAME') and not self._collect(name, arg):
            self.stack.append(self._construct(name, arg))

    def _pop_mark(self) -> list:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise ValueError('damaged pickle: the stack is empty')
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _collect(self, name: str, arg: object) -> bool:
        """Stack, memo and collections; False where `name` is something else."""
        match name:
            case 'MARK':
                self._below.append(self.stack)
                self.stack = []
            case 'POP':
                self._pop(1)
            case 'POP_MARK':
                self._pop_mark()
            case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
                self._memo[arg] = self.stack[-1]
            case 'MEMOIZE':
                self._memo[len(self._memo)] = self.stack[-1]
            case 'APPEND':
                _extend(self.stack[-2], self._pop(1))
            case 'APPENDS' | 'ADDITEMS':
                items = self._pop_mark()
                _extend(self.stack[-1], items)
            case 'SETITEM':
                _set_items(self.stack[-3], self._pop(2))
            case 'SETITEMS':
                items = self._pop_mark()
                _set_items(self.stack[-1], items)
            case 'BUILD':
                _set_state(self.stack[-2], *self._pop(1))
            case _:
                return False
        return True

    def _construct(self, name: str, arg: object) -> object:
        """Opcodes that leave one new object."""
        match name:
            case 'DUP':
                return self.stack[-1]
            case 'GET' | 'BINGET' | 'LONG_BINGET':
                return self._memo[arg]
            case 'TUPLE':
                return tuple(self._pop_mark())
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                return tuple(self._pop(int(name[-1])))
            case 'LIST':
                return self._pop_mark()
            case 'FROZENSET':
                return frozenset(self._pop_mark())
            case 'DICT':
                items = self._pop_mark()
                return dict(zip(items[::2], items[1::2], strict=True))
            case 'GLOBAL':
                return _named(*arg.split(' ', 1))
            case 'STACK_GLOBAL':
                return _named(*self._pop(2))
            case 'INST':
                return _call(_named(*arg.split(' ', 1)), tuple(self._pop_mark()))
            case 'OBJ':
                function, *args = self._pop_mark()
                return _call(function, tuple(args))
            case 'REDUCE' | 'NEWOBJ':
                return _call(*self._pop(2))
            case 'NEWOBJ_EX':
                function, args, keywords = self._pop(3)
                return _call(function, (*args, keywords) if keywords else args)
            case 'BINPERSID':
                return self._storage(*self._pop(1))
        raise ValueError(f'the pickle opcode {name}, which no checkpoint needs: refused')


def _named(module: object, name: object) -> Placeholder:
    full = f'{module}.{name}'
    # Renamed in Python 3 and NumPy 2; protocol 2 writes the old names.
    known = re.sub(r'^__builtin__\.', 'builtins.', full)
    known = re.sub(r'^numpy\._core\.', 'numpy.core.', known)
    known = re.sub(r'^torch\.cuda\.(?=\w+Storage$)', 'torch.', known)
    if (
        known not in _FUNCTIONS
        and known not in _VALUES
        and not known.startswith(OPEN_NAMESPACES)
    ):
        raise ValueError(f'the file names {full!r}: refused, nothing of it was run')
    return Placeholder(known)


def _call(function: object, args: object) -> object:
    if not isinstance(function, Placeholder) or function.args is not None:
        raise ValueError(f'the file calls {function!r}: refused, nothing of it was run')
    if function.name in _FUNCTIONS:
        return _FUNCTIONS[function.name](*args)
    if function.name.startswith(OPEN_NAMESPACES):
        return Placeholder(function.name, tuple(args))
    raise ValueError(f'the file calls {function.name!r}: refused')


def _extend(target: object, items: list) -> None:
    match target:
        case list():
            target.extend(items)
        case set():
            target.update(items)
        case Placeholder():
            target.items.extend(items)
        case _:
            raise ValueError(f'damaged pickle: appends to a {type(target).__name__}')


def _set_items(target: object, items: list) -> None:
    pairs = list(zip(items[::2], items[1::2], strict=True))
    match target:
        case dict():
            for key, value in pairs:  # not `update`: a Counter would add
                target[key] = value
        case Placeholder():
            target.items.extend(pairs)
        case _:
            raise ValueError(f'damaged pickle: sets items of a {type(target).__name__}')


def _set_state(target: object, state: object) -> None:
    match target:
        case Placeholder():
            target.state = state
        case np.ndarray():
            _fill_array(target, state)
        case collections.OrderedDict():
            # Module.state_dict() hangs version numbers on it: `_metadata`. Not needed.
            pass
        case _:
            raise ValueError(f'damaged pickle: sets state of a {type(target).__name__}')
