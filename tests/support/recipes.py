"""Weights of the golden outputs, and the error measure that tests share."""

import json
import zlib

import numpy as np

from tests.conftest import GOLDEN


def golden_state_dict(shapes: dict | None = None) -> dict[str, np.ndarray]:
    """The weights of the golden outputs, a function of names and shapes."""
    if shapes is None:
        shapes = json.loads((GOLDEN / 'state_dict_shapes.json').read_text())
    return {name: _golden_array(name, tuple(shape)) for name, shape in shapes.items()}


def _golden_array(name, shape):
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return np.array(0, np.int64)
    z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    z = np.asarray(z, np.float32)
    if leaf == 'running_mean':
        return 0.1 * z
    if leaf == 'running_var':
        return 1 + 0.2 * abs(z)
    if leaf == 'scale':
        return 1 + 0.1 * z
    if leaf == 'relative_position_bias_table':
        return np.float32(0.5) * z
    if leaf == 'absolute_pos_embed':
        return np.float32(0.2) * z
    if leaf == 'weight' and len(shape) == 2:
        return z / np.float32(np.sqrt(shape[1]))
    if len(shape) == 4:
        gain = 2 if name.startswith('backbone.') else 1
        weight = np.float32(np.sqrt(gain / np.prod(shape[1:]))) * z
        return weight / 2 if 'atss_reg' in name else weight
    if leaf == 'bias':
        return -3 + 0.3 * z if 'atss_cls' in name else 0.1 * z
    return 0.3 + 0.05 * z if name.endswith('bn3.weight') else 1 + 0.1 * z


def relative_error(ours, reference) -> float:
    """The largest difference divided by the largest reference value."""
    return float(np.max(np.abs(ours - reference)) / np.max(np.abs(reference)))
