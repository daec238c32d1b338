"""Reads the `model` section of a config."""

import math

from atss_jax.config.fields import (
    FRACTION,
    POSITIVE,
    Check,
    Reader,
    boolean,
    integer,
    number,
    one_of,
    optional,
    text,
    tuple_of,
)
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import BLOCKS, ResNet, bottleneck_width, stage_channels
from atss_jax.models.swin import SwinTransformer

_BOTTLENECK_DEPTHS = tuple(depth for depth in BLOCKS if depth not in (18, 34))
_ODD = Check(
    'an odd integer',
    lambda value: integer(1).convert(value) if value % 2 else one_of().convert(value),
)
_SIDES = Check(
    'a number of pixels, or a tuple of two (height, width)',
    lambda value: (
        integer(4).convert(value)
        if isinstance(value, int | float)
        else tuple_of(integer(4), 2).convert(value)
    ),
)
_RATE = Check(
    'a number of at least 0 and below 1',
    number(minimum=0, maximum=math.nextafter(1, 0)).convert,
)

_RESNET_FIELDS = (
    'depth',
    'num_stages',
    'style',
    'norm_cfg',
    'norm_eval',
    'dcn',
    'stage_with_dcn',
)
_SWIN_FIELDS = {
    'pretrain_img_size': _SIDES,
    'embed_dims': integer(1),
    'depths': tuple_of(integer(1)),
    'num_heads': tuple_of(integer(1)),
    'window_size': integer(1),
    'mlp_ratio': integer(1),
    'qkv_bias': boolean,
    'qk_scale': optional(POSITIVE),
    'drop_rate': _RATE,
    'attn_drop_rate': _RATE,
    'drop_path_rate': _RATE,
    'patch_norm': boolean,
    'use_abs_pos_embed': boolean,
    'with_cp': boolean,
    'convert_weights': boolean,
}
# In addition to the type, `out_indices`, `frozen_stages` and `init_cfg`.
_BACKBONES = {
    'ResNet': _RESNET_FIELDS,
    'ResNeXt': (*_RESNET_FIELDS, 'groups', 'base_width'),
    'SwinTransformer': _SWIN_FIELDS,
}
_NORMS = {'BN': (), 'SyncBN': (), 'GN': ('num_groups',)}


def _norm_cfg(read, path, channels):
    kind = read.kind(f'{path}.type', _NORMS)
    norm_cfg = dict(type=kind, requires_grad=read(f'{path}.requires_grad', boolean))
    if kind == 'GN':
        groups = norm_cfg['num_groups'] = read(f'{path}.num_groups', integer(1))
        if channels % groups:
            raise read.refuse(
                f'{path}.num_groups', f'does not divide {channels} channels'
            )
    return norm_cfg


def read_model(read: Reader, anchors: AnchorGenerator, size_divisor: int) -> ATSS:
    """Builds the detector that `model` describes."""
    read('model.type', one_of('ATSS'))
    backbone = _backbone(read)
    neck = _necks(read, backbone, anchors)
    head = _head(read, anchors)
    last = neck[-1] if isinstance(neck, tuple) else neck
    if head.in_channels != last.out_channels:
        message = f'model.neck.out_channels is {last.out_channels}'
        raise read.refuse('model.bbox_head.in_channels', message)
    return ATSS(backbone, neck, head, anchors.strides, size_divisor)


def _head(read, anchors):
    path = 'model.bbox_head'
    read(f'{path}.type', one_of('ATSSHead'))
    feat_channels = read(f'{path}.feat_channels', integer(1))
    head = ATSSHead(
        num_classes=read(f'{path}.num_classes', integer(1)),
        in_channels=read(f'{path}.in_channels', integer(1)),
        num_anchors=anchors.num_anchors,
        stacked_convs=read(f'{path}.stacked_convs', integer(0)),
        feat_channels=feat_channels,
        norm_cfg=_norm_cfg(read, f'{path}.norm_cfg', feat_channels),
        pred_kernel_size=read(f'{path}.pred_kernel_size', _ODD),
        dcn_on_last_conv=read(f'{path}.dcn_on_last_conv', boolean),
    )
    if head.stacked_convs == 0 and head.dcn_on_last_conv:
        raise read.refuse(f'{path}.dcn_on_last_conv', 'stacked_convs is 0')
    if head.stacked_convs == 0 and feat_channels != head.in_channels:
        message = f'stacked_convs is 0 and in_channels {head.in_channels}'
        raise read.refuse(f'{path}.feat_channels', message)
    return head


