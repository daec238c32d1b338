"""Sizes from headers, against pictures that OpenCV wrote and hand-made headers."""

import cv2
import numpy as np
import pytest

from atss_jax.data.picture_size import picture_size


def encoded(suffix, size, *options):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    return cv2.imencode(suffix, noise, list(options))[1].tobytes()


@pytest.mark.parametrize('size', [(1, 1), (3, 700), (700, 3), (256, 257)])
@pytest.mark.parametrize(
    ('suffix', 'options'),
    [
        ('.png', ()),
        ('.jpg', ()),
        ('.jpg', (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ('.jpg', (cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    ],
)
def test_what_opencv_writes(suffix, options, size):
    assert picture_size(encoded(suffix, size, *options)) == size


def test_grey_and_large():
    grey = cv2.imencode('.jpg', np.zeros((40, 4000), np.uint8))[1].tobytes()
    assert picture_size(grey) == (40, 4000)


def test_segments_before_the_frame():
    """A thumbnail in EXIF has a frame of its own; fill bytes may stand anywhere."""
    content = encoded('.jpg', (5, 6))
    thumbnail = encoded('.jpg', (50, 60))
    segment = b'\xff\xff\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    assert picture_size(content[:2] + segment + content[2:]) == (5, 6)


def test_every_frame_marker_and_no_other():
    def header(marker):
        frame = b'\x00\x0b\x08\x00\x07\x00\x09\x01\x01\x11\x00'
        return b'\xff\xd8' + bytes([0xFF, marker]) + frame

    frames = {m for m in range(0xC0, 0xD0) if picture_size(header(m)) == (7, 9)}
    assert frames == set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_cut_headers(suffix):
    content = encoded(suffix, (5, 6))
    found = [picture_size(content[:length]) for length in range(len(content))]
    whole = found.index((5, 6))
    assert found == [None] * whole + [(5, 6)] * (len(content) - whole)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'GIF89a' + bytes(100),
        b'\xff\xd8' + b'not a marker' * 10,
        b'\xff\xd8\xff\xc0\x00\x0b\x08\x00\x00\x00\x00' + bytes(20),
        b'\x89PNG\r\n\x1a\n' + bytes(100),
    ],
)
def test_no_picture(content):
    assert picture_size(content) is None
