"""Downloads of large files, which are resumed after a stop."""

import http.client
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

import tqdm

from atss_jax.files.atomic import check_writable
from atss_jax.files.lock import locked

TIMEOUT_SECONDS = 30


def cache_folder() -> pathlib.Path:
    """Folder of downloads shared by all runs: `$ATSS_JAX_CACHE` or `~/.cache/atss_jax`.

    It need not exist.
    """
    folder = os.environ.get('ATSS_JAX_CACHE') or '~/.cache/atss_jax'
    return pathlib.Path(folder).expanduser()


def download(
    urls: str | Sequence[str],
    target: pathlib.Path,
    problem: Callable[[pathlib.Path], str | None],
    size: int | None = None,
) -> None:
    """Downloads `target`, unless it exists.

    The bytes are collected in a file named `target` plus `.part`, where a later call
    resumes; it is renamed when it is complete and `problem` finds nothing wrong.
    Processes of one host that start together wait for the first of them.

    Args:
        urls: http or https; or several addresses of the same file, each of which is
            asked if those before it failed.
        target: file to write.
        problem: says what is wrong with a complete file, or returns None.
        size: number of bytes that the file must have; None if unknown.

    Raises:
        ConnectionError: the download failed; the message says which addresses to fetch
            and where to put the file.
        ValueError: what was downloaded is not what it should be; it is removed.
        OSError: the folder cannot be written to.
    """
    if target.exists():
        return
    _check_folder(target)
    urls = [urls] if isinstance(urls, str) else list(urls)
    with locked(target.with_name(target.name + '.lock')):
        if not target.exists():  # another process may have downloaded it meanwhile
            _download(urls, target, problem, size)


def _check_folder(target):
    """Says what a folder is for, if nothing can be written to it."""
    try:
        check_writable(target.parent)
    except OSError as error:
        setting = ''
        if target.parent == cache_folder():
            setting = '; the environment variable ATSS_JAX_CACHE names another folder'
        raise type(error)(f'{error}; {target.name} belongs there{setting}') from error


def _download(urls, target, problem, size):
    part = target.with_name(target.name + '.part')
    if size is not None and part.exists() and part.stat().st_size > size:
        part.unlink()  # it belongs to another file: there is nothing to resume
    failures: dict[str, Exception] = {}
    for url in urls:
        try:
            _download_from(url, part, problem, size)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures[url] = error
        else:
            os.replace(part, target)
            return
    _complain(failures, target)


def _download_from(url, part, problem, size):
    """Completes `part`; removes it if it is not what it should be."""
    if size is None or not part.exists() or part.stat().st_size < size:
        _fetch(url, part, size)
    if reason := problem(part):
        part.unlink()  # otherwise every later call would resume from it
        raise ValueError(f'{url}: {reason}; removed what was downloaded')


def _complain(failures, target):
    """Raises the error about a file that no address gave.

    It is a ValueError only if every address gave a wrong file: trying again is of no
    use then.
    """
    last = list(failures.values())[-1]
    if all(isinstance(error, ValueError) for error in failures.values()):
        raise ValueError('\n'.join(str(error) for error in failures.values())) from last
    if len(failures) == 1:
        (url,) = failures
        what, where = f'{url}: {last}', 'that address'
    else:
        reasons = [
            f'\n  {error if isinstance(error, ValueError) else f"{url}: {error}"}'
            for url, error in failures.items()
        ]
        what, where = f'{target.name}:{"".join(reasons)}', 'one of these addresses'
    raise ConnectionError(
        f'cannot download {what}\nRun this again to resume. Without a network, fetch '
        f'{where} elsewhere and put the file at {target}'
    ) from last


def remote_size(urls: Sequence[str]) -> int | None:
    """Size in bytes that the first server to answer states; None: no server does."""
    for url in urls:
        request = urllib.request.Request(url, method='HEAD')
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                length = response.headers.get('Content-Length')
        except (OSError, http.client.HTTPException):
            continue
        if length:
            return int(length)
    return None


def _fetch(url: str, part: pathlib.Path, size: int | None) -> None:
    """Appends the missing bytes to `part`; starts over if the server cannot resume."""
    start = part.stat().st_size if part.exists() else 0
    headers = {'Range': f'bytes={start}-'} if start else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            # Nothing is missing: the process was killed just before the rename. If
            # not, the caller's check of the file finds out.
            return
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed:
            _check_range(url, response, start)
        else:
            start = 0
        length = response.headers.get('Content-Length')
        total = start + int(length) if length else None
        _check_size(url, total, size)
        with (
            open(part, 'ab' if resumed else 'wb') as file,
            _progress(part.stem, start, total or size) as bar,
        ):
            while block := response.read(1 << 20):
                file.write(block)
                bar.update(len(block))
    received = part.stat().st_size
    if total is not None and received != total:
        raise ConnectionError(f'the connection broke after {received} of {total} bytes')


def _check_range(url, response, start):
    """Raises ValueError unless the server sends the bytes from `start` on."""
    content_range = response.headers.get('Content-Range', '')
    match = re.match(r'bytes (\d+)-', content_range)
    if match is None or int(match[1]) != start:
        raise ValueError(
            f'{url}: asked for the bytes from {start} on, the server sent '
            f'{content_range!r}'
        )


def _check_size(url, total, size):
    if size is not None and total is not None and total != size:
        raise ValueError(
            f'{url}: the server has {total:,} bytes, expected {size:,}; '
            'nothing was downloaded'
        )


def _progress(name: str, start: int, total: int | None) -> tqdm.tqdm:
    # disable=None: a bar on a terminal, nothing in a log file.
    return tqdm.tqdm(
        desc=name, initial=start, total=total, unit='B', unit_scale=True, disable=None
    )
