"""Small videos: whole, damaged, and with headers that no camera writes."""

import pathlib
import struct
from collections.abc import Sequence

import cv2
import numpy as np


def gray_jpeg(width: int, height: int, value: int) -> bytes:
    """A JPEG file of one gray."""
    image = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode('.jpg', image)[1].tobytes()


def write_avi(
    path: pathlib.Path,
    frames: Sequence[bytes],
    size: tuple[int, int] = (80, 40),
    rate: int = 10,
) -> pathlib.Path:
    """Writes JPEG files as the frames of an AVI file.

    Args:
        path: of the file.
        frames: content of each JPEG file, which may have any size.
        size: width and height in the header.
        rate: frames per second in the header.
    """
    count = len(frames)
    main = struct.pack('<14I', 0, 0, 0, 16, count, 0, 1, 0, *size, 0, 0, 0, 0)
    stream = b'vidsMJPG' + struct.pack(
        '<IHH8I4H', 0, 0, 0, 0, 1, rate, 0, count, 0, 0xFFFFFFFF, 0, 0, 0, *size
    )
    area = size[0] * size[1] * 3
    form = struct.pack('<IiiHH4sIiiII', 40, *size, 1, 24, b'MJPG', area, 0, 0, 0, 0)
    streams = _list(b'strl', _chunk(b'strh', stream) + _chunk(b'strf', form))
    images = b''.join(_chunk(b'00dc', frame) for frame in frames)
    index, offset = b'', 4
    for frame in frames:
        index += b'00dc' + struct.pack('<3I', 16, offset, len(frame))
        offset += len(_chunk(b'00dc', frame))
    header = _list(b'hdrl', _chunk(b'avih', main) + streams)
    content = header + _list(b'movi', images) + _chunk(b'idx1', index)
    path.write_bytes(_chunk(b'RIFF', b'AVI ' + content))
    return path


def write_clip(
    path: pathlib.Path, images: Sequence[np.ndarray], rate: float = 10.0
) -> pathlib.Path:
    """Writes images, (H,W,3) uint8, as a video with the codec of its suffix."""
    code = 'MJPG' if path.suffix == '.avi' else 'mp4v'
    height, width = images[0].shape[:2]
    fourcc = cv2.VideoWriter_fourcc(*code)
    writer = cv2.VideoWriter(str(path), fourcc, rate, (width, height))
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def cut_off(path: pathlib.Path, share: float) -> pathlib.Path:
    """Keeps the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def _chunk(tag, content):
    padding = b'\0' * (len(content) % 2)
    return tag + struct.pack('<I', len(content)) + content + padding


def _list(tag, content):
    return _chunk(b'LIST', tag + content)
