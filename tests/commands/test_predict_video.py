"""Videos in `atss predict`: what is written of them, with identities and without.

A made stream takes the place of the detector, except in the last tests.
"""

import csv
import json
import sys
import threading

import cv2
import numpy as np
import pytest

from atss_jax.commands import predict_video
from atss_jax.commands.predict_files import predict_files
from atss_jax.commands.predict_results import Options, Outcome, write_numbers
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import Ids, InputFile, find_files
from atss_jax.inference.tracks import NO_TRACK
from tests.support import video_files

CLASSES = ('car', 'person')
SIZE = 240, 320


class MadeDetector:
    """Sees two objects of one class that move towards each other, and noise.

    Args:
        hidden: frames in which the second object has a low score.
    """

    classes = CLASSES

    def __init__(self, hidden=(), empty=False):
        self.hidden, self.empty = hidden, empty

    def stream(self, frames, **_):
        for number, image in frames:
            yield number, image, self.see(number)

    def see(self, number):
        low = 0.2 if number in self.hidden else 0.7
        rows = [
            (10 + 6 * number, 20, 0.9, 0),
            (200 - 6 * number, 120, low, 0),
            (100, 200, 0.06, 1),
        ]
        rows = np.array([] if self.empty else rows, np.float32).reshape(-1, 4)
        left, top, scores, labels = rows.T
        boxes = np.stack([left, top, left + 40, top + 30], axis=1)
        return ImageDetections(boxes, scores, labels.astype(int), CLASSES, SIZE)


def clip(path, count=12, rate=10.0, size=SIZE):
    shade = [np.full((*size, 3), (40 + 10 * k) % 256, np.uint8) for k in range(count)]
    return video_files.write_clip(path, shade, rate)


def run(detector, paths, out, **options):
    items = find_files(list(map(str, paths)), out)
    return predict_files(detector, items, str(out), Options(**options))


def rows_of(out):
    with (out / 'detections.csv').open() as file:
        return list(csv.DictReader(file))


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    return frames


# Without identities ------------------------------------------------------------------


def test_every_frame_is_drawn_and_counted(tmp_path, capsys):
    video, out = clip(tmp_path / 'a.mp4'), tmp_path / 'out'
    outcome = run(MadeDetector(), [video], out)
    assert outcome.video_frames == len(outcome.images) == 12
    assert f'{video}: 12 frames, ' in (said := capsys.readouterr().out)
    assert 'frames/s' in said and 'track' not in said
    drawn = frames_of(out / 'pictures' / 'a.mp4')
    assert [frame.shape for frame in drawn] == [(320, 427 - 1, 3)] * 12
    assert list(rows_of(out)[0]) == [
        *('file', 'frame', 'class', 'score', 'x1', 'y1', 'x2', 'y2')
    ]
    assert 'track_id' not in json.loads((out / 'detections.json').read_text())[0]
    assert not (out / 'tracks').exists()
    assert sorted(path.name for path in out.rglob('*.mp4')) == ['a.mp4']


def test_the_device_works_on_while_a_frame_is_drawn(tmp_path, monkeypatch):
    """The first frame is not drawn before the third one was asked for."""
    asked = threading.Event()

    class Stream(MadeDetector):
        def see(self, number):
            if number == 2:
                asked.set()
            return super().see(number)

    draw, waited = predict_video.draw_detections, []

    def draw_late(*args):
        waited.append(asked.wait(timeout=20))
        return draw(*args)

    monkeypatch.setattr(predict_video, 'draw_detections', draw_late)
    run(Stream(), [clip(tmp_path / 'a.mp4', 4)], tmp_path / 'out')
    assert waited == [True] * 4


def test_a_video_that_is_cut_off(tmp_path, capsys):
    """What could be read is written, and the file is named."""
    rng = np.random.default_rng(0)
    noise = list(rng.integers(0, 256, (30, 40, 80, 3), np.uint8))
    video = video_files.write_clip(tmp_path / 'a.avi', noise)
    video_files.cut_off(video, 0.5)
    outcome = run(MadeDetector(), [video], tmp_path / 'out')
    count = len(outcome.images)
    assert 5 < count < 20
    message = f'{video}: cut off: {count} of 30 frames could be read'
    assert outcome.unreadable == [message] and message in capsys.readouterr().err
    assert len(frames_of(tmp_path / 'out' / 'pictures' / 'a.mp4')) == count


