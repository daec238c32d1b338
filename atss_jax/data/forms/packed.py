"""Archives, which must be unpacked before a data set in them can be read."""

import os
import re
import shlex

_TAR = re.compile(r'\.(tar(\.\w+)?|tgz|tbz2?|txz)$', re.IGNORECASE)
_COMPRESSED = re.compile(r'\.(gz|bz2|xz|zst)$', re.IGNORECASE)
_COMMANDS = (
    (b'PK\x03\x04', 'zip', 'unzip {file} -d {folder}'),
    (b'PK\x05\x06', 'zip', 'unzip {file} -d {folder}'),
    (b'7z\xbc\xaf\x27\x1c', '7z', '7z x {file} -o{folder}'),
    (b'Rar!\x1a\x07', 'rar', 'unrar x {file} {folder}/'),
    (b'\x1f\x8b', 'gzip', 'gunzip --keep {file}'),
    (b'BZh', 'bzip2', 'bunzip2 --keep {file}'),
    (b'\xfd7zXZ', 'xz', 'unxz --keep {file}'),
    (b'\x28\xb5\x2f\xfd', 'zstd', 'unzstd --keep {file}'),
)
"""How files begin, the program that wrote them, and what unpacks them."""
_UNTAR = 'mkdir -p {folder} && tar -xf {file} -C {folder}'
_LOOKED_AT = 1000  # files in a folder


def explain(path: str) -> str:
    """What to do about an archive, or about the first one in a folder; '' if none."""
    if not os.path.isdir(path):
        return _explain_file(path)
    with os.scandir(path) as entries:
        files = sorted(entry.path for entry in entries if _has_name(entry.name))
    return next(filter(None, map(_explain_file, files[:_LOOKED_AT])), '')


def _has_name(name):
    is_packed = _TAR.search(name) or _COMPRESSED.search(name)
    return bool(is_packed) or name.lower().endswith(('.zip', '.7z', '.rar'))


def _explain_file(file):
    program, command = _kind(file)
    if not program:
        return ''
    folder = _TAR.sub('', file) if program == 'tar' else os.path.splitext(file)[0]
    command = command.format(file=shlex.quote(file), folder=shlex.quote(folder))
    if command.startswith(('gunzip', 'bunzip2', 'unxz', 'unzstd')):
        return (
            f'{file} is compressed ({program}). Unpack it, and give the file: {command}'
        )
    return (
        f'{file} is an archive ({program}). Unpack it, and give the folder: {command}'
    )


def _kind(file):
    """The program that packed a file, and the command; '' and '' if it is none."""
    if not os.path.isfile(file):
        return '', ''
    with open(file, 'rb') as opened:
        beginning = opened.read(512)
    if beginning[257:262] == b'ustar':
        return 'tar', _UNTAR
    for signature, program, command in _COMMANDS:
        if beginning.startswith(signature):
            is_tar = 'keep' in command and _TAR.search(file)
            return ('tar', _UNTAR) if is_tar else (program, command)
    return '', ''
