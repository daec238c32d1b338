"""Identities of objects in videos: ByteTrack, by the library supervision."""

import dataclasses
import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from atss_jax.inference.image_detections import ImageDetections

NO_TRACK = -1
"""The identity of a detection that belongs to no track."""

# Least IoU times score of a track and its next detection: that of mmdet's ByteTracker.
# The library's own, 0.2, is for detectors whose scores are near 1.
_MIN_SIMILARITY = 0.1
# The library counts the frames of its buffer as if there were 30 in a second.
_FRAMES_OF_BUFFER = 30


class Tracker:
    """Follows objects through the frames of one video.

        detector = Detector.load('work_dirs/mine')
        tracker = Tracker(frame_rate=25)
        for _, frame, detections in detector.stream(enumerate(frames)):
            tracked = tracker.update(detections)
            print(tracked.track_ids, tracked.boxes)

    ByteTrack (arXiv 2110.06864) predicts where each object will be. Detections with
    high scores are matched with the predictions first, and what is left with those of
    low scores, down to 0.1, which are often objects that others hide. So give it all
    detections, not only those with high scores.

    Each class has tracks of its own, so that an identity never changes its class: an
    object that the detector takes for another class gets another identity. The library
    itself does not look at classes.

    Args:
        frame_rate: frames per second.
        score_thr: scores from here on count as high. A track begins with a score that
            is 0.1 higher, and gets its identity with its second detection; in the first
            frame of a video at once.
        buffer: seconds for which an object that was lost is remembered.

    Raises:
        ValueError: a number is out of its range, or supervision is not installed.
    """

    def __init__(self, frame_rate: float, score_thr: float = 0.3, buffer: float = 1.0):
        if not (math.isfinite(frame_rate) and frame_rate > 0):
            raise ValueError(f'frame_rate = {frame_rate}: expected a positive number')
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr = {score_thr}: expected a number from 0 to 1')
        if not (math.isfinite(buffer) and buffer >= 0):
            raise ValueError(f'buffer = {buffer}: expected seconds, 0 or more')
        self._supervision, self._score_thr = library(), score_thr
        self._settings = {
            'frame_rate': frame_rate,
            'track_activation_threshold': score_thr,
            'lost_track_buffer': _FRAMES_OF_BUFFER * buffer,
            'minimum_matching_threshold': 1 - _MIN_SIMILARITY,
        }
        self._by_class: dict[int, Any] = {}
        self._identities: dict[tuple[int, int], int] = {}
        self._frames = 0

    def __len__(self) -> int:
        """The number of identities so far."""
        return len(self._identities)

    def update(self, detections: ImageDetections) -> ImageDetections:
        """The detections of the next frame, with their identities in `track_ids`.

        Frames come in their order, those without detections too. Identities are
        counted from 1, and `NO_TRACK` stands for none. Nothing else changes.
        """
        track_ids = np.full(len(detections), NO_TRACK)
        labels = set(detections.labels.tolist())
        for label in sorted(labels | set(self._by_class)):
            rows = np.flatnonzero(detections.labels == label)
            boxes, scores = detections.boxes[rows], detections.scores[rows]
            for row, number in self._follow(label, boxes, scores):
                identity = self._identities.setdefault(
                    (label, number), len(self._identities) + 1
                )
                track_ids[rows[row]] = identity
        self._frames += 1
        return dataclasses.replace(detections, track_ids=track_ids)

    def _follow(self, label, boxes, scores):
        """(index, number of its track in its class) of each detection with a track."""
        byte_track = self._by_class.get(label)
        lives = byte_track and (byte_track.tracked_tracks or byte_track.lost_tracks)
        if not lives and not (scores >= self._score_thr).any():
            return []  # nothing to follow: most classes of a data set, in most videos
        if byte_track is None:
            byte_track = self._by_class[label] = self._new_byte_track()
        tracked = byte_track.update_with_detections(
            self._supervision.Detections(
                xyxy=boxes.astype(np.float32).reshape(-1, 4),
                confidence=scores.astype(np.float32),
                data={'row': np.arange(len(scores))},
            )
        )
        if not len(tracked):
            return []
        numbers = tracked.tracker_id.tolist()
        return zip(tracked.data['row'].tolist(), numbers, strict=True)

    def _new_byte_track(self):
        with warnings.catch_warnings():
            # That the class is absent from supervision 0.31; see `library`.
            warnings.simplefilter('ignore', FutureWarning)
            byte_track = self._supervision.ByteTrack(**self._settings)
        if self._frames:
            # Otherwise it would take this frame for the first of the video, in which
            # any detection is a track at once.
            byte_track.update_with_detections(self._supervision.Detections.empty())
        return byte_track


def library() -> ModuleType:
    """The module supervision.

    Release 0.31 has no ByteTrack any more. Its successor, the package trackers, needs
    opencv-python, which overwrites the files of opencv-python-headless and does not
    start on servers without libGL.

    Raises:
        ValueError: it is not installed, or is too new.
    """
    try:
        import supervision
    except ImportError as error:
        raise ValueError(
            'tracks need the library supervision, which is not installed: '
            f"pip install 'atss-jax[video]' ({error})"
        ) from error
    if not hasattr(supervision, 'ByteTrack'):
        raise ValueError(
            f'tracks need supervision 0.30: {supervision.__version__} has no '
            "ByteTrack; pip install 'atss-jax[video]'"
        )
    return supervision


def mot_lines(frame: int, detections: ImageDetections) -> list[str]:
    """The tracked objects of a frame in the form of the MOT challenge.

    frame,id,left,top,width,height,score,-1,-1,-1: pixels from 0, as mmdet writes them.

    Args:
        frame: number of the frame, counted from 1.
        detections: of the frame, with `track_ids`.
    """
    rows = zip(detections.track_ids, detections.boxes, detections.scores, strict=True)
    return [
        f'{frame},{track_id},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},'
        f'{score:.4f},-1,-1,-1'
        for track_id, (x1, y1, x2, y2), score in rows
        if track_id != NO_TRACK
    ]
