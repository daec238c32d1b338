"""The focal, box and centerness losses, normalized over the global batch."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from atss_jax.detection import boxes
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner, assign, valid_cells
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder, centers
from atss_jax.structures import HeadOutputs, round_up

_EPS = 1e-6

BBOX_LOSSES = {
    'IoULoss': lambda a, b: -jnp.log(jnp.maximum(boxes.iou(a, b), _EPS)),
    'GIoULoss': lambda a, b: 1 - boxes.giou(a, b),
    'DIoULoss': lambda a, b: 1 - boxes.diou(a, b),
    'CIoULoss': lambda a, b: 1 - boxes.ciou(a, b),
}


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Settings of the losses; the defaults are mmdet's for ATSS.

    Attributes:
        anchors: the anchor grid.
        assigner: settings of the assignment.
        coder: turns deltas into boxes.
        gamma: focusing exponent of the focal loss.
        alpha: weight of positives in the focal loss (1 - alpha for negatives).
        cls_weight: weight of the focal loss.
        bbox_loss: a key of `BBOX_LOSSES`.
        bbox_weight: weight of the box loss.
        centerness_weight: weight of the centerness loss.
        pos_weight: weight of positive anchors in the focal loss; 0 or less means 1.
        size_divisor: the valid region is the image size rounded up to a multiple of it.
    """

    anchors: AnchorGenerator = AnchorGenerator()  # noqa: RUF009, frozen
    assigner: ATSSAssigner = ATSSAssigner()  # noqa: RUF009, frozen
    coder: DeltaXYWHBBoxCoder = DeltaXYWHBBoxCoder()  # noqa: RUF009, frozen
    gamma: float = 2.0
    alpha: float = 0.25
    cls_weight: float = 1.0
    bbox_loss: str = 'GIoULoss'
    bbox_weight: float = 2.0
    centerness_weight: float = 1.0
    pos_weight: float = -1
    size_divisor: int = 32


def focal_loss(
    logits: Float[Array, '*n'], is_target: Bool[Array, '*n'], gamma: float, alpha: float
) -> Float[Array, '*n']:
    """Binary focal loss of each logit. Source: arXiv 1708.02002, equation 5."""
    # z is the logit of the wrong answer: weight * sigmoid(z)^gamma * softplus(z).
    z = jnp.where(is_target, -logits, logits)
    weight = jnp.where(is_target, alpha, 1 - alpha)
    if gamma == int(gamma):
        # An integer power is a product, much cheaper than a general power.
        focus = jax.nn.sigmoid(z) ** int(gamma)
    else:
        # The gradient of a power below 1 is infinite at 0; this one is not.
        focus = jnp.exp(gamma * jax.nn.log_sigmoid(z))
    return weight * focus * jax.nn.softplus(z)


def centerness_targets(
    anchor_boxes: Float[Array, '*#n 4'], gt_boxes: Float[Array, '*#n 4']
) -> Float[Array, '*n']:
    """Centerness of the anchor's center in its box: 1 in the middle, 0 on a side.

    The center must lie inside the box. Source: arXiv 1904.01355, equation 3.
    """
    center = centers(anchor_boxes)
    near, far = center - gt_boxes[..., :2], gt_boxes[..., 2:] - center
    return jnp.sqrt((jnp.minimum(near, far) / jnp.maximum(near, far)).prod(-1))


def binary_cross_entropy(
    logits: Float[Array, '*n'], targets: Float[Array, '*n']
) -> Float[Array, '*n']:
    """Cross entropy of sigmoid(logits) with targets in 0..1."""
    return jax.nn.softplus(logits) - logits * targets


def _by_anchor(levels, width):
    """Levels (B,H,W,a*width) as (B,A,width), in the order of anchors."""
    return [x.reshape(len(x), -1, width) for x in levels]


def counted_anchors(
    image_size: Int[Array, '2'], canvas: tuple[int, int], config: LossConfig
) -> Bool[Array, 'A']:
    """Anchors of one image that count in the focal loss: those that may be used."""
    valid_size = round_up(image_size, config.size_divisor)
    levels = []
    for level, (height, width) in enumerate(config.anchors.grid_sizes(canvas)):
        first, stop = valid_cells(
            config.anchors, config.assigner, level, image_size, valid_size
        ).transpose(1, 2, 0)
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[:, None]
        rows = (rows >= first[0]) & (rows < stop[0])
        columns = (columns >= first[1]) & (columns < stop[1])
        levels.append((rows[:, None] & columns[None]).reshape(-1))
    return jnp.concatenate(levels)


