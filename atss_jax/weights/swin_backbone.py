"""Backbones of Swin Transformers, pretrained on ImageNet: mmdet's and official files.

The official code has other names, joins the channels of merged patches in another
order, and its windows may have another size.
"""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from atss_jax.weights import safetensors, torchvision
from atss_jax.weights.prefixes import without_wrappers
from atss_jax.weights.torch_file import pth

_TABLE = '.relative_position_bias_table'
# Official names and mmdet's.
_RENAMED = (
    (r'^layers\.', 'stages.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
# What an official file has in addition: the classifier, its norm, and arrays that are
# computed from the size of the window and the image.
_NOT_OF_BACKBONE = re.compile(r'^(head|norm)\.|\.(attn_mask|relative_position_index)$')


def backbone_weights(
    name_or_path: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    convert_weights: bool,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, np.ndarray]:
    """Reads the arrays of a pretrained Swin Transformer by mmdet's names.

    Names are without 'backbone.'. Norms of the outputs (`norm1.weight`), which
    classifiers do not have, may be missing. Tables of another window are interpolated.

    Args:
        name_or_path: path or address of a file.
        shapes: shape of every parameter of the backbone, by name.
        convert_weights: whether the file is of the official code. If not, arrays whose
            names begin with 'backbone.' are read.
        cache_dir: folder of downloads.

    Raises:
        ValueError: the file lacks names or has others; lists them.
    """
    path = torchvision.resolve(name_or_path, cache_dir, has_names=False)
    weights = _read(path)
    weights = _official(weights, path) if convert_weights else _of_mmdet(weights, path)
    weights = {k: x for k, x in weights.items() if not _NOT_OF_BACKBONE.search(k)}
    missing = {k for k in shapes.keys() - weights.keys() if not _is_output_norm(k)}
    torchvision.check_names(path, missing, weights.keys() - shapes.keys())
    return {
        name: _fitted(array, shapes[name]) if name.endswith(_TABLE) else array
        for name, array in weights.items()
    }


def _is_output_norm(name):
    return re.match(r'norm\d+\.', name) is not None


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Arrays by name, of the file itself or of its 'state_dict' or 'model'."""
    if path.suffix == '.safetensors':
        return safetensors.state_dict(path)
    content = pth.load(path)
    if isinstance(content, dict) and 'state_dict' not in content:
        content = content.get('model', content)
    return pth.weights_of(content, path)


def _of_mmdet(weights, path):
    prefix = 'backbone.'
    found = {
        name.removeprefix(prefix): array
        for name, array in weights.items()
        if name.startswith(prefix)
    }
    if not found:
        official = any(name.startswith('layers.') for name in weights)
        raise ValueError(
            f"{path}: no names that begin with 'backbone.', as mmdet's do"
            + (
                '; its names are those of the official Swin code, for which to set '
                'model.backbone.convert_weights=True'
                if official
                else f'; found {list(weights)[:5]}'
            )
        )
    return without_wrappers(found)


def _official(weights, path):
    if not any(name.startswith('layers.') for name in weights):
        raise ValueError(
            f'{path}: not a file of the official Swin code, whose names begin with '
            f"'layers.'; found {list(weights)[:5]}. For a file of mmdet set "
            'model.backbone.convert_weights=False'
        )
    return from_official(weights)


def from_official(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names and channel order of mmdet, from those of the official code.

    Where four cells are merged, the official code joins their channels cell by cell:
    top left, bottom left, top right, bottom right. mmdet has the four cells of the
    first channel, row by row, then those of the second.
    """
    converted = {}
    for name, array in weights.items():
        if '.downsample.' in name:
            # The joined channels are the last axis of the norm and of the matrix.
            by_cell = array.reshape(*array.shape[:-1], 4, -1)
            by_cell = by_cell[..., (0, 2, 1, 3), :]
            array = np.ascontiguousarray(by_cell.swapaxes(-1, -2)).reshape(array.shape)
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        converted[name] = array
    return converted


# Tables of another window ------------------------------------------------------------


def _fitted(table, shape):
    """A table (T,heads) with as many rows as `shape` says."""
    if table.shape == shape or table.shape[1:] != shape[1:]:
        return table  # an error of another shape is reported with all others
    old, new = (round(rows**0.5) for rows in (table.shape[0], shape[0]))
    square = table.astype(np.float32).reshape(old, old, -1)
    return resize_bicubic(square, (new, new)).reshape(shape)


def resize_bicubic(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an (H,W,C) array.

    Source: PyTorch `interpolate(mode='bicubic')`.
    """
    rows, columns = (
        cubic_weights(old, new) for old, new in zip(x.shape, size, strict=False)
    )
    return np.einsum('ih,jw,hwc->ijc', rows, columns, x, optimize=True)


def cubic_weights(old: int, new: int) -> np.ndarray:
    """(new,old) share of each old value in each new one, along one side."""
    position = (np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5
    first = np.floor(position).astype(int)
    weights = np.zeros((new, old), np.float32)
    for offset in (-1, 0, 1, 2):
        place = np.clip(first + offset, 0, old - 1)  # the border is repeated
        share = _cubic(np.abs(position - (first + offset)))
        np.add.at(weights, (np.arange(new), place), share)
    return weights


def _cubic(distance):
    """Keys' kernel with a = -0.75."""
    a = np.float32(-0.75)
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
