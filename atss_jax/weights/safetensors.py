"""Reads and writes `.safetensors` files: arrays by name, and text in the header."""

import os
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from atss_jax.files.atomic import replacing
from atss_jax.weights.torch_file.pth import without_parallel_prefix


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
        ) from error


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
    """Reads the arrays by name, without a prefix 'module.' that all names have.

    Raises:
        ValueError: the file is damaged or has no arrays.
    """
    arrays, _ = load(path)
    if not arrays:
        raise ValueError(f'{path} has no weights')
    return without_parallel_prefix(arrays)
