"""Reads, checks and builds everything that a config describes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from atss_jax.config.data import DataConfig, read_data
from atss_jax.config.fields import (
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
    optional,
    tuple_of,
)
from atss_jax.config.model import read_anchors, read_coder, read_model, read_pretrained
from atss_jax.config.monitoring import (
    METRIC,
    EarlyStopping,
    HookConfig,
    read_early_stopping,
    read_hooks,
)
from atss_jax.config.optimization import check_one_cycle, read_lr_config, read_optimizer
from atss_jax.data.batch import Tta
from atss_jax.data.class_agreement import disagreement
from atss_jax.data.forms.finder import Finder
from atss_jax.data.records import Source
from atss_jax.detection.assign import ATSSAssigner
from atss_jax.detection.losses import BBOX_LOSSES, LossConfig
from atss_jax.detection.nms import METHODS, SoftNms
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.distributed import devices
from atss_jax.models.detector import ATSS
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.schedule import LrConfig

SPLITS = ('train', 'val', 'test')
_LOSS_SCALE = Check(
    "'dynamic' or a number above 0",
    lambda value: value if value == 'dynamic' else POSITIVE.convert(value),
)


@dataclasses.dataclass(frozen=True)
class AutoScaleLr:
    """Scaling of the learning rate with the batch size, mmdet's `auto_scale_lr`.

    Attributes:
        enable: whether the learning rate is multiplied by (images per step) / base.
        base: images per step that the learning rate is meant for.
    """

    enable: bool
    base: int


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything a config describes, checked and built.

    Attributes:
        model: the detector.
        training_dtype: type that training computes in: bfloat16 with a section `fp16`,
            whatever its loss scale, otherwise float32.
        detection_dtype: type that the network computes in when it detects, in
            evaluation too: 'float32' or 'bfloat16', which is faster on GPUs and TPUs.
            Boxes, scores and NMS are float32 in any case, as are exported .onnx files.
        pretrained: weights that the backbone starts from, by mmdet's name or a path;
            None: random.
        pretrained_field: the field of the config that names them.
        loss: settings of assignment and losses.
        detect: settings of postprocessing.
        tta: views for test-time augmentation (`--tta`); None: the test scale, plain
            and mirrored.
        data: settings of each split.
        times: passes over the training data per epoch.
        oversample_thr: classes that a smaller fraction of the training images has are
            rare, and images with them occur more often in an epoch (mmdet's
            ClassBalancedDataset); None: all occur equally often.
        samples_per_gpu: images per device and step.
        workers_per_gpu: loading processes per device; 0: threads.
        optimizer: settings of the optimizer.
        lr_config: learning rate over the steps.
        auto_scale_lr: whether the learning rate depends on the number of devices.
        total_epochs: length of the run.
        evaluation_interval: epochs between evaluations; the last epoch is always
            evaluated.
        num_eval_images: evaluation images that writers show with their ground truth and
            detections after each evaluation; 0: none.
        save_best: the metric by which the best checkpoint is chosen, which is kept, and
            which `eval` and `predict` load; 'auto' is AP.
        early_stopping: when the run ends early; None: it trains all its epochs.
        checkpoint_interval: epochs between checkpoints; the last epoch is always
            saved.
        max_keep_ckpts: number of newest checkpoints to keep, in addition to the best.
        log_interval: steps between lines of the log.
        hooks: writers of the numbers of the run, as in mmdet; None: TextLoggerHook and
            TensorboardLoggerHook.
        load_from: weights of a whole detector to start from: a file, a workdir, a
            model of the zoo (`mmdet://NAME`) or an address (`https://`, `hf://`).
        resume_from: workdir of another run to continue: weights, momentum and step.
        seed: seed of everything random: initial weights, order of images,
            augmentation.
        parallel: how devices share a step; the results are the same.
    """

    model: ATSS
    training_dtype: str
    detection_dtype: str
    pretrained: str | None
    pretrained_field: str
    loss: LossConfig
    detect: DetectConfig
    tta: Tta
    data: Mapping[str, DataConfig]
    times: int
    oversample_thr: float | None
    samples_per_gpu: int
    workers_per_gpu: int
    optimizer: OptimizerConfig
    lr_config: LrConfig
    auto_scale_lr: AutoScaleLr
    total_epochs: int
    evaluation_interval: int
    num_eval_images: int
    save_best: str
    early_stopping: EarlyStopping | None
    checkpoint_interval: int
    max_keep_ckpts: int
    log_interval: int
    hooks: tuple[HookConfig, ...]
    load_from: str | None
    resume_from: str | None
    seed: int
    parallel: str

    @property
    def training_model(self) -> ATSS:
        """The model in the type that training computes in."""
        return self.model.clone(dtype=self.training_dtype)

    @property
    def detection_model(self) -> ATSS:
        """The model in the type that detection computes in."""
        return self.model.clone(dtype=self.detection_dtype)


