"""Reads and writes PyTorch checkpoints (`.pth`) without PyTorch.

torch.save has two formats. Since 1.6 it writes a zip: `data.pkl` is a pickle in which a
tensor is a view of a numbered storage, `data/N` are the storages. Before (mmdet's
released files, torchvision's older ones) it wrote five things in a row: three small
pickles, the pickle of the object, and the storages. Both are read, the zip is written.
"""

import contextlib
import io
import mmap
import os
import struct
import sys
import zipfile

import numpy as np

from atss_jax.weights.torch_file.pickler import Pickler
from atss_jax.weights.torch_file.rebuild import Placeholder, storage_dtype
from atss_jax.weights.torch_file.unpickle import unpickle

__all__ = ['Placeholder', 'load', 'save', 'state_dict', 'weights_of']

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# What zipfile and we raise for files that are not what they should be. RuntimeError:
# zipfile's, for an encrypted part.
_DAMAGE = (
    ValueError,
    TypeError,
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,
    struct.error,
)


def load(path: str | os.PathLike) -> object:
    """What `torch.load` gives, with NumPy arrays for tensors.

    Views of one storage stay views of one array. Nothing in the file is run: names that
    a checkpoint has no need of are refused. Objects of mmengine's, mmcv's and mmdet's
    own classes (in a training checkpoint's `message_hub`) come back as `Placeholder`
    records, so that the weights beside them stay readable.

    Raises:
        ValueError: not a checkpoint, a damaged one, or one that names something else;
            says the file and what was found.
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
    except _DAMAGE as error:
        raise ValueError(f'{path}: {error}') from error


def state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights in a checkpoint: its 'state_dict' if it has one, else all of it.

    A prefix 'module.' that all names bear (DataParallel's) is dropped.

    Raises:
        ValueError: there are no weights; names the top-level keys that there are.
    """
    return weights_of(load(path), path)


def weights_of(found: object, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """As `state_dict`, of what `load(path)` gave."""
    weights = found.get('state_dict', found) if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not weights:
        keys = list(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f'{path}: no weights; expected a state_dict, found {keys}')
    odd = [name for name, value in weights.items() if not isinstance(value, np.ndarray)]
    if odd:
        keys = list(found)[:10]
        raise ValueError(
            f'{path}: no weights; expected a mapping of names to tensors or one under '
            f"'state_dict', found the keys {keys}, of which {odd[:10]} are no tensors"
        )
    prefix = 'module.' if all(name.startswith('module.') for name in weights) else ''
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def save(path: str | os.PathLike, obj: object) -> None:
    """Writes what `torch.load(path, weights_only=True)` reads; arrays become tensors.

    Takes dicts, lists, tuples, str, int, float, bool, None and NumPy arrays of torch's
    types (bfloat16 through ml_dtypes). Each array gets a storage of its own. The file
    appears whole or not at all, and the same object gives the same bytes.

    Raises:
        ValueError: a value of another type; says where it is.
    """
    path = os.fspath(path)
    writer = Pickler()
    writer.write(obj, '')
    header = {'data.pkl': bytes(writer.pickled) + b'.', 'version': b'3\n'}
    header['byteorder'] = sys.byteorder.encode('ascii')
    part = f'{path}.{os.getpid()}.tmp'
    try:
        with zipfile.ZipFile(part, 'w') as archive:
            for name, data in header.items():
                archive.writestr(_entry(name), data)
            for number, array in enumerate(writer.arrays):
                archive.writestr(_entry(f'data/{number}'), array.tobytes())
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f'archive/{name}')  # dated 1980, whatever the clock says


# Reading -----------------------------------------------------------------------------


def _claim(record: object) -> tuple[np.dtype, str, int, tuple | None]:
    """A persistent id: element type, key, element count and, in old files, a view."""
    if not isinstance(record, tuple) or len(record) < 5 or record[0] != 'storage':
        raise ValueError('damaged checkpoint: not a storage; save a state_dict instead')
    _, kind, key, _device, count, *view = record
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError('damaged checkpoint: a storage without a key or a size')
    return storage_dtype(kind), key, count, view[0] if view else None


