"""Height and width of a picture from the first bytes of its file, not decoded."""

import struct

_PNG = b'\x89PNG\r\n\x1a\n'
# Start of a frame in any JPEG process; C4, C8 and CC between them mean other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}  # markers without a segment


def picture_size(content: bytes) -> tuple[int, int] | None:
    """Height and width as stored, or None if this is no whole header of JPEG or PNG.

    An EXIF orientation is not applied.

    Source: ITU-T T.81, annex B (JPEG); RFC 2083, section 4.1.1 (PNG).
    """
    try:
        if content[:8] == _PNG:
            width, height = struct.unpack_from('>II', content, 16)
        else:
            height, width = _jpeg_size(content)
    except struct.error:
        return None
    return (height, width) if height and width else None


def _jpeg_size(content):
    if content[:2] != b'\xff\xd8':
        return 0, 0
    position = 2
    while True:
        start, marker = struct.unpack_from('>BB', content, position)
        if start != 0xFF:
            return 0, 0
        if marker == 0xFF:  # filling
            position += 1
        elif marker in _ALONE:
            position += 2
        elif marker in _FRAMES:
            return struct.unpack_from('>HH', content, position + 5)
        else:
            (length,) = struct.unpack_from('>H', content, position + 2)
            position += 2 + length
