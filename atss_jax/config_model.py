"""Reads the `model` section of a config."""

from atss_jax.checks import Reader, boolean, integer, number, one_of, tuple_of
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import BLOCKS, ResNet, stage_channels

_ABOVE_0 = number(above=0)


def _norm_cfg(read, path, channels):
    kind = read(f'{path}.type', one_of('BN', 'SyncBN', 'GN'))
    norm_cfg = dict(type=kind, requires_grad=read(f'{path}.requires_grad', boolean))
    if kind == 'GN':
        groups = norm_cfg['num_groups'] = read(f'{path}.num_groups', integer(1))
        if channels % groups:
            raise read.refuse(
                f'{path}.num_groups', f'does not divide {channels} channels'
            )
    return norm_cfg


def read_model(read: Reader, anchors: AnchorGenerator, size_divisor: int) -> ATSS:
    """The detector that `model` describes."""
    read('model.type', one_of('ATSS'))
    backbone = _backbone(read)
    neck = _neck(read, backbone, anchors)
    read('model.bbox_head.type', one_of('ATSSHead'))
    feat_channels = read('model.bbox_head.feat_channels', integer(1))
    head = ATSSHead(
        num_classes=read('model.bbox_head.num_classes', integer(1)),
        in_channels=read('model.bbox_head.in_channels', integer(1)),
        num_anchors=anchors.num_anchors,
        stacked_convs=read('model.bbox_head.stacked_convs', integer(1)),
        feat_channels=feat_channels,
        norm_cfg=_norm_cfg(read, 'model.bbox_head.norm_cfg', feat_channels),
    )
    if head.in_channels != neck.out_channels:
        message = f'model.neck.out_channels is {neck.out_channels}'
        raise read.refuse('model.bbox_head.in_channels', message)
    return ATSS(backbone, neck, head, anchors.strides, size_divisor)


def _backbone(read):
    path = 'model.backbone'
    read(f'{path}.type', one_of('ResNet'))
    depth = read(f'{path}.depth', one_of(*BLOCKS))
    stages = read(f'{path}.num_stages', one_of(1, 2, 3, 4))
    indices = read(f'{path}.out_indices', tuple_of(one_of(*range(stages))))
    if indices != tuple(range(indices[0], indices[0] + len(indices))):
        raise read.refuse(f'{path}.out_indices', 'expected consecutive stages')
    style = read(f'{path}.style', one_of('pytorch', 'caffe'))
    if style == 'caffe' and depth in (18, 34):
        raise read.refuse(
            f'{path}.style', f'depth {depth} has no 1x1 to take the stride'
        )
    frozen = read(f'{path}.frozen_stages', one_of(-1, 0, 1, 2, 3, 4))
    if frozen > stages:
        raise read.refuse(f'{path}.frozen_stages', f'num_stages is {stages}')
    return ResNet(
        depth=depth,
        num_stages=stages,
        out_indices=indices,
        frozen_stages=frozen,
        norm_cfg=_norm_cfg(read, f'{path}.norm_cfg', 64),
        norm_eval=read(f'{path}.norm_eval', boolean),
        style=style,
    )


def _neck(read, backbone, anchors):
    path = 'model.neck'
    read(f'{path}.type', one_of('FPN'))
    neck = FPN(
        in_channels=read(f'{path}.in_channels', tuple_of(integer(1))),
        out_channels=read(f'{path}.out_channels', integer(1)),
        start_level=read(f'{path}.start_level', integer(0)),
        add_extra_convs=read(
            f'{path}.add_extra_convs',
            one_of(False, True, 'on_input', 'on_lateral', 'on_output'),
        ),
        num_outs=read(f'{path}.num_outs', integer(1)),
    )
    channels = tuple(stage_channels(backbone.depth)[i] for i in backbone.out_indices)
    if neck.in_channels != channels:
        raise read.refuse(f'{path}.in_channels', f'the backbone gives {channels}')
    used = len(channels) - neck.start_level
    if not 0 < used <= neck.num_outs:
        message = (
            f'{len(channels)} inputs and {neck.num_outs} outputs do not go with it'
        )
        raise read.refuse(f'{path}.start_level', message)
    first = 4 * 2 ** (backbone.out_indices[0] + neck.start_level)
    strides = tuple(first * 2**level for level in range(neck.num_outs))
    if anchors.strides != strides:
        path = 'model.bbox_head.anchor_generator.strides'
        raise read.refuse(path, f'the neck gives levels of strides {strides}')
    return neck


def read_anchors(read: Reader) -> AnchorGenerator:
    """The grid that `model.bbox_head.anchor_generator` describes."""
    path = 'model.bbox_head.anchor_generator'
    read(f'{path}.type', one_of('AnchorGenerator'))
    return AnchorGenerator(
        strides=read(f'{path}.strides', tuple_of(integer(1))),
        ratios=read(f'{path}.ratios', tuple_of(_ABOVE_0)),
        octave_base_scale=read(f'{path}.octave_base_scale', _ABOVE_0),
        scales_per_octave=read(f'{path}.scales_per_octave', integer(1)),
    )


def read_coder(read: Reader) -> DeltaXYWHBBoxCoder:
    """The coder that `model.bbox_head.bbox_coder` describes."""
    path = 'model.bbox_head.bbox_coder'
    read(f'{path}.type', one_of('DeltaXYWHBBoxCoder'))
    return DeltaXYWHBBoxCoder(
        target_means=read(f'{path}.target_means', tuple_of(number(), 4)),
        target_stds=read(f'{path}.target_stds', tuple_of(_ABOVE_0, 4)),
    )
