"""What a checkpoint may call: a few functions of ours in place of torch's and NumPy's.

Each takes arguments that a hostile file chose, so each checks them: a tensor stays
inside its storage, an array's bytes are as many as its shape says, and no argument
makes anything much larger than the file.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable

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
_TORCH_DTYPES = (
    *('float16', 'float32', 'float64', 'bfloat16', 'complex64', 'complex128'),
    *('uint8', 'int8', 'int16', 'int32', 'int64', 'bool'),
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


def storage_dtype(name: object) -> np.dtype:
    """The element type of a `torch.FloatStorage` or one of its kin."""
    if not isinstance(name, Placeholder) or name.name not in STORAGES:
        raise ValueError('damaged checkpoint: a storage without a storage type')
    return STORAGES[name.name]


def _tensor(storage, offset, size, stride, *_unused) -> np.ndarray:
    """A view of the storage; torch's strides count elements."""
    numbers = [offset, *_sequence(size), *_sequence(stride)]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError('damaged tensor: an offset, size or stride below 0')
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError('damaged tensor: it has no storage')
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.empty(size, storage.dtype)
    if last >= storage.size:
        raise ValueError(
            f'damaged tensor: size {size}, stride {stride} and offset {offset} reach '
            f'element {last} of a storage of {storage.size}'
        )
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)


def _parameter(data, *_unused) -> np.ndarray:
    return data


def _numpy_dtype(*args) -> Placeholder:
    # A record, for the byte order comes later, in BUILD. A real dtype has a
    # `__setstate__` that can make numbers pass for object pointers.
    return Placeholder('numpy.dtype', args)


def _plain_dtype(record) -> np.dtype:
    """Plain numbers or text, never objects."""
    if not isinstance(record, Placeholder) or record.name != 'numpy.dtype':
        raise ValueError('damaged NumPy data: it has no dtype')
    code = _text(record.args[0])
    if not re.fullmatch(r'b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}', code):
        raise ValueError(f'NumPy data of type {code!r}; only plain numbers and text')
    order = _text(record.state[1]) if record.state else '='
    return np.dtype(code).newbyteorder(order)


def _numpy_scalar(dtype, data) -> np.generic:
    return np.frombuffer(_bytes(data), _plain_dtype(dtype), count=1)[0]


def _numpy_from_buffer(data, dtype, shape, order) -> np.ndarray:
    array = np.frombuffer(bytearray(_bytes(data)), _plain_dtype(dtype))
    return array.reshape(_sequence(shape), order=_text(order))


def _numpy_empty(*_unused) -> np.ndarray:
    return np.empty(0, np.int8)  # BUILD fills it: `fill_array`


def fill_array(array: np.ndarray, state: object) -> None:
    """NumPy's own `__setstate__`, given nothing that it could trip over."""
    if len(_sequence(state)) == 3:
        return  # requires_grad, volatile, hooks: a Parameter of torch 0.1 to 0.3
    _, shape, dtype, fortran, data = state
    dtype, data = _plain_dtype(dtype), _bytes(data)
    count = math.prod(_sequence(shape))
    if array.size or min(shape, default=0) < 0 or count * dtype.itemsize != len(data):
        raise ValueError(f'damaged NumPy array: {count} of {dtype}, {len(data)} bytes')
    array.__setstate__((1, tuple(shape), dtype, bool(fortran), data))


def _encode(text, encoding) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise ValueError("the file calls '_codecs.encode' for something odd: refused")
    return text.encode('latin-1')


def _attribute(owner, name) -> Placeholder:
    """How protocol 2 writes `HistoryBuffer.min`; of anything else it is refused."""
    if not isinstance(owner, Placeholder) or not owner.name.startswith(OPEN_NAMESPACES):
        raise ValueError("the file calls 'builtins.getattr': refused, nothing was run")
    return Placeholder(f'{owner.name}.{_text(name)}')


def _sequence(value) -> tuple | list:
    # An array would do as well, but one with stride 0 can be longer than any memory.
    if not isinstance(value, tuple | list):
        raise ValueError(f'damaged pickle: a {type(value).__name__} for a sequence')
    return value


def _counter(counts) -> collections.Counter:
    if not isinstance(counts, dict):
        raise ValueError('damaged pickle: a Counter of no counts')
    return collections.Counter(counts)


def _text(value) -> str:
    """Python 2 wrote its names as bytes."""
    return value.decode('ascii') if isinstance(value, bytes) else str.__str__(value)


def _bytes(value) -> bytes:
    """Python 2 wrote its bytes as text."""
    if not isinstance(value, str | bytes | bytearray):
        raise ValueError(f'damaged pickle: a {type(value).__name__} for bytes')
    return value.encode('latin-1') if isinstance(value, str) else bytes(value)


FUNCTIONS: dict[str, Callable] = {
    'collections.OrderedDict': lambda pairs=(): collections.OrderedDict(
        _sequence(pairs)
    ),
    'collections.Counter': _counter,  # the milestones of a scheduler
    'collections.defaultdict': lambda *_factory: {},
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.nn.parameter.Parameter': _parameter,  # torch 0.1 to 0.3
    'torch.Size': lambda sizes=(): tuple(_sequence(sizes)),
    'torch.device': lambda kind, *index: ':'.join([_text(kind), *map(str, index[:1])]),
    'numpy.dtype': _numpy_dtype,
    'numpy.core.multiarray.scalar': _numpy_scalar,
    'numpy.core.multiarray._reconstruct': _numpy_empty,
    'numpy.core.numeric._frombuffer': _numpy_from_buffer,
    '_codecs.encode': _encode,
    'builtins.getattr': _attribute,
    'builtins.bytes': lambda: b'',
    'builtins.set': lambda items=(): set(_sequence(items)),
    'builtins.frozenset': lambda items=(): frozenset(_sequence(items)),
    'builtins.complex': complex,
}
# What it may name besides, as values or as arguments of those.
VALUES = {
    *STORAGES,
    *(f'torch.{name}' for name in _TORCH_DTYPES),
    *('numpy.ndarray', 'builtins.dict', 'builtins.list'),
}
