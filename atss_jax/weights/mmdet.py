"""Converts mmdetection's state dicts to Flax variables and back, bit for bit.

The modules in `models/` are named after mmdet's, so names are translated by rule:
`backbone.layer1.0.bn1.running_mean` is `batch_stats/backbone/layer1_0/bn1/mean`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from atss_jax.weights.prefixes import describe_prefixes, prefixes_of

_STATISTICS = {
    'mean': 'running_mean',
    'var': 'running_var',
    'num_batches_tracked': 'num_batches_tracked',
}
# What mmdet computes from its config and some versions save nevertheless: anchors, and
# the constants of the normalization.
_COMPUTED = re.compile(
    r'(^|\.)(anchor_generators?|prior_generator)\.|(^|\.)base_anchors$'
    r'|^data_preprocessor\.(mean|std)$'
)
# In mmdet's state dicts of a Swin Transformer, computed from the size of the window.
_TABLE, INDEX = 'relative_position_bias_table', 'relative_position_index'
_CANVAS_SIDE = 256  # pixels; parameter shapes are the same for any canvas


def torch_name(path: tuple[str, ...]) -> str:
    """mmdet's name for the variable at `path` (collection, modules..., leaf)."""
    collection, *modules, leaf = path
    names = [_split_index(module) for module in modules]
    if collection == 'batch_stats':
        leaf = _STATISTICS[leaf]
    elif leaf == 'kernel' or (
        leaf == 'scale' and not modules[-1].startswith('scales_')
    ):
        leaf = 'weight'
    return '.'.join([*names, leaf])


def _split_index(module):
    """Converts `layer1_0` to `layer1.0`, torch's name for an element of a list."""
    return re.sub(r'(?<=.)_(?=\d+(_\d+)*$)', '.', module)


def _to_torch_layout(path, value):
    """Converts (H,W,I,O) kernels to (O,I,H,W), (I,O) to (O,I), counters to int64."""
    if path[-1] == 'kernel':
        axes = (3, 2, 0, 1) if value.ndim == 4 else (1, 0)
        return np.ascontiguousarray(value.transpose(axes))
    return value.astype(np.int64) if path[-1] == 'num_batches_tracked' else value


def _from_torch_layout(path, value):
    # Weights may be stored in half precision, but training needs float32.
    is_counter = path[-1] == 'num_batches_tracked'
    value = value.astype(np.int32 if is_counter else np.float32)
    if path[-1] == 'kernel' and value.ndim in (2, 4):
        axes = (2, 3, 1, 0) if value.ndim == 4 else (1, 0)
        return np.ascontiguousarray(value.transpose(axes))
    return value


def variable_shapes(model: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of every variable of `model` by path; computes no values."""
    images = jax.ShapeDtypeStruct((1, _CANVAS_SIDE, _CANVAS_SIDE, 3), np.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, sizes)
    return {path: leaf.shape for path, leaf in flatten_dict(shapes).items()}


def to_variables(
    state_dict: Mapping[str, np.ndarray], model: nn.Module
) -> dict[str, Any]:
    """Converts an mmdet state dict to the variables of `model`.

    Args:
        state_dict: torch names to NumPy arrays in torch layout. Checkpoints from before
            PyTorch 0.4.1 have no `num_batches_tracked`, which is then 0. The indices
            of a Swin Transformer's tables may be given, but are not needed.
        model: the model that the weights are for.

    Raises:
        ValueError: names or shapes do not match; lists all of them.
    """
    return fit(state_dict, variable_shapes(model))


def fit(
    state_dict: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    what: str = 'weights',
) -> dict[str, Any]:
    """Builds a tree of arrays with the given shapes from arrays by torch name.

    Args:
        state_dict: torch names to NumPy arrays in torch layout.
        shapes: shape of every leaf of the tree, by path.
        what: what the arrays are, for messages.

    Raises:
        ValueError: names or shapes do not match; lists all of them.
    """
    paths = {torch_name(path): path for path in shapes}
    missing = [
        name
        for name in paths
        if name not in state_dict and not name.endswith('num_batches_tracked')
    ]
    extra = [
        name
        for name in state_dict
        if name not in paths and not is_index(name) and not _COMPUTED.search(name)
    ]
    if cause := _cause(state_dict, missing):
        raise ValueError(f'{what} do not fit the model; {cause}')
    values, misshapen = {}, []
    for name, path in paths.items():
        value = np.asarray(state_dict.get(name, np.zeros(shapes[path], np.float32)))
        values[path] = _from_torch_layout(path, value)
        if name in state_dict and values[path].shape != shapes[path]:
            expected = _to_torch_layout(path, np.empty(shapes[path], np.float32)).shape
            misshapen.append(f'{name}: {value.shape}, the model has {expected}')
    problems = [
        f'{title}: {", ".join(names)}'
        for title, names in [
            (f'missing from the {what}', missing),
            (f'left over in the {what}', extra),
            ('with another shape', misshapen),
        ]
        if names
    ]
    if problems:
        raise ValueError(f'{what} do not fit the model; ' + '; '.join(problems))
    return unflatten_dict(values)


def is_index(name: str) -> bool:
    """Whether a state dict's array is the computed index of a Swin's table."""
    return name.rpartition('.')[2] == INDEX


def with_indices(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with the indices that mmdet's Swin Transformer has as buffers."""
    complete = {}
    for name, array in state_dict.items():
        complete[name] = array
        if name.endswith(f'.{_TABLE}'):
            side = (round(array.shape[0] ** 0.5) + 1) // 2
            complete[name.removesuffix(_TABLE) + INDEX] = relative_position_index(side)
    return complete


def relative_position_index(window_size: int) -> np.ndarray:
    """(N,N) int64 row of the table for each query and key, N cells of a window."""
    row, column = np.divmod(np.arange(window_size**2), window_size)
    rows, columns = (x[:, None] - x + window_size - 1 for x in (row, column))
    return rows * (2 * window_size - 1) + columns


def check_finite(arrays: Mapping[str, np.ndarray], owner: str | os.PathLike) -> None:
    """Raises ValueError if arrays hold NaN or infinity; names the first of them.

    Such weights detect nothing, and training on them stops at the first step.

    Args:
        arrays: arrays by name.
        owner: what they belong to, for the message.
    """
    bad = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in 'iub':
            wide = array if array.dtype.kind == 'f' else array.astype(np.float32)
            number = array.size - int(np.isfinite(wide).sum())
            bad |= {name: (number, array.size)} if number else {}
    if bad:
        name, (number, size) = next(iter(bad.items()))
        raise ValueError(
            f'{owner}: {number} of {size} numbers of {name} are NaN or infinite, and '
            f'numbers of {len(bad) - 1} more arrays: the training that wrote them '
            'diverged, or the file is damaged; use an earlier checkpoint'
        )


def _cause(names, missing):
    """Why names are missing, if all of them are; else ''."""
    if prefixes := prefixes_of(names, missing):
        return f'{len(missing)} names are missing: {describe_prefixes(prefixes)}'
    backbone = [x.removeprefix('backbone.') for x in missing if x[:9] == 'backbone.']
    if backbone and all(name in names for name in backbone):
        return (
            'they are those of a backbone alone; start training from them with '
            'model.pretrained'
        )
    return ''


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts Flax variables to an mmdet state dict (torch names and layout)."""
    return {
        torch_name(path): _to_torch_layout(path, np.asarray(value))
        for path, value in flatten_dict(variables).items()
    }
