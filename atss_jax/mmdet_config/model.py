"""The `model` of a mmdet config: detector, loss settings, test settings.

Defaults are those of mmdet's constructors.
"""

from typing import Any

from atss_jax.mmdet_config import features
from atss_jax.mmdet_config.section import Section

_LOSSES = ('IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss')
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
    found = features.pretrained(backbone)
    fields = {'model.pretrained': pretrained if found is None else found}
    fields |= features.backbone(backbone)
    fields |= features.necks(model)
    fields |= _head(model.section('bbox_head'))
    fields |= _train_cfg(model.section('train_cfg', train_cfg))
    fields |= _test_cfg(model.section('test_cfg', test_cfg))
    model.expect(init_cfg=None)
    model.finish()
    return fields


def _head(section):
    path = 'model.bbox_head'
    section.take_kind('ATSSHead')
    fields = {
        f'{path}.num_classes': section.take('num_classes'),
        f'{path}.in_channels': section.take('in_channels'),
        f'{path}.stacked_convs': section.take('stacked_convs', 4),
        f'{path}.feat_channels': section.take('feat_channels', 256),
        f'{path}.norm_cfg': features.norm_cfg(section, _GN),
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
        f'{path}.center_offset': section.take('center_offset', 0.0),
    }
    section.expect(base_sizes=None, scale_major=True, centers=None)
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
