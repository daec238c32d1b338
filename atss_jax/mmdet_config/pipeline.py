"""Translates the pipelines of an mmdet config, which are lists of transforms."""

from collections.abc import Mapping
from typing import Any

from atss_jax.data.transforms import BACKENDS
from atss_jax.mmdet_config.section import Section, plain
from atss_jax.mmdet_config.transforms_list import (
    AUGMENTATION,
    COLOR,
    check_supported,
    read_flip,
    read_transform,
)

_CROP_KINDS = ('absolute', 'absolute_range')
# Transforms that are always applied here.
_FORMATS = ('PackDetInputs', 'DefaultFormatBundle', 'ImageToTensor', 'Collect')


def translate(
    steps: list[Section], is_train: bool, is_2x: bool = False
) -> dict[str, Any]:
    """Translates a pipeline to our fields, relative to `data.SPLIT.pipeline`.

    For 2.x, whose pipelines include normalization and padding, these are
    `img_norm_cfg.*` and `pad.*` too.

    Raises:
        ValueError: a transform, its position or an argument has no equivalent.
    """
    fields: dict[str, Any] = {}
    position, lists = -1, {'before_resize': [], 'after_flip': []}
    for step in _flat(steps, is_train):
        check_supported(step, is_train, is_2x)
        kind = step.take_kind(*_READERS, *_FORMATS, *AUGMENTATION)
        is_flip_before = kind == 'RandomFlip' and is_train and position < _RESIZE
        if kind in _FORMATS:
            step.skip('meta_keys', 'keys')
        elif kind in AUGMENTATION or is_flip_before:
            name = _list_for(step, kind, position)
            lists[name].append({'type': kind, **read_transform(step, kind)})
        else:
            _check_order(step, kind, lists['after_flip'])
            position = _next_position(step, kind, position, is_train)
            fields |= _READERS[kind](step, is_train)
    fields |= {name: tuple(values) for name, values in lists.items() if values}
    if 'img_scale' not in fields:
        path = steps[0].path if steps else 'the pipeline'
        raise ValueError(f'{path}: no transform resizes the images')
    return fields


def _list_for(step, kind, position):
    """The list that a transform of augmentation belongs to."""
    if position < _RESIZE:
        return 'before_resize'
    if position > _FLIP:
        previous = ' or '.join(_ORDER[position])
        raise ValueError(f'{step.path}: {kind} after {previous} is not supported')
    return 'after_flip'


def _check_order(step, kind, after_flip):
    """Raises ValueError if a transform follows one that is applied after it here.

    A change of single pixels may come before or after a crop or a flip.
    """
    late = [x['type'] for x in after_flip if x['type'] not in COLOR]
    if late and kind in ('RandomCrop', 'FilterAnnotations', 'RandomFlip'):
        raise ValueError(f'{step.path}: {kind} after {late[-1]} is not supported')


def _next_position(step, kind, position, is_train):
    """The position of a transform in the order in which they are applied here.

    Raises:
        ValueError: the transform follows one that is applied after it here.
    """
    if kind == 'LoadImageFromFile' or (kind == 'LoadAnnotations' and not is_train):
        return position
    next_position = next(i for i, kinds in enumerate(_ORDER) if kind in kinds)
    if kind == 'FilterAnnotations' and position > next_position:
        return position  # mirroring and padding change the size of no box
    if next_position <= position:
        previous = ' or '.join(_ORDER[position])
        raise ValueError(f'{step.path}: {kind} after {previous} is not supported')
    return next_position


def _flat(steps, is_train):
    """Replaces a MultiScaleFlipAug with the transforms inside it."""
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
        for transform in inside:
            if str(transform.peek('type')).endswith('Resize'):
                transform.put('img_scale', scale)
            yield transform


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
    """Reads one scale or a list of them as a tuple of pairs of sides."""
    value = plain(step.take_tuple(name))
    pairs = value if value and isinstance(value[0], tuple) else (value,)
    numbers = [side for pair in pairs if isinstance(pair, tuple) for side in pair]
    are_integers = all(type(side) is int for side in numbers)
    if not are_integers or len(numbers) != 2 * len(pairs):
        raise step.refuse(name, value, '(long, short), or a list of such pairs')
    return pairs


def _ratios(step):
    if step.peek('ratio_range') is None:
        return step.take('ratio_range', None)
    return step.take_tuple('ratio_range')


def _backend(step):
    """Reads the arguments that all resizes have in common."""
    step.expect(interpolation='bilinear', override=False)
    step.expect(bbox_clip_border=True, clip_object_border=True)
    backend = step.take('backend', 'cv2')
    if backend not in BACKENDS:
        raise step.refuse('backend', backend, ' or '.join(map(repr, BACKENDS)))
    return {'backend': backend}


def _resize(step, is_train):
    name = 'img_scale' if 'img_scale' in step else 'scale'
    scales = _scales(step, name)
    mode = step.take('multiscale_mode', 'range')
    ratios = _ratios(step)
    # 2.x keeps the ratio by default, 3.x does not.
    keep_ratio = step.take('keep_ratio', name == 'img_scale')
    fields = {'img_scale': max(scales), 'keep_ratio': keep_ratio}
    if len(scales) > 1:
        fields |= {'img_scales': scales, 'multiscale_mode': mode}
    if ratios is not None:
        fields['random_resize'] = {'ratio_range': ratios}
    if not is_train and len(fields) > 2:
        raise step.refuse(name, scales, 'one scale for evaluation')
    step.expect(scale_factor=None)
    return fields | _backend(step)


def _inner_resize(step):
    """Reads the arguments that random resizes of 3.x pass to Resize."""
    step.expect(resize_type='Resize')
    return {'keep_ratio': step.take('keep_ratio', False), **_backend(step)}


def _random_resize(step, is_train):
    scales = _scales(step, 'scale')
    ratios = _ratios(step)
    fields = {'img_scale': max(scales), **_inner_resize(step)}
    if ratios is not None and len(scales) == 1:
        return fields | {'random_resize': {'ratio_range': ratios}}
    if ratios is None and len(scales) == 2:
        return fields | {'img_scales': scales, 'multiscale_mode': 'range'}
    raise step.refuse('scale', scales, 'one scale with ratio_range, or two without')


def _choice_resize(step, is_train):
    scales = _scales(step, 'scales')
    fields = {'img_scale': max(scales), **_inner_resize(step)}
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
    given = step.peek(name)
    flip = read_flip(step)
    if not is_train:
        if given:  # 2.x has this transform in evaluation, but without a probability
            raise step.refuse(name, given, 'no flips for evaluation')
        return {}
    fields = {'flip_ratio': flip['prob']}
    if flip['direction'] != 'horizontal':
        fields['flip_direction'] = flip['direction']
    return fields


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
# The order in which transforms are applied here; those of one line are alternatives.
_ORDER = (
    ('LoadAnnotations',),
    ('Resize', 'RandomResize', 'RandomChoiceResize'),
    ('RandomCrop',),
    ('FilterAnnotations',),
    ('RandomFlip',),
    ('Normalize',),
    ('Pad',),
)
_RESIZE, _FLIP = (
    next(index for index, kinds in enumerate(_ORDER) if kind in kinds)
    for kind in ('Resize', 'RandomFlip')
)
