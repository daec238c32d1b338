"""Pipelines of a mmdet config: lists of transforms, in and out of order."""

from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.section import Section, plain

_CROP_KINDS = ('absolute', 'absolute_range')
# Harmless: what they do is always done here.
_FORMATS = ('PackDetInputs', 'DefaultFormatBundle', 'ImageToTensor', 'Collect')


def translate(steps: list[Section], is_train: bool) -> dict[str, Any]:
    """Our fields of one pipeline, relative to `data.SPLIT.pipeline`.

    2.x lists normalize and pad in the pipeline: `img_norm_cfg.*` and `pad.*` come out
    then.

    Raises:
        ValueError: a transform, its place or an argument has no equivalent.
    """
    fields: dict[str, Any] = {}
    place = -1
    for step in _flat(steps, is_train):
        kind = step.take_kind(*_READERS, *_FORMATS)
        if kind in _FORMATS:
            step.skip('meta_keys', 'keys')
        else:
            place = _next_place(step, kind, place, is_train)
            fields |= _READERS[kind](step, is_train)
        step.finish()
    if 'img_scale' not in fields:
        path = steps[0].path if steps else 'the pipeline'
        raise ValueError(f'{path}: no transform resizes the images')
    return fields


def _next_place(step, kind, place, is_train):
    """The place of a transform in the order in which ours are done.

    Raises:
        ValueError: it comes after one that is done later here.
    """
    if kind == 'LoadImageFromFile' or (kind == 'LoadAnnotations' and not is_train):
        return place
    own = next(i for i, kinds in enumerate(_ORDER) if kind in kinds)
    if own <= place:
        after = ' or '.join(_ORDER[place])
        raise ValueError(f'{step.path}: {kind} after {after} is not supported')
    return own


def _flat(steps, is_train):
    """The steps, with those inside a MultiScaleFlipAug in its place."""
    for step in steps:
        if not str(step.peek('type')).endswith('MultiScaleFlipAug'):
            yield step
            continue
        step.take_kind('MultiScaleFlipAug')
        if is_train:
            raise ValueError(f'{step.path}: MultiScaleFlipAug is for testing only')
        scale = step.take('img_scale')
        step.expect(flip=False, scale_factor=None, flip_direction='horizontal')
        inside = step.sections('transforms')
        step.finish()
        for number, one in enumerate(inside):
            if str(one.peek('type')).endswith('Resize'):
                inside[number] = one.with_field('img_scale', scale)
        yield from inside


def _load(step, is_train):
    step.expect(
        to_float32=False, color_type='color', imdecode_backend='cv2', ignore_empty=False
    )
    step.expect(backend_args=None, file_client_args={'backend': 'disk'})
    return {}


def _annotations(step, is_train):
    step.expect(with_bbox=True, with_label=True, with_seg=False)
    step.skip('with_mask', 'poly2mask', 'box_type', 'denorm_bbox', 'reduce_zero_label')
    step.expect(backend_args=None, file_client_args={'backend': 'disk'})
    return {}


def _scales(step, name):
    """Pairs of sides: one of them, or a list."""
    value = plain(step.take_tuple(name))
    pairs = value if value and isinstance(value[0], tuple) else (value,)
    numbers = [side for pair in pairs if isinstance(pair, tuple) for side in pair]
    whole = all(type(side) is int for side in numbers)
    if not whole or len(numbers) != 2 * len(pairs):
        raise step.refuse(name, value, '(long, short) or a list of such')
    return pairs


def _ratios(step):
    if step.peek('ratio_range') is None:
        return step.take('ratio_range', None)
    return step.take_tuple('ratio_range')


def _common_resize(step):
    step.expect(interpolation='bilinear', backend='cv2', override=False)
    step.expect(bbox_clip_border=True, clip_object_border=True)


def _resize(step, is_train):
    name = 'img_scale' if 'img_scale' in step else 'scale'
    scales = _scales(step, name)
    mode = step.take('multiscale_mode', 'range')
    ratios = _ratios(step)
    fields = {'img_scale': max(scales), 'keep_ratio': step.take(*_keep_ratio(name))}
    if len(scales) > 1:
        fields |= {'img_scales': scales, 'multiscale_mode': mode}
    if ratios is not None:
        fields['random_resize'] = {'ratio_range': ratios}
    if not is_train and len(fields) > 2:
        raise step.refuse(name, scales, 'one scale, for images to test on')
    step.expect(scale_factor=None)
    _common_resize(step)
    return fields


