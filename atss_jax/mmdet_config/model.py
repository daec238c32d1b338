"""Translates `model` of an mmdet config: detector, losses, training and test settings.

Defaults are those of mmdet's constructors.
"""

from typing import Any

from atss_jax.mmdet_config.section import REQUIRED, Section

_LOSSES = ('IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss')
_GN = {'type': 'GN', 'num_groups': 32, 'requires_grad': True}
_BN = {'type': 'BN', 'requires_grad': True}
# Types of norms and the fields that they have in addition.
_NORMS = {'BN': (), 'SyncBN': (), 'GN': ('num_groups',)}


def translate(model: Section, train_cfg: Any, test_cfg: Any) -> dict[str, Any]:
    """Translates the model, `train_cfg` and `test_cfg` to our fields, by path.

    Args:
        model: the section, without `data_preprocessor`.
        train_cfg: `train_cfg` at the top level, where some 2.x configs have it;
            `REQUIRED` if there is none.
        test_cfg: as `train_cfg`.
    """
    model.take_kind('ATSS')
    # 2.x has either `model.pretrained` or `backbone.init_cfg`.
    pretrained = model.take('pretrained', None)
    backbone = model.section('backbone')
    checkpoint = _pretrained(backbone)
    fields = {'model.pretrained': pretrained if checkpoint is None else checkpoint}
    fields |= _backbone(backbone)
    fields |= _necks(model)
    fields |= _head(model.section('bbox_head'))
    fields |= _train_cfg(model.section('train_cfg', train_cfg))
    fields |= _test_cfg(model.section('test_cfg', test_cfg))
    model.expect(init_cfg=None)
    return fields


def _norm_cfg(owner, default):
    """Translates `norm_cfg` of a section; if it has none, `default`."""
    section = owner.section('norm_cfg', default)
    kind = section.take_kind(*_NORMS)
    norm = {'type': kind, 'requires_grad': section.take('requires_grad', True)}
    norm |= {name: section.take(name) for name in _NORMS[kind]}
    section.expect(eps=1e-5)
    if kind != 'GN':
        section.expect(momentum=0.1)
    return norm


def _pretrained(backbone):
    """The checkpoint of `init_cfg`, or of the older `backbone.pretrained`."""
    older = backbone.take('pretrained', None)
    section = backbone.section('init_cfg', {})
    if 'type' not in section:
        return older
    section.take_kind('Pretrained')
    checkpoint = section.take('checkpoint')
    section.expect(prefix=None)
    section.skip('map_location')
    return checkpoint


def _backbone(section):
    kind = section.take_kind('ResNet', 'ResNeXt', 'SwinTransformer')
    return _swin(section) if kind == 'SwinTransformer' else _resnet(section, kind)


def _swin(section):
    fields = {
        'type': 'SwinTransformer',
        'pretrain_img_size': section.take('pretrain_img_size', 224),
        'embed_dims': section.take('embed_dims', 96),
        'depths': section.take_tuple('depths', (2, 2, 6, 2)),
        'num_heads': section.take_tuple('num_heads', (3, 6, 12, 24)),
        'window_size': section.take('window_size', 7),
        'mlp_ratio': section.take('mlp_ratio', 4),
        'qkv_bias': section.take('qkv_bias', True),
        'qk_scale': section.take('qk_scale', None),
        'drop_rate': section.take('drop_rate', 0.0),
        'attn_drop_rate': section.take('attn_drop_rate', 0.0),
        'drop_path_rate': section.take('drop_path_rate', 0.1),
        'patch_norm': section.take('patch_norm', True),
        'out_indices': section.take_tuple('out_indices', (0, 1, 2, 3)),
        'use_abs_pos_embed': section.take('use_abs_pos_embed', False),
        'frozen_stages': section.take('frozen_stages', -1),
        'with_cp': section.take('with_cp', False),
        'convert_weights': section.take('convert_weights', False),
    }
    section.expect(in_channels=3, patch_size=4, strides=(4, 2, 2, 2))
    section.expect(act_cfg={'type': 'GELU'}, norm_cfg={'type': 'LN'})
    return {'model.backbone': fields}


