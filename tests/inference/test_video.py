"""Videos: every frame in order, and what is said of files that are damaged."""

import cv2
import numpy as np
import pytest

from atss_jax.data.image_file import BadImage
from atss_jax.inference.video import DEFAULT_FRAME_RATE, Video
from tests.support import video_files


def grays(count):
    return [video_files.gray_jpeg(80, 40, 10 * number) for number in range(count)]


def noise(count, shape=(40, 80, 3)):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, *shape), np.uint8))


def test_frames_in_order(tmp_path):
    video = Video(video_files.write_avi(tmp_path / 'a.avi', grays(20), rate=12))
    assert (video.frame_rate, video.rate_is_known) == (12, True)
    assert video.expected_frames == 20
    frames = list(video.frames())
    assert [frame.shape for frame in frames] == [(40, 80, 3)] * 20
    means = [frame.mean() for frame in frames]
    np.testing.assert_allclose(means, np.arange(20) * 10, atol=1)
    assert video.num_frames == 20 and not video.missing_end()


def test_one_frame(tmp_path):
    video = Video(video_files.write_clip(tmp_path / 'a.mp4', noise(1)))
    assert len(list(video.frames())) == 1 and not video.missing_end()


def test_colors_are_rgb(tmp_path):
    blue = np.zeros((40, 80, 3), np.uint8)
    blue[..., 0] = 255  # OpenCV writes BGR
    (frame,) = Video(video_files.write_clip(tmp_path / 'a.avi', [blue])).frames()
    assert frame[20, 40, 2] > 200 > 60 > frame[20, 40, 0]


@pytest.mark.parametrize('reader', [cv2.CAP_ANY, cv2.CAP_OPENCV_MJPEG])
def test_frames_that_change_their_size_come_in_that_of_the_first(
    tmp_path, monkeypatch, reader
):
    """FFmpeg's reader resizes them itself, the one of OpenCV does not."""
    portrait = [video_files.gray_jpeg(40, 80, 200)] * 3
    path = video_files.write_avi(tmp_path / 'a.avi', grays(3) + portrait)
    video = Video(path)
    video._capture.open(str(path), reader)
    frames = list(video.frames())
    assert [frame.shape for frame in frames] == [(40, 80, 3)] * 6
    assert [round(frame.mean(), -1) for frame in frames] == [0, 10, 20, 200, 200, 200]


@pytest.mark.parametrize('rate', [0.01, 90000])
def test_a_header_without_a_usable_frame_rate(tmp_path, rate):
    path = video_files.write_avi(tmp_path / 'a.avi', grays(3), rate=max(1, int(rate)))
    if rate < 1:
        content = path.read_bytes()
        scale = content.index(b'vidsMJPG') + 20
        path.write_bytes(content[:scale] + b'\x64\0\0\0' + content[scale + 4 :])
    video = Video(path)
    assert not video.rate_is_known and video.frame_rate == DEFAULT_FRAME_RATE
    assert len(list(video.frames())) == 3


def test_a_file_that_was_cut_off(tmp_path):
    path = video_files.write_clip(tmp_path / 'a.avi', noise(40))
    video = Video(video_files.cut_off(path, 0.5))
    count = len(list(video.frames()))
    assert 10 < count < 30
    assert video.missing_end() == (
        f'{path}: cut off: {count} of 40 frames could be read'
    )


def test_what_is_not_a_video(tmp_path):
    text = tmp_path / 'a.mp4'
    text.write_text('oops')
    # An .mp4 file has its list of frames at the end.
    cut = video_files.write_clip(tmp_path / 'b.mp4', noise(20))
    video_files.cut_off(cut, 0.5)
    for path in (text, cut):
        with pytest.raises(BadImage, match='not a video that OpenCV can read'):
            Video(path)


def test_a_video_without_frames(tmp_path):
    video = Video(video_files.write_avi(tmp_path / 'a.avi', []))
    with pytest.raises(BadImage, match=r'a\.avi: a video in which no frame'):
        list(video.frames())


def test_a_reader_that_stops_early(tmp_path):
    video = Video(video_files.write_avi(tmp_path / 'a.avi', grays(20)))
    frames = video.frames()
    next(frames)
    frames.close()
    assert not video._capture.isOpened()