def read_pretrained(read: Reader) -> tuple[str | None, str]:
    """Weights that the backbone starts from: `pretrained`, or the newer `init_cfg`.

    Returns:
        The weights, and the field that names them.
    """
    field, path = 'model.pretrained', 'model.backbone.init_cfg'
    pretrained = read(field, optional(text))
    if not read.has(path):
        return pretrained, field
    if not read.has_optional_section(path, "{'type': 'Pretrained', 'checkpoint': ...}"):
        return pretrained, field
    read(f'{path}.type', one_of('Pretrained'))
    checkpoint = read(f'{path}.checkpoint', text)
    if pretrained is not None:
        raise read.refuse(field, f'{path} gives weights, too')
    return checkpoint, f'{path}.checkpoint'


def _backbone(read):
    path = 'model.backbone'
    kind = read.kind(f'{path}.type', _BACKBONES)
    return _swin(read) if kind == 'SwinTransformer' else _resnet(read, kind)


def _swin(read):
    path = 'model.backbone'
    fields = {name: read(f'{path}.{name}', x) for name, x in _SWIN_FIELDS.items()}
    stages, heads = len(fields['depths']), fields['num_heads']
    if stages > 4:
        raise read.refuse(f'{path}.depths', 'expected at most 4 stages')
    if len(heads) != stages:
        raise read.refuse(f'{path}.num_heads', f'depths has {stages} stages')
    for stage, count in enumerate(heads):
        channels = fields['embed_dims'] * 2**stage
        if channels % count:
            message = f'{count} does not divide {channels} channels'
            raise read.refuse(f'{path}.num_heads', message)
    frozen = read(f'{path}.frozen_stages', one_of(-1, 0, 1, 2, 3, 4))
    if frozen > stages:
        raise read.refuse(f'{path}.frozen_stages', f'depths has {stages} stages')
    return SwinTransformer(
        **fields, out_indices=_out_indices(read, stages), frozen_stages=frozen
    )


def _out_indices(read, stages):
    path = 'model.backbone.out_indices'
    indices = read(path, tuple_of(one_of(*range(stages))))
    if indices != tuple(range(indices[0], indices[0] + len(indices))):
        raise read.refuse(path, 'expected consecutive stages')
    return indices


def _resnet(read, kind):
    path = 'model.backbone'
    depths = BLOCKS if kind == 'ResNet' else _BOTTLENECK_DEPTHS
    depth = read(f'{path}.depth', one_of(*depths))
    groups, base_width = 1, 4
    if kind == 'ResNeXt':
        groups = read(f'{path}.groups', integer(2))  # with one group it is a ResNet
        base_width = read(f'{path}.base_width', integer(1))
    width = bottleneck_width(64, groups, base_width)
    stages = read(f'{path}.num_stages', one_of(1, 2, 3, 4))
    indices = _out_indices(read, stages)
    style = read(f'{path}.style', one_of('pytorch', 'caffe'))
    if style == 'caffe' and depth in (18, 34):
        raise read.refuse(
            f'{path}.style', f'depth {depth} has no 1x1 convolutions for the stride'
        )
    frozen = read(f'{path}.frozen_stages', one_of(-1, 0, 1, 2, 3, 4))
    if frozen > stages:
        raise read.refuse(f'{path}.frozen_stages', f'num_stages is {stages}')
    return ResNet(
        depth=depth,
        num_stages=stages,
        out_indices=indices,
        frozen_stages=frozen,
        norm_cfg=_norm_cfg(read, f'{path}.norm_cfg', math.gcd(64, width)),
        norm_eval=read(f'{path}.norm_eval', boolean),
        style=style,
        groups=groups,
        base_width=base_width,
        **_deformable(read, depth, stages, width),
    )


