"""What a config describes: every section read, checked and built."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from atss_jax import parallel
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
from atss_jax.data.loader import Pipeline
from atss_jax.data.records import Source
from atss_jax.data.shapes import ShapesDataset
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.losses import BBOX_LOSSES, LossConfig
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.preprocess import Normalizer
from atss_jax.models.resnet import BLOCKS, ResNet, stage_channels
from atss_jax.training.schedule import LrConfig
from atss_jax.training.step import OptimizerConfig

SPLITS = ('train', 'val', 'test')
_ABOVE_0 = number(above=0)
_WEIGHT = number(minimum=0)


COCO_FIELDS = {
    'ann_file': text,
    'img_prefix': text,
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


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config describes, checked and built."""

    model: ATSS
    pretrained: str | None
    loss: LossConfig
    detect: DetectConfig
    data: Mapping[str, DataConfig]
    samples_per_gpu: int
    workers_per_gpu: int
    optimizer: OptimizerConfig
    lr_config: LrConfig
    total_epochs: int
    evaluation_interval: int
    checkpoint_interval: int
    max_keep_ckpts: int
    log_interval: int
    load_from: str | None
    resume_from: str | None
    seed: int
    parallel: str


def build(config: Mapping[str, Any]) -> Experiment:
    """Checks every field and builds everything. Reads no file but the config's.

    Raises:
        ValueError: a field is unknown, missing, not supported, or contradicts another.
    """
    read = Reader(config)
    data = {split: _data(read, split) for split in SPLITS}
    size_divisor = data['train'].pipeline.size_divisor
    for split in SPLITS:
        if data[split].pipeline.size_divisor != size_divisor:
            path = f'data.{split}.pipeline.pad.size_divisor'
            raise read.refuse(
                path, f'data.train has {size_divisor}; they must be equal'
            )
    anchors = _anchors(read)
    coder = _coder(read)
    experiment = Experiment(
        model=_model(read, anchors, size_divisor),
        pretrained=read('model.pretrained', optional(text)),
        loss=_loss(read, anchors, coder, size_divisor),
        detect=_detect(read, anchors, coder, size_divisor),
        data=data,
        samples_per_gpu=read('data.samples_per_gpu', integer(1)),
        workers_per_gpu=read('data.workers_per_gpu', integer(0)),
        optimizer=_optimizer(read),
        lr_config=_lr_config(read),
        total_epochs=read('total_epochs', integer(1)),
        evaluation_interval=read('evaluation.interval', integer(1)),
        checkpoint_interval=read('checkpoint_config.interval', integer(1)),
        max_keep_ckpts=read('checkpoint_config.max_keep_ckpts', integer(1)),
        log_interval=read('log_config.interval', integer(1)),
        load_from=read('load_from', optional(text)),
        resume_from=read('resume_from', optional(text)),
        seed=read('seed', integer(0)),
        parallel=read('parallel', one_of(*parallel.MODES)),
    )
    read('evaluation.metric', one_of('bbox'))
    read.finish()
    return experiment


def _norm_cfg(read, path, channels):
    kind = read(f'{path}.type', one_of('BN', 'SyncBN', 'GN'))
    norm_cfg = dict(type=kind, requires_grad=read(f'{path}.requires_grad', boolean))
    if kind == 'GN':
        groups = norm_cfg['num_groups'] = read(f'{path}.num_groups', integer(1))
        if channels % groups:
            raise read.refuse(
                f'{path}.num_groups', f'does not divide {channels} channels'
            )
    return norm_cfg


def _model(read, anchors, size_divisor):
    read('model.type', one_of('ATSS'))
    backbone = _backbone(read)
    neck = _neck(read, backbone, anchors)
    read('model.bbox_head.type', one_of('ATSSHead'))
    feat_channels = read('model.bbox_head.feat_channels', integer(1))
    head = ATSSHead(
        num_classes=read('model.bbox_head.num_classes', integer(1)),
        in_channels=read('model.bbox_head.in_channels', integer(1)),
        num_anchors=anchors.num_anchors,
        stacked_convs=read('model.bbox_head.stacked_convs', integer(1)),
        feat_channels=feat_channels,
        norm_cfg=_norm_cfg(read, 'model.bbox_head.norm_cfg', feat_channels),
    )
    if head.in_channels != neck.out_channels:
        message = f'model.neck.out_channels is {neck.out_channels}'
        raise read.refuse('model.bbox_head.in_channels', message)
    return ATSS(backbone, neck, head, anchors.strides, size_divisor)


