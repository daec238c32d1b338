"""Reads the `data` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax.config.augment import (
    AFTER_FLIP,
    BEFORE_RESIZE,
    FLIP_DIRECTION,
    FLIP_RATIO,
    check_flip,
    read_transforms,
)
from atss_jax.config.fields import (
    FOLDER,
    FRACTION,
    NON_NEGATIVE,
    PATH,
    POSITIVE,
    SCALE,
    Check,
    Reader,
    boolean,
    integer,
    number,
    one_of,
    one_or_more,
    optional,
    text,
    tuple_of,
)
from atss_jax.data.batch import Pipeline
from atss_jax.data.coco.annotation_file import ON_ERROR
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.finder import Finder
from atss_jax.data.joined import JoinedDataset, Member
from atss_jax.data.records import Source
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.data.tfds.dataset import TFDSDataset
from atss_jax.data.transforms import BACKENDS, Jitter
from atss_jax.models.preprocess import Normalizer

# As in mmdet, where it has no effect either if no masks are loaded.
_RECOMPUTE_BBOX = Check(
    'True or False; without effect, since it concerns masks and none are loaded',
    boolean.convert,
)

COCO_FIELDS = {
    'ann_file': PATH,
    'img_prefix': FOLDER,
    'classes': optional(tuple_of(text)),
    'indices': optional(integer(1)),
}
AUTO_FIELDS = {
    'path': PATH,
    'split': text,
    'classes': optional(tuple_of(text)),
    'indices': optional(integer(1)),
}
TFDS_FIELDS = {
    'data_dir': PATH,
    'name': text,
    'split': text,
    'classes': optional(tuple_of(text)),
    'indices': optional(integer(1)),
}
COCO_TRAIN_FIELDS = {'filter_empty_gt': boolean, 'min_size': integer(0)}
COCO_FILES = ('ann_file', 'img_prefix')
JOINED_FIELDS = {'classes': optional(tuple_of(text))}
SHAPES_FIELDS = {
    'num_images': integer(1),
    'seed': integer(0),
    'min_size': integer(1),
    'max_size': integer(1),
    'max_objects': integer(1),
    'object_size': tuple_of(POSITIVE, 2),
    'min_visible': POSITIVE,
    'max_rotation': number(minimum=0, maximum=180),
    'clutter': NON_NEGATIVE,
    'noise': NON_NEGATIVE,
}
SOURCES = {
    'CocoDataset': (CocoDataset, COCO_FIELDS),
    'auto': (AutoDataset, AUTO_FIELDS),
    'TFDSDataset': (TFDSDataset, TFDS_FIELDS),
    'ShapesDataset': (ShapesDataset, SHAPES_FIELDS),
    'ConcatDataset': (JoinedDataset, JOINED_FIELDS),
}
# Fields of training count for all sections: in another one they are in a wrong place.
_FIELDS = {kind: (*fields, *COCO_TRAIN_FIELDS) for kind, (_, fields) in SOURCES.items()}
_FIELDS['ShapesDataset'] = tuple(SHAPES_FIELDS)
_FIELDS['ConcatDataset'] = (*JOINED_FIELDS, 'datasets')
# Values of fields that the data sets of a ConcatDataset may leave out.
MEMBER_DEFAULTS = {'indices': None, 'filter_empty_gt': True, 'min_size': 32, 'times': 1}


@dataclasses.dataclass(frozen=True)
class SetConfig:
    """A data set that has not been opened.

    Attributes:
        section: its path in the config, for messages.
        source: class of the data set; creating one reads its files.
        arguments: keyword arguments of `source`; for `JoinedDataset` its members are
            other `SetConfig`s.
        times: how often an epoch passes over it, where it is one of several.
        name: what messages call it, where that is not its section.
    """

    section: str
    source: type
    arguments: Mapping[str, Any]
    times: int = 1
    name: str | None = None

    def open(self, finder: Finder | None = None) -> Source:
        """Reads the annotations.

        Args:
            finder: may have found or read data of `type='auto'` already.

        Raises:
            FileNotFoundError: annotations or images do not exist; names the field.
            ValueError: the annotations are malformed.
        """
        if self.source is JoinedDataset:
            members = [
                Member(member.name or member.section, member.open(finder), member.times)
                for member in self.arguments['members']
            ]
            return JoinedDataset(members, self.arguments['classes'])
        try:
            if self.source is AutoDataset:
                return AutoDataset(**self.arguments, finder=finder)
            return self.source(**self.arguments)
        except FileNotFoundError as error:
            # The message starts with the name of an argument, which is the field's.
            is_named = str(error).partition(' ')[0] in self.arguments
            owner = f'config.{self.section}' + ('.' if is_named else ': ')
            raise FileNotFoundError(f'{owner}{error}') from error


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """One of the sections `data.train`, `data.val` and `data.test`.

    Attributes:
        data_set: the data set, which may consist of several.
        pipeline: how images are loaded.
        normalizer: how the device normalizes them.
    """

    data_set: SetConfig
    pipeline: Pipeline
    normalizer: Normalizer

    @property
    def source(self) -> type:
        """Class of the data set."""
        return self.data_set.source

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Keyword arguments of `source`."""
        return self.data_set.arguments

    def open(self, finder: Finder | None = None) -> Source:
        """Opens the data set; see `SetConfig.open`."""
        return self.data_set.open(finder)