def _image_losses(outputs, example, canvas, config):
    """Losses of one image, not yet weighted and normalized.

    Args:
        outputs: class logits of each level, (A,C) together; deltas (A,4); centerness
            (A,).
        example: the image's row of the batch.
        canvas: height, width.
        config: settings.

    Returns:
        The three losses of each anchor (A,), and what they are normalized by: number of
        positives, at least 1, and sum of centerness targets.
    """
    class_logits, deltas, centerness = outputs
    anchors = jnp.asarray(config.anchors.all(canvas))
    image_size = example['image_size']
    assigned = assign(
        example['gt_boxes'],
        example['gt_valid'] & ~example['gt_ignored'],
        image_size,
        canvas,
        valid_size=round_up(image_size, config.size_divisor),
        anchors=config.anchors,
        assigner=config.assigner,
    )
    is_positive = assigned >= 0

    # Index -1 reads the last box; what comes of it is masked.
    labels = jnp.where(is_positive, example['gt_labels'][assigned], -1)
    weight = counted_anchors(image_size, canvas, config).astype(jnp.float32)
    if config.pos_weight > 0:
        weight = jnp.where(is_positive, config.pos_weight, weight)
    loss_cls = _class_losses(class_logits, labels, config) * weight

    # Other anchors get harmless numbers: a NaN times zero is still a NaN gradient.
    target = jnp.where(is_positive[:, None], example['gt_boxes'][assigned], anchors)
    deltas = jnp.where(is_positive[:, None], deltas, 0)
    predicted = config.coder.decode(anchors, deltas)
    center_target = jnp.where(is_positive, centerness_targets(anchors, target), 0)
    loss_bbox = BBOX_LOSSES[config.bbox_loss](predicted, target) * center_target
    loss_centerness = binary_cross_entropy(centerness, center_target)
    loss_centerness = jnp.where(is_positive, loss_centerness, 0)
    normalizers = jnp.maximum(is_positive.sum(), 1), center_target.sum()
    return (loss_cls, loss_bbox, loss_centerness), normalizers


def _class_losses(class_logits, labels, config):
    """Sum of the focal losses of each anchor (A,); label -1 is the background.

    On accelerators level by level: the logits are the largest array of the losses, and
    joined they would be copied in both directions.
    """

    def of(logits, labels):
        is_target = labels[:, None] == jnp.arange(logits.shape[-1])
        return focal_loss(logits, is_target, config.gamma, config.alpha).sum(-1)

    def joined(class_logits, labels):
        return of(jnp.concatenate(class_logits), labels)

    def by_level(class_logits, labels):
        stops = np.cumsum([len(logits) for logits in class_logits])
        by_level = jnp.split(labels, stops[:-1])
        return jnp.concatenate(list(map(of, class_logits, by_level)))

    return jax.lax.platform_dependent(
        class_logits, labels, cpu=joined, default=by_level
    )


def level_losses(
    outputs: HeadOutputs,
    batch: Mapping[str, Array],
    config: LossConfig = LossConfig(),
    axis_name: str | None = None,
) -> dict[str, Float[Array, 'L']]:
    """The three losses of each pyramid level, weighted; `atss_loss` sums them up.

    See `atss_loss` for the arguments.
    """
    grid = outputs.cls_logits[0].shape[1:3]
    canvas = tuple(side * config.anchors.strides[0] for side in grid)
    num_classes = outputs.cls_logits[0].shape[-1] // config.anchors.num_anchors
    by_anchor = (
        _by_anchor(outputs.cls_logits, num_classes),
        jnp.concatenate(_by_anchor(outputs.deltas, 4), 1),
        jnp.concatenate(_by_anchor(outputs.centerness, 1), 1)[..., 0],
    )
    fields = ('image_size', 'gt_boxes', 'gt_labels', 'gt_valid', 'gt_ignored')
    examples = {name: batch[name] for name in fields}
    losses, (positives, center_sum) = jax.vmap(
        lambda outputs, example: _image_losses(outputs, example, canvas, config)
    )(by_anchor, examples)
    positives, center_sum = positives.sum().astype(jnp.float32), center_sum.sum()
    num_devices = 1
    if axis_name is not None:
        sums = positives, center_sum, 1
        positives, center_sum, num_devices = jax.lax.psum(sums, axis_name)
    # Means over devices: once losses and gradients are averaged over devices too, N
    # devices give what one device with the whole batch gives.
    positives /= num_devices
    center_sum = jnp.maximum(center_sum, 1) / num_devices
    sizes = [
        h * w * config.anchors.num_anchors for h, w in config.anchors.grid_sizes(canvas)
    ]

    def by_level(loss):
        levels = jnp.split(loss, np.cumsum(sizes)[:-1], axis=1)
        return jnp.stack([level.sum() for level in levels])

    loss_cls, loss_bbox, loss_centerness = map(by_level, losses)
    return {
        'loss_cls': config.cls_weight * loss_cls / positives,
        'loss_bbox': config.bbox_weight * loss_bbox / center_sum,
        'loss_centerness': config.centerness_weight * loss_centerness / positives,
    }


def atss_loss(
    outputs: HeadOutputs,
    batch: Mapping[str, Array],
    config: LossConfig = LossConfig(),
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """Total loss, and the three losses `loss_cls`, `loss_bbox`, `loss_centerness`.

    The focal and centerness losses are divided by the sum over images of
    max(positives, 1). The box losses are weighted by the centerness targets and divided
    by the sum of these targets, at least 1. Images without objects are background. In a
    batch without any positive, the box and centerness losses are exactly 0 and all
    gradients are finite.

    Args:
        outputs: head outputs of this device's batch, with a leading B.
        batch: `image_size` (B,2), `gt_boxes` (B,G,4), `gt_labels` (B,G), `gt_valid` and
            `gt_ignored` (B,G).
        config: settings.
        axis_name: mapped axis of devices that share the normalizers; None: one device.

    Source: mmdet `ATSSHead.loss_by_feat`.
    Differs from mmdet: with several devices the "at least 1" holds for the global sum,
    not for the mean over devices, so that the number of devices never matters.
    """
    losses = {
        name: levels.sum()
        for name, levels in level_losses(outputs, batch, config, axis_name).items()
    }
    return sum(losses.values()), losses
