"""mmdetection's procedures as slow, plain loops over every anchor and class.

Written from mmdetection's own description, without any code of the package.
"""

import math

import numpy as np

f32 = np.float32


def all_anchors(
    canvas, strides=(8, 16, 32, 64, 128), ratios=(1.0,), octave=8, scales=1, offset=0.0
):
    """[(level, row, column, (x1, y1, x2, y2))] over the canvas, in mmdet's order."""
    anchors = []
    for level, stride in enumerate(strides):
        rows, columns = -(-canvas[0] // stride), -(-canvas[1] // stride)
        for row in range(rows):
            for column in range(columns):
                for ratio in ratios:
                    for scale in range(scales):
                        side = f32(stride) * f32(octave * 2 ** (scale / scales))
                        h = side * np.sqrt(f32(ratio))
                        w = side * (f32(1) / np.sqrt(f32(ratio)))
                        shift = f32(offset) * f32(stride)
                        x, y = f32(column * stride), f32(row * stride)
                        x, y = x + shift, y + shift
                        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                        anchors.append((level, row, column, box))
    return anchors


def is_counted(anchor, image_size, valid_size, strides, border):
    """Whether an anchor is in the valid region and within the border of the image."""
    level, row, column, (x1, y1, x2, y2) = anchor
    if row >= math.ceil(valid_size[0] / strides[level]):
        return False
    if column >= math.ceil(valid_size[1] / strides[level]):
        return False
    if border < 0:
        return True
    height, width = image_size
    near = x1 >= -border and y1 >= -border
    return near and x2 < width + border and y2 < height + border


def iou(a, b):
    """IoU of two boxes, with a union of at least 1e-6, in the dtype of the boxes."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), type(a[0])(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]), type(a[0])(0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / max(areas[0] + areas[1] - width * height, 1e-6)


def assign(gt_boxes, anchors, counted, topk):
    """Index of the box of each anchor (-1: none), and mask of those rounding decides.

    Computes in float32, as mmdet does.
    """
    claims = {}
    unsure = np.zeros(len(anchors), bool)
    levels = sorted({anchor[0] for anchor in anchors})
    for g, gt in enumerate(np.asarray(gt_boxes, f32)):
        cx, cy = (gt[0] + gt[2]) / f32(2), (gt[1] + gt[3]) / f32(2)
        candidates = []
        for level in levels:
            distances = []
            for index, anchor in enumerate(anchors):
                if anchor[0] == level and counted[index]:
                    box = anchor[3]
                    dx = (box[0] + box[2]) / f32(2) - cx
                    dy = (box[1] + box[3]) / f32(2) - cy
                    distances.append((dx * dx + dy * dy, index))
            candidates += [index for _, index in sorted(distances)[:topk]]
        if len(candidates) < 2:
            continue  # no standard deviation: NaN, and nothing is at least NaN
        ious = [iou(gt, anchors[index][3]) for index in candidates]
        threshold = f32(np.mean(ious)) + f32(np.std(ious, ddof=1))
        for index, overlap in zip(candidates, ious, strict=True):
            box = anchors[index][3]
            x, y = (box[0] + box[2]) / f32(2), (box[1] + box[3]) / f32(2)
            margin = min(x - gt[0], y - gt[1], gt[2] - x, gt[3] - y)
            if margin <= 0.01:
                continue
            if abs(overlap - threshold) <= 1e-6 * threshold:
                unsure[index] = True
            if overlap >= threshold:
                claims.setdefault(index, []).append((-overlap, g))
    owner = np.full(len(anchors), -1)
    for index, claim in claims.items():
        owner[index] = min(claim)[1]
        best, *others = sorted(claim)
        unsure[index] |= any(0 < o[0] - best[0] < 1e-6 for o in others)
    return owner, unsure


def decode(anchor, delta, means=(0, 0, 0, 0), stds=(0.1, 0.1, 0.2, 0.2)):
    """The box of a delta; ratios of sides are limited to 1000/16."""
    dx, dy, dw, dh = (d * s + m for d, s, m in zip(delta, stds, means, strict=True))
    limit = abs(math.log(16 / 1000))
    dw, dh = (min(max(d, -limit), limit) for d in (dw, dh))
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x, y = (anchor[0] + anchor[2]) / 2 + w * dx, (anchor[1] + anchor[3]) / 2 + h * dy
    w, h = w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def bbox_loss(kind, a, b):
    """IoU, GIoU, DIoU or CIoU loss of two boxes with positive sides."""
    a, b = [float(v) for v in a], [float(v) for v in b]
    overlap = iou(a, b)
    if kind == 'IoULoss':
        return -math.log(max(overlap, 1e-6))
    width = max(a[2], b[2]) - min(a[0], b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    if kind == 'GIoULoss':
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        union = (areas[0] + areas[1]) / (1 + overlap)
        return 1 - overlap + (width * height - union) / (width * height)
    dx = (a[0] + a[2] - b[0] - b[2]) / 2
    dy = (a[1] + a[3] - b[1] - b[3]) / 2
    diou = overlap - (dx**2 + dy**2) / (width**2 + height**2)
    if kind == 'DIoULoss':
        return 1 - diou
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    alpha = v / (1 - overlap + v) if overlap > 0.5 else 0
    return 1 - min(max(diou - alpha * v, -1), 1)


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


def sigmoid(x):
    return math.exp(-softplus(-x))


def atss_loss(outputs, images, anchors, counted, config):
    """(loss_cls, loss_bbox, loss_centerness) of a batch, in float64.

    Args:
        outputs: for each image, arrays (A,C), (A,4), (A,): logits, deltas, centerness.
        images: for each image, (boxes, labels) of its objects.
        anchors: of the canvas.
        counted: for each image, whether each anchor is used.
        config: dict with topk, gamma, alpha, pos_weight, bbox_loss and weights.
    """
    cls = box = ctr = center_sum = 0.0
    normalizer = 0
    for (logits, deltas, centerness), (gts, labels), ok in zip(
        outputs, images, counted, strict=True
    ):
        owner, unsure = assign(gts, anchors, ok, config['topk'])
        assert not unsure.any(), 'choose another seed: rounding decides'
        normalizer += max(int((owner >= 0).sum()), 1)
        for a, anchor in enumerate(anchors):
            positive = owner[a] >= 0
            weight = float(ok[a])
            if positive and config['pos_weight'] > 0:
                weight = config['pos_weight']
            for c, logit in enumerate(logits[a].tolist()):
                target = positive and labels[owner[a]] == c
                wrong = sigmoid(-logit if target else logit)
                alpha = config['alpha'] if target else 1 - config['alpha']
                loss = softplus(-logit if target else logit)
                cls += weight * alpha * wrong ** config['gamma'] * loss
            if not positive:
                continue
            gt = [float(v) for v in gts[owner[a]]]
            x = float(anchor[3][0] + anchor[3][2]) / 2
            y = float(anchor[3][1] + anchor[3][3]) / 2
            sides = (x - gt[0], gt[2] - x), (y - gt[1], gt[3] - y)
            target = math.sqrt(math.prod(min(s) / max(s) for s in sides))
            predicted = decode([float(v) for v in anchor[3]], deltas[a].tolist())
            box += target * bbox_loss(config['bbox_loss'], predicted, gt)
            logit = float(centerness[a])
            ctr += target * softplus(-logit) + (1 - target) * softplus(logit)
            center_sum += target
    return (
        config['cls_weight'] * cls / normalizer,
        config['bbox_weight'] * box / max(center_sum, 1),
        config['centerness_weight'] * ctr / normalizer,
    )


def nms(boxes, scores, labels, threshold, limit):
    """Indices of the kept boxes, best first; none overlaps a better of its class."""
    kept = []
    for i in np.argsort(-np.asarray(scores), kind='stable'):
        if all(
            labels[i] != labels[j] or not _overlap(boxes[i], boxes[j]) > threshold
            for j in kept
        ):
            kept.append(i)
    return kept[:limit]


def _overlap(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    union -= width * height
    return width * height / union if union else math.nan


def detect(levels, anchors, image_size, valid_size, scale, strides, config):
    """(box, score, label) of the detections of one image, best first.

    Of equal scores the lower level, anchor and class comes first.

    Args:
        levels: arrays (n,C), (n,4), (n,) of each level: logits, deltas, centerness.
        anchors: of the canvas.
        image_size: height, width.
        valid_size: height, width of the region whose anchors exist at all.
        scale: width and height of the resized image divided by the original's.
        strides: of the levels.
        config: dict with score_thr, nms_pre, min_bbox_size, iou_threshold, max_per_img.
    """
    detections = []
    for level, (logits, deltas, centerness) in enumerate(levels):
        level_anchors = [anchor for anchor in anchors if anchor[0] == level]
        pairs = []
        for n, anchor in enumerate(level_anchors):
            if not is_counted(anchor, image_size, valid_size, strides, -1):
                continue
            for c, logit in enumerate(logits[n].tolist()):
                if sigmoid(logit) > config['score_thr']:
                    pairs.append((-sigmoid(logit), n, c))
        best = sorted(pairs)[: config['nms_pre']]
        for score, n, c in sorted(best, key=lambda pair: pair[1:]):
            box = decode([float(v) for v in level_anchors[n][3]], deltas[n].tolist())
            for k in range(4):
                limit = image_size[1 - k % 2]
                box[k] = min(max(box[k], 0), limit) / scale[k % 2]
            score = -score * sigmoid(float(centerness[n]))
            small = min(box[2] - box[0], box[3] - box[1]) <= config['min_bbox_size']
            if config['min_bbox_size'] < 0 or not small:
                detections.append((box, score, c))
    boxes, scores, labels = (
        zip(*detections, strict=True) if detections else ((), (), ())
    )
    kept = nms(boxes, scores, labels, config['iou_threshold'], config['max_per_img'])
    return [detections[i] for i in kept]