def _backbone(read):
    path = 'model.backbone'
    read(f'{path}.type', one_of('ResNet'))
    depth = read(f'{path}.depth', one_of(*BLOCKS))
    stages = read(f'{path}.num_stages', one_of(1, 2, 3, 4))
    indices = read(f'{path}.out_indices', tuple_of(one_of(*range(stages))))
    if indices != tuple(range(indices[0], indices[0] + len(indices))):
        raise read.refuse(f'{path}.out_indices', 'expected consecutive stages')
    return ResNet(
        depth=depth,
        num_stages=stages,
        out_indices=indices,
        frozen_stages=read(f'{path}.frozen_stages', one_of(-1, 0, 1, 2, 3, 4)),
        norm_cfg=_norm_cfg(read, f'{path}.norm_cfg', 64),
        norm_eval=read(f'{path}.norm_eval', boolean),
        style=read(f'{path}.style', one_of('pytorch', 'caffe')),
    )


def _neck(read, backbone, anchors):
    path = 'model.neck'
    read(f'{path}.type', one_of('FPN'))
    neck = FPN(
        in_channels=read(f'{path}.in_channels', tuple_of(integer(1))),
        out_channels=read(f'{path}.out_channels', integer(1)),
        start_level=read(f'{path}.start_level', integer(0)),
        add_extra_convs=read(
            f'{path}.add_extra_convs',
            one_of(False, True, 'on_input', 'on_lateral', 'on_output'),
        ),
        num_outs=read(f'{path}.num_outs', integer(1)),
    )
    channels = tuple(stage_channels(backbone.depth)[i] for i in backbone.out_indices)
    if neck.in_channels != channels:
        raise read.refuse(f'{path}.in_channels', f'the backbone gives {channels}')
    used = len(channels) - neck.start_level
    if not 0 < used <= neck.num_outs:
        message = (
            f'{len(channels)} inputs and {neck.num_outs} outputs do not go with it'
        )
        raise read.refuse(f'{path}.start_level', message)
    first = 4 * 2 ** (backbone.out_indices[0] + neck.start_level)
    strides = tuple(first * 2**level for level in range(neck.num_outs))
    if anchors.strides != strides:
        path = 'model.bbox_head.anchor_generator.strides'
        raise read.refuse(path, f'the neck gives levels of strides {strides}')
    return neck


def _anchors(read):
    path = 'model.bbox_head.anchor_generator'
    read(f'{path}.type', one_of('AnchorGenerator'))
    return AnchorGenerator(
        strides=read(f'{path}.strides', tuple_of(integer(1))),
        ratios=read(f'{path}.ratios', tuple_of(_ABOVE_0)),
        octave_base_scale=read(f'{path}.octave_base_scale', _ABOVE_0),
        scales_per_octave=read(f'{path}.scales_per_octave', integer(1)),
    )


def _coder(read):
    path = 'model.bbox_head.bbox_coder'
    read(f'{path}.type', one_of('DeltaXYWHBBoxCoder'))
    return DeltaXYWHBBoxCoder(
        target_means=read(f'{path}.target_means', tuple_of(number(), 4)),
        target_stds=read(f'{path}.target_stds', tuple_of(_ABOVE_0, 4)),
    )


def _loss(read, anchors, coder, size_divisor):
    head = 'model.bbox_head'
    read(f'{head}.loss_cls.type', one_of('FocalLoss'))
    read(f'{head}.loss_cls.use_sigmoid', one_of(True))
    read(f'{head}.loss_centerness.type', one_of('CrossEntropyLoss'))
    read(f'{head}.loss_centerness.use_sigmoid', one_of(True))
    read('train_cfg.assigner.type', one_of('ATSSAssigner'))
    read('train_cfg.debug', one_of(False))
    return LossConfig(
        anchors=anchors,
        assigner=ATSSAssigner(
            topk=read('train_cfg.assigner.topk', integer(1)),
            allowed_border=read('train_cfg.allowed_border', number(minimum=-1)),
        ),
        coder=coder,
        gamma=read(f'{head}.loss_cls.gamma', _WEIGHT),
        alpha=read(f'{head}.loss_cls.alpha', _WEIGHT),
        cls_weight=read(f'{head}.loss_cls.loss_weight', _WEIGHT),
        bbox_loss=read(f'{head}.loss_bbox.type', one_of(*BBOX_LOSSES)),
        bbox_weight=read(f'{head}.loss_bbox.loss_weight', _WEIGHT),
        centerness_weight=read(f'{head}.loss_centerness.loss_weight', _WEIGHT),
        pos_weight=read('train_cfg.pos_weight', number(minimum=-1)),
        size_divisor=size_divisor,
    )


