"""Identities in videos, in cases worked out by hand."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.tracks import NO_TRACK, Tracker, library, mot_lines

with_library = pytest.mark.video


def detections(*objects):
    """Detections of (left, score, label, width), the last two 0 and 40: 40 high."""
    rows = [(*each, *(0, 40)[len(each) - 2 :]) for each in objects]
    left, score, label, width = np.array(rows, np.float32).reshape(-1, 4).T
    boxes = np.stack([left, left * 0 + 10, left + width, left * 0 + 50], axis=1)
    classes = 'car', 'truck'
    return ImageDetections(boxes, score, label.astype(int), classes, (60, 1000))


def follow(tracker, *frames):
    """The identities in each frame."""
    return [tracker.update(detections(*frame)).track_ids.tolist() for frame in frames]


# What needs no library ---------------------------------------------------------------


def test_form_of_the_mot_challenge():
    boxes = np.array([[10, 20, 40.5, 60], [1, 2, 3, 5], [0, 0, 8, 8]], np.float32)
    scores, labels = np.array([0.75, 0.5, 0.25], np.float32), np.zeros(3, int)
    ids = np.array([7, NO_TRACK, 12])
    frame = ImageDetections(boxes, scores, labels, ('car',), (60, 80), ids)
    assert mot_lines(3, frame) == [
        '3,7,10.00,20.00,30.50,40.00,0.7500,-1,-1,-1',
        '3,12,0.00,0.00,8.00,8.00,0.2500,-1,-1,-1',
    ]
    assert frame.keep(0.5).track_ids.tolist() == [7, NO_TRACK]
    assert frame.select(np.array([2, 0])).track_ids.tolist() == [12, 7]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'frame_rate': 0}, 'frame_rate = 0: expected a positive number'),
        ({'frame_rate': float('nan')}, 'frame_rate = nan'),
        ({'frame_rate': 25, 'score_thr': 30}, 'score_thr = 30: expected .* 0 to 1'),
        ({'frame_rate': 25, 'buffer': -1}, 'buffer = -1: expected seconds'),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tracker(**arguments)


def test_a_library_that_is_absent_or_too_new(monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(ValueError, match=r"pip install 'atss-jax\[video\]'"):
        library()
    module = types.ModuleType('supervision')
    module.__version__ = '0.31.2'
    monkeypatch.setitem(sys.modules, 'supervision', module)
    with pytest.raises(ValueError, match=r'0\.31\.2 has no ByteTrack; pip install'):
        library()


# With it -----------------------------------------------------------------------------


@with_library
def test_the_library_is_installed():
    """Otherwise the tests below would have nothing to say."""
    assert importlib.util.find_spec('supervision')


@with_library
def test_two_objects_whose_detections_change_places():
    frames = [[(100 + 4 * k, 0.9), (300 - 4 * k, 0.8)] for k in range(10)]
    frames = [frame[:: 1 - 2 * (k % 2)] for k, frame in enumerate(frames)]
    ids = follow(Tracker(25), *frames)
    assert ids == [[1, 2] if k % 2 == 0 else [2, 1] for k in range(10)]


@with_library
def test_nothing_but_the_identities_changes():
    given = detections((100, 0.9), (300, 0.05), (500, 0.6, 1))
    tracked = Tracker(25).update(given)
    for name in ('boxes', 'scores', 'labels'):
        np.testing.assert_array_equal(getattr(tracked, name), getattr(given, name))
    assert tracked.track_ids.tolist() == [1, NO_TRACK, 2]
    assert given.track_ids is None
    assert (tracked.classes, tracked.size) == (given.classes, given.size)


@with_library
def test_a_low_score_continues_a_track_but_begins_none():
    high, low = (100, 0.8), (100, 0.2)
    assert follow(Tracker(25), [high], [low], [low], [high]) == [[1]] * 4
    assert follow(Tracker(25), [low], [low], [low]) == [[NO_TRACK]] * 3
    # Under 0.1, nothing counts.
    assert follow(Tracker(25), [high], [(100, 0.09)]) == [[1], [NO_TRACK]]


@with_library
def test_a_track_begins_above_the_threshold():
    """0.1 above it; and after the first frame with the second detection."""
    between, above = (100, 0.55), (100, 0.65)
    assert follow(Tracker(25, 0.5), [between], [between]) == [[NO_TRACK]] * 2
    assert follow(Tracker(25, 0.5), [above], [between]) == [[1], [1]]
    late = follow(Tracker(25, 0.5), [], [above], [above], [above])
    assert late == [[], [NO_TRACK], [1], [1]]
    # Also where its class appears for the first time, next to another class.
    other = [(600, 0.9, 1)]
    both = [*other, above]
    late = follow(Tracker(25, 0.5), other, both, both)
    assert late == [[1], [1, NO_TRACK], [1, 2]]


@with_library
@pytest.mark.parametrize(('rate', 'buffer'), [(30, 1.0), (10, 1.0), (10, 2.0)])
def test_a_lost_object_is_remembered_for_seconds(rate, buffer):
    """So for fewer frames where there are fewer in a second."""
    seen, frames = [(100, 0.9)], round(rate * buffer)
    ids = follow(Tracker(rate, buffer=buffer), seen, seen, *[[]] * frames, seen)
    assert ids[-1] == [1]
    gone = [[]] * (frames + 2)  # the library forgets it one frame late
    ids = follow(Tracker(rate, buffer=buffer), seen, seen, *gone, seen, seen)
    assert ids[-2:] == [[NO_TRACK], [2]]


@with_library
def test_an_identity_has_one_class():
    """An object that is taken for another class gets another identity, for as long."""
    car, truck = [(100, 0.9, 0)], [(100, 0.9, 1)]
    ids = follow(Tracker(25), car, car, truck, truck, car, car)
    assert ids == [[1], [1], [NO_TRACK], [2], [1], [1]]


@with_library
def test_an_object_behind_another_one():
    """It moves on while it is not seen, and has its identity when it comes out."""
    front, frames = (390, 0.9, 0, 60), []
    for k in range(80):
        hidden = 385 <= 10 * k <= 415
        frames.append([front] if hidden else [front, (10 * k, 0.8)])
    ids = follow(Tracker(25), *frames)
    assert all(frame[0] == 1 for frame in ids)
    assert [frame[1:] for frame in ids].count([2]) == 80 - 3


@with_library
def test_an_object_exactly_behind_another_one_is_forgotten():
    """The library takes two equal boxes of a class for one object: here the limit."""
    frames = [
        [(400, 0.9)] + [(10 * k, 0.8)] * (abs(10 * k - 400) > 50) for k in range(80)
    ]
    ids = follow(Tracker(25), *frames)
    assert ids[30] == [1, 2] and ids[-1] == [1, 3]


@with_library
def test_trackers_are_independent_and_start_at_1():
    first, second = Tracker(25), Tracker(25)
    assert follow(first, [(100, 0.9), (300, 0.9)]) == [[1, 2]]
    assert follow(second, [(500, 0.9)]) == [[1]]
    assert (len(first), len(second)) == (2, 1)


@with_library
def test_frames_without_detections():
    tracker = Tracker(25)
    assert follow(tracker, [], [], []) == [[], [], []] and len(tracker) == 0


@with_library
def test_no_warning_of_the_library_reaches_the_user(recwarn):
    Tracker(25).update(detections((100, 0.9)))
    assert not recwarn.list
