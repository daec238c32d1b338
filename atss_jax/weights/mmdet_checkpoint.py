"""What mmdetection's checkpoints hold beside weights: momentum, averages, classes.

Two writers made them. mmengine (mmdet 3.x) saves the moving average (EMA) of the
weights as `state_dict` and the weights under training as `ema_state_dict`, names
prefixed by `module.`. mmdet 2.x keeps both in `state_dict`: the plain names are the
average there too, and `ema_backbone_conv1_weight` is the weight under training.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atss_jax.weights import mmdet_momentum, safetensors
from atss_jax.weights.torch_file import pth

SUFFIXES = ('.pth', '.pt', '.safetensors')
_CLASSES = 'classes'  # header text of a .safetensors file: a JSON list
StateDict = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A detector's weights, by mmdet's names.

    Attributes:
        weights: what mmdet would detect with: the moving average where there is one.
        unaveraged: the weights under training, where `weights` is an average of them.
        momentum: SGD's buffer of every parameter that has one, if it was saved.
        group: hyper-parameters of SGD, as saved beside the momentum.
        classes: names of the labels, if known.
        step: finished iterations, if known.
    """

    weights: Mapping[str, np.ndarray]
    unaveraged: Mapping[str, np.ndarray] | None = None
    momentum: Mapping[str, np.ndarray] | None = None
    group: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    step: int | None = None


def is_weights_file(path: str | os.PathLike) -> bool:
    """Whether the name is that of a file of weights rather than of a workdir."""
    return os.fspath(path).endswith(SUFFIXES)


def load(
    path: str | os.PathLike,
    momentum: bool = False,
    trained: Iterable[str] | None = None,
) -> Checkpoint:
    """Reads a `.pth` or `.safetensors` file.

    Args:
        path: the file; a name that ends in `.safetensors` is of that format, any other
            a PyTorch checkpoint.
        momentum: read the optimizer's state too.
        trained: names of the parameters that the model trains; None: unknown. Some
            optimizers were saved with these alone.

    Raises:
        ValueError: not such a file; no optimizer in it where one is wanted, or one that
            does not go with the weights.
    """
    if os.fspath(path).endswith('.safetensors'):
        if momentum:
            raise ValueError(f'{path}: a .safetensors file has no momentum, a .pth may')
        text = safetensors.load(path)[1]
        classes = tuple(json.loads(text[_CLASSES])) if _CLASSES in text else None
        return Checkpoint(safetensors.state_dict(path), classes=classes)
    content = pth.load(path)
    found = pth.weights_of(content, path)
    try:
        weights, unaveraged = split_averages(found)
        buffers = group = None
        if momentum:
            buffers, group = mmdet_momentum.read(
                content.get('optimizer'), weights, trained
            )
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    if isinstance(content.get('ema_state_dict'), dict):
        unaveraged = _without_prefix(content['ema_state_dict'])
    meta = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    step = meta.get('iter') if isinstance(meta.get('iter'), int) else None
    return Checkpoint(weights, unaveraged, buffers, group, _classes(meta), step)


def state_dict(path: str | os.PathLike) -> StateDict:
    """The weights in a `.pth` or `.safetensors` file that mmdet would detect with."""
    return dict(load(path).weights)


def split_averages(
    state: Mapping[str, np.ndarray],
) -> tuple[StateDict, StateDict | None]:
    """The weights of a mmdet 2.x state dict, and those under training, or None.

    Raises:
        ValueError: an `ema_` name that goes with no weight; it is listed.
    """
    flat = {'ema_' + name.replace('.', '_'): name for name in state if '.' in name}
    plain = {name: x for name, x in state.items() if not name.startswith('ema_')}
    beside = {name: x for name, x in state.items() if name.startswith('ema_')}
    odd = [name for name in beside if name not in flat]
    if odd:
        raise ValueError(f'averages of weights that are not there: {odd[:10]}')
    if not beside:
        return plain, None
    return plain, plain | {flat[name]: value for name, value in beside.items()}


def _without_prefix(state):
    """mmengine's: `module.` before every name, and a counter `steps`."""
    prefix = 'module.'
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def _classes(meta):
    """mmdet 3.x has `dataset_meta`, 2.x and early 3.x `CLASSES`."""
    new = meta.get('dataset_meta')
    new = new if isinstance(new, dict) else {}
    names = new.get('classes', new.get('CLASSES', meta.get('CLASSES')))
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, list | tuple):
        return None
    return tuple(str(name) for name in names)


# Writing -----------------------------------------------------------------------------


def save(path: str | os.PathLike, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` file that mmdet loads, or a `.safetensors` file.

    Raises:
        ValueError: a `.safetensors` file, which has no place for them, is to hold
            momentum or two sets of weights.
    """
    if not os.fspath(path).endswith('.safetensors'):
        pth.save(path, _as_mmdet(checkpoint))
        return
    if checkpoint.momentum is not None or checkpoint.unaveraged is not None:
        raise ValueError(f'{path}: only a .pth file has room for momentum or averages')
    text = {}
    if checkpoint.classes is not None:
        text = {_CLASSES: json.dumps(list(checkpoint.classes))}
    safetensors.save(path, checkpoint.weights, text)


def _as_mmdet(checkpoint):
    meta: dict[str, Any] = {}
    if checkpoint.classes is not None:
        names = tuple(checkpoint.classes)
        meta = {'CLASSES': names, 'dataset_meta': {'classes': names}}
    if checkpoint.step is not None:
        meta['iter'] = checkpoint.step
    content = {'meta': meta, 'state_dict': dict(checkpoint.weights)}
    if checkpoint.unaveraged is not None:
        raw = {f'module.{name}': x for name, x in checkpoint.unaveraged.items()}
        steps = np.array(checkpoint.step or 0, np.int64)
        content['ema_state_dict'] = {'steps': steps, **raw}
    if checkpoint.momentum is not None:
        content['optimizer'] = mmdet_momentum.write(
            checkpoint.momentum, checkpoint.weights, checkpoint.group
        )
    return content
