"""Videos written frame by frame, whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from atss_jax.drawing.boxes import check_image
from atss_jax.files.atomic import replacing

_CODEC = 'mp4v'  # the one that every build of OpenCV brings
# MPEG-4 has at most this many ticks of the clock per second. OpenCV wants 10, 100 or
# 1000 times the frame rate, as many as the rate has decimals.
_MOST_TICKS = 65_535


@contextlib.contextmanager
def writing_video(
    path: str | os.PathLike, frame_rate: float
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends a frame, (H,W,3) uint8 RGB, to a new .mp4 file.

    The file bears its name once it is whole. All frames have the size of the first;
    a last odd row or column is left out, which MPEG-4 does not have. Frame rates above
    65 are rounded to two decimals, above 655 to one.

    Raises:
        ValueError: no frame was given.
        OSError: the file cannot be written; what is missing is only known at the end
            if the disk becomes full.
    """
    path = pathlib.Path(path)
    # FFmpeg takes what precedes a colon, as in 12:30/a.mp4, for a protocol.
    with replacing(path.absolute()) as temporary:
        writer, count = cv2.VideoWriter(), 0

        def write(frame: np.ndarray) -> None:
            nonlocal count
            check_image(frame)
            if not count:
                _open(writer, temporary, path, frame_rate, frame.shape[1::-1])
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1

        try:
            yield write
        finally:
            writer.release()
        if not count:
            raise ValueError(f'{path}: no frame was given')
        _check_whole(temporary, path, count)


def _open(writer, temporary, path, frame_rate, size):
    codec = cv2.VideoWriter_fourcc(*_CODEC)
    rate = _writable_rate(frame_rate)
    if not writer.open(os.fspath(temporary), codec, rate, size):
        raise OSError(f'OpenCV cannot write a video of {size[0]} x {size[1]} to {path}')


def _writable_rate(frame_rate):
    """The frame rate, rounded where MPEG-4 cannot express it.

    Phones that record slow motion at a varying rate have means such as 239.8312.
    """
    for decimals in (3, 2, 1):
        if frame_rate * 10**decimals <= _MOST_TICKS:
            return round(frame_rate, decimals)
    return round(frame_rate)


def _check_whole(temporary, path, count):
    """OpenCV does not say whether a frame was written: the file must tell."""
    capture = cv2.VideoCapture(os.fspath(temporary))
    written = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    capture.release()
    if written != count:
        raise OSError(
            f'{path}: {written} of {count} frames could be written; is the disk full?'
        )
