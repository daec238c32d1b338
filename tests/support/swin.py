"""Swin Transformers: those of the golden files, and a tiny one."""

import functools
import json

import numpy as np

from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.swin import SwinTransformer
from tests.conftest import GOLDEN
from tests.support.recipes import golden_state_dict
from tests.support.small import GN

TINY = {
    'embed_dims': 8,
    'depths': (2, 2),
    'num_heads': (1, 2),
    'window_size': 3,
    'out_indices': (0, 1),
}


def tiny_swin(**fields):
    """Two stages, strides 4 and 8, with windows that fit no map."""
    backbone = SwinTransformer(**{**TINY, **fields})
    channels = backbone.embed_dims
    neck = FPN((channels, 2 * channels), 16, start_level=0, num_outs=2)
    head = ATSSHead(3, 16, stacked_convs=1, feat_channels=16, norm_cfg=GN)
    return ATSS(backbone, neck, head, (4, 8))


@functools.cache
def golden_case(name):
    """`case.json` of 'w7', 'w12' or 'abs'."""
    return json.loads((GOLDEN / 'swin' / name / 'case.json').read_text())


@functools.cache
def golden_images(name):
    """The files of a case, by their letter."""
    files = sorted((GOLDEN / 'swin' / name).glob('forward_*.npz'))
    return {file.stem[-1]: dict(np.load(file)) for file in files}


def golden_swin(name):
    """The detector of a case."""
    case = golden_case(name)
    fields = case['config']
    backbone = SwinTransformer(
        **{k: tuple(x) if isinstance(x, list) else x for k, x in fields.items()},
        out_indices=(1, 2, 3),
    )
    channels = tuple(backbone.embed_dims * 2**stage for stage in (1, 2, 3))
    features = case['feat']
    neck = (
        FPN(channels, features, start_level=0),
        DyHead(features, features, case['blocks'], zero_init_offset=False),
    )
    head = ATSSHead(
        case['classes'],
        features,
        stacked_convs=0,
        feat_channels=features,
        pred_kernel_size=1,
    )
    return ATSS(backbone, neck, head, size_divisor=128)


def golden_swin_state(name):
    """The weights of a case, without the indices that mmdet computes."""
    shapes = golden_case(name)['shapes']
    index = 'relative_position_index'
    return golden_state_dict({k: x for k, x in shapes.items() if not k.endswith(index)})
