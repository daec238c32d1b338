"""Weights to start from: random, a pretrained backbone, a whole detector."""

import pathlib
from typing import Any

from atss_jax.models.detector import ATSS
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.state import init_variables
from atss_jax.weights import mmdet, mmdet_checkpoint, torchvision


def initial_variables(
    model: ATSS, seed: int, pretrained: str | None, load_from: str | None
) -> dict[str, Any]:
    """Variables before the first step, as NumPy arrays.

    Args:
        model: the detector.
        seed: of everything random.
        pretrained: backbone weights, `torchvision://resnet50` or a path; None: random.
        load_from: weights of a whole detector, which replace all others: a `.pth` with
            mmdet's names, or a workdir, whose best checkpoint is taken.

    Raises:
        ValueError: weights that are not there or do not fit.
    """
    if load_from is not None:
        return load_detector(load_from, model)
    variables = init_variables(model, seed)
    if pretrained is None:
        return variables
    state_dict = mmdet.to_state_dict(variables)
    prefix = 'backbone.'
    names = [name for name in state_dict if name.startswith(prefix)]
    wanted = [name.removeprefix(prefix) for name in names]
    loaded = torchvision.backbone_weights(pretrained, wanted)
    state_dict |= {prefix + name: value for name, value in loaded.items()}
    return mmdet.to_variables(state_dict, model)


def load_detector(path: str, model: ATSS) -> dict[str, Any]:
    """Variables from a `.pth` file with mmdet's names, or a workdir's best checkpoint.

    Raises:
        ValueError: neither is there, or the weights do not fit.
    """
    if not pathlib.Path(path).exists():
        raise ValueError(
            f'no weights at {path}: expected the workdir of a run, or a .pth file'
        )
    if pathlib.Path(path).is_dir():
        return Checkpoints.open(path).restore_variables(model)
    return mmdet.to_variables(mmdet_checkpoint.state_dict(path), model)
