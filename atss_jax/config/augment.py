"""Reads the lists of transforms of a pipeline, and the directions of its flip."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax.config.fields import (
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    SCALE,
    Check,
    Reader,
    integer,
    number,
    one_of,
    one_or_more,
    text,
    tuple_of,
)
from atss_jax.data.augment.affine import RandomAffine, RandomFlip
from atss_jax.data.augment.color import PhotoMetricDistortion, YOLOXHSVRandomAug
from atss_jax.data.augment.mixing import MixUp, Mosaic
from atss_jax.data.augment.user_function import UserFunction
from atss_jax.data.transforms import DIRECTIONS

BEFORE_RESIZE, AFTER_FLIP = 'before_resize', 'after_flip'


def _range(above_zero):
    side = POSITIVE if above_zero else NON_NEGATIVE
    pair = tuple_of(side, 2)

    def convert(value):
        low, high = pair.convert(value)
        if low > high:
            raise ValueError
        return low, high

    return Check(f'{pair.expected}, the smaller one first', convert)


def _function(value):
    place, colon, name = text.convert(value).rpartition(':')
    is_module = all(part.isidentifier() for part in place.split('.'))
    if not (colon and name.isidentifier() and (is_module or place.endswith('.py'))):
        raise ValueError
    return value


_LEVEL = number(minimum=0, maximum=255)
_INTEGER = integer(-(10**6), 10**6)
FLIP_RATIO = one_or_more(FRACTION)
FLIP_DIRECTION = one_or_more(one_of(*DIRECTIONS))

# Fields by type, with mmdetection's defaults in the classes.
TRANSFORMS: Mapping[str, tuple[type, Mapping[str, Check]]] = {
    'Mosaic': (
        Mosaic,
        {
            'img_scale': SCALE,
            'center_ratio_range': _range(above_zero=False),
            'pad_val': _LEVEL,
            'prob': FRACTION,
        },
    ),
    'RandomAffine': (
        RandomAffine,
        {
            'max_rotate_degree': number(minimum=0, maximum=180),
            'max_translate_ratio': FRACTION,
            'scaling_ratio_range': _range(above_zero=True),
            'max_shear_degree': number(minimum=0, maximum=89),
            'border': tuple_of(_INTEGER, 2),
            'border_val': tuple_of(_LEVEL, 3),
        },
    ),
    'MixUp': (
        MixUp,
        {
            'img_scale': SCALE,
            'ratio_range': _range(above_zero=True),
            'flip_ratio': FRACTION,
            'pad_val': _LEVEL,
            'max_iters': integer(1),
        },
    ),
    'PhotoMetricDistortion': (
        PhotoMetricDistortion,
        {
            'brightness_delta': _LEVEL,
            'contrast_range': _range(above_zero=False),
            'saturation_range': _range(above_zero=False),
            'hue_delta': number(minimum=0, maximum=360),
        },
    ),
    'YOLOXHSVRandomAug': (
        YOLOXHSVRandomAug,
        {'hue_delta': _LEVEL, 'saturation_delta': _LEVEL, 'value_delta': _LEVEL},
    ),
    'RandomFlip': (RandomFlip, {'prob': FLIP_RATIO, 'direction': FLIP_DIRECTION}),
    'UserFunction': (
        UserFunction,
        {'function': Check("'module:function' or 'file.py:function'", _function)},
    ),
}
_ONLY = {'Mosaic': BEFORE_RESIZE, 'UserFunction': AFTER_FLIP}
_WHY = {
    'Mosaic': 'Mosaic makes an image of another size, so it belongs in before_resize',
    'UserFunction': (
        'a function of yours gets the resized image, so it belongs in after_flip: what '
        'is before the resize must be known before any image is read'
    ),
}


def read_transforms(read: Reader, path: str) -> tuple[Any, ...]:
    """Reads one of the lists; `path` is that of the list."""
    place = path.rpartition('.')[2]
    transforms = []
    while read.has_section(section := f'{path}.{len(transforms)}'):
        kind = read.kind(f'{section}.type', {k: x for k, (_, x) in TRANSFORMS.items()})
        if _ONLY.get(kind, place) != place:
            raise read.refuse(f'{section}.type', _WHY[kind])
        transforms.append(_read_one(read, section, kind))
        _check(read, section, place, transforms[-1])
    if not transforms:
        example = "({'type': 'PhotoMetricDistortion'},)"
        expected = f'None, or a tuple of sections such as {example}'
        read(path, Check(expected, one_of(None).convert))
    return tuple(transforms)


def _read_one(read, section, kind):
    owner, checks = TRANSFORMS[kind]
    required = {
        field.name
        for field in dataclasses.fields(owner)
        if field.default is dataclasses.MISSING
    }
    values = {}
    for name, check in checks.items():
        field = f'{section}.{name}'
        if name in required or read.has(field):
            values[name] = read(field, check)
        else:
            read.checks[field] = check
    return owner(**values)


def _check(read, section, place, transform):
    """Refuses values that contradict each other or the place of a transform."""
    if isinstance(transform, RandomAffine) and place == AFTER_FLIP:
        if transform.border != (0, 0):
            raise read.refuse(
                f'{section}.border',
                'a border changes the size of the image; in after_flip expected (0, 0)',
            )
    elif isinstance(transform, RandomFlip):
        names = f'{section}.prob', f'{section}.direction'
        check_flip(read, names, transform.prob, transform.direction)


def check_flip(
    read: Reader,
    names: tuple[str, str],
    ratio: float | tuple[float, ...],
    direction: str | tuple[str, ...],
) -> None:
    """Raises ValueError if probabilities and directions do not fit together.

    Args:
        read: reader of the config.
        names: paths of both fields.
        ratio: the probability or probabilities.
        direction: the direction or directions.
    """
    if not isinstance(ratio, tuple):
        return
    count = len(direction) if isinstance(direction, tuple) else 1
    if not isinstance(direction, tuple) or len(ratio) != count:
        raise read.refuse(
            names[0],
            f'{len(ratio)} probabilities for {count} of {names[1].rpartition(".")[2]}; '
            'expected one for each, or a single one for all',
        )
    if sum(ratio) > 1 + 1e-9:
        raise read.refuse(
            names[0],
            f'their sum is {sum(ratio):g}; expected at most 1, since an '
            'image is mirrored in one direction at most',
        )
