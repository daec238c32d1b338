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


def read(path: str | os.PathLike) -> np.ndarray:
    """(H,W,3) uint8 RGB of a picture file, as `decode` reads it.

    Raises:
        BadPicture: it is no picture, not whole, or of more than 2**28 pixels.
        OSError: it cannot be read.
    """
    return decode(np.fromfile(path, np.uint8), None, os.fspath(path), 'a file')


def decode(
    content: np.ndarray, size: tuple[int, int] | None, name: str, owner: str
) -> np.ndarray:
    """(H,W,3) uint8 RGB of `size`, as mmdet reads it.

    Grey becomes three equal channels, 16 bits become 8, transparency is dropped, CMYK
    is converted, and the picture is turned as its EXIF orientation says.

    Differs from mmdet: a picture that is cut off is refused, where OpenCV may fill it
    up; so are formats other than `picture_header.KINDS`.

    Args:
        content: (n,) uint8, the bytes of the file.
        size: height, width as annotated; None: any. A file that claims another size,
            or too large a one, is refused before memory is taken for it.
        name: of the file, for messages.
        owner: what it belongs to, for messages.

    Raises:
        BadPicture: it is no picture, not whole, or not of `size`.

    Source: mmcv.imfrombytes with flag='color', backend='cv2'.
    """
    header = picture_header.read(content.tobytes())
    if header is None:
        raise BadPicture(
            f'{name}: not a picture ({picture_header.KINDS}), '
            f'{content.size} bytes ({owner})'
        )
    _check_claim(header.size, size, name, owner)
    if not header.whole:
        raise BadPicture(
            f'{name}: cut off, a {header.kind} without its end in {content.size} bytes '
            f'({owner})'
        )
    image = _decode(content)
    if image is None:
        raise BadPicture(
            f'{name}: a damaged {header.kind} or one that OpenCV cannot decode, '
            f'{content.size} bytes ({owner})'
        )
    if size is not None and image.shape[:2] != size:
        raise _wrong_size(image.shape[:2], size, name, owner)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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


def _decode(content: np.ndarray) -> np.ndarray | None:
    """BGR picture, or None; OpenCV returns None for some nonsense, raises for other."""
    try:
        return cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error:
        return None


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
