"""Decodes the content of a picture file, or says why it cannot be used."""

import math
import os

import cv2
import numpy as np

from atss_jax.data import picture_header


class BadPicture(ValueError):
    """A picture file whose content cannot be used."""


UNUSABLE = (
    BadPicture,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
"""What `Source.read_image` raises for a picture that is bad whenever it is read.

Other errors (a disk that fails, too many open files) are the machine's: the same
picture may be read a moment later, and to pass over it would make the stream of batches
depend on the weather.
"""


_MOST_PIXELS = 2**28
"""Of a picture whose size nobody has annotated; 805 MB when decoded."""

_STRAIGHT_TO_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)
"""OpenCV 4.11 and newer. Only for JPEG, whose decoder orders channels as it is told: a
test compares both ways."""


def read(path: str | os.PathLike) -> np.ndarray:
    """(H,W,3) uint8 RGB of a picture file, as `decode` reads it.

    Raises:
        BadPicture: it is no picture, not whole, or of more than 2**28 pixels.
        OSError: it cannot be read.
    """
    return decode(file_content(path), None, os.fspath(path), 'a file')


def file_content(path: str | os.PathLike) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, 'rb', buffering=0) as file:
        return file.read()


def decode(
    content: bytes, size: tuple[int, int] | None, name: str, owner: str
) -> np.ndarray:
    """(H,W,3) uint8 RGB of `size`, as mmdet reads it.

    Grey becomes three equal channels, 16 bits become 8, transparency is dropped, CMYK
    is converted, and the picture is turned as its EXIF orientation says.

    Differs from mmdet: a picture that is cut off is refused, where OpenCV may fill it
    up; so are formats other than `picture_header.KINDS`.

    Args:
        content: of the file.
        size: height, width as annotated; None: any. A file that claims another size,
            or too large a one, is refused before memory is taken for it.
        name: of the file, for messages.
        owner: what it belongs to, for messages.

    Raises:
        BadPicture: it is no picture, not whole, or not of `size`.

    Source: mmcv.imfrombytes with flag='color', backend='cv2'.
    """
    header = picture_header.read(content)
    if header is None:
        raise BadPicture(
            f'{name}: not a picture ({picture_header.KINDS}), '
            f'{len(content)} bytes ({owner})'
        )
    _check_claim(header.size, size, name, owner)
    if not header.whole:
        raise BadPicture(
            f'{name}: cut off, a {header.kind} without its end in {len(content)} bytes '
            f'({owner})'
        )
    image = _decode(content, header.kind)
    if image is None:
        raise BadPicture(
            f'{name}: a damaged {header.kind} or one that OpenCV cannot decode, '
            f'{len(content)} bytes ({owner})'
        )
    if size is not None and image.shape[:2] != size:
        raise _wrong_size(image.shape[:2], size, name, owner)
    return image


def _check_claim(claimed, size, name, owner):
    """Raises BadPicture if a file's header claims a size that it must not have."""
    if claimed is None:
        return
    if size is None:
        if math.prod(claimed) > _MOST_PIXELS:
            raise BadPicture(
                f'{name}: {_size_text(claimed)}, more than {_MOST_PIXELS:,} pixels '
                f'({owner})'
            )
    # Either way round: an EXIF orientation may turn it.
    elif claimed not in (size, size[::-1]):
        raise _wrong_size(claimed, size, name, owner)


def _decode(content, kind):
    """RGB picture, or None; OpenCV returns None for some nonsense, raises for other."""
    straight = kind == 'JPEG' and _STRAIGHT_TO_RGB is not None
    flag = _STRAIGHT_TO_RGB if straight else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        return None
    if straight or image is None:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _wrong_size(found, annotated, name, owner):
    hint = ''
    if found == annotated[::-1]:
        hint = (
            '. Width and height are swapped: often the picture carries an EXIF '
            'orientation that the annotation tool did not apply'
        )
    return BadPicture(
        f'{name}: {_size_text(found)}, but annotated as {_size_text(annotated)} '
        f'({owner}){hint}'
    )


def _size_text(size):
    return f'{size[1]}x{size[0]} (width x height)'
