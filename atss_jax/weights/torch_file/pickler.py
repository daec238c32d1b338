"""Pickles plain values and torch tensors without torch.

Uses the opcodes of protocol 2 that `torch.load(weights_only=True)` accepts. Python's
pickler cannot be used: it imports every name that it writes, such as
`torch._utils._rebuild_tensor_v2`.
"""

import collections
import math
import pickle
import struct

import numpy as np

from atss_jax.weights.torch_file.rebuild import STORAGES

_TYPE_OF = {dtype: name for name, dtype in STORAGES.items()}


def _name(full: str) -> bytes:
    module, _, name = full.rpartition('.')
    return f'c{module}\n{name}\n'.encode('ascii')


_ORDERED_DICT = _name('collections.OrderedDict') + b')R'


class Pickler:
    """Converts values to opcodes, and arrays to references to numbered storages.

    Attributes:
        pickled: the opcodes so far; the caller adds the final STOP.
        arrays: the storages by number, contiguous and in native byte order.
    """

    def __init__(self):
        self.pickled = bytearray(b'\x80\x02')
        self.arrays: list[np.ndarray] = []

    def write(self, value: object, where: str = '') -> None:
        """Appends one value.

        Raises:
            ValueError: torch would not read its type; says `where` it is.
        """
        out = self.pickled
        match value:
            case None:
                out += b'N'
            case bool():
                out += b'\x88' if value else b'\x89'
            case int():
                out += _int(value)
            case float():
                out += b'G' + struct.pack('>d', value)
            case str():
                text = value.encode('utf-8', 'surrogatepass')
                out += b'X' + struct.pack('<I', len(text)) + text
            case list():
                out += b']('
                self._items(value, where)
                out += b'e'
            case tuple():
                out += b'('
                self._items(value, where)
                out += b't'
            case dict():
                self._dict(value, where)
            case np.ndarray():
                self._tensor(value, where)
            case np.bool_() | np.integer() | np.float16() | np.float32():
                self.write(value.item(), where)
            case _:
                kind = type(value).__name__
                raise ValueError(f'cannot save a {kind} (at {where or "the top"})')

    def _items(self, values: list | tuple, where: str) -> None:
        for i, value in enumerate(values):
            self.write(value, f'{where}[{i}]')

    def _dict(self, values: dict, where: str) -> None:
        ordered = isinstance(values, collections.OrderedDict)
        self.pickled += (_ORDERED_DICT if ordered else b'}') + b'('
        for key, value in values.items():
            self.write(key, f'{where}, a key')
            self.write(value, f'{where}[{key!r}]')
        self.pickled += b'u'

    def _tensor(self, array: np.ndarray, where: str) -> None:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`."""
        dtype = array.dtype.newbyteorder('=')
        if dtype not in _TYPE_OF:
            raise ValueError(f'torch has no tensor of {array.dtype} (at {where})')
        # `ascontiguousarray` would turn a 0-d array into a 1-d one.
        array = np.array(array, dtype, order='C', copy=None)
        out = self.pickled
        out += _name('torch._utils._rebuild_tensor_v2') + b'(('
        self.write('storage')
        out += _name(_TYPE_OF[dtype])
        self._items((str(len(self.arrays)), 'cpu', array.size), where)
        out += b'tQK\x00'
        self.write(array.shape)
        self.write(_strides(array.shape))
        out += b'\x89' + _ORDERED_DICT + b'tR'
        self.arrays.append(array)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements. NumPy's are arbitrary along axes of size 1."""
    steps = [math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape))]
    return tuple(steps)


def _int(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
    digits = pickle.encode_long(value)
    if len(digits) > 255:
        raise ValueError(f'cannot save an integer of {len(digits)} bytes')
    return b'\x8a' + bytes([len(digits)]) + digits
