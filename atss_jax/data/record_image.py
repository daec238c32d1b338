"""Reads the image file of a record, or says which one is missing and why."""

from collections.abc import Callable

import numpy as np

from atss_jax.data import image_file, missing_image
from atss_jax.data.records import Record


def read(
    record: Record,
    owner: str,
    folder: str,
    content: Callable[[str], bytes] | None = None,
    shown: tuple[int, int] | None = None,
) -> np.ndarray:
    """(H,W,3) uint8 RGB of `record.size`, turned as its EXIF orientation says.

    Args:
        record: whose image to read.
        owner: file or folder with the annotations, for messages.
        folder: that the names of the images are relative to, for messages.
        content: gives the bytes of an image file by its path; None: reads the file.
        shown: as of `image_file.decode`.

    Raises:
        OSError: the file is missing or cannot be read.
        BadImage: it is not an image, is cut off, or is not of this size.
    """
    name, owner = record.file_name, f'image id {record.image_id}, {owner}'
    try:
        encoded = (content or image_file.file_content)(name)
    except OSError as error:
        reason = error.strerror or 'cannot be read'
        cause = ''
        if isinstance(error, FileNotFoundError):
            cause = missing_image.explain(name, folder)
        raise type(error)(f'{name}: {reason} ({owner}){cause}') from error
    return image_file.decode(encoded, record.size, name, owner, shown)
