"""Videos: whole or not at all."""

import contextlib
import resource
import signal

import cv2
import numpy as np
import pytest

from atss_jax.drawing.video_file import writing_video
from atss_jax.inference.video import Video


@contextlib.contextmanager
def no_files_larger_than(size):
    """What a full disk does to a writer, for this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize('size', [(48, 64), (49, 65)])
def test_frames_are_read_back(tmp_path, size):
    """Frames of odd sizes lose a row and a column."""
    path = tmp_path / 'deep' / 'a.mp4'
    red = np.zeros((*size, 3), np.uint8)
    red[..., 0] = 200
    with writing_video(path, 29.97) as write:
        for _ in range(3):
            write(red)
        assert not path.exists()
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97, abs=0.01)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    frame = capture.read()[1]
    assert frame.shape == (48, 64, 3)
    assert abs(frame[20, 20].astype(int) - (0, 0, 200)).max() < 12


@pytest.mark.parametrize('rate', [0.1, 59.9973, 66.6667, 239.8312, 999.96])
def test_frame_rates_of_any_decimals(tmp_path, rate):
    """MPEG-4 cannot express most rates above 65: they are rounded."""
    with writing_video(tmp_path / 'a.mp4', rate) as write:
        write(np.zeros((48, 64, 3), np.uint8))
    written = cv2.VideoCapture(str(tmp_path / 'a.mp4')).get(cv2.CAP_PROP_FPS)
    assert written == pytest.approx(rate, rel=1e-4)


def test_relative_paths_with_colons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with writing_video('12:30/12:31.mp4', 10) as write:
        write(np.zeros((48, 64, 3), np.uint8))
    assert Video('12:30/12:31.mp4').expected_frames == 1


def test_a_full_disk(tmp_path):
    path, noise = tmp_path / 'a.mp4', np.random.default_rng(0)
    with (
        no_files_larger_than(100_000),
        pytest.raises(OSError, match=r'a\.mp4: \d+ of 40 frames .* is the disk full'),
        writing_video(path, 10) as write,
    ):
        for _ in range(40):
            write(noise.integers(0, 256, (240, 320, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_nothing(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(KeyError), writing_video(tmp_path / 'a.mp4', 10) as write:
        write(image)
        raise KeyError
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(OSError, match=r'cannot write a video of 64 x 48 to .*a\.xyz'),
        writing_video(tmp_path / 'a.xyz', 10) as write,
    ):
        write(image)


def test_no_frame_is_an_error(tmp_path):
    path = tmp_path / 'a.mp4'
    with pytest.raises(ValueError, match='no frame'), writing_video(path, 10):
        pass
