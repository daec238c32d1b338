"""mmdetection's parameter names and layouts, to Flax variables and back, bit for bit.

The modules in `models/` are named after mmdet's, so the names follow by rule:
`backbone.layer1.0.bn1.running_mean` is `batch_stats/backbone/layer1_0/bn1/mean`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

_STATISTICS = {
    'mean': 'running_mean',
    'var': 'running_var',
    'num_batches_tracked': 'num_batches_tracked',
}
_SMALLEST = 256  # pixels; any canvas gives the same parameter shapes


def torch_name(path: tuple[str, ...]) -> str:
    """mmdet's name of the variable at `path` (collection, modules..., leaf)."""
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
    """`layer1_0` is `layer1.0` in torch: an element of a list."""
    name, _, index = module.rpartition('_')
    return f'{name}.{index}' if name and index.isdigit() else module


def _to_torch_layout(path, value):
    """(H,W,I,O) kernels become (O,I,H,W); the counter becomes int64."""
    if path[-1] == 'kernel':
        return np.ascontiguousarray(value.transpose(3, 2, 0, 1))
    return value.astype(np.int64) if path[-1] == 'num_batches_tracked' else value


def _from_torch_layout(path, value):
    # Half precision is a way to store weights; in training they are float32.
    is_counter = path[-1] == 'num_batches_tracked'
    value = value.astype(np.int32 if is_counter else np.float32)
    if path[-1] == 'kernel' and value.ndim == 4:
        return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
    return value


def variable_shapes(model: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of every variable of `model` by path, without computing any."""
    images = jax.ShapeDtypeStruct((1, _SMALLEST, _SMALLEST, 3), np.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, sizes)
    return {path: leaf.shape for path, leaf in flatten_dict(shapes).items()}


def to_variables(
    state_dict: Mapping[str, np.ndarray], model: nn.Module
) -> dict[str, Any]:
    """Flax variables (`params` and `batch_stats`) of `model` from an mmdet state dict.

    Args:
        state_dict: torch names to NumPy arrays in torch layout. A checkpoint from
            before PyTorch 0.4.1 has no `num_batches_tracked`; these then start at 0.
        model: the model that the weights are for.

    Raises:
        ValueError: names or shapes that do not match; all of them are listed.
    """
    return fit(state_dict, variable_shapes(model))


def fit(
    state_dict: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    what: str = 'weights',
) -> dict[str, Any]:
    """A tree of arrays of these `shapes` by path, from arrays by torch name.

    Args:
        state_dict: torch names to NumPy arrays in torch layout.
        shapes: of all leaves of the tree.
        what: the arrays are, for messages.

    Raises:
        ValueError: names or shapes that do not match; all of them are listed.
    """
    wanted = {torch_name(path): path for path in shapes}
    missing = [
        name
        for name in wanted
        if name not in state_dict and not name.endswith('num_batches_tracked')
    ]
    extra = [name for name in state_dict if name not in wanted]
    values, wrong = {}, []
    for name, path in wanted.items():
        value = np.asarray(state_dict.get(name, np.zeros(shapes[path], np.float32)))
        values[path] = _from_torch_layout(path, value)
        if name in state_dict and values[path].shape != shapes[path]:
            expected = _to_torch_layout(path, np.empty(shapes[path], np.float32)).shape
            wrong.append(f'{name}: {value.shape}, the model has {expected}')
    problems = [
        f'{title}: {", ".join(names)}'
        for title, names in [
            (f'missing from the {what}', missing),
            (f'left over in the {what}', extra),
            ('of another shape', wrong),
        ]
        if names
    ]
    if problems:
        raise ValueError(f'{what} do not fit the model; ' + '; '.join(problems))
    return unflatten_dict(values)


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """mmdet state dict (torch names, torch layout) of Flax variables."""
    return {
        torch_name(path): _to_torch_layout(path, np.asarray(value))
        for path, value in flatten_dict(variables).items()
    }
