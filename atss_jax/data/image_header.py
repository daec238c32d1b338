"""Image headers: the size that a file claims, and whether it is cut off.

Nothing is decoded. A file of a few bytes can claim to be an image of gigabytes, and
decoders believe it; so its claim is compared with the annotated size before any memory
is allocated. And some versions of OpenCV silently fill the missing part of a JPEG with
gray.
"""

import dataclasses
import re
import struct
from collections.abc import Callable

KINDS = 'JPEG, PNG, WebP, BMP, TIFF or GIF'

# 0xff before anything except a stuffed zero, fill, or a restart in compressed data.
_JPEG_MARKER = re.compile(rb'\xff([^\x00\xff\xd0-\xd7])', re.DOTALL)
_JPEG_WITHOUT_LENGTH = {0x01, 0xD8}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes:
        kind: 'JPEG', 'PNG', ...
        size: height, width as stored, before any EXIF orientation; None if the file
            ends before them.
        whole: false if the file lacks the marker that ends a file of its kind. It is
            looked for in JPEG and PNG; decoders refuse the others themselves.
    """

    kind: str
    size: tuple[int, int] | None
    whole: bool = True


def read(content: bytes) -> Header | None:
    """The header of an image file; None if it is not one of `KINDS`."""
    for start, kind, reader in _READERS:
        if start.match(content):
            try:
                return reader(content)
            except (struct.error, KeyError):
                return Header(kind, None, whole=False)
    return None


def _jpeg(content: bytes) -> Header:
    position, size = 2, None
    while match := _JPEG_MARKER.search(content, position):
        marker, position = match[1][0], match.end()
        if marker == _JPEG_END:
            return Header('JPEG', size)
        if marker in _JPEG_WITHOUT_LENGTH:
            continue
        if marker == _JPEG_SCAN and content.endswith(b'\xff\xd9'):
            # Compressed data holds no such bytes, so it need not be searched.
            return Header('JPEG', size)
        if marker in _JPEG_FRAMES:
            size = struct.unpack_from('>HH', content, position + 3)
        position += struct.unpack_from('>H', content, position)[0]
    return Header('JPEG', size, whole=False)


def _png(content: bytes) -> Header:
    width, height = struct.unpack_from('>II', content, 16)
    position, kind = 8, b''
    while kind != b'IEND' and position + 12 <= len(content):
        length, kind = struct.unpack_from('>I4s', content, position)
        position += 12 + length
    return Header('PNG', (height, width), kind == b'IEND' and position <= len(content))


def _webp(content: bytes) -> Header:
    first = content[12:16]
    if first == b'VP8X':
        low_w, high_w, low_h, high_h = struct.unpack_from('<HBHB', content, 24)
        width, height = low_w + (high_w << 16) + 1, low_h + (high_h << 16) + 1
    elif first == b'VP8L':
        bits = struct.unpack_from('<I', content, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (
            side & 0x3FFF for side in struct.unpack_from('<HH', content, 26)
        )
    return Header('WebP', (height, width))


def _bmp(content: bytes) -> Header:
    old = struct.unpack_from('<I', content, 14)[0] == 12
    width, height = struct.unpack_from('<HH' if old else '<ii', content, 18)
    return Header('BMP', (abs(height), width))  # negative: rows are stored from the top


def _gif(content: bytes) -> Header:
    width, height = struct.unpack_from('<HH', content, 6)
    return Header('GIF', (height, width))


def _tiff(content: bytes) -> Header:
    order = '<' if content.startswith(b'II') else '>'
    start = struct.unpack_from(f'{order}I', content, 4)[0]
    tags = {}
    for entry in range(struct.unpack_from(f'{order}H', content, start)[0]):
        position = start + 2 + 12 * entry
        tag, kind = struct.unpack_from(f'{order}HH', content, position)
        form = 'H' if kind == _TIFF_SHORT else 'I'
        tags[tag] = struct.unpack_from(f'{order}{form}', content, position + 8)[0]
    return Header('TIFF', (tags[_TIFF_HEIGHT], tags[_TIFF_WIDTH]))


_READERS: tuple[tuple[re.Pattern[bytes], str, Callable[[bytes], Header]], ...] = (
    (re.compile(rb'\xff\xd8\xff'), 'JPEG', _jpeg),
    (re.compile(rb'\x89PNG\r\n\x1a\n'), 'PNG', _png),
    (re.compile(rb'RIFF....WEBP', re.DOTALL), 'WebP', _webp),
    (re.compile(rb'BM'), 'BMP', _bmp),
    (re.compile(rb'II\*\x00|MM\x00\*'), 'TIFF', _tiff),
    (re.compile(rb'GIF8[79]a'), 'GIF', _gif),
)
