"""Reads and writes `.safetensors` files: names to arrays, and a few lines of text."""

import contextlib
import os
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_PREFIX = 'module.'  # DataParallel's, as in a .pth file


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the text of the header.

    Types are kept; bfloat16 comes as that of ml_dtypes.

    Raises:
        ValueError: not such a file, or a damaged one; says the file and what is wrong.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f'{path}: a folder, expected a .safetensors file')
    try:
        with safe_open(path, framework='np') as file:
            return file.get_tensors(), dict(file.metadata() or {})
    except SafetensorError as error:
        size = os.path.getsize(path)
        raise ValueError(
            f'{path}: not a safetensors file, or a damaged one of {size} bytes: {error}'
        ) from error


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays and header text. The file appears whole or not at all.

    Raises:
        ValueError: an array of a type that the format does not have; says which.
    """
    path = os.fspath(path)
    part = f'{path}.{os.getpid()}.tmp'
    try:
        # The package writes the memory as it lies, so a transposed view would come out
        # wrong. Not `ascontiguousarray`: that makes a 0-d array 1-d.
        laid_out = {name: np.array(x, order='C') for name, x in arrays.items()}
        save_file(laid_out, part, {'format': 'pt', **(text or {})})
        os.replace(part, path)
    except SafetensorError as error:
        raise ValueError(f'cannot write {path}: {error}') from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays by name; a prefix 'module.' that all names bear is dropped.

    Raises:
        ValueError: a damaged file, or one without arrays.
    """
    arrays, _ = load(path)
    if not arrays:
        raise ValueError(f'{path}: no weights in it')
    prefix = _PREFIX if all(name.startswith(_PREFIX) for name in arrays) else ''
    return {name.removeprefix(prefix): value for name, value in arrays.items()}
