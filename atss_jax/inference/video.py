"""Videos, read frame by frame ahead of the detector."""

import itertools
import os
from collections.abc import Iterator

import cv2
import numpy as np

from atss_jax.data.image_file import BadImage
from atss_jax.files.read_ahead import map_ahead

DEFAULT_FRAME_RATE = 25.0
"""Frames per second of a video whose header names no usable rate."""

# Where a header names no rate, FFmpeg reports ticks of its clock, or next to nothing.
_FRAME_RATES = 0.1, 1000
_AHEAD = 8  # decoded frames that wait for the detector
# The number of frames in a header is often an estimate; less than this share of it is
# the beginning of a file that was cut off.
_LEAST_SHARE = 0.9


class Video:
    """A video file, from its first frame to its last; `frames` is called once.

    Attributes:
        path: of the file.
        frame_rate: frames per second: the mean, where it varies.
        rate_is_known: whether the header names the frame rate.
        expected_frames: number of frames by the header, often an estimate; 0: unknown.
        num_frames: number of frames read so far.

    Raises:
        BadImage: OpenCV cannot read the file as a video.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path
        # FFmpeg takes what precedes a colon, as in 12:30.mp4, for a protocol.
        self._capture = cv2.VideoCapture(os.path.abspath(path))
        if not self._capture.isOpened():
            raise BadImage(f'{path}: not a video that OpenCV can read')
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_is_known = _FRAME_RATES[0] <= rate <= _FRAME_RATES[1]
        self.frame_rate = rate if self.rate_is_known else DEFAULT_FRAME_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.expected_frames = int(max(0, count))  # -1e16 where there is none
        self.num_frames = 0

    def frames(self) -> Iterator[np.ndarray]:
        """(H,W,3) uint8 RGB frames, decoded by a thread ahead of the reader.

        All have the size of the first one: others are resized to it, as OpenCV's reader
        by FFmpeg does itself.

        Raises:
            BadImage: there is no frame.
        """
        decoded = map_ahead(
            lambda _: self._read(), itertools.count(), threads=1, ahead=_AHEAD
        )
        try:
            first = None
            for frame in itertools.takewhile(lambda frame: frame is not None, decoded):
                if first is None:
                    first = frame.shape[1::-1]
                self.num_frames += 1
                yield frame if frame.shape[1::-1] == first else cv2.resize(frame, first)
        finally:
            decoded.close()  # before the release: its thread may be reading
            self._capture.release()
        if not self.num_frames:
            raise BadImage(f'{self.path}: a video in which no frame can be read')

    def missing_end(self) -> str:
        """What the file lacks, once all frames are read; empty if it is whole.

        A difference of a few frames is no sign of damage.
        """
        if self.num_frames >= _LEAST_SHARE * self.expected_frames:
            return ''
        return (
            f'{self.path}: cut off: {self.num_frames} of {self.expected_frames} frames '
            'could be read'
        )

    def _read(self):
        done, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if done else None
