"""From the head outputs to detections, as `detection/postprocess.py` does it."""

import math
from typing import NamedTuple

import numpy as np

from atss_jax.detection import boxes as box_maths
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.inference.onnx_file.atss_head import LevelOutputs
from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.region import BOOL, FLOAT, INT32, INT64

_NO_SCORE = -1.0  # of what is no candidate; scores are not negative


class GraphDetections(NamedTuple):
    """The detections of a batch, best first; zeros after the last.

    Attributes:
        boxes: (B,N,4) in original pixels.
        scores: (B,N).
        labels: (B,N) int32.
        num: (B,) int32, how many there are.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    num: Tensor


class Candidates(NamedTuple):
    """Boxes that may become detections.

    Attributes:
        boxes: (B,n,4).
        scores: (B,n), -1 for what is no candidate.
        labels: (B,n) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def detect(
    g: Graph,
    levels: list[LevelOutputs],
    image_size: Tensor,
    scale: Tensor,
    config: DetectConfig,
) -> GraphDetections:
    """Detections of each image, in pixels of the original images, best first.

    Args:
        g: the graph.
        levels: head outputs.
        image_size: (B,2) int64.
        scale: (B,2) float32, resized over original width, then height.
        config: thresholds, anchors and coder.

    Raises:
        ValueError: soft NMS, which ONNX does not have.
    """
    if config.soft_nms is not None:
        raise ValueError(
            'test_cfg.nms: cannot export soft_nms to ONNX, which has no such '
            "operation; set test_cfg.nms.type to 'nms', or export with --heads (in "
            'Python, heads=True)'
        )
    num_classes = levels[0].num_classes
    candidates = [
        _level_candidates(g, level, outputs, config)
        for level, outputs in enumerate(levels)
    ]
    boxes, scores, labels = (
        g.op('Concat', *tensors, axis=1) for tensors in zip(*candidates, strict=True)
    )
    boxes = _clip_and_scale(g, boxes, image_size, scale)
    if config.min_bbox_size >= 0:
        scores = _drop_small(g, boxes, scores, config.min_bbox_size)
    candidates = Candidates(boxes, scores, labels)
    return class_wise_nms(g, candidates, num_classes, config)


def _level_candidates(g, level, outputs, config):
    """The best (anchor, class) pairs of a level, decoded."""
    with g.module(f'level_{level}'):
        anchor_index, labels, logits = _best_pairs(g, level, outputs, config)
        place = g.op('Unsqueeze', anchor_index, [2])
        deltas = g.op('GatherND', outputs.deltas, place, batch_dims=1)
        centerness = g.op('GatherND', outputs.centerness, place, batch_dims=1)
        anchors = _anchors(g, level, anchor_index, outputs.region, config.anchors)
        class_scores = g.op('Sigmoid', logits)
        scores = g.op('Mul', class_scores, g.op('Sigmoid', centerness))
        is_candidate = g.op('Greater', class_scores, float(config.score_thr))
        scores = g.op('Where', is_candidate, scores, _NO_SCORE)
        return Candidates(_decode(g, anchors, deltas, config.coder), scores, labels)


def _best_pairs(g, level, outputs, config):
    """Anchor index, label and logit of the `nms_pre` best pairs, each (B,n).

    The n best pairs lie in the n anchors with the best single class.
    """
    num_anchors = config.anchors.num_anchors
    is_valid = g.transpose(outputs.region.inside, 0, 2, 3, 1)
    if num_anchors > 1:
        is_valid = g.op('Expand', is_valid, [1, 1, 1, num_anchors])
    is_valid = g.reshape(is_valid, 0, -1)
    maxima = g.op('ReduceMax', outputs.cls_logits, [2], keepdims=0)
    maxima = g.op('Where', is_valid, maxima, -math.inf)
    maxima, kept = _top_k(g, maxima, config.nms_pre)
    place = g.op('Unsqueeze', kept, [2])
    logits = g.op('GatherND', outputs.cls_logits, place, batch_dims=1)
    is_anchor = g.op('Greater', maxima, -math.inf)
    is_anchor = g.op('Unsqueeze', is_anchor, [2])
    logits = g.op('Where', is_anchor, logits, -math.inf)
    logits, pair = _top_k(g, g.reshape(logits, 0, -1), config.nms_pre)
    anchor, label = g.divmod(pair, outputs.num_classes)
    return g.op('GatherElements', kept, anchor, axis=1), label, logits


def _top_k(g, x, count):
    """The best `count` of (B,n) and their indices; fewer if n is smaller."""
    size = g.op('Shape', x, start=1)
    count = g.op('Min', size, [count])
    return g.ops('TopK', 2, x, count, axis=1)


def _anchors(g, level, index, region, anchors):
    """The anchors of a level with the given indices, (B,n,4)."""
    if anchors.num_anchors > 1:
        cell, anchor_of_cell = g.divmod(index, anchors.num_anchors)
    else:
        cell, anchor_of_cell = index, None
    row, column = g.divmod(cell, region.width)
    row, column = (g.op('Unsqueeze', x, [2]) for x in (row, column))
    shift = g.op('Concat', column, row, column, row, axis=2)
    shift = g.op('Cast', g.op('Mul', shift, anchors.strides[level]), to=FLOAT)
    base = anchors.base_anchors(level)
    if anchor_of_cell is None:
        return g.op('Add', shift, base[0])
    return g.op('Add', shift, g.op('Gather', base, anchor_of_cell, axis=0))


