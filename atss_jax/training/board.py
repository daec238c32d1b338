"""Scalars for TensorBoard, in its own file format."""

import pathlib
import socket
import struct
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

_VERSION = 'brain.Event:2'


class Board:
    """Writes scalars to `folder/events.out.tfevents.*`, each at once.

    tensorboardX's `SummaryWriter` writes in a thread, which a full disk ends: the
    program would then wait for it forever.

    Args:
        folder: made if it does not exist.
        first_step: TensorBoard forgets what earlier runs wrote of it and later steps.

    Raises:
        OSError: the file cannot be written to; so do the methods.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
        self._file = (folder / name).open('ab', buffering=0)
        self._write(Event(file_version=_VERSION))
        self._write(Event(step=first_step, file_version=_VERSION))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step, session_log=start))

    def add(self, name: str, value: float, step: int) -> None:
        """Adds the value of a scalar after a step."""
        self._write(Event(step=step, summary=scalar(name, value)))

    def _write(self, event):
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack('<Q', len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _checksum(data):
    return struct.pack('<I', masked_crc32c(data))