def _deformable(read, depth, stages, width):
    """Reads `dcn` and `stage_with_dcn`, if the backbone has them."""
    path = 'model.backbone.dcn'
    example = "{'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}"
    if not read.has_optional_section(path, example):
        return {}
    dcn = dict(
        type=read(f'{path}.type', one_of('DCNv2')),
        deform_groups=read(f'{path}.deform_groups', integer(1)),
        fallback_on_stride=read(f'{path}.fallback_on_stride', one_of(False)),
    )
    stages_path = 'model.backbone.stage_with_dcn'
    stage_with_dcn = read(stages_path, tuple_of(boolean, stages))
    if not any(stage_with_dcn):
        raise read.refuse(stages_path, 'no stage for model.backbone.dcn')
    if depth not in _BOTTLENECK_DEPTHS:
        raise read.refuse(
            'model.backbone.depth', f'dcn needs one of {_BOTTLENECK_DEPTHS}'
        )
    channels = width * 2 ** stage_with_dcn.index(True)
    if channels % dcn['deform_groups']:
        raise read.refuse(
            f'{path}.deform_groups', f'does not divide {channels} channels'
        )
    return dict(dcn=dcn, stage_with_dcn=stage_with_dcn)


def _necks(read, backbone, anchors):
    """Returns an FPN, or (FPN, DyHead) if `model.neck` is a tuple of two sections."""
    if not read.has_section('model.neck.0'):
        return _fpn(read, 'model.neck', backbone, anchors)
    fpn = _fpn(read, 'model.neck.0', backbone, anchors)
    path = 'model.neck.1'
    read(f'{path}.type', one_of('DyHead'))
    head = DyHead(
        in_channels=read(f'{path}.in_channels', integer(1)),
        out_channels=read(f'{path}.out_channels', integer(1)),
        num_blocks=read(f'{path}.num_blocks', integer(1)),
        zero_init_offset=read(f'{path}.zero_init_offset', boolean),
    )
    if head.in_channels != fpn.out_channels:
        message = f'model.neck.0.out_channels is {fpn.out_channels}'
        raise read.refuse(f'{path}.in_channels', message)
    if head.out_channels % 16:
        raise read.refuse(
            f'{path}.out_channels',
            'expected a multiple of 16, for norms with 16 groups',
        )
    return fpn, head


def _fpn(read, path, backbone, anchors):
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
    channels = tuple(_stage_channels(backbone)[i] for i in backbone.out_indices)
    if neck.in_channels != channels:
        raise read.refuse(f'{path}.in_channels', f'the backbone has {channels}')
    used = len(channels) - neck.start_level
    if not 0 < used <= neck.num_outs:
        message = f'does not fit {len(channels)} inputs and {neck.num_outs} outputs'
        raise read.refuse(f'{path}.start_level', message)
    first = 4 * 2 ** (backbone.out_indices[0] + neck.start_level)
    strides = tuple(first * 2**level for level in range(neck.num_outs))
    if anchors.strides != strides:
        path = 'model.bbox_head.anchor_generator.strides'
        raise read.refuse(path, f'the levels of the neck have strides {strides}')
    return neck


def _stage_channels(backbone):
    if isinstance(backbone, SwinTransformer):
        stages = range(len(backbone.depths))
        return tuple(backbone.embed_dims * 2**stage for stage in stages)
    return stage_channels(backbone.depth)


def read_anchors(read: Reader) -> AnchorGenerator:
    """Builds the anchors that `model.bbox_head.anchor_generator` describes."""
    path = 'model.bbox_head.anchor_generator'
    read(f'{path}.type', one_of('AnchorGenerator'))
    return AnchorGenerator(
        strides=read(f'{path}.strides', tuple_of(integer(1))),
        ratios=read(f'{path}.ratios', tuple_of(POSITIVE)),
        octave_base_scale=read(f'{path}.octave_base_scale', POSITIVE),
        scales_per_octave=read(f'{path}.scales_per_octave', integer(1)),
        center_offset=read(f'{path}.center_offset', FRACTION),
    )


def read_coder(read: Reader) -> DeltaXYWHBBoxCoder:
    """Builds the coder that `model.bbox_head.bbox_coder` describes."""
    path = 'model.bbox_head.bbox_coder'
    read(f'{path}.type', one_of('DeltaXYWHBBoxCoder'))
    return DeltaXYWHBBoxCoder(
        target_means=read(f'{path}.target_means', tuple_of(number(), 4)),
        target_stds=read(f'{path}.target_stds', tuple_of(POSITIVE, 4)),
    )
