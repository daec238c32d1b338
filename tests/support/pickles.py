"""Writes checkpoint files by hand, opcode by opcode, so that they need no torch."""

import pathlib
import pickle
import struct
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C


def literal(value) -> bytes:
    """Opcodes that push a plain value."""
    return pickle.dumps(value, 2)[2:-1]


def name(full: str) -> bytes:
    """Opcodes that push a global."""
    module, _, attribute = full.rpartition('.')
    return f'c{module}\n{attribute}\n'.encode()


def call(function: str, *args: bytes) -> bytes:
    """Opcodes that call a global with arguments, themselves opcodes."""
    return name(function) + b'(' + b''.join(args) + b'tR'


def storage(key, kind, count, *view) -> bytes:
    fields = [literal('storage'), name(f'torch.{kind}Storage'), literal(key)]
    fields += [literal('cuda:0'), literal(count), *map(literal, view)]
    return b'(' + b''.join(fields) + b'tQ'


def tensor(key, kind, count, offset, size, stride, view=()) -> bytes:
    """Opcodes that push a tensor."""
    return call(
        'torch._utils._rebuild_tensor_v2',
        storage(key, kind, count, *view),
        *map(literal, (offset, size, stride, False)),
        call('collections.OrderedDict'),
    )


def mapping(**values: bytes) -> bytes:
    items = b''.join(literal(key) + value for key, value in values.items())
    return call('collections.OrderedDict') + b'(' + items + b'u'


def write_zip(path, body, storages=(), folder='archive/', extra=()) -> pathlib.Path:
    """The new format; `storages` maps keys to bytes."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'{folder}data.pkl', b'\x80\x02' + body + b'.')
        for key, data in dict(storages).items():
            archive.writestr(f'{folder}data/{key}', data)
        for file, data in dict(extra).items():
            archive.writestr(f'{folder}{file}', data)
        archive.writestr(f'{folder}version', b'3\n')
    return path


def write_legacy(path, body, storages=()) -> pathlib.Path:
    """The old format; `storages` maps keys to (count, bytes)."""
    info = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
    data = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps(info, 2)
    data += b'\x80\x02' + body + b'.' + pickle.dumps(list(dict(storages)), 2)
    pieces = [data]
    for count, raw in dict(storages).values():
        pieces += [struct.pack('<q', count), raw]
    path.write_bytes(b''.join(pieces))
    return path


def write(form, path, body, storages=()) -> pathlib.Path:
    """Either format; `storages` maps keys to arrays."""
    if form == 'zip':
        raw = {key: array.tobytes() for key, array in dict(storages).items()}
        return write_zip(path, body, raw)
    counted = {key: (a.size, a.tobytes()) for key, a in dict(storages).items()}
    return write_legacy(path, body, counted)


def write_plain(path, body, storages=()) -> pathlib.Path:
    """A plain pickle file."""
    path.write_bytes(b'\x80\x02' + body + b'.')
    return path


# As in torchvision's files of 2017: {'w': a Parameter of storage '0'}.
OLD_PARAMETER = mapping(
    w=name('torch.nn.parameter.Parameter')
    + call(
        'torch._utils._rebuild_tensor',
        storage('0', 'Float', 12, None),
        *map(literal, (2, (4,), (1,))),
    )
    + b'\x85\x81'
    + b'\x88\x89'
    + call('collections.OrderedDict')
    + b'\x87b'
)