def _load_zip(path: str, size: int) -> object:
    with zipfile.ZipFile(path) as archive:
        folder = _zip_folder(archive, size)
        order = 'little'
        if f'{folder}byteorder' in archive.NameToInfo:
            order = archive.read(f'{folder}byteorder').decode('ascii', 'replace')
        storages: dict[str, np.ndarray] = {}

        def storage(record: object) -> np.ndarray:
            dtype, key, count, _ = _claim(record)
            if key not in storages:
                raw = _zip_storage(
                    archive, f'{folder}data/{key}', count * dtype.itemsize
                )
                storages[key] = _native(raw, dtype, order)
            if storages[key].dtype != dtype or storages[key].size != count:
                raise ValueError(f'damaged checkpoint: storage {key!r} is of two kinds')
            return storages[key]

        return unpickle(io.BytesIO(archive.read(f'{folder}data.pkl')), storage)


def _zip_folder(archive: zipfile.ZipFile, size: int) -> str:
    """The folder of `data.pkl`, after checks that nothing here inflates."""
    names = [info.filename for info in archive.infolist()]
    folders = [
        name.removesuffix('data.pkl')
        for name in names
        if name == 'data.pkl' or name.endswith('/data.pkl')
    ]
    if len(folders) != 1:
        raise ValueError(
            'not a PyTorch checkpoint: a zip file with '
            f'{len(folders)} data.pkl, expected 1; it holds {names[:10]}'
        )
    if f'{folders[0]}constants.pkl' in names:
        raise ValueError(
            'a TorchScript archive, not a checkpoint: save its state_dict() with '
            'torch.save instead'
        )
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f'{info.filename} is compressed: torch.save never does')
        if info.header_offset < 0:
            raise ValueError(f'damaged: {info.filename} lies before the file')
    claimed = sum(info.file_size for info in archive.infolist())
    if claimed > size:
        raise ValueError(f'damaged: its parts claim {claimed} bytes of {size}')
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
    raise ValueError('damaged checkpoint: a storage in its header')


def _load_legacy(data: mmap.mmap) -> object:
    head = data[:16]
    try:
        magic = unpickle(data, _no_storage)
    except ValueError as error:
        raise ValueError(
            f'not a PyTorch checkpoint (it starts with {head!r}): {error}'
        ) from error
    if not isinstance(magic, int) or magic != _LEGACY_MAGIC:
        raise ValueError('a pickle, but not a PyTorch checkpoint')
    protocol = unpickle(data, _no_storage)
    if protocol != _LEGACY_PROTOCOL:
        raise ValueError(f'torch format {protocol}, expected {_LEGACY_PROTOCOL}')
    unpickle(data, _no_storage)  # the writer's sys_info; the data are little-endian
    raws: dict[str, np.ndarray] = {}
    claimed = 0

    def storage(record: object) -> np.ndarray:
        nonlocal claimed
        dtype, key, count, view = _claim(record)
        if key not in raws:
            # The data come after the pickle: make room now, fill it then.
            claimed += count * dtype.itemsize
            if claimed > len(data):
                raise ValueError(
                    f'truncated: its storages claim {claimed} bytes or more, the file '
                    f'has {len(data)}'
                )
            raws[key] = np.zeros(count, dtype)
        if raws[key].dtype != dtype or raws[key].size != count:
            raise ValueError(f'damaged checkpoint: storage {key!r} is of two kinds')
        if view is None:
            return raws[key]
        _, offset, length = view
        return raws[key][offset : offset + length]

    found = unpickle(data, storage)
    _fill(data, unpickle(data, _no_storage), raws)
    return found


def _fill(data: mmap.mmap, keys: object, raws: dict[str, np.ndarray]) -> None:
    """Reads the storages of an old file: for each key a count, then the elements."""
    if not isinstance(keys, list) or set(keys) != set(raws):
        raise ValueError('damaged: the list of its storages is not the one it uses')
    for key in keys:
        count = int.from_bytes(data.read(8), 'little')
        raw = data.read(raws[key].nbytes)
        if len(raw) < raws[key].nbytes:
            raise ValueError(f'truncated in storage {key!r}')
        if count != raws[key].size:
            raise ValueError(
                f'damaged: storage {key!r} has {count} elements, the pickle claims '
                f'{raws[key].size}'
            )
        raws[key].view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
