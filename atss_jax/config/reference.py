"""The page of all config fields, from what the code says of them.

What is accepted comes from the checks that a config passes, what it means from the
docstrings of the classes that the fields become.
"""

import copy
import functools
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from atss_jax.config.data import SOURCES
from atss_jax.config.experiment import SPLITS, AutoScaleLr, Experiment, read_experiment
from atss_jax.config.fields import Reader
from atss_jax.config.load import as_dict
from atss_jax.config.sections import flatten
from atss_jax.data.batch import Pipeline, Tta
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.transforms import Jitter
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.losses import LossConfig
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.dyhead import DyHead
from atss_jax.models.fpn import FPN
from atss_jax.models.preprocess import Normalizer
from atss_jax.models.resnet import Bottleneck, ResNet
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.schedule import LrConfig

_PAGE = """# Config fields

Made by `python -m atss_jax show-config configs/atss_r50_1x.py --reference` from the
checks that a config passes and the docstrings of what its fields become. Defaults are
that config's. Any field is set by `--config.FIELD=VALUE`, a whole section by
`--config.SECTION="{'type': ..., ...}"`. Rows with "if" are fields of a section or type
that the config does not have; all others must be there. C is the number of classes, G
the boxes that a batch has room for in each image."""

# What a field's section becomes; the first that describes the field has the word.
_OWNERS = {
    '': (Experiment,),
    'model': (Experiment,),
    'model.backbone': (ResNet,),
    'model.backbone.dcn': (ResNet,),
    'model.neck': (FPN,),
    'model.neck.0': (FPN,),
    'model.neck.1': (DyHead,),
    'model.bbox_head': (ATSSHead,),
    'model.bbox_head.anchor_generator': (AnchorGenerator,),
    'model.bbox_head.bbox_coder': (DeltaXYWHBBoxCoder,),
    'model.bbox_head.loss_cls': (LossConfig,),
    'train_cfg': (ATSSAssigner, LossConfig),
    'train_cfg.assigner': (ATSSAssigner,),
    'test_cfg': (DetectConfig, Experiment),
    'test_cfg.nms': (DetectConfig,),
    'test_cfg.tta': (Tta,),
    'data': (Pipeline, CocoDataset, Experiment),
    'data.SPLIT': (Experiment,),
    'data.SPLIT.pipeline': (Pipeline, Jitter),
    'data.SPLIT.pipeline.img_norm_cfg': (Normalizer,),
    'data.SPLIT.pipeline.pad': (Pipeline,),
    'data.SPLIT.pipeline.random_resize': (Jitter,),
    'data.SPLIT.pipeline.random_crop': (Jitter,),
    'data.SPLIT.pipeline.filter_annotations': (Jitter,),
    'optimizer': (OptimizerConfig,),
    'optimizer_config': (OptimizerConfig,),
    'optimizer_config.grad_clip': (OptimizerConfig,),
    'lr_config': (LrConfig,),
    'auto_scale_lr': (AutoScaleLr,),
    'checkpoint_config': (Experiment,),
}
# Fields that bear another name there.
_NAMES = {
    'model.backbone.dcn.deform_groups': (Bottleneck, 'deform_groups'),
    'model.bbox_head.loss_cls.loss_weight': (LossConfig, 'cls_weight'),
    'model.bbox_head.loss_bbox.type': (LossConfig, 'bbox_loss'),
    'model.bbox_head.loss_bbox.loss_weight': (LossConfig, 'bbox_weight'),
    'model.bbox_head.loss_centerness.loss_weight': (LossConfig, 'centerness_weight'),
    'data.SPLIT.pipeline.random_resize': (Jitter, 'ratio_range'),
    'data.SPLIT.pipeline.random_crop': (Jitter, 'crop_size'),
    'data.SPLIT.pipeline.filter_annotations': (Jitter, 'min_gt_bbox_wh'),
    'optimizer_config.grad_clip': (OptimizerConfig, 'max_norm'),
    'ema': (OptimizerConfig, 'ema_momentum'),
    'ema.momentum': (OptimizerConfig, 'ema_momentum'),
    'fp16': (Experiment, 'training_dtype'),
    'fp16.loss_scale': (Experiment, 'training_dtype'),
    'auto_scale_lr.base_batch_size': (AutoScaleLr, 'base'),
    'evaluation.interval': (Experiment, 'evaluation_interval'),
    'checkpoint_config.interval': (Experiment, 'checkpoint_interval'),
    'log_config.interval': (Experiment, 'log_interval'),
}

