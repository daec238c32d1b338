"""Archives, which must be unpacked before a data set in them can be read."""

import os
import re
import shlex
from collections.abc import Sequence

_ARCHIVES = (
    (b'PK\x03\x04', 'zip', 'unzip {file} -d {folder}'),
    (b'PK\x05\x06', 'zip', 'unzip {file} -d {folder}'),
    (b'7z\xbc\xaf\x27\x1c', '7z', '7z x {file} -o{folder}'),
    (b'Rar!\x1a\x07', 'rar', 'unrar x {file} {folder}/'),
)
"""How archives begin, the program that wrote them, and what unpacks them."""
_COMPRESSED = (
    (b'\x1f\x8b', 'gzip', 'gunzip --keep {file}'),
    (b'BZh', 'bzip2', 'bunzip2 --keep {file}'),
    (b'\xfd7zXZ', 'xz', 'unxz --keep {file}'),
    (b'\x28\xb5\x2f\xfd', 'zstd', 'unzstd --keep {file}'),
)
"""The same of files that are compressed one by one; a tar archive may be one."""
_UNTAR = 'mkdir -p {folder} && tar -xf {file} -C {folder}'
_TAR_NAME = re.compile(r'\.(tar(\.\w+)?|tgz|tbz2?|txz)$', re.IGNORECASE)
_NAME = re.compile(r'\.(zip|7z|rar|tar|tgz|tbz2?|txz|gz|bz2|xz|zst)$', re.IGNORECASE)
_LOOKED_AT = 1000  # files in a folder


def explain(path: str) -> str:
    """What to do about an archive, or about the first one in a folder; '' if none."""
    if not os.path.isdir(path):
        return _explain_file(path)
    with os.scandir(path) as entries:
        files = sorted(entry.path for entry in entries if _NAME.search(entry.name))
    return next(filter(None, map(_explain_file, files[:_LOOKED_AT])), '')


def _explain_file(file):
    beginning = _beginning(file)
    archive = _match_signature(_ARCHIVES, beginning)
    compressed = _match_signature(_COMPRESSED, beginning)
    if beginning[257:262] == b'ustar' or (compressed and _TAR_NAME.search(file)):
        archive = 'tar', _UNTAR
    if not archive and not compressed:
        return ''
    program, command = archive or compressed
    command = command.format(file=shlex.quote(file), folder=shlex.quote(_folder(file)))
    if archive:
        return (
            f'{file} is an archive ({program}). Unpack it, and give the folder: '
            f'{command}'
        )
    return f'{file} is compressed ({program}). Unpack it, and give the file: {command}'


def _beginning(file):
    """The first bytes of a file; none where there is no file that may be read."""
    if not os.path.isfile(file) or not os.access(file, os.R_OK):
        return b''
    with open(file, 'rb') as opened:
        return opened.read(512)


def _match_signature(
    kinds: Sequence[tuple[bytes, str, str]], beginning: bytes
) -> tuple[str, str] | None:
    """The program that wrote a file, and the command; None if it is none of these."""
    for signature, program, command in kinds:
        if beginning.startswith(signature):
            return program, command
    return None


def _folder(file):
    """A folder for what is in an archive, named as it without ending."""
    folder = _NAME.sub('', _TAR_NAME.sub('', file))
    return f'{file}_unpacked' if folder == file else folder
