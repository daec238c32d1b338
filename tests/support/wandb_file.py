"""Reads what wandb wrote offline: it has no reader of its own for these files."""

import json
import pathlib

_BLOCK = 32768  # bytes; records are divided at its multiples, as in LevelDB's log
_HEADER = 7  # bytes before each part of a record: checksum, length, kind
_LAST_PARTS = (1, 4)  # kinds of a part: whole, first, middle, last
_FILE_HEADER = 7  # bytes: ':W&B', a magic number, a version


def history(file: pathlib.Path) -> list[dict]:
    """All rows that were logged, each with `_step`, in their order."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof('record_type') == 'history':
            items = record.history.item
            rows.append(
                {
                    '/'.join(x.nested_key) or x.key: json.loads(x.value_json)
                    for x in items
                }
                | {'_step': record.history.step.num}
            )
    return rows


def run_record(file: pathlib.Path):
    """The record that says which run the file belongs to."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = (Record.FromString(content) for content in _records(file.read_bytes()))
    return next(r.run for r in records if r.WhichOneof('record_type') == 'run')


def _records(content):
    place, record = _FILE_HEADER, b''
    while place + _HEADER <= len(content):
        if _BLOCK - place % _BLOCK < _HEADER:
            place += _BLOCK - place % _BLOCK
            continue
        size = int.from_bytes(content[place + 4 : place + 6], 'little')
        kind = content[place + 6]
        place += _HEADER
        record += content[place : place + size]
        place += size
        if kind in _LAST_PARTS:
            yield record
            record = b''
