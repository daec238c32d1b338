"""Files that are written whole or not at all; JSON read with a clear error."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the same folder, renamed to `path` at the end.

    Whatever happens inside the `with` block, `path` holds either its old content or all
    of the new one. The temporary name has the extension of `path`, for writers that
    choose a format by it. Missing folders are made; permissions follow the umask.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f'{os.getpid()}-{threading.get_ident()}'
    temporary = path.with_name(f'.{writer}.{path.name}')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: str | os.PathLike, unfinished: str) -> Iterator[pathlib.Path]:
    """Yields a folder to write to, whose files are moved to `folder` at the end.

    If the `with` block fails or is interrupted, `folder` is as it was before, or does
    not exist. It may be a link or a mounted disk.

    Args:
        folder: new or empty, except for what a process that was killed left there.
        unfinished: name, within `folder`, of the folder that is yielded.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder = pathlib.Path(folder)
    existed = folder.is_dir()
    temporary = folder / unfinished
    if temporary.is_dir():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in sorted(temporary.iterdir(), reverse=True):
            file.rename(folder / file.name)
    finally:
        shutil.rmtree(temporary)
        if not existed and not any(folder.iterdir()):
            folder.rmdir()


def check_writable(folder: str | os.PathLike) -> None:
    """Checks that files can be written to a folder, which need not exist yet.

    For programs that compute for long before they write. Leaves nothing behind.

    Raises:
        OSError: they cannot; says which folder, and why.
    """
    folder = pathlib.Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix='.check'):
            return
    except OSError as error:
        reason = f'{error.strerror}: {existing}' if error.strerror else str(error)
        raise type(error)(f'{folder} cannot be written to ({reason})') from error


def check_file_writable(path: str | os.PathLike) -> None:
    """Checks that a file can be written, or written over; as `check_writable`.

    Raises:
        OSError: it cannot; says why.
    """
    path = pathlib.Path(path).absolute()
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; expected the name of a file')
    check_writable(path.parent)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a binary file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = None) -> None:
    """Writes a JSON file with a line break at its end, whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + '\n')


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file that this package wrote.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is not JSON ({error}): it was damaged after it was written; put '
            'back a copy, or use another --workdir'
        ) from error


def read_given_json(
    path: str | os.PathLike, object_hook: Callable[[dict], Any] | None = None
) -> Any:
    """The content of a JSON file that a user gave.

    It may be UTF-8, UTF-16 or UTF-32, with a byte order mark (which Windows' editors
    and shells write) or without. `object_hook` may replace each object once it is
    parsed.

    Raises:
        ValueError: the file is not JSON.
    """
    return parse_given_json(path, pathlib.Path(path).read_bytes(), object_hook)


def parse_given_json(
    path: str | os.PathLike,
    content: bytes,
    object_hook: Callable[[dict], Any] | None = None,
) -> Any:
    """As `read_given_json`, of a file whose content has been read."""
    try:
        # From bytes, json finds the encoding and skips a byte order mark.
        return json.loads(content, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: not a JSON file ({error})') from error
