"""Translates the data sets of an mmdet config, 2.x and 3.x."""

import os
from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config import pipeline
from atss_jax.mmdet_config.section import REQUIRED, Section, plain

SPLITS = ('train', 'val', 'test')
_WRAPPERS = ('RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset')
_LOADING = ('LoadImageFromFile', 'LoadAnnotations')
_SPEED = (  # fields of data loaders that decide how fast they are, not what they load
    *('persistent_workers', 'pin_memory', 'prefetch_factor', 'timeout'),
    *('multiprocessing_context', 'num_batch_per_epoch', 'worker_init_fn'),
)


def translate_3x(top: Section, normalize: Mapping[str, Any]) -> dict[str, Any]:
    """Translates `train_dataloader`, `val_dataloader` and `test_dataloader`.

    Args:
        top: the whole config.
        normalize: `img_norm_cfg.*` and `pad.*`, which 3.x has in the model.
    """
    fields: dict[str, Any] = {}
    for split in SPLITS:
        loader = top.section(f'{split}_dataloader')
        if split == 'train':
            fields['data.samples_per_gpu'] = loader.take('batch_size')
            fields['data.workers_per_gpu'] = loader.take('num_workers', 0)
        else:
            loader.skip('batch_size', 'num_workers')
        sampler = loader.section('sampler', {'type': 'DefaultSampler'})
        sampler.take_kind('DefaultSampler')
        sampler.expect(shuffle=split == 'train', round_up=True)
        sampler.skip('seed')
        # Grouping by aspect ratio decides only which images share a batch and padding.
        loader.skip('batch_sampler', 'drop_last', *_SPEED)
        loader.expect(collate_fn={'type': 'pseudo_collate'})
        dataset = loader.section('dataset')
        fields |= _data([dataset], split, _options_3x, normalize)
        _check_evaluator(top, split, fields)
    return fields


def translate_2x(top: Section) -> dict[str, Any]:
    """Translates `data` of 2.x."""
    data = top.section('data')
    # Next to the data sets, or in a section of their own.
    loader = data.section('train_dataloader', {})
    is_old = 'imgs_per_gpu' in data and 'samples_per_gpu' not in data
    size = 'imgs_per_gpu' if is_old else 'samples_per_gpu'
    workers = 'workers_per_gpu'
    size_owner, workers_owner = (
        loader if name in loader else data for name in (size, workers)
    )
    fields = {
        'data.samples_per_gpu': size_owner.take(size),
        'data.workers_per_gpu': workers_owner.take(workers, 0),
    }
    loader.expect(shuffle=True)
    loader.skip('persistent_workers')
    for split in SPLITS:
        is_list = isinstance(data.peek(split), list | tuple)
        sections = data.sections(split) if is_list else [data.section(split)]
        fields |= _data(sections, split, _options_2x, {})
    data.skip('persistent_workers', 'val_dataloader', 'test_dataloader')
    return fields


def _data(sections, split, options, normalize):
    """Translates the data of a split: one data set, or several that are joined.

    Args:
        sections: one, or in 2.x several.
        split: 'train', 'val' or 'test'.
        options: reads what 2.x and 3.x call differently.
        normalize: as for `translate_3x`.
    """
    path, fields = f'data.{split}', {}
    if len(sections) == 1:
        fields, section, added = _unwrapped(sections[0], split)
        if _kind(section) != 'ConcatDataset':
            values, steps = _dataset(section, split, options, normalize, added)
            return _under(path, fields | values) | _under(f'{path}.pipeline', steps)
        _refuse_mix(section, added, 'around a single CocoDataset')
        section.take_kind('ConcatDataset')
        # In mmdet these sets may be evaluated one by one; here together.
        section.skip('separate_eval', 'lazy_init')
        section.expect(ignore_keys=None)
        sections = section.sections('datasets')
    if not sections:
        raise ValueError(f'the mmdet config has no data set in {path}')
    members = [_member(section, split, options, normalize) for section in sections]
    _check_alike(sections, members)
    first, steps = members[0]
    fields |= {
        'type': 'ConcatDataset',
        'classes': first['classes'],
        'datasets': tuple(_without_classes(values) for values, _ in members),
    }
    return _under(path, fields) | _under(f'{path}.pipeline', steps)


