"""The `model` of a mmdet config: detector, loss settings, test settings.

Defaults are those of mmdet's constructors.
"""

from typing import Any

from atss_jax.mmdet_config.section import Section

_NORMS = {'BN': (), 'SyncBN': (), 'GN': ('num_groups',)}
_LOSSES = ('IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss')
_BN = {'type': 'BN', 'requires_grad': True}
_GN = {'type': 'GN', 'num_groups': 32, 'requires_grad': True}


def translate(model: Section, train_cfg: Any, test_cfg: Any) -> dict[str, Any]:
    """Our fields of the model, `train_cfg` and `test_cfg`, by path.

    Args:
        model: the section; `data_preprocessor` was taken away before.
        train_cfg: that of the top level, for the 2.x configs that have it there;
            `REQUIRED` where there is none.
        test_cfg: likewise.
    """
    model.take_kind('ATSS')
    # 2.x, two of its styles: `model.pretrained` and `backbone.init_cfg`.
    pretrained = model.take('pretrained', None)
    backbone = model.section('backbone')
    found = _pretrained(backbone)
    fields = {'model.pretrained': pretrained if found is None else found}
    fields |= _backbone(backbone)
    fields |= _neck(model.section('neck'))
    fields |= _head(model.section('bbox_head'))
    fields |= _train_cfg(model.section('train_cfg', train_cfg))
    fields |= _test_cfg(model.section('test_cfg', test_cfg))
    model.expect(init_cfg=None)
    model.finish()
    return fields


def _norm_cfg(owner, default):
    section = owner.section('norm_cfg', default)
    kind = section.take_kind(*_NORMS)
    norm = {'type': kind, 'requires_grad': section.take('requires_grad', True)}
    norm |= {name: section.take(name) for name in _NORMS[kind]}
    section.expect(eps=1e-5)
    if kind != 'GN':
        section.expect(momentum=0.1)
    section.finish()
    return norm


def _pretrained(backbone):
    """The checkpoint of `init_cfg`, or of the older `backbone.pretrained`."""
    older = backbone.take('pretrained', None)
    section = backbone.section('init_cfg', {})
    if 'type' not in section:
        section.finish()
        return older
    section.take_kind('Pretrained')
    checkpoint = section.take('checkpoint')
    section.expect(prefix=None)
    section.skip('map_location')
    section.finish()
    return checkpoint


def _backbone(section):
    path = 'model.backbone'
    section.take_kind('ResNet')
    stages = section.take('num_stages', 4)
    if stages not in (1, 2, 3, 4):
        raise section.refuse('num_stages', stages, '1 to 4')
    fields = {
        f'{path}.depth': section.take('depth'),
        f'{path}.num_stages': stages,
        f'{path}.out_indices': section.take_tuple('out_indices', (0, 1, 2, 3)),
        f'{path}.frozen_stages': section.take('frozen_stages', -1),
        f'{path}.norm_cfg': _norm_cfg(section, _BN),
        f'{path}.norm_eval': section.take('norm_eval', True),
        f'{path}.style': section.take('style', 'pytorch'),
    }
    section.expect(
        in_channels=3,
        stem_channels=64,
        base_channels=64,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1, 1, 1, 1)[:stages],
        deep_stem=False,
        avg_down=False,
        conv_cfg=None,
        dcn=None,
        stage_with_dcn=(False,) * 4,
        plugins=None,
        zero_init_residual=True,
    )
    section.skip('with_cp')  # trades memory for time
    section.finish()
    return fields


def _neck(section):
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
    section.finish()
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
        **_anchors(section.section('anchor_generator')),
        **_coder(section.section('bbox_coder')),
        **_losses(section),
    }
    section.expect(
        pred_kernel_size=3,
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
    section.finish()
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
            raise section.refuse('scales', scales, 'one, or octave_base_scale')
        octave, count = scales[0], 1
        section.expect(octave_base_scale=None, scales_per_octave=None)
    fields = {
        f'{path}.ratios': section.take_tuple('ratios'),
        f'{path}.octave_base_scale': octave,
        f'{path}.scales_per_octave': count,
        f'{path}.strides': section.take_tuple('strides'),
    }
    section.expect(base_sizes=None, scale_major=True, centers=None, center_offset=0.0)
    section.skip('use_box_type')
    section.finish()
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
    section.finish()
    return fields


def _losses(head):
    path = 'model.bbox_head'
    focal = head.section('loss_cls')
    focal.take_kind('FocalLoss')
    box = head.section('loss_bbox')
    # As ATSSHead has it; CrossEntropyLoss itself would be a softmax by default.
    default = {'type': 'CrossEntropyLoss', 'use_sigmoid': True, 'loss_weight': 1.0}
    centre = head.section('loss_centerness', default)
    centre.take_kind('CrossEntropyLoss')
    use_sigmoid = centre.take('use_sigmoid', False)
    fields = {
        f'{path}.loss_cls.use_sigmoid': focal.take('use_sigmoid', True),
        f'{path}.loss_cls.gamma': focal.take('gamma', 2.0),
        f'{path}.loss_cls.alpha': focal.take('alpha', 0.25),
        f'{path}.loss_cls.loss_weight': focal.take('loss_weight', 1.0),
        f'{path}.loss_bbox.type': box.take_kind(*_LOSSES),
        f'{path}.loss_bbox.loss_weight': box.take('loss_weight', 1.0),
        f'{path}.loss_centerness.use_sigmoid': use_sigmoid,
        f'{path}.loss_centerness.loss_weight': centre.take('loss_weight', 1.0),
    }
    box.expect(eps=1e-6, linear=False, mode='log')
    focal.expect(activated=False)
    centre.expect(use_mask=False, class_weight=None, ignore_index=None)
    centre.skip('avg_non_ignore')
    for section in (focal, box, centre):
        section.expect(reduction='mean')
        section.finish()
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
    assigner.finish()
    section.expect(sampler={'type': 'PseudoSampler'})
    section.skip('debug')
    section.finish()
    return fields


def _test_cfg(section):
    nms = section.section('nms')
    if 'type' in nms:
        nms.take_kind('nms')
    threshold = nms.take('iou_thr', None)  # its name in early 2.x
    if threshold is None:
        threshold = nms.take('iou_threshold')
    fields = {
        'test_cfg.nms_pre': section.take('nms_pre'),
        'test_cfg.min_bbox_size': section.take('min_bbox_size', -1),
        'test_cfg.score_thr': section.take('score_thr'),
        'test_cfg.nms.iou_threshold': threshold,
        'test_cfg.max_per_img': section.take('max_per_img'),
    }
    nms.expect(class_agnostic=False, max_num=-1, score_threshold=0, offset=0)
    nms.skip('split_thr')
    nms.finish()
    section.finish()
    return fields