_JITTER = 'data.train.pipeline'
_GN = {'type': 'GN', 'num_groups': 32, 'requires_grad': True}
_DCN = {'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}
_DYHEAD = {
    'type': 'DyHead',
    'in_channels': 256,
    'out_channels': 256,
    'num_blocks': 6,
    'zero_init_offset': True,
}
_WARMUP = {'warmup': 'linear', 'warmup_iters': 500, 'warmup_ratio': 0.001}
# By what a config says: what it needs to say it. The values come on no page.
_ALTERNATIVES = {
    'model.backbone.type is ResNeXt': {
        'model.backbone.type': 'ResNeXt',
        'model.backbone.groups': 32,
        'model.backbone.base_width': 8,
    },
    'there is model.backbone.dcn': {
        'model.backbone.dcn': _DCN,
        'model.backbone.stage_with_dcn': (False, True, True, True),
    },
    'model.backbone.norm_cfg.type is GN': {'model.backbone.norm_cfg': _GN},
    'model.bbox_head.norm_cfg.type is GN': {'model.bbox_head.norm_cfg': _GN},
    'there is test_cfg.tta': {'test_cfg.tta': {'img_scales': None, 'flip': True}},
    f'there is {_JITTER}.random_resize': {
        f'{_JITTER}.img_scales': None,
        f'{_JITTER}.random_resize': {'ratio_range': (0.1, 2.0)},
    },
    f'there is {_JITTER}.random_crop': {
        f'{_JITTER}.random_crop': {
            'crop_size': (1024, 1024),
            'recompute_bbox': False,
            'allow_negative_crop': True,
        }
    },
    f'there is {_JITTER}.filter_annotations': {
        f'{_JITTER}.filter_annotations': {'min_gt_bbox_wh': (1, 1), 'keep_empty': True}
    },
    'there is optimizer_config.grad_clip': {
        'optimizer_config.grad_clip': {'max_norm': 35, 'norm_type': 2}
    },
    'there is fp16': {'fp16': {'loss_scale': 'dynamic'}},
    'there is ema': {'ema': {'momentum': 0.0002}},
    'lr_config.policy is step': {
        'lr_config': {'policy': 'step', 'step': (8, 11), 'gamma': 0.1, **_WARMUP}
    },
    'lr_config.policy is CosineAnnealing': {
        'lr_config': {'policy': 'CosineAnnealing', 'min_lr_ratio': 0.01, **_WARMUP}
    },
}
_FILTER = {'classes': None, 'indices': None}
_TRAIN_FILTER = {'filter_empty_gt': True, 'min_size': 32}
_DATA = {
    'CocoDataset': {'ann_file': 'a.json', 'img_prefix': 'a'},
    'TFDSDataset': {'data_dir': 'a', 'name': 'coco/2017:1.1.0', 'split': 'train'},
    'ShapesDataset': {
        'num_images': 1,
        'seed': 0,
        'min_size': 128,
        'max_size': 128,
        'max_objects': 6,
        'object_size': (0.15, 0.6),
        'min_visible': 0.6,
        'max_rotation': 180.0,
        'clutter': 1.0,
        'noise': 8.0,
    },
}


class Row(NamedTuple):
    """A field of the page.

    Attributes:
        path: `optimizer.lr`.
        default: of the config; empty if it does not have the field.
        expected: what is accepted.
        meaning: what it decides; empty where `expected` says all.
    """

    path: str
    default: str
    expected: str
    meaning: str


def reference(config: ConfigDict | Mapping[str, Any]) -> str:
    """The page, Markdown: one row a field.

    Args:
        config: as from `load_config`; its values are the defaults.
    """
    page, heading = [_PAGE], None
    for row in rows(as_dict(config)):
        if _heading(row.path) != heading:
            heading = _heading(row.path)
            page.append(f'\n## {heading}\n')
            page.append('| field | default | accepted | meaning |')
            page.append('|---|---|---|---|')
        default = f'`{row.default}`' if row.default else ''
        cells = f'`{row.path}`', default, row.expected, row.meaning
        page.append(
            '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |'
        )
    return '\n'.join(page)


def _heading(path):
    """`data.train` and the like, else the first part of a path."""
    first, dot, rest = path.partition('.')
    split = rest.partition('.')[0]
    if not dot:
        return 'top level'
    return f'{first}.{split}' if split in SPLITS else first


def rows(config: Mapping[str, Any]) -> list[Row]:
    """All fields of a config, and of its alternatives, by path."""
    leaves, found = flatten(config), {}
    necks = {'model.neck': (config['model']['neck'], _DYHEAD)}
    alternatives = {**_ALTERNATIVES, 'model.neck is (FPN, DyHead)': necks}
    for condition, values in {'': {}, **alternatives, **_data(config)}.items():
        read = Reader(_changed(config, values))
        read_experiment(read)
        for path, check in read.read.items():
            meaning = _meaning(path, read.leaves)
            if condition:
                meaning = f'if {condition}' + (f': {meaning}' if meaning else '')
            default = '' if condition else repr(leaves[path])
            row = Row(path, default, check.expected, meaning)
            found.setdefault((path, check.expected), row)
    return sorted(found.values(), key=lambda row: (_heading(row.path), row.path))


def _changed(config, values):
    """A copy with some fields or sections set, by path."""
    changed = copy.deepcopy(dict(config))
    for path, value in values.items():
        *parents, name = path.split('.')
        section = changed
        for parent in parents:
            section = section[parent]
        section[name] = value
    return changed


def _data(config):
    """Each split with data of each type, by what the config then says."""
    alternatives = {}
    for split in SPLITS:
        section = config['data'][split]
        kept = {
            name: section[name] for name in ('pipeline', 'times') if name in section
        }
        for kind, fields in _DATA.items():
            own = {'type': kind, **kept, **fields}
            if kind != 'ShapesDataset':
                own |= {**_FILTER, **(_TRAIN_FILTER if split == 'train' else {})}
            alternatives[f'data.{split}.type is {kind}'] = {f'data.{split}': own}
    return alternatives


def _meaning(path, leaves):
    """What docstrings say of a field, or of the section that it is in."""
    anywhere = re.sub(rf'^data\.({"|".join(SPLITS)})(?=\.|$)', 'data.SPLIT', path)
    if anywhere in _NAMES:
        owner, name = _NAMES[anywhere]
        return described(owner)[name]
    section, _, name = anywhere.rpartition('.')
    owners = _OWNERS.get(section, ())
    if section == 'data.SPLIT':
        kind = leaves[f'{path.rpartition(".")[0]}.type']
        owners = (SOURCES[kind][0], CocoDataset, *owners)
    for owner in owners:
        if name in described(owner):
            return described(owner)[name]
    is_norm = section.endswith('norm_cfg')
    return _meaning(path.rpartition('.')[0], leaves) if is_norm else ''


@functools.cache
def described(owner: type) -> dict[str, str]:
    """What the docstring of a class says of each attribute, or else argument."""
    words = {}
    for text in (inspect.getdoc(owner), inspect.getdoc(owner.__init__)):
        for block in re.findall(_BLOCK, text or ''):
            for names, said in re.findall(_ENTRY, block):
                said = ' '.join(said.split()).rstrip('.')
                words |= dict.fromkeys(names.split(', '), said)
    return words


_BLOCK = re.compile(r'^(?:Attributes|Args):\n((?: {4}.*\n?)+)', re.MULTILINE)
_ENTRY = re.compile(r'^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)', re.MULTILINE)