def _detect(read, anchors, coder, size_divisor):
    read('test_cfg.nms.type', one_of('nms'))
    return DetectConfig(
        anchors=anchors,
        coder=coder,
        nms_pre=read('test_cfg.nms_pre', integer(1)),
        min_bbox_size=read('test_cfg.min_bbox_size', number(minimum=-1)),
        score_thr=read('test_cfg.score_thr', number(minimum=0)),
        iou_threshold=read('test_cfg.nms.iou_threshold', _ABOVE_0),
        max_per_img=read('test_cfg.max_per_img', integer(1)),
        size_divisor=size_divisor,
    )


def _optimizer(read):
    read('optimizer.type', one_of('SGD'))
    max_norm = None
    if read.has('optimizer_config.grad_clip'):
        max_norm = read('optimizer_config.grad_clip.max_norm', _ABOVE_0)
        read('optimizer_config.grad_clip.norm_type', one_of(2))
    else:
        read('optimizer_config.grad_clip', optional(text))
    return OptimizerConfig(
        lr=read('optimizer.lr', _ABOVE_0),
        momentum=read('optimizer.momentum', _WEIGHT),
        weight_decay=read('optimizer.weight_decay', _WEIGHT),
        max_norm=max_norm,
    )


def _lr_config(read):
    policy = read('lr_config.policy', one_of('step', 'CosineAnnealing'))
    by_policy = {}
    if policy == 'step':
        by_policy['step'] = read('lr_config.step', tuple_of(integer(1)))
        by_policy['gamma'] = read('lr_config.gamma', _ABOVE_0)
    else:
        by_policy['min_lr_ratio'] = read('lr_config.min_lr_ratio', _WEIGHT)
    return LrConfig(
        policy=policy,
        warmup=read('lr_config.warmup', one_of('linear', None)),
        warmup_iters=read('lr_config.warmup_iters', integer(1)),
        warmup_ratio=read('lr_config.warmup_ratio', _ABOVE_0),
        **by_policy,
    )


def _data(read, split):
    path = f'data.{split}'
    kind = read(f'{path}.type', one_of('CocoDataset', 'ShapesDataset'))
    fields = dict(COCO_FIELDS if kind == 'CocoDataset' else SHAPES_FIELDS)
    if kind == 'CocoDataset' and split == 'train':
        fields.update(COCO_TRAIN_FIELDS)
    arguments = {name: read(f'{path}.{name}', check) for name, check in fields.items()}
    if kind == 'CocoDataset' and split != 'train':
        arguments['test_mode'] = True
    path = f'{path}.pipeline'
    divisor = read(f'{path}.pad.size_divisor', one_of(32, 64, 128))
    canvas = tuple_of(tuple_of(integer(1), 2))
    pipeline = Pipeline(
        img_scale=read(f'{path}.img_scale', tuple_of(integer(1), 2)),
        keep_ratio=read(f'{path}.keep_ratio', boolean),
        flip_ratio=read(f'{path}.flip_ratio', _WEIGHT) if split == 'train' else 0.0,
        size_divisor=divisor,
        canvases=read('data.canvases', optional(canvas)),
        max_boxes=read('data.max_boxes', integer(1)),
    )
    if any(side % divisor for canvas in pipeline.canvases or () for side in canvas):
        raise read.refuse('data.canvases', f'expected multiples of {divisor}')
    normalizer = Normalizer(
        mean=read(f'{path}.img_norm_cfg.mean', tuple_of(number(), 3)),
        std=read(f'{path}.img_norm_cfg.std', tuple_of(_ABOVE_0, 3)),
        to_rgb=read(f'{path}.img_norm_cfg.to_rgb', boolean),
    )
    source = CocoDataset if kind == 'CocoDataset' else ShapesDataset
    return DataConfig(source, arguments, pipeline, normalizer)
