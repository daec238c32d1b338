"""From head outputs of one image to its detections."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from atss_jax.detection.nms import class_wise_nms
from atss_jax.structures import Detections, HeadOutputs, ceil_divide, round_up

# Enough for most images: anchors of a level; pairs of a level, and for NMS.
_FEW_ANCHORS, _FEW_PAIRS = 384, 512


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


def _best_class(cls_logits, level, image_size, config):
    """(n,) logit of the best class of each anchor that may be found, -inf of others."""
    logits = _by_anchor(cls_logits, config)
    valid = _valid_anchors(image_size, level, cls_logits.shape[:2], config)
    best = _if_above(jnp.where(valid, logits.max(-1), -jnp.inf), config.score_thr)
    if not isinstance(logits.shape[0], int):
        # A size that is not known before the program runs (see export.py): with these,
        # which are no anchors, there are enough in any case.
        best = jnp.pad(best, (0, config.nms_pre), constant_values=-jnp.inf)
    return best


def _by_anchor(cls_logits, config):
    num_classes = cls_logits.shape[-1] // config.anchors.num_anchors
    return cls_logits.reshape(-1, num_classes)


def _if_above(logits, score_thr):
    """Logits, and -inf where the score is certainly not above the threshold.

    Nothing comes of those, and `top_k` takes less time the fewer numbers there are.
    """
    if score_thr < 1e-30:
        return logits
    score = min(score_thr, 1 - 1e-7)
    floor = math.log(score / (1 - score)) - 1e-3  # more than a sigmoid's rounding
    return jnp.where(logits > floor, logits, -jnp.inf)


def _level_detections(output, best_class, most_anchors, most_pairs, level, config):
    """Candidates of one level: boxes on the canvas, scores, labels, is-one.

    The best n (anchor, class) pairs lie in the n anchors with the best single class, so
    all others drop out first; and the order of logits is that of scores.

    Args:
        output: logits, deltas and centerness of the level.
        best_class: of each anchor.
        most_anchors: those with pairs that may be taken.
        most_pairs: pairs to take.
        level: of the pyramid.
        config: settings.
    """
    cls_logits, deltas, centerness = output
    maxima, kept = jax.lax.top_k(
        best_class, _at_most(most_anchors, best_class.shape[0])
    )
    logits = _by_anchor(cls_logits, config)[kept]
    logits = jnp.where(maxima[:, None] > -jnp.inf, logits, -jnp.inf)
    num_classes = logits.shape[-1]
    logits = _if_above(logits.reshape(-1), config.score_thr)
    logits, pair = jax.lax.top_k(logits, min(most_pairs, len(logits)))
    anchor = kept[pair // num_classes]
    anchors = config.anchors.at(level, anchor, deltas.shape[1])
    boxes = config.coder.decode(anchors, deltas.reshape(-1, 4)[anchor])
    class_score = jax.nn.sigmoid(logits)
    score = class_score * jax.nn.sigmoid(centerness.reshape(-1)[anchor])
    return boxes, score, pair % num_classes, class_score > config.score_thr


def _boxes_in_image(levels, image_size, scale, config):
    """All levels' candidates, their boxes in pixels of the original image."""
    boxes, scores, labels, valid = (
        jnp.concatenate(part) for part in zip(*levels, strict=True)
    )
    height, width = image_size
    limits = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    boxes = jnp.clip(boxes, 0, limits) * (1 / jnp.concatenate([scale, scale]))
    if config.min_bbox_size >= 0:
        valid &= (boxes[:, 2:] - boxes[:, :2] > config.min_bbox_size).all(-1)
    return boxes, scores, labels, valid


def _suppress(candidates, config):
    return class_wise_nms(*candidates, config.iou_threshold, config.max_per_img)


def _best(candidates, count):
    """The candidates with the best scores."""
    _, scores, _, valid = candidates
    scores = jnp.where(valid, scores, -jnp.inf)
    _, index = jax.lax.top_k(scores, min(count, len(scores)))
    return [part[index] for part in candidates]


def _either(few, enough, everything, arrays):
    """`few` where that is enough, else `everything(arrays)`.

    A loop of one round or none: `vmap` makes it run if any image needs it, where it
    would turn `jax.lax.cond` into both sides for all images, always.
    """

    def run(state):
        # What does not depend on the state is moved out of the loop, and always done.
        dependent = jax.tree.map(lambda array: jnp.where(state[1], 0, array), arrays)
        return everything(dependent), jnp.ones_like(enough)

    return jax.lax.while_loop(lambda state: ~state[1], run, (few, enough))[0]


def detect(
    outputs: HeadOutputs,
    image_size: Int[Array, '2'],
    scale: Float[Array, '2'],
    config: DetectConfig = DetectConfig(),
) -> Detections:
    """Detections of one image, in pixels of the original image, best first.

    An image seldom has many (anchor, class) pairs above the threshold; `nms_pre` of
    each level are looked at for the image alone that has.

    Args:
        outputs: of one image: no leading B.
        image_size: height, width of the resized image on the canvas.
        scale: resized over original width, then height (mmdet's `scale_factor`).
        config: settings.

    Source: mmdet `BaseDenseHead._predict_by_feat_single`, `_bbox_post_process`.
    """
    by_level = list(zip(*outputs, strict=True))
    best_class = [
        _best_class(output[0], level, image_size, config)
        for level, output in enumerate(by_level)
    ]

    def candidates(best_class, *most):
        levels = [
            _level_detections(output, best, *most, level, config)
            for level, (output, best) in enumerate(
                zip(by_level, best_class, strict=True)
            )
        ]
        is_full = [is_one.all() for *_, is_one in levels]
        return _boxes_in_image(levels, image_size, scale, config), is_full

    def everything(best_class):
        found, _ = candidates(best_class, config.nms_pre, config.nms_pre)
        return _suppress(found, config)

    if config.nms_pre <= _FEW_PAIRS:
        return everything(best_class)
    few, is_full = candidates(best_class, _FEW_ANCHORS, _FEW_PAIRS)
    found = _suppress(_best(few, _FEW_PAIRS), config)
    # Nothing is left out, or only what comes behind the last detection.
    enough = found.valid.all() | (few[3].sum() <= _FEW_PAIRS)
    for best, full in zip(best_class, is_full, strict=True):
        enough &= ((best > -jnp.inf).sum() <= _FEW_ANCHORS) & ~full
    return _either(found, enough, everything, best_class)
