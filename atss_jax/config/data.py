"""Reads the `data` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax.config.fields import (
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
from atss_jax.data.batch import Pipeline
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.coco.table import ON_ERROR
from atss_jax.data.records import Source
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.data.tfds.dataset import TFDSDataset
from atss_jax.data.transforms import Jitter
from atss_jax.models.preprocess import Normalizer

_ABOVE_0 = number(above=0)
_WEIGHT = number(minimum=0)
_SHARE = number(minimum=0, maximum=1)
_SCALE = tuple_of(integer(1), 2)
# In mmdet too it then changes nothing.
_FROM_MASKS = Check(
    'True or False, which is of masks; none are loaded, so both are the same',
    boolean.convert,
)

COCO_FIELDS = {
    'ann_file': text,
    'img_prefix': text,
    'classes': optional(tuple_of(text)),
    'indices': optional(integer(1)),
}
TFDS_FIELDS = {
    'data_dir': text,
    'name': text,
    'split': text,
    'classes': optional(tuple_of(text)),
    'indices': optional(integer(1)),
}
COCO_TRAIN_FIELDS = {'filter_empty_gt': boolean, 'min_size': integer(0)}
SHAPES_FIELDS = {
    'num_images': integer(1),
    'seed': integer(0),
    'min_size': integer(1),
    'max_size': integer(1),
    'max_objects': integer(1),
    'object_size': tuple_of(_ABOVE_0, 2),
    'min_visible': _ABOVE_0,
    'max_rotation': number(minimum=0, maximum=180),
    'clutter': _WEIGHT,
    'noise': _WEIGHT,
}
SOURCES = {
    'CocoDataset': (CocoDataset, COCO_FIELDS),
    'TFDSDataset': (TFDSDataset, TFDS_FIELDS),
    'ShapesDataset': (ShapesDataset, SHAPES_FIELDS),
}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """One of `data.train`, `data.val`, `data.test`.

    Attributes:
        section: which.
        source: makes the source; reads files.
        arguments: keyword arguments of `source`.
        pipeline: how images are loaded.
        normalizer: how the device prepares them.
    """

    section: str
    source: type
    arguments: Mapping[str, Any]
    pipeline: Pipeline
    normalizer: Normalizer

    def open(self) -> Source:
        """Reads the annotations.

        Raises:
            FileNotFoundError: annotations or images are not there; names the field.
            ValueError: malformed annotations.
        """
        try:
            return self.source(**self.arguments)
        except FileNotFoundError as error:
            # Sources start with the name of their argument, which is the field's.
            is_named = str(error).partition(' ')[0] in self.arguments
            owner = f'config.{self.section}' + ('.' if is_named else ': ')
            raise FileNotFoundError(f'{owner}{error}') from error


def read_data(read: Reader, split: str) -> DataConfig:
    """What `data.SPLIT` describes; opens no files."""
    path = f'data.{split}'
    kind = read(f'{path}.type', one_of(*SOURCES))
    source, fields = SOURCES[kind]
    is_annotated = kind != 'ShapesDataset'
    if is_annotated and split == 'train':
        fields = fields | COCO_TRAIN_FIELDS
    arguments = {name: read(f'{path}.{name}', check) for name, check in fields.items()}
    on_error = read('data.on_error', one_of(*ON_ERROR))
    if kind == 'CocoDataset':
        arguments['on_error'] = on_error
    if is_annotated and split != 'train':
        arguments['test_mode'] = True
    path = f'{path}.pipeline'
    divisor = read(f'{path}.pad.size_divisor', one_of(32, 64, 128))
    canvas = tuple_of(tuple_of(integer(1), 2))
    pipeline = Pipeline(
        img_scale=read(f'{path}.img_scale', tuple_of(integer(1), 2)),
        keep_ratio=read(f'{path}.keep_ratio', boolean),
        flip_ratio=read(f'{path}.flip_ratio', _SHARE) if split == 'train' else 0.0,
        size_divisor=divisor,
        canvases=read('data.canvases', optional(canvas)),
        max_boxes=read('data.max_boxes', integer(1)),
        jitter=_jitter(read, path) if split == 'train' else Jitter(),
        max_bad_pictures=read('data.max_bad_pictures', _SHARE),
    )
    if any(side % divisor for canvas in pipeline.canvases or () for side in canvas):
        raise read.refuse('data.canvases', f'expected multiples of {divisor}')
    normalizer = Normalizer(
        mean=read(f'{path}.img_norm_cfg.mean', tuple_of(number(), 3)),
        std=read(f'{path}.img_norm_cfg.std', tuple_of(_ABOVE_0, 3)),
        to_rgb=read(f'{path}.img_norm_cfg.to_rgb', boolean),
    )
    return DataConfig(f'data.{split}', source, arguments, pipeline, normalizer)


def _jitter(read, path):
    """What training draws: random scales and crops."""
    fields = {
        'img_scales': read(f'{path}.img_scales', optional(tuple_of(_SCALE))),
        'multiscale_mode': read(f'{path}.multiscale_mode', one_of('range', 'value')),
    }
    is_range = fields['img_scales'] and fields['multiscale_mode'] == 'range'
    if is_range and len(fields['img_scales']) != 2:
        raise read.refuse(
            f'{path}.img_scales', "multiscale_mode 'range' is between two scales"
        )
    if _section(read, f'{path}.random_resize', "{'ratio_range': (0.1, 2.0)}"):
        field = f'{path}.random_resize.ratio_range'
        fields['ratio_range'] = ratios = read(field, tuple_of(_ABOVE_0, 2))
        if ratios[0] > ratios[1]:
            raise read.refuse(field, 'expected the smaller ratio first')
        if fields['img_scales']:
            raise read.refuse(f'{path}.img_scales', 'random_resize draws the scale too')
    if _section(read, f'{path}.random_crop', "{'crop_size': (1024, 1024), ...}"):
        crop = f'{path}.random_crop'
        fields['crop_size'] = read(f'{crop}.crop_size', _SCALE)
        read(f'{crop}.recompute_bbox', _FROM_MASKS)
        fields['allow_negative_crop'] = read(f'{crop}.allow_negative_crop', boolean)
    example = "{'min_gt_bbox_wh': (0.01, 0.01), 'keep_empty': True}"
    if _section(read, f'{path}.filter_annotations', example):
        own = f'{path}.filter_annotations'
        fields['min_gt_bbox_wh'] = read(f'{own}.min_gt_bbox_wh', tuple_of(_WEIGHT, 2))
        fields['keep_empty'] = read(f'{own}.keep_empty', boolean)
    return Jitter(**fields)


def _section(read, path, example):
    """Whether an optional section is there; None says that it is not."""
    if read.has_section(path):
        return True
    read(path, Check(f'None or a section {example}', one_of(None).convert))
    return False
