"""Reads and writes `.safetensors` files: arrays by name, and text in the header."""

import json
import os
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atss_jax.files.atomic import replacing
from atss_jax.files.kind import describe_file
from atss_jax.weights.prefixes import without_wrappers


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays by name and the text of the header.

    Types are kept; bfloat16 is that of ml_dtypes.

    Raises:
        ValueError: the file has another format or is damaged.
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
            + _cause(path, size)
        ) from error


def _cause(path, size):
    """Why a file cannot be read, if it shows."""
    other = describe_file(path)
    if other is not None and 'safetensors' not in other:
        return f'. It is {other}'
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        is_cut = length + 8 > size
        if not is_cut:
            try:
                header = json.loads(file.read(length))
                ends = [
                    x['data_offsets'][1] for n, x in header.items() if n[:2] != '__'
                ]
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                return ''
            is_cut = length + 8 + max(ends, default=0) > size
    if other is None or not is_cut:
        return ''
    return '. It is cut off: download or copy it again'


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    text: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays and header text; `path` is replaced as a whole or not at all.

    Raises:
        ValueError: an array has a type that the format does not support.
    """
    # The package writes memory as it is laid out: a transposed view would be wrong.
    # `ascontiguousarray` would turn 0-d arrays into 1-d ones.
    contiguous = {name: np.asarray(x, order='C') for name, x in arrays.items()}
    try:
        with replacing(path) as temporary:
            # The package makes files that only their owner can read.
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(contiguous, temporary, {'format': 'pt', **(text or {})})
            temporary.chmod(mode)
    except SafetensorError as error:
        raise ValueError(f'cannot write {path}: {error}') from error


def state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays by name, without prefixes of wrappers that all have.

    Raises:
        ValueError: the file is damaged or has no arrays.
    """
    arrays, _ = load(path)
    if not arrays:
        raise ValueError(f'{path} has no weights')
    return without_wrappers(arrays)