def read_data(read: Reader, split: str) -> DataConfig:
    """Reads and checks the section `data.SPLIT`; opens no files."""
    data_set = _read_set(read, split, f'data.{split}')
    path = f'data.{split}.pipeline'
    divisor = read(f'{path}.pad.size_divisor', one_of(32, 64, 128))
    pipeline = Pipeline(
        img_scale=read(f'{path}.img_scale', SCALE),
        keep_ratio=read(f'{path}.keep_ratio', boolean),
        backend=read(f'{path}.backend', one_of(*BACKENDS)),
        size_divisor=divisor,
        canvases=read('data.canvases', optional(tuple_of(SCALE))),
        max_boxes=read('data.max_boxes', integer(1)),
        max_bad_pictures=read('data.max_bad_pictures', FRACTION),
        reduced_decoding=read('data.reduced_decoding', boolean),
        **(_augmentation(read, path) if split == 'train' else {}),
    )
    if any(side % divisor for canvas in pipeline.canvases or () for side in canvas):
        raise read.refuse('data.canvases', f'expected multiples of {divisor}')
    normalizer = Normalizer(
        mean=read(f'{path}.img_norm_cfg.mean', tuple_of(number(), 3)),
        std=read(f'{path}.img_norm_cfg.std', tuple_of(POSITIVE, 3)),
        to_rgb=read(f'{path}.img_norm_cfg.to_rgb', boolean),
    )
    return DataConfig(data_set, pipeline, normalizer)


# The data sets ------------------------------------------------------------------------


def _read_set(read, split, path):
    """Reads what `data.SPLIT` says about its data: one data set, or several."""
    kind = read.kind(f'{path}.type', _FIELDS)
    if kind == 'ConcatDataset':
        classes = read(f'{path}.classes', JOINED_FIELDS['classes'])
        sections = _member_sections(read, path)
        members = [_read_member(read, split, s, classes) for s in sections]
        return _joined(path, members, classes)
    fields = dict(SOURCES[kind][1])
    if kind == 'CocoDataset':
        fields |= {name: one_or_more(fields[name]) for name in COCO_FILES}
    arguments = _arguments(read, split, path, kind, fields)
    if kind == 'CocoDataset' and not all(type(arguments[n]) is str for n in COCO_FILES):
        return _several_files(read, path, arguments)
    return SetConfig(path, SOURCES[kind][0], arguments)


def _arguments(read, split, path, kind, fields):
    """Keyword arguments of the class of a data set, from its fields."""
    is_annotated = kind != 'ShapesDataset'
    if is_annotated and split == 'train':
        fields = fields | COCO_TRAIN_FIELDS
    arguments = {name: read(f'{path}.{name}', check) for name, check in fields.items()}
    on_error = read('data.on_error', one_of(*ON_ERROR))
    if kind in ('CocoDataset', 'auto'):
        arguments['on_error'] = on_error
    if is_annotated and split != 'train':
        arguments['test_mode'] = True
    return arguments


def _joined(path, members, classes):
    arguments = {'classes': classes, 'members': tuple(members)}
    return SetConfig(path, JoinedDataset, arguments)


def _several_files(read, path, arguments):
    """A CocoDataset with tuples of annotation files or of image folders."""
    files, folders = (arguments[name] for name in COCO_FILES)
    if isinstance(files, str):
        raise read.refuse(
            f'{path}.img_prefix',
            f'one annotation file {files!r} needs one folder; to join data sets, make '
            'ann_file a tuple of the same length',
        )
    if isinstance(folders, str):
        folders = (folders,) * len(files)
    if len(files) != len(folders):
        raise read.refuse(
            f'{path}.img_prefix',
            f'{len(folders)} folders for the {len(files)} files of ann_file; expected '
            'one for each file, or a single one for all',
        )
    if arguments['indices'] is not None:
        raise read.refuse(
            f'{path}.indices',
            "expected None with several files; in a 'ConcatDataset' each data set has "
            'indices of its own',
        )
    members = [
        SetConfig(
            path,
            CocoDataset,
            arguments | {'ann_file': file, 'img_prefix': folder},
            name=f'{file} (in {path}.ann_file)',
        )
        for file, folder in zip(files, folders, strict=True)
    ]
    return _joined(path, members, arguments['classes'])


