"""Downloaded files that are checked by their SHA-256, each time they are used.

The first digits of the hash are in the names of PyTorch's and OpenMMLab's files. The
whole hash is kept next to the file once it has been downloaded.
"""

import hashlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Sequence

from atss_jax.files.atomic import write_text
from atss_jax.files.download import cache_folder, download


def cached_file(
    urls: Sequence[str], target: pathlib.Path, sha256: str | None = None
) -> pathlib.Path:
    """A file of the cache, downloaded if it is not there, with the right hash.

    Args:
        urls: addresses of the file; each is asked if those before it failed.
        target: where the file is, or belongs. The hash is kept in a file named
            `target` plus `.sha256`, as `sha256sum` writes and checks it.
        sha256: the hash, or its first digits; None: those in the name of `target`, if
            it has them.

    Returns:
        `target`.

    Raises:
        ConnectionError: the download failed; says which addresses to fetch and where to
            put the file.
        ValueError: a file has another hash. If it was downloaded just now, it is
            removed.
    """
    hash_file = target.with_name(f'{target.name}.sha256')
    digits = (digits_in_name(target.name) if sha256 is None else sha256) or ''
    expected, source = digits.lower(), ''
    if hash_file.exists():
        kept = hash_file.read_text().split()[0]
        # If not, the hash is of a file that was at this address before.
        if kept.startswith(expected):
            expected, source = kept, f' (kept in {hash_file})'

    def problem(path: pathlib.Path) -> str | None:
        actual = sha256_of(path)
        if actual.startswith(expected):
            return None
        shown = actual[: len(expected)]
        if shown == actual:
            return f'its SHA-256 is {actual}, expected {expected}{source}'
        return f'its SHA-256 starts with {shown}, expected {expected}{source}'

    download(urls, target, problem)
    if reason := problem(target):
        also = f' and {hash_file.name}' if source else ''
        raise ValueError(f'{target}: {reason}; delete it{also} and run this again')
    if not source and os.access(target.parent, os.W_OK):
        write_text(hash_file, f'{sha256_of(target)}  {target.name}\n')
    return target


def place_of(url: str, cache_dir: str | os.PathLike | None = None) -> pathlib.Path:
    """Where the file at an address belongs in the cache.

    Files whose name says their hash are in the cache itself. Others are in a folder for
    their address, since two servers may have different files of one name.

    Args:
        url: http or https.
        cache_dir: the cache; None: that of `download.cache_folder`.
    """
    cache = pathlib.Path(cache_dir).expanduser() if cache_dir else cache_folder()
    name = name_in(url)
    if digits_in_name(name) is None:
        cache /= hashlib.sha256(url.encode()).hexdigest()[:16]
    return cache / name


def name_in(url: str) -> str:
    """The name of the file at an address."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    return pathlib.PurePosixPath(path).name


def digits_in_name(name: str) -> str | None:
    """The first digits of the SHA-256 in `atss-985f7bd0.pth`; None: there are none."""
    match = re.search(r'-([0-9a-f]{8,64})\.(pth|pt|safetensors)$', name)
    return None if match is None else match[1]


def sha256_of(path: pathlib.Path) -> str:
    """The hash of a file."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
