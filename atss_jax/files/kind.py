"""Says what a file is that is not what its name says: web page, pointer, archive.

For messages only: nothing is read by these rules.
"""

import os

_WEB_PAGE = (
    'a web page: the download gave an error or login page instead of the file; '
    'download it again'
)
_COMPRESSED = 'compressed: decompress it first'
_TORCH = 'a PyTorch checkpoint: its name must end in .pth'
_BY_BEGINNING = (
    (
        b'version https://git-lfs',
        'a pointer of Git LFS: fetch the file with git lfs pull',
    ),
    (b'<!doctype html', _WEB_PAGE),
    (b'<html', _WEB_PAGE),
    (b'<?xml', 'an XML file, perhaps the error of a download; download it again'),
    (b'\x1f\x8b', _COMPRESSED),
    (b'bzh', _COMPRESSED),
    (b'\xfd7zxz', _COMPRESSED),
    (b'\x28\xb5\x2f\xfd', _COMPRESSED),
    (b'\x89hdf', 'an HDF5 file, as Keras writes'),
    (b'pk\x03\x04', f'a zip file, perhaps {_TORCH}'),
    (b'\x80\x02\x8a\nl\xfc\x9cf\xf9 j\xa8p\x19', _TORCH),
)
_LARGEST_HEADER = 100_000_000  # bytes, of a .safetensors file


def describe(content: bytes) -> str | None:
    """What a file is by its first bytes, and what to do; None if it is not known.

    Args:
        content: the first 512 bytes, or all.
    """
    beginning = content[:64].lstrip(b'\xef\xbb\xbf \r\n\t').lower()
    for signature, text in _BY_BEGINNING:
        if beginning.startswith(signature):
            return text
    if content[257:262] == b'ustar':
        return 'a tar archive: unpack it first'
    header = int.from_bytes(content[:8], 'little')
    if 2 <= header <= _LARGEST_HEADER and content[8:9] == b'{':
        return 'a safetensors file: its name must end in .safetensors'
    if beginning.startswith(b'{'):
        return 'text in JSON, perhaps the error of a download; download it again'
    if content and not any(content):
        return 'empty, it begins with zeros: a copy or download did not finish'
    return None


def describe_file(path: str | os.PathLike) -> str | None:
    """As `describe`, of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, 'rb') as file:
        return describe(file.read(512))