def test_videos_that_cannot_be_read(tmp_path, capsys):
    text, empty = tmp_path / 'a.mp4', tmp_path / 'b.avi'
    text.write_text('oops')
    video_files.write_avi(empty, [])
    good, out = clip(tmp_path / 'c.mp4', 2), tmp_path / 'out'
    outcome = run(MadeDetector(), [text, empty, good], out)
    assert [line.split(': ')[1] for line in outcome.unreadable] == [
        'not a video that OpenCV can read',
        'a video in which no frame can be read',
    ]
    assert len(outcome.images) == 2
    assert [path.name for path in out.rglob('*.mp4')] == ['c.mp4']
    assert f'skipped: {text}: ' in capsys.readouterr().err
    with pytest.raises(ValueError, match='none of 2 files can be read'):
        run(MadeDetector(), [text, empty], out)


def test_a_header_without_a_frame_rate(tmp_path, capsys):
    frame = video_files.gray_jpeg(80, 40, 99)
    video = video_files.write_avi(tmp_path / 'a.avi', [frame] * 3, rate=90000)
    run(MadeDetector(), [video], tmp_path / 'out')
    assert 'no frame rate in its header: 25 frames/s are assumed' in (
        capsys.readouterr().out
    )
    capture = cv2.VideoCapture(str(tmp_path / 'out' / 'pictures' / 'a.mp4'))
    assert capture.get(cv2.CAP_PROP_FPS) == 25


def test_an_output_that_cannot_be_written(tmp_path):
    """Nothing that was detected before is lost."""
    first, second = clip(tmp_path / 'a.mp4', 3), clip(tmp_path / 'b.mp4', 3)
    out = tmp_path / 'out'
    (out / 'pictures' / 'b.mp4').mkdir(parents=True)
    with pytest.raises(OSError, match=r'b\.mp4'):
        run(MadeDetector(), [first, second], out)
    assert {row['frame'] for row in rows_of(out)} == {'0', '1', '2'}
    assert len(frames_of(out / 'pictures' / 'a.mp4')) == 3


def test_identities_in_the_files_of_numbers(tmp_path):
    seen = MadeDetector().see(0)
    ids = np.array([4, NO_TRACK, 7])
    item = InputFile(tmp_path / 'a.mp4', 'a.mp4', True)
    outcome = Outcome(Ids((1, 2)))
    tracked = ImageDetections(
        seen.boxes, seen.scores, seen.labels, CLASSES, SIZE, track_ids=ids
    )
    outcome.add(tracked, item, frame=0)
    write_numbers(tmp_path, outcome, CLASSES, tracked=True)
    rows = rows_of(tmp_path)
    assert [row['track_id'] for row in rows] == ['4', '', '7']
    assert [row['class'] for row in rows] == ['car', 'car', 'person']
    results = json.loads((tmp_path / 'detections.json').read_text())
    assert [result['track_id'] for result in results] == [4, None, 7]


def test_what_is_refused(call, tmp_path):
    image, video = tmp_path / 'a.png', clip(tmp_path / 'b.mp4', 1)
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    out = f'--out={tmp_path / "out"}'
    both = '--workdir=none', out, video, image
    result = call('predict', *both, '--track')
    assert result.status == 1
    assert '--track follows objects through videos, but 1 of 2 files are images' in (
        result.err
    )
    assert str(image) in result.err and not (tmp_path / 'out').exists()
    result = call('predict', *both, '--ann_file=a.json')
    assert result.status == 1 and f'but {video} is a video' in result.err
    result = call('predict', *both, '--track_buffer=2')
    assert result.status == 2 and '--track_buffer is of --track' in result.err
    result = call('predict', *both, '--track', '--track_buffer=-1')
    assert result.status == 2 and 'expected seconds, 0 or more' in result.err
    result = call('predict', *both, '--track', '--score_thr=0.9')
    assert result.status == 2 and '--score_thr=0.9: no track can begin' in result.err
    result = call('predict', *both, '--overlap=0.5')
    assert result.status == 2 and '--overlap is of --tiles' in result.err
    result = call('predict', *both, '--tiles=64', '--overlap=1')
    assert result.status == 2 and 'from 0 to less than 1' in result.err


class Interrupted(MadeDetector):
    """At the 20th image; at most 16 are drawn ahead."""

    def stream(self, images, **_):
        for count, (key, image) in enumerate(images):
            if count == 19:
                raise KeyboardInterrupt
            yield key, image, self.see(0)


def test_numbers_of_images_are_written_on_ctrl_c(tmp_path):
    paths = [tmp_path / f'{number:02}.png' for number in range(20)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((*SIZE, 3), np.uint8))

    out = tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), paths, out)
    files = {row['file'] for row in rows_of(out)}
    assert 3 <= len(files) < 20
    assert files == set(map(str, paths[: len(files)]))