def _resnet(section, kind):
    path = 'model.backbone'
    stages = section.take('num_stages', 4)
    if stages not in (1, 2, 3, 4):
        raise section.refuse('num_stages', stages, '1 to 4')
    fields = {
        f'{path}.type': kind,
        f'{path}.depth': section.take('depth'),
        f'{path}.num_stages': stages,
        f'{path}.out_indices': section.take_tuple('out_indices', (0, 1, 2, 3)),
        f'{path}.frozen_stages': section.take('frozen_stages', -1),
        f'{path}.norm_cfg': _norm_cfg(section, _BN),
        f'{path}.norm_eval': section.take('norm_eval', True),
        f'{path}.style': section.take('style', 'pytorch'),
        **_deformable(section, stages),
    }
    if kind == 'ResNeXt':
        fields[f'{path}.groups'] = section.take('groups', 1)
        fields[f'{path}.base_width'] = section.take('base_width', 4)
    section.expect(
        in_channels=3,
        stem_channels=64,
        base_channels=64,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1, 1, 1, 1)[:stages],
        deep_stem=False,
        avg_down=False,
        conv_cfg=None,
        plugins=None,
        zero_init_residual=True,
    )
    section.skip('with_cp')  # saves memory, without effect on numbers
    return fields


def _deformable(section, stages):
    stage_with_dcn = section.take_tuple('stage_with_dcn', (False,) * stages)
    if section.peek('dcn') is None or not any(stage_with_dcn):
        section.skip('dcn')
        return {'model.backbone.dcn': None}
    settings = section.section('dcn')
    dcn = {
        'type': settings.take_kind('DCNv2'),
        'deform_groups': settings.take('deform_groups', 1),
        'fallback_on_stride': settings.take('fallback_on_stride', False),
    }
    return {
        'model.backbone.dcn': dcn,
        'model.backbone.stage_with_dcn': stage_with_dcn,
    }


def _necks(model):
    """Translates the neck: an FPN, or an FPN and a DyHead as two sections."""
    value = model.peek('neck')
    if not isinstance(value, list | tuple):
        return _fpn(model.section('neck'))
    sections = model.sections('neck')
    if len(sections) != 2:
        raise model.refuse('neck', value, 'an FPN, or an FPN and a DyHead')
    prefix = 'model.neck.'
    fpn = {
        path.removeprefix(prefix): value for path, value in _fpn(sections[0]).items()
    }
    return {'model.neck': ({'type': 'FPN', **fpn}, _dyhead(sections[1]))}


def _dyhead(section):
    fields = {
        'type': section.take_kind('DyHead'),
        'in_channels': section.take('in_channels'),
        'out_channels': section.take('out_channels'),
        'num_blocks': section.take('num_blocks', 6),
        'zero_init_offset': section.take('zero_init_offset', True),
    }
    section.expect(init_cfg=None)
    return fields


def _fpn(section):
    path = 'model.neck'
    section.take_kind('FPN')
    channels = section.take_tuple('in_channels')
    fields = {
        f'{path}.in_channels': channels,
        f'{path}.out_channels': section.take('out_channels'),
        f'{path}.start_level': section.take('start_level', 0),
        f'{path}.add_extra_convs': section.take('add_extra_convs', False),
        f'{path}.num_outs': section.take('num_outs'),
    }
    end = section.take('end_level', -1)
    if end not in (-1, len(channels) - 1):
        raise section.refuse('end_level', end, '-1')
    section.expect(
        relu_before_extra_convs=False,
        no_norm_on_lateral=False,
        conv_cfg=None,
        norm_cfg=None,
        act_cfg=None,
        upsample_cfg={'mode': 'nearest'},
        init_cfg={'type': 'Xavier', 'layer': 'Conv2d', 'distribution': 'uniform'},
    )
    return fields


def _head(section):
    path = 'model.bbox_head'
    section.take_kind('ATSSHead')
    fields = {
        f'{path}.num_classes': section.take('num_classes'),
        f'{path}.in_channels': section.take('in_channels'),
        f'{path}.stacked_convs': section.take('stacked_convs', 4),
        f'{path}.feat_channels': section.take('feat_channels', 256),
        f'{path}.norm_cfg': _norm_cfg(section, _GN),
        f'{path}.pred_kernel_size': section.take('pred_kernel_size', 3),
        **_anchors(section.section('anchor_generator')),
        **_coder(section.section('bbox_coder')),
        **_losses(section),
    }
    section.expect(
        conv_cfg=None,
        reg_decoded_bbox=True,
        init_cfg={
            'type': 'Normal',
            'layer': 'Conv2d',
            'std': 0.01,
            'override': {
                'type': 'Normal',
                'name': 'atss_cls',
                'std': 0.01,
                'bias_prob': 0.01,
            },
        },
    )
    return fields