def _member_sections(read, path):
    """The paths of the data sets of a ConcatDataset."""
    sections = []
    while read.has_section(f'{path}.datasets.{len(sections)}'):
        sections.append(f'{path}.datasets.{len(sections)}')
    if not sections:  # an error that says what was found instead
        example = "{'type': 'CocoDataset', 'ann_file': ..., 'img_prefix': ...}"
        expected = f'a tuple of one or more sections such as {example}'
        read(f'{path}.datasets', Check(expected, one_of().convert))
    return sections


def _read_member(read, split, path, classes):
    """Reads one of the data sets of a ConcatDataset."""
    kinds = {kind: x for kind, x in _FIELDS.items() if kind != 'ConcatDataset'}
    kind = read.kind(f'{path}.type', kinds)
    fields = {name: x for name, x in SOURCES[kind][1].items() if name != 'classes'}
    defaults = MEMBER_DEFAULTS | ({'split': split} if kind == 'auto' else {})
    if kind == 'ShapesDataset':
        defaults = {'times': 1}  # its min_size is another field

    def read_field(field, check):
        name = field.rpartition('.')[2]
        if name in defaults and not read.has(field):
            read.checks[field] = check
            return defaults[name]
        return read(field, check)

    arguments = _arguments(read_field, split, path, kind, fields)
    if kind != 'ShapesDataset':
        arguments['classes'] = classes
    times = read_field(f'{path}.times', integer(1)) if split == 'train' else 1
    return SetConfig(path, SOURCES[kind][0], arguments, times)


def _augmentation(read, path):
    """Reads what only training has, as arguments of `Pipeline`."""
    names = f'{path}.flip_ratio', f'{path}.flip_direction'
    ratio, direction = read(names[0], FLIP_RATIO), read(names[1], FLIP_DIRECTION)
    check_flip(read, names, ratio, direction)
    return {
        'flip_ratio': ratio,
        'flip_direction': direction,
        'jitter': _jitter(read, path),
        'before_resize': read_transforms(read, f'{path}.{BEFORE_RESIZE}'),
        'after_flip': read_transforms(read, f'{path}.{AFTER_FLIP}'),
    }


def _jitter(read, path):
    """Reads the random scales and crops of training."""
    fields = {
        'img_scales': read(f'{path}.img_scales', optional(tuple_of(SCALE))),
        'multiscale_mode': read(f'{path}.multiscale_mode', one_of('range', 'value')),
    }
    is_range = fields['img_scales'] and fields['multiscale_mode'] == 'range'
    if is_range and len(fields['img_scales']) != 2:
        raise read.refuse(
            f'{path}.img_scales', "expected two scales for multiscale_mode 'range'"
        )
    example = "{'ratio_range': (0.1, 2.0)}"
    if read.has_optional_section(f'{path}.random_resize', example):
        field = f'{path}.random_resize.ratio_range'
        fields['ratio_range'] = ratios = read(field, tuple_of(POSITIVE, 2))
        if ratios[0] > ratios[1]:
            raise read.refuse(field, 'expected the smaller ratio first')
        if fields['img_scales']:
            raise read.refuse(
                f'{path}.img_scales', 'expected None, since random_resize is set too'
            )
    crop, example = f'{path}.random_crop', "{'crop_size': (1024, 1024), ...}"
    if read.has_optional_section(crop, example):
        fields['crop_size'] = read(f'{crop}.crop_size', SCALE)
        read(f'{crop}.recompute_bbox', _RECOMPUTE_BBOX)
        fields['allow_negative_crop'] = read(f'{crop}.allow_negative_crop', boolean)
    filters = f'{path}.filter_annotations'
    example = "{'min_gt_bbox_wh': (0.01, 0.01), 'keep_empty': True}"
    if read.has_optional_section(filters, example):
        sides = tuple_of(NON_NEGATIVE, 2)
        fields['min_gt_bbox_wh'] = read(f'{filters}.min_gt_bbox_wh', sides)
        fields['keep_empty'] = read(f'{filters}.keep_empty', boolean)
    return Jitter(**fields)
