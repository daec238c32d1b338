"""Post-processing: from the head outputs of one image to its detections."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.few_first import FewPairs, few_first, first_anchors
from atss_jax.detection.nms import (
    SoftNms,
    best_boxes,
    class_wise_nms,
    class_wise_nms_in_order,
    class_wise_soft_nms,
)
from atss_jax.structures import Detections, HeadOutputs, ceil_divide, round_up

# So few pairs per level are soon done: it is not worth trying even fewer.
_MIN_NMS_PRE = 512


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

    def by_level(candidates_of, maxima):
        return [
            candidates_of(level, output, level_maxima, config)
            for (level, output), level_maxima in zip(levels, maxima, strict=True)
        ]

    def finish(boxes, scores, labels, valid, in_order):
        boxes = _in_original(boxes, image_size, scale)
        if config.min_bbox_size >= 0:
            valid &= (boxes[:, 2:] - boxes[:, :2] > config.min_bbox_size).all(-1)
        limit = config.max_per_img
        return suppress(boxes, scores, labels, valid, config, limit, in_order)

    def detect_all(maxima):
        candidates = zip(*by_level(_level_candidates, maxima), strict=True)
        return finish(*map(jnp.concatenate, candidates), in_order=False)

    def detect_few(best):
        boxes = config.coder.decode(best.anchors, best.deltas)
        return finish(boxes, best.scores, best.labels, best.valid, in_order=True)

    # With soft NMS the best of few may fall below those that were left out.
    if config.soft_nms is not None or config.nms_pre <= _MIN_NMS_PRE:
        return detect_all(maxima)
    return few_first(by_level(_few_pairs, maxima), detect_few, detect_all, maxima)


def _in_original(boxes, image_size, scale):
    """Boxes on the canvas, clipped to the image, in pixels of the original image."""
    height, width = image_size
    limits = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limits) * (1 / jnp.concatenate([scale, scale]))


def suppress(
    boxes: Float[Array, 'n 4'],
    scores: Float[Array, 'n'],
    labels: Int[Array, 'n'],
    valid: Bool[Array, 'n'],
    config: DetectConfig,
    max_per_img: int,
    in_order: bool = False,
) -> Detections:
    """The best `max_per_img` boxes after the NMS of a config, if it has one.

    `in_order`: the boxes come best first, which makes NMS faster.
    """
    arrays = boxes, scores, labels, valid
    if not config.with_nms:
        return best_boxes(*arrays, max_per_img)
    if config.soft_nms is not None:
        return class_wise_soft_nms(
            *arrays, config.iou_threshold, config.soft_nms, max_per_img
        )
    nms = class_wise_nms_in_order if in_order else class_wise_nms
    return nms(*arrays, config.iou_threshold, max_per_img)


def _few_pairs(level, output, maxima, config):
    """All pairs of the first few anchors of a level that have any."""
    cls_logits, deltas, centerness = output
    anchor_index, is_anchor, is_all = first_anchors(maxima)
    centerness = jax.nn.sigmoid(centerness.reshape(-1)[anchor_index])
    class_scores = jax.nn.sigmoid(_by_anchor(cls_logits, config)[anchor_index])
    is_pair = (class_scores > config.score_thr) & is_anchor[:, None]
    count = is_pair.sum(0).sum()  # of each class first: its vectors are faster on CPUs
    # `top_k` would take NaN for the largest number.
    is_pair &= ~jnp.isnan(centerness)[:, None]
    scores = jnp.where(is_pair, class_scores * centerness[:, None], -jnp.inf)
    return FewPairs(
        scores,
        config.anchors.at(level, anchor_index, deltas.shape[1]),
        deltas.reshape(-1, 4)[anchor_index],
        count,
        is_all & (count <= config.nms_pre),
    )


def _level_candidates(level, output, maxima, config):
    """Boxes, scores, labels and validity of the best pairs of a level, decoded.

    Args:
        level: index of the level.
        output: class logits, deltas and centerness of the level.
        maxima: of the classes of each anchor.
        config: thresholds, anchors and coder.
    """
    cls_logits, deltas, centerness = output
    logits = _by_anchor(cls_logits, config)
    pair, is_pair = _best_pairs(logits, maxima, config)
    anchor_index, labels = pair // logits.shape[-1], pair % logits.shape[-1]
    class_scores = jax.nn.sigmoid(logits[anchor_index, labels])
    anchors = config.anchors.at(level, anchor_index, deltas.shape[1])
    boxes = config.coder.decode(anchors, deltas.reshape(-1, 4)[anchor_index])
    scores = class_scores * jax.nn.sigmoid(centerness.reshape(-1)[anchor_index])
    return boxes, scores, labels, is_pair & (class_scores > config.score_thr)


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
    """-inf in place of NaN and of logits whose score is surely not above the threshold.

    `top_k` is faster the fewer finite numbers there are, and takes NaN for the largest.
    """
    # Margins above the rounding of a sigmoid and of the floor, up to these thresholds.
    is_float32 = logits.dtype == jnp.float32
    margin, highest = (1e-3, 0.999) if is_float32 else (0.1, 0.9)
    if not 1e-30 <= score_thr <= highest:
        return jnp.where(jnp.isnan(logits), -jnp.inf, logits)
    floor = math.log(score_thr / (1 - score_thr)) - margin
    return jnp.where(logits > floor, logits, -jnp.inf)


def _best_pairs(logits, maxima, config):
    """The (anchor, class) pairs of a level with the best class scores.

    The n best pairs lie in the n anchors with the best single class, so that all other
    anchors drop out first. Logits are in the same order as scores.

    Args:
        logits: (n,C) of all anchors.
        maxima: (n,) from `_maxima`, possibly with padding.
        config: for `nms_pre` and `score_thr`.

    Returns:
        (k,) index of the anchor x C + class; (k,) whether it is a pair. They are in
        order, as those of few anchors are: of equal scores the same ones come first.
    """
    size = maxima.shape[0]
    count = min(config.nms_pre, size) if isinstance(size, int) else config.nms_pre
    maxima, kept = jax.lax.top_k(maxima, count)
    kept_logits = jnp.where(maxima[:, None] > -jnp.inf, logits[kept], -jnp.inf)
    num_classes = logits.shape[-1]
    best = _drop_low(kept_logits.reshape(-1), config.score_thr)
    best, place = jax.lax.top_k(best, min(config.nms_pre, len(best)))
    pair = kept[place // num_classes] * num_classes + place % num_classes
    none = jnp.iinfo(pair.dtype).max
    pair = jnp.sort(jnp.where(best > -jnp.inf, pair, none))
    return jnp.where(pair == none, 0, pair), pair < none