def _decode(g, anchors, deltas, coder):
    """Boxes of anchors and deltas, as `DeltaXYWHBBoxCoder.decode`."""
    deltas = g.op('Mul', deltas, np.float32(coder.target_stds))
    if any(coder.target_means):
        deltas = g.op('Add', deltas, np.float32(coder.target_means))
    shift, log_ratio = g.ops('Split', 2, deltas, [2, 2], axis=2)
    low, high = g.ops('Split', 2, anchors, [2, 2], axis=2)
    sides = g.op('Sub', high, low)
    center = g.op('Mul', g.op('Add', low, high), 0.5)
    center = g.op('Add', center, g.op('Mul', sides, shift))
    limit = float(box_maths.MAX_LOG_RATIO)
    ratio = g.op('Exp', g.op('Clip', log_ratio, -limit, limit))
    half = g.op('Mul', g.op('Mul', sides, ratio), 0.5)
    corners = g.op('Sub', center, half), g.op('Add', center, half)
    return g.op('Concat', *corners, axis=2)


def _clip_and_scale(g, boxes, image_size, scale):
    """Clips to the image, and maps to pixels of the original."""
    size = g.op('Cast', g.op('Gather', image_size, [1, 0, 1, 0], axis=1), to=FLOAT)
    size = g.op('Unsqueeze', size, [1])
    boxes = g.op('Min', g.op('Max', boxes, 0.0), size)
    factor = g.op('Reciprocal', g.op('Concat', scale, scale, axis=1))
    return g.op('Mul', boxes, g.op('Unsqueeze', factor, [1]))


def _drop_small(g, boxes, scores, min_bbox_size):
    low, high = g.ops('Split', 2, boxes, [2, 2], axis=2)
    side = g.op('ReduceMin', g.op('Sub', high, low), [2], keepdims=0)
    is_large = g.op('Greater', side, float(min_bbox_size))
    return g.op('Where', is_large, scores, _NO_SCORE)


def class_wise_nms(
    g: Graph, candidates: Candidates, num_classes: int, config: DetectConfig
) -> GraphDetections:
    """The `max_per_img` best boxes that no better box of their class suppresses."""
    count = config.max_per_img
    # So many more candidates that are none, so that there are enough for `TopK`.
    boxes = g.op('Pad', candidates.boxes, [0, 0, 0, 0, count, 0])
    labels = g.op('Pad', candidates.labels, [0, 0, 0, count])
    scores = g.op('Pad', candidates.scores, [0, 0, 0, count], _NO_SCORE)
    if config.with_nms:
        is_kept = _suppress(g, Candidates(boxes, scores, labels), num_classes, config)
        scores = g.op('Where', is_kept, scores, _NO_SCORE)
    scores, place = g.ops('TopK', 2, scores, [count], axis=1)
    is_detection = g.op('Greater', scores, _NO_SCORE / 2)
    labels = g.op('GatherElements', labels, place, axis=1)
    boxes = g.op('GatherND', boxes, g.op('Unsqueeze', place, [2]), batch_dims=1)
    is_row = g.op('Unsqueeze', is_detection, [2])
    num = g.op('ReduceSum', g.op('Cast', is_detection, to=INT64), [1], keepdims=0)
    return GraphDetections(
        g.op('Where', is_row, boxes, 0.0),
        g.op('Where', is_detection, scores, 0.0),
        g.op('Cast', g.op('Where', is_detection, labels, 0), to=INT32),
        g.op('Cast', num, to=INT32),
    )


def _suppress(g, candidates, num_classes, config):
    """(B,n) whether class-wise NMS keeps a box.

    `NonMaxSuppression` takes a score for every class: here that of the label alone.
    Like ours it takes the lower index first of equal scores, and removes boxes whose
    overlap is larger than the threshold.
    """
    boxes, scores, labels = candidates
    classes = np.arange(num_classes).reshape(-1, 1)
    of_class = g.op('Equal', g.op('Unsqueeze', labels, [1]), classes)
    by_class = g.op('Where', of_class, g.op('Unsqueeze', scores, [1]), _NO_SCORE)
    selected = g.op(
        'NonMaxSuppression',
        boxes,
        by_class,
        [config.max_per_img],
        float(config.iou_threshold),
        _NO_SCORE / 2,
    )
    place = g.op('Gather', selected, [0, 2], axis=1)
    is_kept = g.op(
        'ConstantOfShape', g.op('Shape', scores), value=np.zeros(1, np.int32)
    )
    ones = g.op(
        'ConstantOfShape', g.op('Shape', place, end=1), value=np.ones(1, np.int32)
    )
    return g.op('Cast', g.op('ScatterND', is_kept, place, ones), to=BOOL)