def _anchors(section):
    path = 'model.bbox_head.anchor_generator'
    section.take_kind('AnchorGenerator')
    if section.peek('scales') is None:
        section.skip('scales')
        octave = section.take('octave_base_scale')
        count = section.take('scales_per_octave')
    else:
        scales = section.take_tuple('scales')
        if len(scales) != 1:
            raise section.refuse('scales', scales, 'one scale, or octave_base_scale')
        octave, count = scales[0], 1
        section.expect(octave_base_scale=None, scales_per_octave=None)
    fields = {
        f'{path}.ratios': section.take_tuple('ratios'),
        f'{path}.octave_base_scale': octave,
        f'{path}.scales_per_octave': count,
        f'{path}.strides': section.take_tuple('strides'),
        f'{path}.center_offset': section.take('center_offset', 0.0),
    }
    section.expect(base_sizes=None, scale_major=True, centers=None)
    section.skip('use_box_type')
    return fields


def _coder(section):
    path = 'model.bbox_head.bbox_coder'
    section.take_kind('DeltaXYWHBBoxCoder')
    fields = {
        f'{path}.target_means': section.take_tuple('target_means', (0.0,) * 4),
        f'{path}.target_stds': section.take_tuple('target_stds', (1.0,) * 4),
    }
    section.expect(clip_border=True, add_ctr_clamp=False)
    section.skip('ctr_clamp', 'use_box_type')
    return fields


def _losses(head):
    path = 'model.bbox_head'
    focal = head.section('loss_cls')
    focal.take_kind('FocalLoss')
    box = head.section('loss_bbox')
    # The default of ATSSHead; CrossEntropyLoss alone would be a softmax by default.
    default = {'type': 'CrossEntropyLoss', 'use_sigmoid': True, 'loss_weight': 1.0}
    center = head.section('loss_centerness', default)
    center.take_kind('CrossEntropyLoss')
    use_sigmoid = center.take('use_sigmoid', False)
    fields = {
        f'{path}.loss_cls.use_sigmoid': focal.take('use_sigmoid', True),
        f'{path}.loss_cls.gamma': focal.take('gamma', 2.0),
        f'{path}.loss_cls.alpha': focal.take('alpha', 0.25),
        f'{path}.loss_cls.loss_weight': focal.take('loss_weight', 1.0),
        f'{path}.loss_bbox.type': box.take_kind(*_LOSSES),
        f'{path}.loss_bbox.loss_weight': box.take('loss_weight', 1.0),
        f'{path}.loss_centerness.use_sigmoid': use_sigmoid,
        f'{path}.loss_centerness.loss_weight': center.take('loss_weight', 1.0),
    }
    box.expect(eps=1e-6, linear=False, mode='log')
    focal.expect(activated=False)
    center.expect(use_mask=False, class_weight=None, ignore_index=None)
    center.skip('avg_non_ignore')
    for section in (focal, box, center):
        section.expect(reduction='mean')
    return fields


def _train_cfg(section):
    assigner = section.section('assigner')
    assigner.take_kind('ATSSAssigner')
    fields = {
        'train_cfg.assigner.topk': assigner.take('topk'),
        'train_cfg.allowed_border': section.take('allowed_border'),
        'train_cfg.pos_weight': section.take('pos_weight'),
    }
    assigner.expect(
        alpha=None, iou_calculator={'type': 'BboxOverlaps2D'}, ignore_iof_thr=-1
    )
    section.expect(sampler={'type': 'PseudoSampler'})
    section.skip('debug')
    return fields


def _test_cfg(section):
    nms = section.section('nms')
    is_soft = 'type' in nms and nms.take_kind('nms', 'soft_nms') == 'soft_nms'
    threshold = nms.take('iou_thr', None)  # the name in early 2.x
    if threshold is None:
        # soft_nms has a default in mmcv, nms has none.
        threshold = nms.take('iou_threshold', 0.3 if is_soft else REQUIRED)
    fields = {
        'test_cfg.nms_pre': section.take('nms_pre'),
        'test_cfg.min_bbox_size': section.take('min_bbox_size', -1),
        'test_cfg.score_thr': section.take('score_thr'),
        'test_cfg.nms.iou_threshold': threshold,
        'test_cfg.max_per_img': section.take('max_per_img'),
    }
    if is_soft:
        del fields['test_cfg.nms.iou_threshold']
        fields['test_cfg.nms'] = {
            'type': 'soft_nms',
            'iou_threshold': threshold,
            'method': nms.take('method', 'linear'),
            'sigma': nms.take('sigma', 0.5),
            'min_score': nms.take('min_score', 1e-3),
        }
    nms.expect(class_agnostic=False, max_num=-1, score_threshold=0, offset=0)
    nms.skip('split_thr')
    return fields
