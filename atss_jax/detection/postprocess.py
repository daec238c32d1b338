"""Post-processing: from the head outputs of one image to its detections."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.few_first import few_first
from atss_jax.detection.nms import (
    SoftNms,
    best_boxes,
    class_wise_nms,
    class_wise_soft_nms,
)
from atss_jax.structures import Detections, HeadOutputs, ceil_divide, round_up


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """mmdet's `test_cfg`, with the anchors and the coder of the head.

    Attributes:
        anchors: the anchor grid.
        coder: turns deltas into boxes.
        nms_pre: number of (anchor, class) pairs kept per level before NMS.
        min_bbox_size: boxes need longer sides, in original pixels; negative: keep all.
        score_thr: minimum class score, exclusive; centerness does not count here.
        iou_threshold: IoU above which class-wise NMS suppresses the lower score.
        soft_nms: lowers scores in place of NMS; None: NMS.
        with_nms: if not, nothing is suppressed: the best scores are the detections.
        max_per_img: maximum number of detections.
        size_divisor: the valid region is the image size rounded up to a multiple of it.
    """

    anchors: AnchorGenerator = AnchorGenerator()  # noqa: RUF009, frozen
    coder: DeltaXYWHBBoxCoder = DeltaXYWHBBoxCoder()  # noqa: RUF009, frozen
    nms_pre: int = 1000
    min_bbox_size: float = 0
    score_thr: float = 0.05
    iou_threshold: float = 0.6
    soft_nms: SoftNms | None = None
    with_nms: bool = True
    max_per_img: int = 100
    size_divisor: int = 32


def detect(
    outputs: HeadOutputs,
    image_size: Int[Array, '2'],
    scale: Float[Array, '2'],
    config: DetectConfig = DetectConfig(),
) -> Detections:
    """Detections of one image, in pixels of the original image, best first.

    1. Each level gives its `nms_pre` best (anchor, class) pairs by class score.
    2. Their boxes are decoded, their scores multiplied by the centerness.
    3. Boxes are clipped to the image and scaled to the original; small ones go.
    4. Class-wise NMS, or what the config has in its place, keeps the best
       `max_per_img`.

    Args:
        outputs: head outputs of one image, without a leading B.
        image_size: height, width of the resized image on the canvas.
        scale: resized over original width, then height (mmdet's `scale_factor`).
        config: thresholds, anchors and coder.

    Source: mmdet `BaseDenseHead._predict_by_feat_single`, `_bbox_post_process`.
    """
    levels = list(enumerate(zip(*outputs, strict=True)))
    maxima = [_maxima(level, output[0], image_size, config) for level, output in levels]

    def candidates(maxima, limits):
        return [
            _level_candidates(level, output, level_maxima, level_limits, config)
            for (level, output), level_maxima, level_limits in zip(
                levels, maxima, limits, strict=True
            )
        ]

    def clip_and_suppress(candidates):
        boxes, scores, labels, valid = candidates
        height, width = image_size
        limits = jnp.stack([width, height, width, height]).astype(boxes.dtype)
        boxes = jnp.clip(boxes, 0, limits) * (1 / jnp.concatenate([scale, scale]))
        if config.min_bbox_size >= 0:
            valid &= (boxes[:, 2:] - boxes[:, :2] > config.min_bbox_size).all(-1)
        return suppress(boxes, scores, labels, valid, config, config.max_per_img)

    # The same detections as from all candidates, but faster. With soft NMS the best of
    # few candidates may come to have lower scores than those that were left out.
    few = config.soft_nms is None
    return few_first(candidates, clip_and_suppress, maxima, config.nms_pre, few)


def suppress(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    config: DetectConfig,
    max_per_img: int,
) -> Detections:
    """The best `max_per_img` boxes after the NMS of a config, if it has one."""
    arrays = boxes, scores, labels, valid
    if not config.with_nms:
        return best_boxes(*arrays, max_per_img)
    if config.soft_nms is not None:
        return class_wise_soft_nms(
            *arrays, config.iou_threshold, config.soft_nms, max_per_img
        )
    return class_wise_nms(*arrays, config.iou_threshold, max_per_img)


def _level_candidates(level, output, maxima, limits, config):
    """Boxes, scores, labels and validity of the best pairs of a level, decoded.

    Args:
        level: index of the level.
        output: class logits, deltas and centerness of the level.
        maxima: of the classes of each anchor.
        limits: number of anchors and of (anchor, class) pairs to consider.
        config: thresholds, anchors and coder.
    """
    cls_logits, deltas, centerness = output
    anchor_index, labels, class_scores = _best_pairs(
        _by_anchor(cls_logits, config), maxima, *limits, config
    )
    anchors = config.anchors.at(level, anchor_index, deltas.shape[1])
    boxes = config.coder.decode(anchors, deltas.reshape(-1, 4)[anchor_index])
    scores = class_scores * jax.nn.sigmoid(centerness.reshape(-1)[anchor_index])
    return boxes, scores, labels, class_scores > config.score_thr


def _by_anchor(cls_logits, config):
    """(h,w,a*C) logits of a level as (n,C)."""
    num_classes = cls_logits.shape[-1] // config.anchors.num_anchors
    return cls_logits.reshape(-1, num_classes)


def _maxima(level, cls_logits, image_size, config):
    """(n,) best logit of each anchor of a level; -inf where it cannot be a detection.

    These are anchors outside the valid region and scores below the threshold.
    """
    height, width = cls_logits.shape[:2]
    valid_size = round_up(image_size, config.size_divisor)
    rows, columns = ceil_divide(valid_size, config.anchors.strides[level])
    is_valid = (jnp.arange(height)[:, None] < rows) & (jnp.arange(width) < columns)
    is_valid = jnp.repeat(is_valid.reshape(-1), config.anchors.num_anchors)
    maxima = _by_anchor(cls_logits, config).max(-1)
    maxima = _drop_low(jnp.where(is_valid, maxima, -jnp.inf), config.score_thr)
    if not isinstance(maxima.shape[0], int):
        # The size of an exported program is known only when it runs; with these rows,
        # which are no anchors, there are always enough for `top_k`.
        maxima = jnp.pad(maxima, (0, config.nms_pre), constant_values=-jnp.inf)
    return maxima


def _drop_low(logits, score_thr):
    """-inf in place of logits whose score is certainly not above the threshold.

    `top_k` is faster the fewer finite numbers there are.
    """
    if score_thr < 1e-30:
        return logits
    score = min(score_thr, 1 - 1e-7)
    floor = math.log(score / (1 - score)) - 1e-3  # more than a sigmoid's rounding
    return jnp.where(logits > floor, logits, -jnp.inf)


def _best_pairs(logits, maxima, max_anchors, max_pairs, config):
    """Anchor index, label and class score of the best (anchor, class) pairs of a level.

    The n best pairs lie in the n anchors with the best single class, so that all other
    anchors drop out first. Logits are in the same order as scores.

    Args:
        logits: (n,C) of all anchors.
        maxima: (n,) from `_maxima`, possibly with padding.
        max_anchors: number of anchors that may have pairs.
        max_pairs: number of pairs to keep.
        config: for `score_thr`.
    """
    size = maxima.shape[0]
    count = min(max_anchors, size) if isinstance(size, int) else max_anchors
    maxima, kept = jax.lax.top_k(maxima, count)
    logits = jnp.where(maxima[:, None] > -jnp.inf, logits[kept], -jnp.inf)
    num_classes = logits.shape[-1]
    logits = _drop_low(logits.reshape(-1), config.score_thr)
    logits, pair = jax.lax.top_k(logits, min(max_pairs, len(logits)))
    return kept[pair // num_classes], pair % num_classes, jax.nn.sigmoid(logits)
