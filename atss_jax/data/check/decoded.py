"""Every image of a data set, decoded once: which are unusable, which are equal."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from atss_jax.data.image_file import UNUSABLE
from atss_jax.data.records import Source
from atss_jax.files.read_ahead import map_ahead

_REASONS = {
    'swapped': 'width and height are swapped, often by an EXIF orientation',
    'annotated as': 'not of the annotated size',
    'cut off': 'cut off',
    'not an image': 'not an image',
    'damaged': 'damaged',
}
"""Reason by a phrase of the message about an image; the first that occurs holds."""


@dataclasses.dataclass(frozen=True)
class DecodedImage:
    """What decoding one image showed.

    Attributes:
        digest: of its pixels, equal for equal images; empty if it is unusable.
        reason: why it is unusable, as it is counted; empty if it is not.
        message: why it is unusable, in full.
    """

    digest: str = ''
    reason: str = ''
    message: str = ''


def pixel_digest(pixels: np.ndarray) -> str:
    """Hash of the shape and the values of an image."""
    content = hashlib.blake2b(str(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels))
    return content.hexdigest()


def judge(read: Callable[[], np.ndarray]) -> DecodedImage:
    """What decoding one image shows.

    Args:
        read: gives its pixels, or raises one of `image_file.UNUSABLE`.
    """
    try:
        return DecodedImage(pixel_digest(read()))
    except UNUSABLE as error:
        return DecodedImage(reason=_reason(error), message=str(error))


def decode_all(source: Source) -> Iterator[DecodedImage]:
    """Decodes the images of all records in their order, in parallel."""

    def decode(index):
        return judge(lambda: source.read_image(source.records[index]))

    return map_ahead(decode, range(len(source.records)))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return 'missing'
    message = str(error)
    for phrase, reason in _REASONS.items():
        if phrase in message:
            return reason
    return 'cannot be read'