def _check_alike(sections, members):
    """Raises ValueError unless all data sets have the same pipeline and classes."""
    (first, steps), section = members[0], sections[0]
    for other, (values, other_steps) in zip(sections, members, strict=True):
        if other_steps != steps:
            raise ValueError(
                f'{other.path}.pipeline differs from that of {section.path}, but data '
                'sets that are joined have one pipeline here'
            )
        if values['classes'] != first['classes']:
            raise ValueError(
                f'{other.path} has other classes than {section.path}, but data sets '
                'that are joined have the same'
            )


def _without_classes(values):
    """A data set for `datasets`: its classes are those of all."""
    kept = {name: value for name, value in values.items() if name != 'classes'}
    return {'type': 'CocoDataset', **kept}


def _under(path, fields):
    return {f'{path}.{name}': value for name, value in fields.items()}


def _kind(section):
    """The type of a data set or a wrapper, without its scope."""
    return str(section.peek('type')).rsplit('.', 1)[-1]


def _unwrapped(section, split):
    """What wrappers of a data set say: `times`, `oversample_thr`, more transforms.

    Returns:
        The first two as fields, the data set inside, and the pipeline of a
        MultiImageMixDataset.
    """
    fields, added = {}, []
    while (kind := _kind(section)) in _WRAPPERS:
        section.take_kind(kind)
        section.skip('lazy_init')
        if kind == 'MultiImageMixDataset':
            _refuse_mix(section, added, 'it once')
            added = section.sections('pipeline')
            section.expect(skip_type_keys=None, dynamic_scale=None)
            section.skip('max_refetch')
        elif kind == 'RepeatDataset':
            fields['times'] = fields.get('times', 1) * section.take('times')
        elif split != 'train' or 'oversample_thr' in fields:
            raise section.refuse('type', kind, 'it once, around the training data')
        else:
            fields['oversample_thr'] = section.take_number('oversample_thr')
            # In 2.x images without objects would count as a class of their own.
            section.expect(filter_empty_gt=True)
        section = section.section('dataset')
    if fields.get('times') == 1:
        del fields['times']
    return fields, section, added


def _refuse_mix(section, added, expected):
    """Raises ValueError if there is a MultiImageMixDataset where none is supported."""
    if added:
        raise section.refuse('type', 'MultiImageMixDataset', expected)


def _member(section, split, options, normalize):
    """Translates one of several data sets, which may be inside a RepeatDataset."""
    fields, inner, added = _unwrapped(section, split)
    _refuse_mix(section, added, 'around a single CocoDataset')
    if 'oversample_thr' in fields:
        kind = 'ClassBalancedDataset'
        raise section.refuse('type', kind, f'{kind} around the ConcatDataset')
    values, steps = _dataset(inner, split, options, normalize)
    if not isinstance(values['ann_file'], str):
        raise inner.refuse('ann_file', values['ann_file'], 'one file in each data set')
    return fields | values, steps


def _dataset(section, split, options, normalize, added=()):
    """Translates a data set: its fields, and those of its pipeline.

    `added` is the pipeline of a MultiImageMixDataset around it.
    """
    section.take_kind('CocoDataset')
    root = section.take('data_root', None)
    root = '' if root is None else root
    if not isinstance(root, str):
        raise section.refuse('data_root', root, 'a string')
    fields = options(section, root, split)
    steps = section.sections('pipeline')
    if added:
        for step in steps:
            if str(step.peek('type')).rpartition('.')[2] not in _LOADING:
                reason = 'in a MultiImageMixDataset only the loading of images'
                raise step.refuse('type', step.peek('type'), reason)
        steps = [*steps, *added]
    section.expect(test_mode=split != 'train', proposal_file=None)
    is_2x = options is _options_2x
    loading = {**normalize, **pipeline.translate(steps, split == 'train', is_2x)}
    for name in ('img_norm_cfg.mean', 'pad.size_divisor'):
        if name not in loading:
            raise ValueError(f'{section.path}.pipeline has nothing that sets {name}')
    if split == 'train':
        loading = {'flip_ratio': 0.0} | loading
    return fields, loading


