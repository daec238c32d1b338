"""Downloads large files: resumed where they stopped, never half there."""

import http.client
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable

import tqdm

from atss_jax.files.lock import locked

TIMEOUT_SECONDS = 30


def cache_folder() -> pathlib.Path:
    """What is brought once for all runs: `$ATSS_JAX_CACHE` or `~/.cache/atss_jax`."""
    folder = os.environ.get('ATSS_JAX_CACHE') or '~/.cache/atss_jax'
    return pathlib.Path(folder).expanduser()


def download(
    url: str,
    target: pathlib.Path,
    problem: Callable[[pathlib.Path], str | None],
    size: int | None = None,
) -> None:
    """Brings `url` to `target`, unless it is there; `target` is whole or not there.

    What has come so far stands in `target` with `.part` at the end. Processes of one
    host that start together wait for the first of them.

    Args:
        url: http or https.
        target: file to write.
        problem: says what is wrong with a whole file, or None.
        size: bytes that the file must have; None if unknown.

    Raises:
        ConnectionError: no download; says which address to fetch and where to put it.
        ValueError: what came is not what it should be; it is removed.
    """
    if target.exists():
        return
    with locked(target.with_name(target.name + '.lock')):
        if not target.exists():  # another process may have brought it meanwhile
            _download(url, target, problem, size)


def _download(url, target, problem, size):
    part = target.with_name(target.name + '.part')
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()  # of something else: nothing to go on with
    try:
        if size is None or not part.exists() or part.stat().st_size < size:
            _fetch(url, part, size)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f'cannot download {url}: {error}\nRun this again to resume. Without a '
            f'network, fetch that address elsewhere and put the file at {target}'
        ) from error
    if found := problem(part):
        part.unlink()  # else every later run would resume from it
        raise ValueError(f'{url}: {found}; removed what was downloaded')
    os.replace(part, target)


def _fetch(url: str, part: pathlib.Path, size: int | None) -> None:
    """Appends to `part` what it lacks; starts over where a server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    headers = {'Range': f'bytes={have}-'} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is lacking: killed before the rename; the check will tell
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        have = _check_start(url, response, have) if resumed else 0
        length = response.headers.get('Content-Length')
        total = have + int(length) if length else None
        _check_size(url, total, size)
        with (
            open(part, 'ab' if resumed else 'wb') as file,
            _progress(part.stem, have, total or size) as bar,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    found = part.stat().st_size
    if total is not None and found != total:
        raise ConnectionError(f'the connection broke after {found} of {total} bytes')


def _check_start(url, response, have):
    """A part that starts elsewhere, appended to what is there, would spoil it."""
    given = response.headers.get('Content-Range', '')
    match = re.match(r'bytes (\d+)-', given)
    if match is None or int(match[1]) != have:
        raise ValueError(
            f'{url}: asked for the bytes from {have} on, the server sent {given!r}'
        )
    return have


def _check_size(url, total, size):
    if size is not None and total is not None and total != size:
        raise ValueError(
            f'{url}: the server has {total:,} bytes, expected {size:,}; '
            'nothing was downloaded'
        )


def _progress(name: str, have: int, total: int | None) -> tqdm.tqdm:
    # disable=None: a bar on a terminal, silence in a log file.
    return tqdm.tqdm(
        desc=name, initial=have, total=total, unit='B', unit_scale=True, disable=None
    )