def _keep_ratio(name):
    """2.x keeps the ratio by default, 3.x does not."""
    return 'keep_ratio', name == 'img_scale'


def _resize_inside(step):
    """What the random resizes of 3.x hand on to Resize."""
    step.expect(resize_type='Resize')
    _common_resize(step)
    return {'keep_ratio': step.take('keep_ratio', False)}


def _random_resize(step, is_train):
    scales = _scales(step, 'scale')
    ratios = _ratios(step)
    fields = {'img_scale': max(scales), **_resize_inside(step)}
    if ratios is not None and len(scales) == 1:
        return fields | {'random_resize': {'ratio_range': ratios}}
    if ratios is None and len(scales) == 2:
        return fields | {'img_scales': scales, 'multiscale_mode': 'range'}
    raise step.refuse('scale', scales, 'one with ratio_range, or two without')


def _choice_resize(step, is_train):
    scales = _scales(step, 'scales')
    fields = {'img_scale': max(scales), **_resize_inside(step)}
    return fields | {'img_scales': scales, 'multiscale_mode': 'value'}


def _crop(step, is_train):
    size = step.take_tuple('crop_size')
    kind = step.take('crop_type', 'absolute')
    if kind not in _CROP_KINDS or (
        kind == 'absolute_range' and len(set(plain(size))) > 1
    ):
        raise step.refuse('crop_type', kind, "'absolute'")
    step.expect(bbox_clip_border=True)
    return {
        'random_crop': {
            'crop_size': size,
            'recompute_bbox': step.take('recompute_bbox', False),
            'allow_negative_crop': step.take('allow_negative_crop', False),
        }
    }


def _filter(step, is_train):
    step.expect(by_box=True, by_mask=False)
    step.skip('min_gt_mask_area')
    return {
        'filter_annotations': {
            'min_gt_bbox_wh': step.take_tuple('min_gt_bbox_wh', (1, 1)),
            'keep_empty': step.take('keep_empty', True),
        }
    }


def _flip(step, is_train):
    name = 'flip_ratio' if 'flip_ratio' in step else 'prob'
    share = step.take(name, None)
    step.expect(direction='horizontal', swap_seg_labels=None)
    if is_train:
        return {'flip_ratio': 0.0 if share is None else share}
    if share:  # in 2.x tests the step is there, and MultiScaleFlipAug decides
        raise step.refuse(name, share, 'none, for images to test on')
    return {}


def _normalize(step, is_train):
    return {
        'img_norm_cfg.mean': step.take_tuple('mean'),
        'img_norm_cfg.std': step.take_tuple('std'),
        'img_norm_cfg.to_rgb': step.take('to_rgb', True),
    }


def _pad(step, is_train):
    step.expect(size=None, pad_to_square=False)
    values = step.take('pad_val', 0)
    image = values.get('img', 0) if isinstance(values, Mapping) else values
    if plain(image) not in (0, (0, 0, 0)):
        raise step.refuse('pad_val', values, '0')
    divisor = step.take('size_divisor', None)
    if divisor is None:
        raise step.refuse('size_divisor', divisor, '32, 64 or 128')
    return {'pad.size_divisor': divisor}


_READERS = {
    'LoadImageFromFile': _load,
    'LoadAnnotations': _annotations,
    'Resize': _resize,
    'RandomResize': _random_resize,
    'RandomChoiceResize': _choice_resize,
    'RandomCrop': _crop,
    'FilterAnnotations': _filter,
    'RandomFlip': _flip,
    'Normalize': _normalize,
    'Pad': _pad,
}
# The order in which they are done; those of one place exclude each other.
_ORDER = (
    ('LoadAnnotations',),
    ('Resize', 'RandomResize', 'RandomChoiceResize'),
    ('RandomCrop',),
    ('FilterAnnotations',),
    ('RandomFlip',),
    ('Normalize',),
    ('Pad',),
)
