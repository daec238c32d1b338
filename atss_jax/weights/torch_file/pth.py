"""Reads and writes PyTorch checkpoints (`.pth`) without PyTorch.

torch.save has two formats. Since PyTorch 1.6 it writes a zip file: `data.pkl` is a
pickle in which a tensor is a view of a numbered storage, and `data/N` are the storages.
Older versions (mmdet's released files, older ones of torchvision) wrote three small
pickles, the pickle of the object and the storages in sequence. Both formats can be
read; zip files are written.
"""

import collections
import io
import math
import mmap
import os
import pickle
import struct
import sys
import zipfile

import numpy as np

from atss_jax.files.atomic import replacing
from atss_jax.files.kind import describe
from atss_jax.weights.prefixes import without_wrappers
from atss_jax.weights.torch_file.rebuild import STORAGES, storage_dtype
from atss_jax.weights.torch_file.unpickle import unpickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Errors for damaged files, of zipfile and of this package. RuntimeError is zipfile's
# for encrypted entries.
_DAMAGE = (
    ValueError,
    TypeError,
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,
    struct.error,
)


def load(path: str | os.PathLike) -> object:
    """Reads what `torch.load` returns, with NumPy arrays instead of tensors.

    Views of the same storage become views of the same array. No code in the file is
    run: names that checkpoints do not need are refused. Objects of classes of mmengine,
    mmcv and mmdet (in the `message_hub` of training checkpoints) become `Placeholder`
    records, so that weights in the same file can be read.

    Raises:
        ValueError: the file is not a checkpoint, is damaged, or refers to something
            that is not allowed.
    """
    path = os.fspath(path)
    size = os.path.getsize(path)
    if size == 0:
        raise ValueError(f'{path}: not a PyTorch checkpoint, the file is empty')
    try:
        with open(path, 'rb') as file:
            if file.read(4) == b'PK\x03\x04':
                return _load_zip(path, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _load_legacy(data)
    except zipfile.BadZipFile as error:
        is_cut = not zipfile.is_zipfile(path)
        damage = 'cut off, without the end of its zip archive' if is_cut else 'damaged'
        raise ValueError(
            f'{path}: {damage} ({error}), {size} bytes; download or copy it again'
        ) from error
    except _DAMAGE as error:
        raise ValueError(f'{path}: {error}') from error


def state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a checkpoint: its 'state_dict' if there is one, else all.

    Prefixes of wrappers, such as DataParallel's 'module.', are removed if all names
    have them.

    Raises:
        ValueError: there are no weights; lists the keys at the top level.
    """
    return weights_of(load(path), path)


def weights_of(content: object, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """As `state_dict`, from what `load(path)` returned."""
    weights = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        keys = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'{path} has no weights: expected a state_dict, found {keys}')
    others = [name for name, x in weights.items() if not isinstance(x, np.ndarray)]
    if others:
        keys = list(content)[:10]
        raise ValueError(
            f"{path} has no weights: expected tensors by name, or under 'state_dict'; "
            f'found the keys {keys}, of which {others[:10]} are not tensors'
        )
    return without_wrappers(weights)


def save(path: str | os.PathLike, content: object) -> None:
    """Writes a file for `torch.load(path, weights_only=True)`; arrays become tensors.

    The content may be made of dicts, lists, tuples, str, int, float, bool, None and
    NumPy arrays of types that torch has (bfloat16 through ml_dtypes). Each array gets a
    storage of its own. `path` is replaced as a whole or not at all; the same content
    gives the same bytes.

    Raises:
        ValueError: a value has another type; says where it is.
    """
    pickler = Pickler()
    pickler.write(content)
    header = {
        'data.pkl': bytes(pickler.pickled) + b'.',
        'version': b'3\n',
        'byteorder': sys.byteorder.encode('ascii'),
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for name, data in header.items():
            archive.writestr(_entry(name), data)
        for number, array in enumerate(pickler.arrays):
            archive.writestr(_entry(f'data/{number}'), array.tobytes())


def _entry(name: str) -> zipfile.ZipInfo:
    # A ZipInfo is dated 1980 by default; a name alone would be dated now.
    return zipfile.ZipInfo(f'archive/{name}')


# Reading -----------------------------------------------------------------------------


def _storage_record(record: object) -> tuple[np.dtype, str, int, tuple | None]:
    """Checks a persistent id: element type, key, count and, in old files, a view."""
    if not isinstance(record, tuple) or len(record) < 5 or record[0] != 'storage':
        raise ValueError('not a storage: save a state_dict instead of a module')
    _, kind, key, _device, count, *view = record
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError('damaged: a storage has no key or no size')
    return storage_dtype(kind), key, count, view[0] if view else None


def _load_zip(path: str, size: int) -> object:
    with zipfile.ZipFile(path) as archive:
        folder = _zip_folder(archive, size)
        order = 'little'
        if f'{folder}byteorder' in archive.NameToInfo:
            order = archive.read(f'{folder}byteorder').decode('ascii', 'replace')
        storages: dict[str, np.ndarray] = {}

        def storage(record: object) -> np.ndarray:
            dtype, key, count, _ = _storage_record(record)
            if key not in storages:
                raw = _zip_storage(
                    archive, f'{folder}data/{key}', count * dtype.itemsize
                )
                storages[key] = _native(raw, dtype, order)
            _check_same(storages[key], key, dtype, count)
            return storages[key]

        return unpickle(io.BytesIO(archive.read(f'{folder}data.pkl')), storage)


def _check_same(storage: np.ndarray, key: str, dtype: np.dtype, count: int) -> None:
    if storage.dtype != dtype or storage.size != count:
        raise ValueError(f'damaged: storage {key!r} is used with two types or sizes')


def _zip_folder(archive: zipfile.ZipFile, size: int) -> str:
    """The folder of `data.pkl`; checks that entries are not larger than the file."""
    names = [info.filename for info in archive.infolist()]
    folders = [
        name.removesuffix('data.pkl')
        for name in names
        if name == 'data.pkl' or name.endswith('/data.pkl')
    ]
    if len(folders) != 1:
        raise ValueError(
            f'not a PyTorch checkpoint: a zip file with {len(folders)} data.pkl, '
            f'expected 1; it has {names[:10]}'
        )
    if f'{folders[0]}constants.pkl' in names:
        raise ValueError(
            'a TorchScript archive, not a checkpoint: save its state_dict() with '
            'torch.save instead'
        )
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f'{info.filename} is compressed, which torch.save never does'
            )
        if info.header_offset < 0:
            raise ValueError(f'damaged: {info.filename} starts before the file')
    claimed = sum(info.file_size for info in archive.infolist())
    if claimed > size:
        raise ValueError(f'damaged: entries claim {claimed} bytes, the file has {size}')
    return folders[0]


def _zip_storage(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    if name not in archive.NameToInfo:
        raise ValueError(f'damaged: {name} is missing')
    actual = archive.getinfo(name).file_size
    if actual != size:
        raise ValueError(f'damaged: {name} has {actual} bytes, the pickle says {size}')
    raw = np.empty(size, np.uint8)
    with archive.open(name) as file:
        if file.readinto(raw) != size:
            raise ValueError(f'truncated in {name}')
    return raw


def _native(raw: np.ndarray, dtype: np.dtype, order: str) -> np.ndarray:
    if order not in ('little', 'big'):
        raise ValueError(f"byteorder is {order!r}, expected 'little' or 'big'")
    unit = dtype.itemsize // (2 if dtype.kind == 'c' else 1)
    if order != sys.byteorder and unit > 1:
        raw = raw.reshape(-1, unit)[:, ::-1].reshape(-1)
    return raw.view(dtype)


def _no_storage(_record: object) -> np.ndarray:
    raise ValueError('damaged: a storage in the header')


def _load_legacy(data: mmap.mmap) -> object:
    head = data[:16]
    try:
        magic = unpickle(data, _no_storage)
    except ValueError as error:
        other = describe(data[:512])
        cause = f'. It is {other}' if other else ''
        raise ValueError(
            f'not a PyTorch checkpoint (it starts with {head!r}): {error}{cause}'
        ) from error
    if not isinstance(magic, int) or magic != _LEGACY_MAGIC:
        raise ValueError('a pickle, but not a PyTorch checkpoint')
    protocol = unpickle(data, _no_storage)
    if protocol != _LEGACY_PROTOCOL:
        raise ValueError(f'torch format {protocol}, expected {_LEGACY_PROTOCOL}')
    try:
        return _load_legacy_content(data)
    except ValueError as error:
        if data.tell() < len(data) and not str(error).startswith('truncated'):
            raise
        raise ValueError(
            f'{error}; the file is cut off after {len(data)} bytes: download or copy '
            'it again'
        ) from error


def _load_legacy_content(data: mmap.mmap) -> object:
    unpickle(data, _no_storage)  # the writer's system; the data are little-endian
    storages: dict[str, np.ndarray] = {}
    claimed = 0

    def storage(record: object) -> np.ndarray:
        nonlocal claimed
        dtype, key, count, view = _storage_record(record)
        if key not in storages:
            # The data come after the pickle: allocate now and fill later.
            claimed += count * dtype.itemsize
            if claimed > len(data):
                raise ValueError(
                    f'truncated: storages claim {claimed} bytes or more, the file has '
                    f'{len(data)}'
                )
            storages[key] = np.zeros(count, dtype)
        _check_same(storages[key], key, dtype, count)
        if view is None:
            return storages[key]
        _, offset, length = view
        return storages[key][offset : offset + length]

    content = unpickle(data, storage)
    _fill(data, unpickle(data, _no_storage), storages)
    return content


def _fill(data: mmap.mmap, keys: object, storages: dict[str, np.ndarray]) -> None:
    """Reads the storages of an old file: for each key a count, then the elements."""
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise ValueError('damaged: the list of storages differs from those in use')
    for key in keys:
        count = int.from_bytes(data.read(8), 'little')
        raw = data.read(storages[key].nbytes)
        if len(raw) < storages[key].nbytes:
            raise ValueError(f'truncated in storage {key!r}')
        if count != storages[key].size:
            raise ValueError(
                f'damaged: storage {key!r} has {count} elements, the pickle claims '
                f'{storages[key].size}'
            )
        storages[key].view(np.uint8)[:] = np.frombuffer(raw, np.uint8)


# Pickles, written without torch -------------------------------------------------------

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
