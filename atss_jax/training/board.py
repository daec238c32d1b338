"""Scalars and images for TensorBoard, in its own file format."""

import pathlib
import socket
import struct
import time

import cv2
import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from atss_jax.training.metrics_file import Entry

_VERSION = 'brain.Event:2'


class Board:
    """Writes to `folder/events.out.tfevents.*`, each at once.

    tensorboardX's `SummaryWriter` writes in a thread, which a full disk ends: the
    program would then wait for it forever.

    Args:
        folder: made if it does not exist.
        first_step: TensorBoard forgets what earlier runs wrote of it and later steps.

    Raises:
        OSError: the file cannot be written to; so do the methods.
    """

    shows_images = True

    def __init__(self, folder: pathlib.Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
        self._file = (folder / name).open('ab', buffering=0)
        self._write(Event(file_version=_VERSION))
        self._write(Event(step=first_step, file_version=_VERSION))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step, session_log=start))

    def write(self, entry: Entry) -> None:
        """Adds the numbers and images of an entry."""
        for name, value in entry.scalars.items():
            self.add(name, value, entry.step)
        for name, pixels in entry.images:
            value = Summary.Value(tag=f'examples/{name}', image=_encoded(pixels))
            self._write(Event(step=entry.step, summary=Summary(value=[value])))

    def add(self, name: str, value: float, step: int) -> None:
        """Adds the value of a scalar after a step."""
        self._write(Event(step=step, summary=scalar(name, value)))

    def _write(self, event):
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack('<Q', len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))

    def close(self, outcome: str = 'finished') -> None:
        """Closes the file."""
        self._file.close()


def _encoded(pixels):
    """An (H,W,3) RGB image as TensorBoard's protocol has it."""
    _, png = cv2.imencode('.png', np.ascontiguousarray(pixels[..., ::-1]))
    height, width = pixels.shape[:2]
    return Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=png.tobytes()
    )


def _checksum(data):
    return struct.pack('<I', masked_crc32c(data))
