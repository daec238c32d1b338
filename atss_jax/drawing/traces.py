"""Where the objects of a video came from: a line through their last centers."""

import collections

import cv2
import numpy as np

from atss_jax.drawing.boxes import class_color

_SHIFT = 4  # cv2 draws in units of 1/16 pixel


class Traces:
    """The last centers of each identity; those that were not seen lately are forgotten.

    Args:
        length: number of frames that a trace reaches back.
    """

    def __init__(self, length: int):
        self._length = length
        self._frame = 0
        self._centers = collections.defaultdict(collections.deque)

    def add(self, boxes: np.ndarray, track_ids: np.ndarray) -> None:
        """Adds the objects of the next frame.

        Args:
            boxes: (N,4) xyxy in pixels of the image that is drawn on.
            track_ids: (N,) identities; negative ones have no trace.
        """
        self._frame += 1
        for box, track_id in zip(boxes, track_ids.tolist(), strict=True):
            if track_id >= 0:
                center = (box[:2] + box[2:]) / 2
                self._centers[track_id].append((self._frame, center))
        oldest = self._frame - self._length
        for track_id, centers in list(self._centers.items()):
            while centers and centers[0][0] < oldest:
                centers.popleft()
            if not centers:
                del self._centers[track_id]

    def draw(self, canvas: np.ndarray) -> None:
        """Draws the traces in place, thinner and more transparent with their age.

        Args:
            canvas: (H,W,3) uint8 RGB.
        """
        widest = max(1, round(min(canvas.shape[:2]) / 150))
        pale = canvas.copy()
        # Old parts on a copy that is blended in, new parts on top.
        for on, newer in ((pale, False), (canvas, True)):
            for track_id, centers in self._centers.items():
                self._draw_one(on, centers, class_color(track_id), widest, newer)
            if not newer:
                cv2.addWeighted(canvas, 0.5, pale, 0.5, 0, dst=canvas)

    def _draw_one(self, canvas, centers, color, widest, newer):
        points = [center for _, center in centers]
        frames = [frame for frame, _ in centers]
        for start, end, frame in zip(points, points[1:], frames[1:], strict=False):
            youth = 1 - (self._frame - frame) / max(self._length, 1)
            if (youth > 0.5) == newer:
                ends = np.rint(np.array([start, end]) * (1 << _SHIFT)).astype(int)
                thickness = max(1, round(widest * youth))
                first, last = (tuple(point) for point in ends.tolist())
                cv2.line(canvas, first, last, color, thickness, cv2.LINE_AA, _SHIFT)
