"""Reads and decodes image files, or says why an image cannot be used."""

import math
import os
import unicodedata
from collections.abc import Callable

import cv2
import numpy as np

from atss_jax.data import image_header
from atss_jax.files import kind

_REDUCTIONS = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""Flags to decode a JPEG at a fraction of its size: its blocks of 8 x 8 pixels become
blocks of 4, 2 or 1 in the inverse cosine transform, which then has less work."""


class BadImage(ValueError):
    """An image file whose content cannot be used."""


UNUSABLE = (
    BadImage,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
"""What `Source.read_image` raises for an image that is bad whenever it is read.

Other errors (a disk that fails, too many open files) are the machine's: the same image
may be readable a moment later, and to skip it would make the stream of batches depend
on chance.
"""

_MAX_PIXELS = 2**28
"""Limit for an image whose size is not annotated; 805 MB when decoded."""

_DIRECT_TO_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)
"""Flag to decode to RGB directly, from OpenCV 4.11 on; None before. It is used for JPEG
only, whose decoder then saves the conversion; a test compares both ways."""


def read(path: str | os.PathLike) -> np.ndarray:
    """(H,W,3) uint8 RGB of an image file, as `decode` reads it.

    Raises:
        BadImage: it is not an image, is cut off, or has more than 2**28 pixels.
        OSError: it cannot be read.
    """
    return decode(file_content(path), None, os.fspath(path), 'a file')


def file_content(path: str | os.PathLike) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, 'rb', buffering=0) as file:
        return file.read()


def size_of(
    path: str | os.PathLike, content: Callable[[str], bytes] = file_content
) -> tuple[int, int]:
    """Height, width of an image file as `read` gives it; decodes only where it must.

    Args:
        path: of the image.
        content: gives the bytes of an image file by its path.

    Raises:
        BadImage, OSError: as `read`.
    """
    encoded = content(path)
    header = image_header.read(encoded)
    # An orientation turns the image; TIFF has it without the word.
    may_be_turned = b'exif' in encoded.lower() or encoded[:2] in (b'II', b'MM')
    if header is None or header.size is None or may_be_turned:
        height, width, _ = decode(encoded, None, os.fspath(path), 'a file').shape
        return height, width
    return header.size


def locate(folder: str, name: str) -> str:
    """Path of the image that an annotation file calls `name`, in `folder`.

    If there is no such file, backslashes are read as slashes, and letters with accents
    in either of the forms that file systems use.
    """
    path = os.path.join(folder, name)
    if ('\\' in name or not name.isascii()) and not os.path.exists(path):
        slashes = name.replace('\\', '/')
        for form in ('NFC', 'NFD'):
            other = os.path.join(folder, unicodedata.normalize(form, slashes))
            if os.path.exists(other):
                return other
    return path


def decode(
    content: bytes,
    size: tuple[int, int] | None,
    name: str,
    owner: str,
    shown: tuple[int, int] | None = None,
) -> np.ndarray:
    """(H,W,3) uint8 RGB of `size`, as mmdet reads it; a JPEG smaller if it may be.

    Gray becomes three equal channels, 16 bits become 8, transparency is dropped, CMYK
    is converted, and the image is turned as its EXIF orientation says.

    Differs from mmdet: an image that is cut off is refused, where OpenCV may fill in
    the missing part; so are formats other than `image_header.KINDS`.

    Args:
        content: bytes of the file.
        size: height, width as annotated; None: any. A file that claims another size,
            or too large a one, is refused before memory is allocated for it.
        name: of the file, for messages.
        owner: what the image belongs to, for messages.
        shown: height, width that the image will be resized to. A JPEG is then reduced
            by `reduction_for`; resized, its pixels differ from those of the whole image
            resized. None: decode at full size.

    Raises:
        BadImage: it is not an image, is cut off, or is not of `size`.

    Source: mmcv.imfrombytes with flag='color', backend='cv2'.
    """
    header = _checked_header(content, size, name, owner)
    reduction = 1
    if shown is not None and size is not None and header.kind == 'JPEG':
        reduction = reduction_for(size, shown)
    image = _decode(content, header.kind, reduction)
    if image is None:
        raise BadImage(
            f'{name}: a damaged {header.kind} or one that OpenCV cannot decode, '
            f'{len(content)} bytes ({owner})'
        )
    decoded_size = tuple(reduction * side for side in image.shape[:2])
    if size is not None and decoded_size != size:
        raise _wrong_size(decoded_size, size, name, owner)
    return image


def _checked_header(content, size, name, owner):
    """What an image says of itself, if it is whole and as large as annotated."""
    header = image_header.read(content)
    if header is None:
        other = kind.describe(content)
        raise BadImage(
            f'{name}: not an image ({image_header.KINDS}), '
            f'{len(content)} bytes ({owner})' + (f'. It is {other}' if other else '')
        )
    _check_claim(header.size, size, name, owner)
    if not header.whole:
        raise BadImage(
            f'{name}: cut off, a {header.kind} without its end in {len(content)} bytes '
            f'({owner})'
        )
    return header


def reduction_for(size: tuple[int, int], shown: tuple[int, int]) -> int:
    """What a JPEG can be reduced by while it is decoded: 8, 4, 2, or 1 for not at all.

    Resizing must not enlarge the reduced image. And its last row and column must be
    whole: otherwise the image would be stretched, and its objects moved, by a part of a
    pixel. The sides of photographs, as cameras write them, are multiples of 8.

    Args:
        size: height, width of the image.
        shown: height, width that it will be resized to.
    """
    for reduction in sorted(_REDUCTIONS, reverse=True):
        sides = [side // reduction for side in size if side % reduction == 0]
        if len(sides) == len(size) and all(np.greater_equal(sides, shown)):
            return reduction
    return 1


def _check_claim(claimed, size, name, owner):
    """Raises BadImage if the size that a file's header claims is not acceptable."""
    if claimed is None:
        return
    if size is None:
        if math.prod(claimed) > _MAX_PIXELS:
            raise BadImage(
                f'{name}: {_size_text(claimed)}, more than {_MAX_PIXELS:,} pixels '
                f'({owner})'
            )
    # Either way round: an EXIF orientation may turn it.
    elif claimed not in (size, size[::-1]):
        raise _wrong_size(claimed, size, name, owner)


def _decode(content, kind, reduction=1):
    """The RGB image; None if OpenCV cannot decode it."""
    direct = kind == 'JPEG' and _DIRECT_TO_RGB is not None and reduction == 1
    flag = _DIRECT_TO_RGB if direct else _REDUCTIONS.get(reduction, cv2.IMREAD_COLOR)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:  # for some bad data it returns None instead
        return None
    if direct or image is None:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _wrong_size(size, annotated, name, owner):
    hint = ''
    if size == annotated[::-1]:
        hint = (
            '. Width and height are swapped: often the image carries an EXIF '
            'orientation that the annotation tool did not apply'
        )
    return BadImage(
        f'{name}: {_size_text(size)}, but annotated as {_size_text(annotated)} '
        f'({owner}){hint}'
    )


def _size_text(size):
    return f'{size[1]}x{size[0]} (width x height)'
