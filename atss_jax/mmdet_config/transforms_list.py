"""Translates mmdetection's augmentation: the sections of our lists of transforms."""

from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.section import Section

COLOR = ('PhotoMetricDistortion', 'YOLOXHSVRandomAug')
_MOVING = ('Mosaic', 'RandomAffine', 'MixUp')
AUGMENTATION = (*COLOR, *_MOVING)

_FIELDS: Mapping[str, tuple[str, ...]] = {
    'PhotoMetricDistortion': (
        *('brightness_delta', 'contrast_range', 'saturation_range', 'hue_delta'),
    ),
    'YOLOXHSVRandomAug': ('hue_delta', 'saturation_delta', 'value_delta'),
    'Mosaic': ('img_scale', 'center_ratio_range', 'pad_val', 'prob'),
    'RandomAffine': (
        *('max_rotate_degree', 'max_translate_ratio', 'scaling_ratio_range'),
        *('max_shear_degree', 'border', 'border_val'),
    ),
    'MixUp': ('img_scale', 'ratio_range', 'flip_ratio', 'pad_val', 'max_iters'),
}
_CACHED = (
    'takes its further images from those that the same worker loaded before, so that '
    'batches depend on the workers; write {} in a MultiImageMixDataset, which takes '
    'them from all images'
)
_REASONS = {
    'CachedMosaic': _CACHED.format('Mosaic'),
    'CachedMixUp': _CACHED.format('MixUp'),
    'CopyPaste': 'needs masks, and none are loaded',
    'Albu': (
        'needs the library albumentations: remove it, and call the library in a '
        "function of your own, {'type': 'UserFunction', 'function': 'my_file.py:name'} "
        'in data.train.pipeline.after_flip'
    ),
}


def check_supported(step: Section, is_train: bool, is_2x: bool) -> None:
    """Checks that a transform has an equivalent where it stands.

    Args:
        step: the section of the transform.
        is_train: whether the pipeline is that of training.
        is_2x: whether the config is in the style of 2.x.

    Raises:
        ValueError: it has none; says why.
    """
    kind = str(step.peek('type')).rpartition('.')[2]
    if kind in _REASONS:
        raise ValueError(f'{step.path}: {kind} is not supported: it {_REASONS[kind]}')
    if kind in AUGMENTATION and not is_train:
        raise ValueError(f'{step.path}: {kind} is for training only')
    if kind in _MOVING and is_2x:
        raise ValueError(
            f'{step.path}: {kind} of mmdetection 2.x is not supported: its sizes are '
            '(height, width), and it drops boxes by rules of its own. Write it as in '
            '3.x in data.train.pipeline.before_resize of your config'
        )


def read_transform(step: Section, kind: str) -> dict[str, Any]:
    """The fields of a transform in one of our lists, those that the config sets."""
    if kind == 'RandomFlip':
        return read_flip(step)
    if kind in _MOVING:
        step.expect(bbox_clip_border=True)
    return {name: step.take(name) for name in _FIELDS[kind] if name in step}


def read_flip(step: Section) -> dict[str, Any]:
    """`prob` and `direction` of a RandomFlip, whatever 2.x or 3.x call them."""
    probability = step.take('flip_ratio' if 'flip_ratio' in step else 'prob', None)
    step.expect(swap_seg_labels=None)
    direction = step.take('direction', 'horizontal')
    return {'prob': 0.0 if probability is None else probability, 'direction': direction}
