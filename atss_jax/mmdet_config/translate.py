"""Translates an mmdet config to our fields; what has no equivalent is an error."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config import data, model, optim_wrapper, schedule
from atss_jax.mmdet_config.section import REQUIRED, Section, plain


@dataclasses.dataclass(frozen=True)
class Translation:
    """An mmdet config in terms of our fields.

    Attributes:
        fields: value by path in our config; a dict is a whole section. Fields that
            mmdet does not have (`data.max_boxes`) are not included.
        unused: value by path in the mmdet config of fields without effect here.
        variables: names at its top level that no part of mmdetection reads.
        style: '2.x' or '3.x'.
    """

    fields: dict[str, Any]
    unused: dict[str, Any]
    variables: tuple[str, ...]
    style: str


def translate(values: Mapping[str, Any]) -> Translation:
    """Translates the result of `source.read`.

    Raises:
        ValueError: a field has no equivalent and may change numbers.
    """
    top = Section(values)
    if 'train_dataloader' in top and 'data' not in top:
        fields, style = _translate_3x(top), '3.x'
    elif 'data' in top and 'train_dataloader' not in top:
        fields, style = _translate_2x(top), '2.x'
    else:
        raise ValueError(
            "neither an mmdetection 3.x config, which has 'train_dataloader', nor a "
            f"2.x one, which has 'data'; it assigns {sorted(values)[:20]}"
        )
    top.finish()
    fields = {path: plain(value) for path, value in fields.items()}
    return Translation(fields, top.unused, top.unread(), style)


def _translate_3x(top):
    detector = top.section('model')
    owner = detector if 'data_preprocessor' in detector else top
    normalize = _preprocessor(owner.section('data_preprocessor'))
    fields = model.translate(detector, REQUIRED, REQUIRED)
    fields |= data.translate_3x(top, normalize)
    fields |= schedule.loop_3x(top)  # before the optimizer: it needs the learning rate
    fields |= optim_wrapper.optimizer_3x(top)
    return fields | schedule.runtime_3x(top)


def _translate_2x(top):
    # Up to 2.6 these two are at the top level.
    names = ('train_cfg', 'test_cfg')
    outside = [top.take(name) if name in top else REQUIRED for name in names]
    fields = model.translate(top.section('model'), *outside)
    fields |= data.translate_2x(top)
    fields |= schedule.loop_2x(top)
    fields |= optim_wrapper.optimizer_2x(top)
    return fields | schedule.runtime_2x(top)


def _preprocessor(section):
    section.take_kind('DetDataPreprocessor')
    fields = {
        'img_norm_cfg.mean': section.take_tuple('mean'),
        'img_norm_cfg.std': section.take_tuple('std'),
        'img_norm_cfg.to_rgb': section.take('bgr_to_rgb', False),
        'pad.size_divisor': section.take('pad_size_divisor', 1),
    }
    section.expect(rgb_to_bgr=False, pad_value=0)
    for augment in section.sections('batch_augments', ()):
        # Only adds padding, which does not change the results for an image here.
        augment.take_kind('BatchFixedSizePad')
        augment.expect(img_pad_value=0)
        augment.skip_rest('padding changes no result here')
    section.skip('pad_mask', 'mask_pad_value', 'pad_seg', 'seg_pad_value')
    section.skip('boxtype2tensor', 'non_blocking')
    return fields
