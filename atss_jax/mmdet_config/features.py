"""Backbone and neck of a mmdet config; defaults are those of mmdet's constructors."""

from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.section import Section

_NORMS = {'BN': (), 'SyncBN': (), 'GN': ('num_groups',)}
_BN = {'type': 'BN', 'requires_grad': True}


def norm_cfg(owner: Section, default: Mapping[str, Any]) -> dict[str, Any]:
    """Our `norm_cfg`; `default` where the owner names none."""
    section = owner.section('norm_cfg', default)
    kind = section.take_kind(*_NORMS)
    norm = {'type': kind, 'requires_grad': section.take('requires_grad', True)}
    norm |= {name: section.take(name) for name in _NORMS[kind]}
    section.expect(eps=1e-5)
    if kind != 'GN':
        section.expect(momentum=0.1)
    section.finish()
    return norm


def pretrained(backbone: Section) -> str | None:
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


def backbone(section: Section) -> dict[str, Any]:
    """Our fields of the backbone, by path."""
    path = 'model.backbone'
    kind = section.take_kind('ResNet', 'ResNeXt')
    stages = section.take('num_stages', 4)
    if stages not in (1, 2, 3, 4):
        raise section.refuse('num_stages', stages, '1 to 4')
    fields = {
        f'{path}.type': kind,
        f'{path}.depth': section.take('depth'),
        f'{path}.num_stages': stages,
        f'{path}.out_indices': section.take_tuple('out_indices', (0, 1, 2, 3)),
        f'{path}.frozen_stages': section.take('frozen_stages', -1),
        f'{path}.norm_cfg': norm_cfg(section, _BN),
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
    section.skip('with_cp')  # trades memory for time
    section.finish()
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
    settings.finish()
    return {
        'model.backbone.dcn': dcn,
        'model.backbone.stage_with_dcn': stage_with_dcn,
    }


def necks(model: Section) -> dict[str, Any]:
    """Our fields of the neck: an FPN, or a tuple of two sections with a DyHead."""
    if not isinstance(model.peek('neck'), list | tuple):
        return _fpn(model.section('neck'))
    sections = model.sections('neck')
    if len(sections) != 2:
        raise model.refuse('neck', model.peek('neck'), 'a FPN, or it and a DyHead')
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
    section.finish()
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
    section.finish()
    return fields
