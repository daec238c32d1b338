"""Reads the `data` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax.checks import (
    Reader,
    boolean,
    integer,
    number,
    one_of,
    optional,
    text,
    tuple_of,
)
from atss_jax.data.coco import CocoDataset
from atss_jax.data.coco_table import ON_ERROR
from atss_jax.data.loader import Pipeline
from atss_jax.data.records import Source
from atss_jax.data.shapes import ShapesDataset
from atss_jax.data.tfds import TFDSDataset
from atss_jax.models.preprocess import Normalizer

_ABOVE_0 = number(above=0)
_WEIGHT = number(minimum=0)
_SHARE = number(minimum=0, maximum=1)

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
        source: makes the source; reads files.
        arguments: keyword arguments of `source`.
        pipeline: how pictures are loaded.
        normalizer: how the device prepares them.
    """

    source: type
    arguments: Mapping[str, Any]
    pipeline: Pipeline
    normalizer: Normalizer

    def open(self) -> Source:
        """Reads the annotations."""
        return self.source(**self.arguments)


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
        max_bad_pictures=read('data.max_bad_pictures', _SHARE),
    )
    if any(side % divisor for canvas in pipeline.canvases or () for side in canvas):
        raise read.refuse('data.canvases', f'expected multiples of {divisor}')
    normalizer = Normalizer(
        mean=read(f'{path}.img_norm_cfg.mean', tuple_of(number(), 3)),
        std=read(f'{path}.img_norm_cfg.std', tuple_of(_ABOVE_0, 3)),
        to_rgb=read(f'{path}.img_norm_cfg.to_rgb', boolean),
    )
    return DataConfig(source, arguments, pipeline, normalizer)