def _joined(root, name):
    """Joins `data_root` and a relative path as mmengine and mmdet 2.x do."""
    if not root or '://' in name:
        return name
    return os.path.join(root, name)


def _options_3x(section, root, split):
    prefix = section.section('data_prefix', {})
    folder = prefix.take_text('img' if 'img' in prefix else 'img_path', '')
    meta = section.section('metainfo', {})
    classes = _classes(meta)
    meta.skip('palette', 'PALETTE')
    filters = section.section('filter_cfg', {})
    fields = {
        'ann_file': _joined(root, section.take_text('ann_file')),
        'img_prefix': _joined(root, folder),
        'classes': classes,
    }
    filter_empty_gt = filters.take('filter_empty_gt', False)
    min_size = filters.take('min_size', 0)
    if split == 'train':
        fields |= {'filter_empty_gt': filter_empty_gt, 'min_size': min_size}
    fields['indices'] = section.take('indices', None)
    section.expect(backend_args=None, file_client_args={'backend': 'disk'})
    section.expect(return_classes=False, caption_prompt=None)
    section.skip('serialize_data', 'lazy_init', 'max_refetch')
    return fields


def _options_2x(section, root, split):
    fields = {
        'ann_file': _one_or_several(section, root, 'ann_file', REQUIRED),
        'img_prefix': _one_or_several(section, root, 'img_prefix', ''),
        'classes': _classes(section),
        'indices': None,
    }
    if split == 'train':
        filter_empty_gt = section.take('filter_empty_gt', True)
        fields |= {'filter_empty_gt': filter_empty_gt, 'min_size': 32}
    else:
        section.skip('filter_empty_gt')
    section.expect(seg_prefix=None, file_client_args={'backend': 'disk'})
    return fields


def _one_or_several(section, root, name, default):
    """A path, or a tuple of those that a list names, which 2.x joins."""
    if not isinstance(section.peek(name), list | tuple):
        return _joined(root, section.take_text(name, default))
    names = section.take_tuple(name)
    if not names or not all(isinstance(element, str) for element in names):
        raise section.refuse(name, names, 'a string, or a list of strings')
    return tuple(_joined(root, element) for element in names)


def _classes(section):
    name = 'CLASSES' if 'CLASSES' in section else 'classes'
    names = plain(section.take(name, None))
    if names is not None and not isinstance(names, tuple):
        raise section.refuse(name, names, 'a tuple of names')
    return names


def _check_evaluator(top, split, fields):
    """Checks that evaluators of 3.x use the annotation file of the data set."""
    if split == 'train':
        return
    for section in top.sections(f'{split}_evaluator'):
        section.take_kind('CocoMetric')
        file = section.take('ann_file', None)
        # Data sets that are joined are scored on their own annotations.
        expected = fields.get(f'data.{split}.ann_file')
        if file is not None and file != expected:
            raise section.refuse('ann_file', file, f'{expected!r}, as for the data set')
        metric = section.take('metric', 'bbox')
        if plain(metric) not in ('bbox', ('bbox',)):
            raise section.refuse('metric', metric, "'bbox'")
        section.expect(
            proposal_nums=(100, 300, 1000),
            iou_thrs=None,
            metric_items=None,
            backend_args=None,
            file_client_args={'backend': 'disk'},
            use_mp_eval=False,
        )
        section.skip('format_only', 'classwise', 'outfile_prefix', 'prefix')
        section.skip('collect_device', 'sort_categories')
