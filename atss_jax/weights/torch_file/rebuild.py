"""The functions that a checkpoint may call, in place of torch's and NumPy's.

Their arguments may come from a malicious file, so they are all checked: a tensor stays
inside its storage, an array has as many bytes as its shape requires, and nothing can
become much larger than the file.
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
    """A record of an object in a checkpoint that is not created.

    Attributes:
        name: 'module.name' of its class or function.
        args: arguments that the file would call it with; None: it is only named.
        state: state that the file would set on the object.
        items: elements or (key, value) pairs that the file would add to the object.
    """

    name: str
    args: tuple | None = None
    state: object = None
    items: list = dataclasses.field(default_factory=list)


def storage_dtype(name: object) -> np.dtype:
    """The element type of a `torch.FloatStorage` or a similar class."""
    if not isinstance(name, Placeholder) or name.name not in STORAGES:
        raise ValueError('damaged: a storage has no storage type')
    return STORAGES[name.name]


def _tensor(storage, offset, size, stride, *_unused) -> np.ndarray:
    """A view of a storage; torch's strides are in elements."""
    numbers = [offset, *_sequence(size), *_sequence(stride)]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError('damaged tensor: a negative offset, size or stride')
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError('damaged tensor: no storage')
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
    # A record, since the byte order follows in BUILD. With a real dtype, `__setstate__`
    # could turn numbers into object pointers.
    return Placeholder('numpy.dtype', args)


def _plain_dtype(record) -> np.dtype:
    """The dtype of numbers or text, never of objects."""
    if not isinstance(record, Placeholder) or record.name != 'numpy.dtype':
        raise ValueError('damaged NumPy data: no dtype')
    code = _text(record.args[0])
    if not re.fullmatch(r'b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}', code):
        raise ValueError(f'NumPy data of type {code!r}; expected numbers or text')
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
    """Calls NumPy's `__setstate__` after checking its arguments."""
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
        raise ValueError(
            "the file calls '_codecs.encode' with an encoding that is not allowed"
        )
    return text.encode('latin-1')


def _attribute(owner, name) -> Placeholder:
    """Records `HistoryBuffer.min` as protocol 2 writes it; refuses other attributes."""
    if not isinstance(owner, Placeholder) or not owner.name.startswith(OPEN_NAMESPACES):
        raise ValueError(
            "the file calls 'builtins.getattr', which is not allowed; nothing was run"
        )
    return Placeholder(f'{owner.name}.{_text(name)}')


def _sequence(value) -> tuple | list:
    # No arrays: one with stride 0 could be longer than the memory.
    if not isinstance(value, tuple | list):
        kind = type(value).__name__
        raise ValueError(f'damaged pickle: {kind} instead of a sequence')
    return value


def _counter(counts) -> collections.Counter:
    if not isinstance(counts, dict):
        raise ValueError('damaged pickle: a Counter without counts')
    return collections.Counter(counts)


def _text(value) -> str:
    """Converts bytes, as Python 2 wrote its names, to text."""
    return value.decode('ascii') if isinstance(value, bytes) else str.__str__(value)


def _bytes(value) -> bytes:
    """Converts text, as Python 2 wrote its bytes, to bytes."""
    if not isinstance(value, str | bytes | bytearray):
        raise ValueError(f'damaged pickle: {type(value).__name__} instead of bytes')
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
# Other names that are allowed, as values or as arguments.
VALUES = {
    *STORAGES,
    *(f'torch.{name}' for name in _TORCH_DTYPES),
    *('numpy.ndarray', 'builtins.dict', 'builtins.list'),
}
