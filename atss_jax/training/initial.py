"""Weights to start from: random, a pretrained backbone, a whole detector."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from atss_jax.models.atss_head import NORMAL, PRIOR_BIAS
from atss_jax.models.detector import ATSS
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.state import init_variables
from atss_jax.training.workdir import class_count, trained_classes
from atss_jax.weights import mmdet, mmdet_checkpoint, torchvision

_CLASS_LAYER = 'bbox_head.atss_cls.weight'


def initial_variables(
    model: ATSS,
    seed: int,
    pretrained: str | None,
    load_from: str | None,
    classes: Sequence[str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Variables before the first step, as NumPy arrays.

    Args:
        model: the detector.
        seed: of everything random.
        pretrained: backbone weights, `torchvision://resnet50` or a path; None: random.
        load_from: weights of a whole detector, which replace all others: a `.pth` or
            `.safetensors` file with mmdet's names, or a workdir, whose best checkpoint
            is taken. Its classes may be others: see `load_detector`.
        classes: names of the model's classes.
        say: is told what becomes of the class layer.

    Raises:
        ValueError: weights that are not there or do not fit.
    """
    if load_from is not None:
        return load_detector(load_from, model, seed, classes, say)
    if pretrained is None:
        return init_variables(model, seed)
    prefix = 'backbone.'
    # No classifier was trained with offsets: they start as they are, at 0.
    names = [mmdet.torch_name(path) for path in mmdet.variable_shapes(model)]
    names = [name for name in names if '.conv_offset.' not in name]
    wanted = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    # Before any compiling: who lacks the file shall not wait to be told.
    loaded = torchvision.backbone_weights(pretrained, wanted)
    state_dict = mmdet.to_state_dict(init_variables(model, seed))
    state_dict |= {prefix + name: value for name, value in loaded.items()}
    return mmdet.to_variables(state_dict, model)


def load_detector(
    path: str,
    model: ATSS,
    seed: int,
    classes: Sequence[str] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Variables from a file with mmdet's names, or a workdir's best checkpoint.

    If it was trained for other classes, those of the same name keep their rows of the
    class layer, in their new places, and the others start as in a new model. If it does
    not name its classes, the class layer is taken whole if the number of classes is the
    same, and else starts anew.

    Raises:
        ValueError: neither is there, or the weights do not fit.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(
            f'no weights at {path}: expected the workdir of a run, or a .pth or '
            '.safetensors file'
        )
    if pathlib.Path(path).is_dir():
        names = trained_classes(path)
        count = len(names) if names else class_count(path)
        variables = Checkpoints.open(path).restore_variables(_of_classes(model, count))
    else:
        found = mmdet_checkpoint.load(path)
        names, weights = found.classes, found.weights
        rows = weights[_CLASS_LAYER].shape[0] if _CLASS_LAYER in weights else 0
        count = rows // model.bbox_head.num_anchors or model.bbox_head.num_classes
        variables = mmdet.to_variables(weights, _of_classes(model, count))
    if names is not None and len(names) != count:
        raise ValueError(f'{path} names {len(names)} classes, but has {count}: {names}')
    places, words = _places(names, classes, count, model.bbox_head.num_classes)
    if words:
        say(f'load_from = {path}: {words}')
    return variables if places is None else _move(variables, places, model, seed)


def _of_classes(model, count):
    """The model with so many classes."""
    return model.clone(bbox_head=model.bbox_head.clone(num_classes=count))


def _places(there, here, count_there, count_here):
    """Where each class was among those loaded, -1 for new; and what to say of it.

    No places: the class layer is as it should be.
    """
    if there is None or here is None:
        if count_there == count_here:
            unknown = 'does not name its classes; its class layer is taken as it is'
            return None, unknown if here is not None else ''
        words = (
            f'has {count_there} classes without names, the data {count_here}; all is '
            'taken but the class layer, which starts anew'
        )
        return [-1] * count_here, words
    if tuple(there) == tuple(here):
        return None, ''
    places = [there.index(name) if name in there else -1 for name in here]
    kept = [name for name in here if name in there]
    new = [name for name in here if name not in there]
    words = (
        f'has other classes; all is taken but the class layer, of which {len(kept)} of '
        f'{len(here)} classes keep their rows: {_listed(kept)}; new: {_listed(new)}'
    )
    return places, words


def _listed(names, most=10):
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return (', '.join(names[:most]) or 'none') + more


def _move(variables, places, model, seed):
    """Rows of the class layer to their new places, and new ones as a new model has."""
    head = dict(variables['params']['bbox_head'])
    layer, key = head['atss_cls'], jax.random.key(seed)
    anchors, count = model.bbox_head.num_anchors, len(places)
    kept = [index for index, place in enumerate(places) if place >= 0]
    taken = [places[index] for index in kept]
    moved = {}
    for name, start in (('kernel', NORMAL), ('bias', PRIOR_BIAS)):
        old = np.asarray(layer[name])
        shape = old.shape[:-1]
        new = np.array(start(key, (*shape, anchors * count)))
        # Channels are anchor-major.
        rows = new.reshape(*shape, anchors, count)
        rows[..., kept] = old.reshape(*shape, anchors, -1)[..., taken]
        moved[name] = rows.reshape(new.shape)
    head['atss_cls'] = moved
    return {**variables, 'params': {**variables['params'], 'bbox_head': head}}