def test_without_the_library(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'supervision', None)
    video = clip(tmp_path / 'b.mp4', 1)
    result = call('predict', '--workdir=none', video, '--track')
    assert result.status == 1 and "pip install 'atss-jax[video]'" in result.err


# With identities ---------------------------------------------------------------------


@pytest.mark.video
def test_identities_from_end_to_end(tmp_path, capsys):
    """Two objects that pass each other, one of them with low scores for a while."""
    video, out = clip(tmp_path / 'a.mp4', 20), tmp_path / 'out'
    detector = MadeDetector(hidden=range(8, 12))
    run(detector, [video], out, track=True)
    assert ', 2 tracks' in capsys.readouterr().out
    rows = rows_of(out)
    assert len(rows) == 40
    for row in rows:
        upper = float(row['y1']) == 20
        assert row['track_id'] == ('1' if upper else '2')
    assert min(float(row['score']) for row in rows) == pytest.approx(0.2)
    lines = (out / 'tracks' / 'a.txt').read_text().splitlines()
    assert lines[:2] == [
        '1,1,10.00,20.00,40.00,30.00,0.9000,-1,-1,-1',
        '1,2,200.00,120.00,40.00,30.00,0.7000,-1,-1,-1',
    ]
    frames = [int(line.split(',')[0]) for line in lines]
    assert frames == [frame for frame in range(1, 21) for _ in range(2)]
    assert len(frames_of(out / 'pictures' / 'a.mp4')) == 20


@pytest.mark.video
def test_several_videos_and_classes(tmp_path):
    """Identities start anew; a class that is left out has none."""
    videos = [clip(tmp_path / name, 4) for name in ('a.mp4', 'b.mp4')]
    out = tmp_path / 'out'
    run(MadeDetector(), videos, out, track=True, draw=False, score_thr=0.05)
    rows = rows_of(out)
    by_video = {(row['file'], row['track_id']) for row in rows}
    assert by_video == {(str(v), k) for v in videos for k in ('1', '2', '')}
    assert not (out / 'pictures').exists()
    run(MadeDetector(), videos, out, track=True, draw=False, classes=('person',))
    assert rows_of(out) == []
    assert (out / 'tracks' / 'b.txt').read_text() == ''


@pytest.mark.video
def test_tracks_are_written_on_ctrl_c(tmp_path):
    video, out = clip(tmp_path / 'a.mp4', 24), tmp_path / 'out'
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), [video], out, track=True)
    lines = (out / 'tracks' / 'a.txt').read_text().splitlines()
    assert 0 < len(lines) == len(rows_of(out)) < 60
    assert not any((out / 'pictures').glob('*.mp4')), 'no half of a video'


@pytest.mark.video
def test_a_video_of_one_frame_and_one_without_objects(tmp_path):
    one, none, out = clip(tmp_path / 'a.mp4', 1), clip(tmp_path / 'b.mp4'), 'out'
    run(MadeDetector(), [one], tmp_path / out, track=True)
    assert [row['track_id'] for row in rows_of(tmp_path / out)] == ['1', '2']
    run(MadeDetector(empty=True), [none], tmp_path / out, track=True)
    assert rows_of(tmp_path / out) == []
    assert len(frames_of(tmp_path / out / 'pictures' / 'b.mp4')) == 12


@pytest.mark.video
def test_the_buffer_is_of_seconds(tmp_path):
    """An object that is gone for 8 frames, at 10 frames per second."""

    class Gone(MadeDetector):
        def see(self, number):
            seen = super().see(0)
            return seen.select(np.arange(3) < (1 if 4 <= number < 12 else 2))

    video = clip(tmp_path / 'a.mp4', 18)

    def identities(buffer):
        out = tmp_path / 'out'
        run(Gone(), [video], out, track=True, track_buffer=buffer, draw=False)
        return {row['track_id'] for row in rows_of(out)}

    assert identities(1.0) == {'1', '2'}
    assert identities(0.3) == {'1', '2', '3', ''}


@pytest.mark.video
def test_the_command_with_a_trained_detector(call, small_run, tmp_path):
    video, out = clip(tmp_path / 'a.mp4', 5, size=(40, 80)), tmp_path / 'out'
    flags = f'--workdir={small_run.workdir}', f'--out={out}', '--batch_size=2'
    result = call('predict', *flags, video, '--track', '--score_thr=0.01')
    assert result.status == 0, result.err
    assert 'in tracks or with scores of at least 0.01' in result.out
    assert 'frames/s' in result.out.splitlines()[-1]
    assert 'track_id' in rows_of(out)[0]
    assert (out / 'tracks' / 'a.txt').is_file()