def build(config: Mapping[str, Any]) -> Experiment:
    """Checks every field and builds everything; opens no files.

    Raises:
        ValueError: a field is unknown, missing, not supported, or contradicts another.
    """
    return read_experiment(Reader(config))


def read_experiment(read: Reader) -> Experiment:
    """As `build`; afterwards `read.checks` has the check of every field."""
    data = {split: read_data(read, split) for split in SPLITS}
    size_divisor = _common_size_divisor(read, data)
    anchors = read_anchors(read)
    coder = read_coder(read)
    model = read_model(read, anchors, size_divisor)
    pretrained, pretrained_field = read_pretrained(read)
    experiment = Experiment(
        model=model,
        training_dtype=_training_dtype(read),
        detection_dtype=read('test_cfg.dtype', one_of('float32', 'bfloat16')),
        pretrained=pretrained,
        pretrained_field=pretrained_field,
        loss=_loss(read, anchors, coder, size_divisor),
        detect=_detect(read, anchors, coder, size_divisor),
        tta=_tta(read),
        data=data,
        times=read('data.train.times', integer(1)),
        oversample_thr=read('data.train.oversample_thr', optional(POSITIVE)),
        samples_per_gpu=read('data.samples_per_gpu', integer(1)),
        workers_per_gpu=read('data.workers_per_gpu', integer(0)),
        optimizer=read_optimizer(read),
        lr_config=read_lr_config(read),
        auto_scale_lr=AutoScaleLr(
            enable=read('auto_scale_lr.enable', boolean),
            base=read('auto_scale_lr.base_batch_size', integer(1)),
        ),
        total_epochs=read('total_epochs', integer(1)),
        evaluation_interval=read('evaluation.interval', integer(1)),
        num_eval_images=read('evaluation.num_eval_images', integer(0)),
        save_best=read('evaluation.save_best', METRIC),
        early_stopping=read_early_stopping(read),
        checkpoint_interval=read('checkpoint_config.interval', integer(1)),
        max_keep_ckpts=read('checkpoint_config.max_keep_ckpts', integer(1)),
        log_interval=read('log_config.interval', integer(1)),
        hooks=read_hooks(read),
        load_from=read('load_from', optional(PATH)),
        resume_from=read('resume_from', optional(PATH)),
        seed=read('seed', integer(0, 2**32 - 1)),
        parallel=read('parallel', one_of(*devices.MODES)),
    )
    read('evaluation.metric', one_of('bbox'))
    read.finish()
    check_one_cycle(read, experiment.lr_config, experiment.optimizer)
    return experiment


def _common_size_divisor(read, data):
    """The divisor that the sizes of images are rounded up to, in all splits."""
    size_divisor = data['train'].pipeline.size_divisor
    for split in SPLITS:
        if data[split].pipeline.size_divisor != size_divisor:
            path = f'data.{split}.pipeline.pad.size_divisor'
            raise read.refuse(
                path, f'data.train has {size_divisor}; all splits must have the same'
            )
    return size_divisor


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
        gamma=read(f'{head}.loss_cls.gamma', NON_NEGATIVE),
        alpha=read(f'{head}.loss_cls.alpha', FRACTION),
        cls_weight=read(f'{head}.loss_cls.loss_weight', NON_NEGATIVE),
        bbox_loss=read(f'{head}.loss_bbox.type', one_of(*BBOX_LOSSES)),
        bbox_weight=read(f'{head}.loss_bbox.loss_weight', NON_NEGATIVE),
        centerness_weight=read(f'{head}.loss_centerness.loss_weight', NON_NEGATIVE),
        pos_weight=read('train_cfg.pos_weight', number(minimum=-1)),
        size_divisor=size_divisor,
    )


