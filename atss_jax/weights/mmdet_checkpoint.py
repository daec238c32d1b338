"""Reads and writes mmdetection's checkpoints: weights, momentum, averages, classes.

If weights were averaged (EMA), mmengine (mmdet 3.x) saves the average as `state_dict`
and the weights under training as `ema_state_dict`, with names prefixed by `module.`.
mmdet 2.x saves both in `state_dict`: plain names are the average there too, and
`ema_backbone_conv1_weight` is the weight under training.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from atss_jax.weights import mmdet, mmdet_momentum, safetensors
from atss_jax.weights.torch_file import pth

SUFFIXES = ('.pth', '.pt', '.safetensors')
_CLASSES = 'classes'  # text in the header of a .safetensors file: a JSON list
StateDict = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a detector's checkpoint; arrays are by mmdet's names.

    Attributes:
        weights: the weights that mmdet would evaluate: the moving average if there is
            one.
        unaveraged: the weights under training, if `weights` is their moving average.
        momentum: SGD's buffer of every parameter that has one, or AdamW's running mean
            of gradients, if it was saved.
        group: hyper-parameters of the optimizer, saved with the momentum.
        squares: AdamW's running mean of squared gradients; None with SGD.
        updates: number of updates that AdamW made.
        settings: hyper-parameters of single parameters; None: all have those of
            `group`.
        classes: class names in the order of the labels, if known.
        step: number of finished iterations, if known.
    """

    weights: Mapping[str, np.ndarray]
    unaveraged: Mapping[str, np.ndarray] | None = None
    momentum: Mapping[str, np.ndarray] | None = None
    group: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    step: int | None = None
    squares: Mapping[str, np.ndarray] | None = None
    updates: int | None = None
    settings: Mapping[str, Mapping[str, Any]] | None = None


def is_weights_file(path: str | os.PathLike) -> bool:
    """Whether a path is named like a file of weights rather than a workdir."""
    return os.fspath(path).endswith(SUFFIXES)


def load(
    path: str | os.PathLike,
    momentum: bool = False,
    trained: Iterable[str] | None = None,
) -> Checkpoint:
    """Reads a `.pth` or `.safetensors` file.

    Args:
        path: the file; unless its name ends in `.safetensors`, it is read as a PyTorch
            checkpoint.
        momentum: whether to read the optimizer's state too.
        trained: names of the parameters that the model trains; None: unknown. Some
            checkpoints have only these in the optimizer.

    Raises:
        ValueError: the file cannot be read, or momentum is wanted and the file has no
            optimizer that fits the weights.
    """
    if os.fspath(path).endswith('.safetensors'):
        if momentum:
            raise ValueError(f'{path}: a .safetensors file has no momentum; use a .pth')
        return _load_safetensors(path)
    content = pth.load(path)
    state = pth.weights_of(content, path)
    try:
        weights, unaveraged = split_averages(state)
        mmdet.check_finite(weights, 'its weights')
        optimizer = None
        if momentum:
            optimizer = mmdet_momentum.read(content.get('optimizer'), weights, trained)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    if isinstance(content.get('ema_state_dict'), dict):
        unaveraged = _without_prefix(content['ema_state_dict'])
    meta = content.get('meta') if isinstance(content.get('meta'), dict) else {}
    step = meta.get('iter') if isinstance(meta.get('iter'), int) else None
    checkpoint = Checkpoint(weights, unaveraged, classes=_classes(meta), step=step)
    if optimizer is None:
        return checkpoint
    return dataclasses.replace(
        checkpoint,
        momentum=optimizer.momentum,
        group=optimizer.group,
        squares=optimizer.squares,
        updates=optimizer.updates,
        settings=optimizer.settings,
    )


def _load_safetensors(path):
    text = safetensors.load(path)[1]
    classes = tuple(json.loads(text[_CLASSES])) if _CLASSES in text else None
    weights = safetensors.state_dict(path)
    mmdet.check_finite(weights, path)
    return Checkpoint(weights, classes=classes)


def state_dict(path: str | os.PathLike) -> StateDict:
    """Reads the weights that mmdet would evaluate from a checkpoint."""
    return dict(load(path).weights)


def split_averages(
    state: Mapping[str, np.ndarray],
) -> tuple[StateDict, StateDict | None]:
    """Splits an mmdet 2.x state dict: the weights, and those under training or None.

    Raises:
        ValueError: an `ema_` name belongs to no weight.
    """
    names = {'ema_' + name.replace('.', '_'): name for name in state if '.' in name}
    weights = {name: x for name, x in state.items() if not name.startswith('ema_')}
    averaged = {name: x for name, x in state.items() if name.startswith('ema_')}
    if unknown := [name for name in averaged if name not in names]:
        raise ValueError(f'averages without weights of these names: {unknown[:10]}')
    if not averaged:
        return weights, None
    return weights, weights | {names[name]: x for name, x in averaged.items()}


def _without_prefix(state):
    """Removes the prefix `module.` of mmengine's averages, and the counter `steps`."""
    prefix = 'module.'
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def _classes(meta):
    """Reads class names: mmdet 3.x has `dataset_meta`, 2.x and early 3.x `CLASSES`."""
    dataset = meta.get('dataset_meta')
    dataset = dataset if isinstance(dataset, dict) else {}
    names = dataset.get('classes', dataset.get('CLASSES', meta.get('CLASSES')))
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, list | tuple):
        return None
    return tuple(str(name) for name in names)


# Writing -----------------------------------------------------------------------------


def save(path: str | os.PathLike, checkpoint: Checkpoint) -> None:
    """Writes a `.pth` file that mmdet loads, or a `.safetensors` file.

    Raises:
        ValueError: momentum or two sets of weights for a `.safetensors` file, which can
            only hold one set of weights.
    """
    if not os.fspath(path).endswith('.safetensors'):
        pth.save(path, _as_mmdet(checkpoint))
        return
    if checkpoint.momentum is not None or checkpoint.unaveraged is not None:
        raise ValueError(f'{path}: only a .pth file can hold momentum or averages')
    text = {}
    if checkpoint.classes is not None:
        text = {_CLASSES: json.dumps(list(checkpoint.classes))}
    safetensors.save(path, mmdet.with_indices(checkpoint.weights), text)


def _as_mmdet(checkpoint):
    meta: dict[str, Any] = {}
    if checkpoint.classes is not None:
        names = tuple(checkpoint.classes)
        meta = {'CLASSES': names, 'dataset_meta': {'classes': names}}
    if checkpoint.step is not None:
        meta['iter'] = checkpoint.step
    weights = mmdet.with_indices(checkpoint.weights)
    content = {'meta': meta, 'state_dict': weights}
    if checkpoint.unaveraged is not None:
        unaveraged = mmdet.with_indices(checkpoint.unaveraged)
        raw = {f'module.{name}': x for name, x in unaveraged.items()}
        steps = np.array(checkpoint.step or 0, np.int64)
        content['ema_state_dict'] = {'steps': steps, **raw}
    if checkpoint.momentum is not None:
        optimizer = mmdet_momentum.OptimizerState(
            checkpoint.momentum,
            checkpoint.squares,
            checkpoint.updates,
            checkpoint.group,
            checkpoint.settings,
        )
        content['optimizer'] = mmdet_momentum.write(optimizer, checkpoint.weights)
    return content
