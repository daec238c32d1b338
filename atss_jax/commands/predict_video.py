"""A video in `atss predict`: detected, tracked, drawn and written frame by frame."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import tqdm

from atss_jax.commands.command_line import counted
from atss_jax.commands.predict_results import Options, Outcome, draw_detections
from atss_jax.drawing.traces import Traces
from atss_jax.drawing.video_file import writing_video
from atss_jax.files.atomic import write_text
from atss_jax.files.read_ahead import map_ahead
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import InputFile
from atss_jax.inference.tracks import NO_TRACK, Tracker, mot_lines
from atss_jax.inference.video import Video

# Frames that are detected and wait to be drawn: more than a batch, so that the devices
# need not wait for the drawing of one.
_WAITING = 16
_TRACE_SECONDS = 1.5

Stream = Callable[[Any], Iterator[tuple[int, np.ndarray, ImageDetections]]]
"""What `Detector.stream` is, with its other arguments given."""


def predict_video(
    stream: Stream,
    item: InputFile,
    folder: pathlib.Path,
    options: Options,
    labels: Collection[int] | None,
    outcome: Outcome,
) -> None:
    """Detects in the frames of a video, and prints a line on it.

    One thread decodes frames, another one tracks, draws and encodes them, while the
    devices compute the next batches.

    Args:
        stream: detects.
        item: the video.
        folder: where the drawn video and the tracks are written.
        options: what is written.
        labels: the classes to keep; None: all.
        outcome: gets the detections of each frame.

    Raises:
        BadImage: no frame can be read.
        OSError: the drawn video cannot be written.
    """
    video, start = Video(item.path), time.perf_counter()
    tracker = _tracker(video, options)
    with (
        _bar(item, video) as bar,
        _tracks(video, item, folder, options) as add_to_tracks,
        _drawing(video, item, folder, options) as draw,
    ):

        def finish(result):
            frame, image, detections = result
            detections = _select(detections, tracker, options.score_thr, labels)
            draw(image, detections)
            return frame, detections

        # One thread: frames are tracked and written in their order.
        frames = stream(enumerate(video.frames()))
        finished = map_ahead(finish, frames, threads=1, ahead=_WAITING)
        # Closed before the drawn video is: the thread may be writing to it.
        with contextlib.closing(finished):
            for frame, detections in finished:
                outcome.add(detections, item, frame=frame)
                add_to_tracks(frame, detections)
                bar.update()
    _report(video, time.perf_counter() - start, tracker, outcome)


def _tracker(video, options):
    if not options.track:
        return None
    return Tracker(video.frame_rate, options.score_thr, options.track_buffer)


def _select(detections, tracker, score_thr, labels):
    """What is written of a frame: high scores, and all that has an identity."""
    if tracker is None:
        return detections.keep(score_thr, labels)
    tracked = tracker.update(detections.keep(labels=labels))
    has_identity = tracked.track_ids != NO_TRACK
    return tracked.select(has_identity | (tracked.scores >= score_thr))


def _bar(item, video):
    return tqdm.tqdm(
        desc=item.path.name,
        total=video.expected_frames or None,
        unit='frames',
        disable=not sys.stderr.isatty(),
    )


@contextlib.contextmanager
def _tracks(video, item, folder, options):
    """Yields a function of a frame and its detections; the tracks are written last.

    Those of an interrupted video too, whose numbers are written as well.
    """
    if not options.track:
        yield lambda frame, detections: None
        return
    lines = []
    try:
        yield lambda frame, detections: lines.extend(mot_lines(frame + 1, detections))
    finally:
        if video.num_frames:
            target = folder / 'tracks' / pathlib.Path(item.name).with_suffix('.txt')
            write_text(target, ''.join(f'{line}\n' for line in lines))


@contextlib.contextmanager
def _drawing(video, item, folder, options):
    """Yields a function of an image and its detections, which adds a drawn frame."""
    if not options.draw:
        yield lambda image, detections: None
        return
    traces = None
    if options.track:
        traces = Traces(round(_TRACE_SECONDS * video.frame_rate))
    with writing_video(folder / 'pictures' / item.name, video.frame_rate) as write:
        yield lambda image, detections: write(
            draw_detections(image, detections, traces)
        )


def _report(video, seconds, tracker, outcome):
    """Says how fast it was, and what could not be read."""
    outcome.video_frames += video.num_frames
    outcome.video_seconds += seconds
    frames = counted(video.num_frames, 'frame')
    parts = [f'{frames}, {video.num_frames / seconds:.1f} frames/s']
    if tracker is not None:
        parts.append(counted(len(tracker), 'track'))
    if not video.rate_is_known:
        parts.append(
            f'no frame rate in its header: {video.frame_rate:g} frames/s are assumed'
        )
    print(f'{video.path}: {", ".join(parts)}')
    if problem := video.missing_end():
        outcome.unreadable.append(problem)
        print(problem, file=sys.stderr)