def _soft_nms(read):
    """Reads the type of NMS; None: the usual one. mmcv's values where fields lack."""
    path = 'test_cfg.nms'
    checks = {
        'method': one_of(*METHODS),
        'sigma': POSITIVE,
        'min_score': NON_NEGATIVE,
    }
    if read.kind(f'{path}.type', {'nms': (), 'soft_nms': tuple(checks)}) == 'nms':
        return None
    return SoftNms(
        **{
            name: read(f'{path}.{name}', check)
            for name, check in checks.items()
            if read.has(f'{path}.{name}')
        }
    )


def _detect(read, anchors, coder, size_divisor):
    return DetectConfig(
        anchors=anchors,
        coder=coder,
        nms_pre=read('test_cfg.nms_pre', integer(1)),
        min_bbox_size=read('test_cfg.min_bbox_size', number(minimum=-1)),
        score_thr=read('test_cfg.score_thr', FRACTION),
        iou_threshold=read('test_cfg.nms.iou_threshold', FRACTION),
        soft_nms=_soft_nms(read),
        with_nms=read('test_cfg.with_nms', boolean),
        max_per_img=read('test_cfg.max_per_img', integer(1)),
        size_divisor=size_divisor,
    )


def _tta(read):
    """Reads the views of `--tta`; without a section as mmdet: the test scale, flipped.

    Source: mmdet tools/test.py.
    """
    example = "{'img_scales': ((1333, 800),), 'flip': True}"
    if not read.has_optional_section('test_cfg.tta', example):
        return Tta()
    return Tta(
        img_scales=read('test_cfg.tta.img_scales', optional(tuple_of(SCALE))),
        flip=read('test_cfg.tta.flip', boolean),
    )


def _training_dtype(read):
    """Reads `fp16`: mmdet's half precision is bfloat16 here.

    The range of bfloat16 is that of float32, so nothing overflows and no loss needs
    scaling: the loss scale is checked, but all values give the same numbers.
    """
    if read.has_optional_section('fp16', "{'loss_scale': ...}"):
        read('fp16.loss_scale', _LOSS_SCALE)
        return 'bfloat16'
    return 'float32'


# Data sets, opened --------------------------------------------------------------------


def open_sources(
    experiment: Experiment,
    splits: Sequence[str],
    trained_classes: Sequence[str] | None = None,
    finder: Finder | None = None,
) -> dict[str, Source]:
    """Opens data sets, and checks their classes against the model and each other.

    Args:
        experiment: what the config describes.
        splits: some of 'train', 'val' and 'test'.
        trained_classes: class names that the weights were trained for; None: unknown.
        finder: may have found or read data of `type='auto'` already.

    Returns:
        The data set of each split.

    Raises:
        ValueError: files are missing or malformed, or classes do not agree.
    """
    classes = {} if trained_classes is None else {'the weights': tuple(trained_classes)}
    sources, finder = {}, Finder() if finder is None else finder
    for split in splits:
        source = sources[split] = experiment.data[split].open(finder)
        if trained_classes is None:
            _check_class_count(source, experiment.model.bbox_head.num_classes, split)
        else:
            _check_classes_of_weights(source, trained_classes, split)
        classes[f'data.{split}'] = source.classes
    if difference := disagreement(classes):
        raise ValueError(
            f'{difference}. If data.{splits[-1]} is the data that you mean, set '
            f'data.{splits[-1]}.classes to the same names in the same order'
        )
    return sources


def _check_classes_of_weights(source, trained_classes, split):
    """Raises ValueError if a data set has more or fewer classes than the weights."""
    count, expected = len(source.classes), len(trained_classes)
    if count == expected:
        return
    message = (
        f'data.{split} has {count} classes {source.classes[:10]}, but the weights were '
        f'trained for {expected} {tuple(trained_classes)[:10]}'
    )
    if set(source.classes) < set(trained_classes):
        message += (
            '. The AP of each class is printed in any case. For numbers over some '
            'classes alone, evaluate with all, and then score the detections that were '
            'written: --results=WORKDIR/evaluation/..._detections.json '
            f'--workdir=WORKDIR --config.data.{split}.classes="{source.classes!r}"'
        )
    else:
        message += f'; set --config.data.{split}.classes to those'
    raise ValueError(message)


def _check_class_count(source, num_classes, split):
    count = len(source.classes)
    if count != num_classes:
        raise ValueError(
            f'model.bbox_head.num_classes = {num_classes}, but data.{split} has '
            f'{count} classes {source.classes}; set '
            f'--config.model.bbox_head.num_classes={count}, or choose classes with '
            f'data.{split}.classes'
        )
