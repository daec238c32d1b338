"""The three losses of ATSS, normalized over the global batch."""

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
    """What the losses need to know; the defaults are mmdet's for ATSS.

    Attributes:
        anchors: the grid.
        assigner: settings of the assignment.
        coder: turns deltas into boxes.
        gamma: focusing exponent of the focal loss.
        alpha: weight of positives in the focal loss (1 - alpha for negatives).
        cls_weight: weight of the focal loss.
        bbox_loss: a key of `BBOX_LOSSES`.
        bbox_weight: weight of the box loss.
        centerness_weight: weight of the centerness loss.
        pos_weight: factor on positive anchors in the focal loss; not positive: 1.
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
    # z is the logit of being wrong: loss = weight * sigmoid(z)^gamma * softplus(z).
    z = jnp.where(is_target, -logits, logits)
    weight = jnp.where(is_target, alpha, 1 - alpha)
    if gamma == int(gamma):
        # An integer power is a product, which is far cheaper than a general one.
        focus = jax.nn.sigmoid(z) ** int(gamma)
    else:
        # The gradient of a power below 1 is infinite at 0; this one is not.
        focus = jnp.exp(gamma * jax.nn.log_sigmoid(z))
    return weight * focus * jax.nn.softplus(z)


def centerness_targets(
    anchor_boxes: Float[Array, '*#n 4'], gt_boxes: Float[Array, '*#n 4']
) -> Float[Array, '*n']:
    """1 where the anchor's center is the box's, 0 on its sides; center must lie inside.

    Source: arXiv 1904.01355, equation 3, at the anchor's center.
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
    """Joins levels (B,H,W,a*width) to (B,A,width), in the order of anchors."""
    return jnp.concatenate([x.reshape(len(x), -1, width) for x in levels], 1)


def counted_anchors(
    image_size: Int[Array, '2'], canvas: tuple[int, int], config: LossConfig
) -> Bool[Array, 'A']:
    """Anchors of one image that count in the focal loss: valid, within the border."""
    valid_size = round_up(image_size, config.size_divisor)
    levels = []
    for level, (height, width) in enumerate(config.anchors.grid_sizes(canvas)):
        start, stop = valid_cells(
            config.anchors, config.assigner, level, image_size, valid_size
        ).transpose(1, 2, 0)
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[:, None]
        rows = (rows >= start[0]) & (rows < stop[0])
        columns = (columns >= start[1]) & (columns < stop[1])
        levels.append((rows[:, None] & columns[None]).reshape(-1))
    return jnp.concatenate(levels)


def _image_losses(cls_logits, deltas, centerness, anchors, example, canvas, config):
    """Losses of each anchor of one image (A,), and its two normalizers."""
    is_object = example['gt_valid'] & ~example['gt_ignored']
    size = example['image_size']
    owner = assign(
        example['gt_boxes'],
        is_object,
        size,
        canvas,
        valid_size=round_up(size, config.size_divisor),
        anchors=config.anchors,
        assigner=config.assigner,
    )
    positive = owner >= 0
    # Rows without an owner read the last box; what comes of it is masked below.
    labels = jnp.where(positive, example['gt_labels'][owner], -1)
    is_target = labels[:, None] == jnp.arange(cls_logits.shape[-1])
    weight = counted_anchors(size, canvas, config).astype(jnp.float32)
    if config.pos_weight > 0:
        weight = jnp.where(positive, config.pos_weight, weight)
    cls = focal_loss(cls_logits, is_target, config.gamma, config.alpha).sum(-1) * weight

    # Other anchors get harmless numbers: a NaN times zero is still a NaN gradient.
    target = jnp.where(positive[:, None], example['gt_boxes'][owner], anchors)
    predicted = config.coder.decode(anchors, jnp.where(positive[:, None], deltas, 0))
    center = jnp.where(positive, centerness_targets(anchors, target), 0)
    box = BBOX_LOSSES[config.bbox_loss](predicted, target) * center
    centerness = jnp.where(positive, binary_cross_entropy(centerness, center), 0)
    return (cls, box, centerness), (jnp.maximum(positive.sum(), 1), center.sum())


def level_losses(
    outputs: HeadOutputs,
    batch: Mapping[str, Array],
    config: LossConfig = LossConfig(),
    axis_name: str | None = None,
) -> dict[str, Float[Array, 'L']]:
    """The losses by pyramid level, weighted; `atss_loss` is their sum.

    See `atss_loss` for arguments.
    """
    canvas = tuple(side * config.anchors.strides[0] for side in _grid(outputs))
    anchors = jnp.asarray(config.anchors.all(canvas))
    num_classes = outputs.cls_logits[0].shape[-1] // config.anchors.num_anchors
    examples = {
        name: batch[name]
        for name in ('image_size', 'gt_boxes', 'gt_labels', 'gt_valid', 'gt_ignored')
    }
    losses, (positives, center_sum) = jax.vmap(
        lambda *inputs: _image_losses(*inputs[:3], anchors, inputs[3], canvas, config)
    )(
        _by_anchor(outputs.cls_logits, num_classes),
        _by_anchor(outputs.deltas, 4),
        _by_anchor(outputs.centerness, 1)[..., 0],
        examples,
    )
    total = positives.sum().astype(jnp.float32), center_sum.sum()
    devices = 1
    if axis_name is not None:
        total, devices = jax.lax.psum((total, 1), axis_name)
    # Means over devices: after a mean over devices of losses and gradients, N devices
    # give what one device with the whole batch gives.
    positives, center_sum = total[0] / devices, jnp.maximum(total[1], 1) / devices
    sizes = [
        h * w * config.anchors.num_anchors for h, w in config.anchors.grid_sizes(canvas)
    ]
    splits = np.cumsum(sizes)[:-1]

    def by_level(loss):
        return jnp.stack([part.sum() for part in jnp.split(loss, splits, axis=1)])

    return {
        'loss_cls': config.cls_weight * by_level(losses[0]) / positives,
        'loss_bbox': config.bbox_weight * by_level(losses[1]) / center_sum,
        'loss_centerness': config.centerness_weight * by_level(losses[2]) / positives,
    }


def _grid(outputs):
    return outputs.cls_logits[0].shape[1:3]


def atss_loss(
    outputs: HeadOutputs,
    batch: Mapping[str, Array],
    config: LossConfig = LossConfig(),
    axis_name: str | None = None,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    """Total loss, and its parts `loss_cls`, `loss_bbox` and `loss_centerness`.

    The focal and centerness losses are divided by the sum over images of
    max(positives, 1); the box loss, weighted by centerness targets, by their sum, at
    least 1. Images without objects are background; a batch without any positive has box
    and centerness losses of exactly 0 and finite gradients.

    Args:
        outputs: of the whole local batch (leading B).
        batch: `image_size` (B,2), `gt_boxes` (B,G,4), `gt_labels` (B,G), `gt_valid` and
            `gt_ignored` (B,G).
        config: settings.
        axis_name: mapped device axis over which the normalizers are taken; None: alone.

    Differs from mmdet: with several devices the "at least 1" holds for the global sum,
    not for the mean over devices, so that the number of devices never matters.
    Source: mmdet `ATSSHead.loss_by_feat`.
    """
    losses = {
        name: levels.sum()
        for name, levels in level_losses(outputs, batch, config, axis_name).items()
    }
    return sum(losses.values()), losses
