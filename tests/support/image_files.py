"""Image files as bytes, of kinds that OpenCV cannot write."""

import struct
import zlib
from collections.abc import Sequence

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG's color types


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Length, kind, content, checksum."""
    checked = kind + content
    return struct.pack('>I', len(content)) + checked + _crc(checked)


def _crc(content):
    return struct.pack('>I', zlib.crc32(content))


def png(
    size: tuple[int, int], depth: int, color: int, pixel: bytes, extra: bytes = b''
) -> bytes:
    """A PNG of one color; `extra` chunks come before the pixels."""
    height, width = size
    header = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)
    rows = (b'\0' + pixel * width) * height
    return (
        b'\x89PNG\r\n\x1a\n'
        + png_chunk(b'IHDR', header)
        + extra
        + png_chunk(b'IDAT', zlib.compress(rows))
        + png_chunk(b'IEND', b'')
    )


def jpeg(size: tuple[int, int], values: Sequence[int]) -> bytes:
    """A baseline JPEG of one color with one value per component: gray, YCbCr or CMYK.

    The quantization steps are 1, and only the mean of each block is coded.
    """
    height, width = size
    ids = range(1, len(values) + 1)
    frame = struct.pack('>BHHB', 8, height, width, len(values))
    frame += b''.join(bytes([k, 0x11, 0]) for k in ids)
    # Twelve codes of 4 bits for the mean, one of 1 bit for "no more" after it.
    means = b'\x00' + bytes([0, 0, 0, 12, *[0] * 12]) + bytes(range(12))
    others = b'\x10' + bytes([1, *[0] * 15]) + b'\x00'
    scan = bytes([len(values)]) + b''.join(bytes([k, 0]) for k in ids) + b'\x00\x3f\x00'
    blocks = -(-height // 8) * -(-width // 8)
    first = ''.join(_mean_code(8 * (value - 128)) for value in values)
    bits = first + _mean_code(0) * len(values) * (blocks - 1)
    bits += '1' * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, 'big').replace(b'\xff', b'\xff\x00')
    return (
        b'\xff\xd8'
        + _segment(0xDB, b'\x00' + b'\x01' * 64)
        + _segment(0xC0, frame)
        + _segment(0xC4, means)
        + _segment(0xC4, others)
        + _segment(0xDA, scan)
        + coded
        + b'\xff\xd9'
    )


def _mean_code(difference):
    count = abs(difference).bit_length()
    stored = difference if difference >= 0 else difference + 2**count - 1
    return f'{count:04b}' + (f'{stored:0{count}b}' if count else '') + '0'


def _segment(marker, content):
    return struct.pack('>BBH', 0xFF, marker, len(content) + 2) + content


def with_orientation(jpeg_file: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF orientation, 1 to 8."""
    entry = struct.pack('>HHIHH', 0x0112, 3, 1, orientation, 0)
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01' + entry + b'\0\0\0\0'
    return jpeg_file[:2] + _segment(0xE1, exif) + jpeg_file[2:]


def claiming(jpeg_file: bytes, size: tuple[int, int]) -> bytes:
    """The JPEG with another height and width in its header."""
    offset = jpeg_file.index(b'\xff\xc0') + 5
    return jpeg_file[:offset] + struct.pack('>HH', *size) + jpeg_file[offset + 4 :]
