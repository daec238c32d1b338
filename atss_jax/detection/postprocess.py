"""From head outputs of one image to its detections."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.nms import class_wise_nms
from atss_jax.sizes import ceil_divide, round_up
from atss_jax.structures import Detections, HeadOutputs


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """mmdet's `test_cfg`, with the grid and coder that it goes with.

    Attributes:
        anchors: the grid.
        coder: turns deltas into boxes.
        nms_pre: (anchor, class) pairs kept a level before NMS.
        min_bbox_size: sides must be longer, in original pixels; negative: any box.
        score_thr: class scores must be higher; centerness does not count here.
        iou_threshold: of the class-wise NMS.
        max_per_img: detections kept.
        size_divisor: the valid region is the image size rounded up to a multiple of it.
    """

    anchors: AnchorGenerator = AnchorGenerator()  # noqa: RUF009, frozen
    coder: DeltaXYWHBBoxCoder = DeltaXYWHBBoxCoder()  # noqa: RUF009, frozen
    nms_pre: int = 1000
    min_bbox_size: float = 0
    score_thr: float = 0.05
    iou_threshold: float = 0.6
    max_per_img: int = 100
    size_divisor: int = 32


def _valid_anchors(size, level, grid_size, config):
    """(n,) anchors of a level that lie in the image's valid region."""
    valid_size = round_up(size, config.size_divisor)
    rows, columns = ceil_divide(valid_size, config.anchors.strides[level])
    height, width = grid_size
    valid = (jnp.arange(height)[:, None] < rows) & (jnp.arange(width) < columns)
    return jnp.repeat(valid.reshape(-1), config.anchors.num_anchors)


def _at_most(count, size):
    """The smaller; a size that is not known yet is the larger."""
    return min(count, size) if isinstance(size, int) else count


def _best_pairs(
    logits: Float[Array, 'n C'], valid: Bool[Array, 'n'], config: DetectConfig
) -> tuple[Int[Array, 'p'], Int[Array, 'p'], Float[Array, 'p'], Bool[Array, 'p']]:
    """Anchor, class, class score and is-one of the best (anchor, class) pairs.

    The best `nms_pre` pairs lie in the `nms_pre` anchors with the best single class, so
    all others drop out by one maximum; and the order of logits is that of scores.
    """
    if not isinstance(logits.shape[0], int):
        # A size that is not known before the program runs (see export.py): with these
        # rows, which are no anchors, there are enough in any case.
        logits = jnp.pad(logits, ((0, config.nms_pre), (0, 0)))
        valid = jnp.pad(valid, (0, config.nms_pre))
    num_anchors = _at_most(config.nms_pre, logits.shape[0])
    best_class = jnp.where(valid, logits.max(-1), -jnp.inf)
    maxima, kept = jax.lax.top_k(best_class, num_anchors)
    pairs = jnp.where(maxima[:, None] > -jnp.inf, logits[kept], -jnp.inf).reshape(-1)
    top, pair = jax.lax.top_k(pairs, min(config.nms_pre, len(pairs)))
    scores = jax.nn.sigmoid(top)
    num_classes = logits.shape[-1]
    return (
        kept[pair // num_classes],
        pair % num_classes,
        scores,
        scores > config.score_thr,
    )


def _level_detections(cls_logits, deltas, centerness, level, image_size, config):
    """Candidates of one level: boxes on the canvas, scores, labels, is-one."""
    grid_size = cls_logits.shape[:2]
    num_classes = cls_logits.shape[-1] // config.anchors.num_anchors
    logits = cls_logits.reshape(-1, num_classes)
    valid = _valid_anchors(image_size, level, grid_size, config)
    anchor, label, score, ok = _best_pairs(logits, valid, config)
    anchors = config.anchors.at(level, anchor, grid_size[1])
    boxes = config.coder.decode(anchors, deltas.reshape(-1, 4)[anchor])
    score = score * jax.nn.sigmoid(centerness.reshape(-1)[anchor])
    return boxes, score, label, ok


def detect(
    outputs: HeadOutputs,
    image_size: Int[Array, '2'],
    scale: Float[Array, '2'],
    config: DetectConfig = DetectConfig(),
) -> Detections:
    """Detections of one image, in pixels of the original picture, best first.

    Args:
        outputs: of one image: no leading B.
        image_size: height, width of the resized image on the canvas.
        scale: resized over original width, then height (mmdet's `scale_factor`).
        config: settings.

    Source: mmdet `BaseDenseHead._predict_by_feat_single`, `_bbox_post_process`.
    """
    levels = [
        _level_detections(*level, index, image_size, config)
        for index, level in enumerate(zip(*outputs, strict=True))
    ]
    boxes, scores, labels, valid = (
        jnp.concatenate(part) for part in zip(*levels, strict=True)
    )
    height, width = image_size
    limits = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    boxes = jnp.clip(boxes, 0, limits) * (1 / jnp.concatenate([scale, scale]))
    if config.min_bbox_size >= 0:
        valid &= (boxes[:, 2:] - boxes[:, :2] > config.min_bbox_size).all(-1)
    return class_wise_nms(
        boxes, scores, labels, valid, config.iou_threshold, config.max_per_img
    )
