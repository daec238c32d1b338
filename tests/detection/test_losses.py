"""Losses: by hand, a slow float64 oracle, and what must never matter or be NaN.

mmdetection's golden losses and gradients are compared in `test_golden_training.py`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner
from atss_jax.detection.losses import (
    BBOX_LOSSES,
    LossConfig,
    atss_loss,
    binary_cross_entropy,
    centerness_targets,
    focal_loss,
    level_losses,
)
from atss_jax.structures import HeadOutputs
from tests.support import oracles

LN2 = math.log(2)
CANVAS, SIZES = (64, 96), [(64, 96), (40, 50)]
CLASSES, CAPACITY = 3, 6


# By hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'logit, target, expected',
    [
        (0, True, 0.25 * 0.5**2 * LN2),
        (0, False, 0.75 * 0.5**2 * LN2),
        (math.log(3), True, 0.25 * 0.25**2 * -math.log(0.75)),
        (math.log(3), False, 0.75 * 0.75**2 * -math.log(0.25)),
        (100, True, 0),
        (-100, True, 0.25 * 100),
        (1000, False, 0.75 * 1000),
    ],
)
def test_focal_loss_by_hand(logit, target, expected):
    got = focal_loss(jnp.array([logit], jnp.float32), jnp.array([target]), 2.0, 0.25)
    assert got[0] == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_focal_loss_with_another_gamma_and_alpha_by_hand():
    got = focal_loss(jnp.zeros(2), jnp.array([True, False]), 1.5, 0.4)
    np.testing.assert_allclose(got, [0.4 * 0.5**1.5 * LN2, 0.6 * 0.5**1.5 * LN2], 1e-6)


def test_focal_loss_of_gamma_0_is_cross_entropy():
    logits = jnp.linspace(-5, 5, 11)
    target = jnp.arange(11) % 2 == 0
    np.testing.assert_allclose(
        focal_loss(logits, target, 0.0, 0.5) * 2,
        binary_cross_entropy(logits, target.astype(jnp.float32)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    'box, expected',
    [
        ((-10, -10, 10, 10), 1),
        ((-10, -5, 30, 5), math.sqrt(1 / 3)),
        ((-1, -2, 4, 8), math.sqrt(1 / 4 * 1 / 4)),
        ((0, -5, 10, 5), 0),
    ],
)
def test_centerness_by_hand(box, expected):
    anchor = jnp.array([-32, -32, 32, 32], jnp.float32)
    got = centerness_targets(anchor, jnp.array(box, jnp.float32))
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    'logit, target, expected',
    [(0, 0.3, LN2), (50, 1, 0), (50, 0, 50), (-50, 0.5, 25), (1000, 0.25, 750)],
)
def test_binary_cross_entropy_by_hand(logit, target, expected):
    got = binary_cross_entropy(
        jnp.array([logit], jnp.float32), jnp.array([target], jnp.float32)
    )
    assert got[0] == pytest.approx(expected, abs=1e-5)


# The oracle --------------------------------------------------------------------------


def random_outputs(seed, config, canvas=CANVAS, batch=2):
    rng = np.random.default_rng(seed)
    a = config.anchors.num_anchors

    def levels(channels, mean, spread):
        return tuple(
            jnp.array(rng.normal(mean, spread, (batch, *grid, channels)), jnp.float32)
            for grid in config.anchors.grid_sizes(canvas)
        )

    return HeadOutputs(
        levels(a * CLASSES, -2, 1.5), levels(a * 4, 0, 0.7), levels(a, 0, 1)
    )


def make_batch(images, sizes=SIZES, fill=0.0):
    """`images`: (boxes, labels, ignored) of each; rows beyond hold `fill`."""
    n = len(images)
    batch = {
        'image_size': np.array(sizes, np.int32),
        'gt_boxes': np.full((n, CAPACITY, 4), fill, np.float32),
        'gt_labels': np.full((n, CAPACITY), 0 if fill == 0 else 10**6, np.int32),
        'gt_valid': np.zeros((n, CAPACITY), bool),
        'gt_ignored': np.zeros((n, CAPACITY), bool),
    }
    for i, (boxes, labels, ignored) in enumerate(images):
        k = len(boxes)
        batch['gt_boxes'][i, :k] = np.reshape(boxes, (k, 4))
        batch['gt_labels'][i, :k] = labels
        batch['gt_ignored'][i, :k] = ignored
        batch['gt_valid'][i, :k] = True
    return {name: jnp.array(value) for name, value in batch.items()}


def scene(seed, counts=(5, 3)):
    rng = np.random.default_rng(seed)
    images = []
    for (height, width), count in zip(SIZES, counts, strict=True):
        corner = rng.uniform(0, [width * 0.6, height * 0.6], (count, 2))
        sides = rng.uniform(8, 45, (count, 2))
        boxes = np.concatenate([corner, corner + sides], 1)
        boxes = np.minimum(boxes, [width, height, width, height])
        images.append((boxes, rng.integers(0, CLASSES, count), [False] * count))
    return images


@functools.cache
def _compiled(config):
    return jax.jit(
        jax.value_and_grad(lambda o, b: atss_loss(o, b, config), has_aux=True)
    )


def loss_and_gradient(outputs, batch, config):
    (total, parts), gradient = _compiled(config)(outputs, batch)
    assert total == pytest.approx(float(sum(parts.values())), rel=1e-5)
    return {name: float(part) for name, part in parts.items()}, gradient


# Two levels: half the time to compile.
DEFAULT = LossConfig(AnchorGenerator((8, 16), octave_base_scale=3.0), pos_weight=-1.0)
SEVERAL = AnchorGenerator((8, 16), ratios=(0.5, 2.0), octave_base_scale=4.0)
CENTERED = AnchorGenerator((8, 16), octave_base_scale=3.0, center_offset=0.5)


@pytest.mark.parametrize(
    'change',
    [
        {},
        dict(gamma=1.5, alpha=0.4),
        dict(pos_weight=2.5),
        dict(cls_weight=0.5, bbox_weight=3.0, centerness_weight=0.25),
        dict(bbox_loss='IoULoss'),
        dict(bbox_loss='DIoULoss'),
        dict(bbox_loss='CIoULoss'),
        dict(assigner=ATSSAssigner(topk=4, allowed_border=8.0)),
        dict(anchors=SEVERAL, assigner=ATSSAssigner(topk=5)),
        # As DyHead's authors have them: other centers, a larger valid region.
        dict(anchors=CENTERED, size_divisor=64),
    ],
    ids=str,
)
def test_equals_the_oracle(change):
    config = dataclasses.replace(DEFAULT, **change)
    canvas = (64, 128) if config.size_divisor == 64 else CANVAS
    outputs, images = random_outputs(0, config, canvas), scene(1)
    batch = make_batch(images)
    parts, _ = loss_and_gradient(outputs, batch, config)
    anchors = oracles.all_anchors(
        canvas,
        config.anchors.strides,
        config.anchors.ratios,
        config.anchors.octave_base_scale,
        offset=config.anchors.center_offset,
    )
    counted = [
        [
            oracles.is_counted(
                anchor,
                size,
                [
                    -(-side // config.size_divisor) * config.size_divisor
                    for side in size
                ],
                config.anchors.strides,
                config.assigner.allowed_border,
            )
            for anchor in anchors
        ]
        for size in SIZES
    ]
    by_anchor = [
        np.concatenate([np.asarray(x).reshape(2, -1, width) for x in levels], 1)
        for levels, width in zip(outputs, (CLASSES, 4, 1), strict=True)
    ]
    settings = {**dataclasses.asdict(config), 'topk': config.assigner.topk}
    expected = oracles.atss_loss(
        [(by_anchor[0][i], by_anchor[1][i], by_anchor[2][i, :, 0]) for i in range(2)],
        [
            (np.asarray(batch['gt_boxes'][i])[: len(images[i][0])], images[i][1])
            for i in range(2)
        ],
        anchors,
        counted,
        settings,
    )
    ours = [parts[name] for name in ('loss_cls', 'loss_bbox', 'loss_centerness')]
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    assert parts['loss_bbox'] > 0


# What never matters ------------------------------------------------------------------


def same(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, 1e-8), a, b)


def test_ignored_boxes_are_never_targets():
    outputs = random_outputs(2, DEFAULT)
    plain = scene(3)
    crowd = [
        (
            np.concatenate([boxes, [[2, 2, 45, 38]]]),
            [*labels, 1],
            [*ignored, True],
        )
        for boxes, labels, ignored in plain
    ]
    as_object = [(b, lab, [False] * len(b)) for b, lab, _ in crowd]
    without, within, counted = (
        loss_and_gradient(outputs, make_batch(images), DEFAULT)
        for images in (plain, crowd, as_object)
    )
    same(without, within)
    assert counted[0]['loss_cls'] != pytest.approx(without[0]['loss_cls'], rel=1e-3)


@pytest.mark.parametrize('fill', [np.nan, np.inf, -1e30, 1e30])
@pytest.mark.parametrize('counts', [(5, 3), (4, 0), (0, 0)])
def test_garbage_in_padding_rows_changes_nothing(fill, counts):
    outputs, images = random_outputs(4, DEFAULT), scene(5, counts)
    same(
        loss_and_gradient(outputs, make_batch(images), DEFAULT),
        loss_and_gradient(outputs, make_batch(images, fill=fill), DEFAULT),
    )


@pytest.mark.parametrize('bbox_loss', BBOX_LOSSES)
def test_no_object_gives_exact_zeros_and_finite_gradients(bbox_loss):
    config = dataclasses.replace(DEFAULT, bbox_loss=bbox_loss)
    outputs = random_outputs(6, config)
    parts, gradient = loss_and_gradient(outputs, make_batch(scene(0, (0, 0))), config)
    assert parts['loss_bbox'] == 0 and parts['loss_centerness'] == 0
    assert parts['loss_cls'] > 0
    for level in gradient.deltas + gradient.centerness:
        assert (level == 0).all()
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize('bbox_loss', BBOX_LOSSES)
def test_extreme_outputs_and_boxes_have_finite_gradients(bbox_loss):
    config = dataclasses.replace(DEFAULT, bbox_loss=bbox_loss)
    boxes = [[0, 0, 96, 64], [8, 8, 8, 8], [5, 9, 3, 2], [15.98, 15.98, 16.02, 16.02]]
    images = [(boxes, [0, 1, 2, 0], [False] * 4)] * 2
    for factor in (0.0, 1e2, 1e4):
        outputs = random_outputs(7, config)
        outputs = jax.tree.map(lambda x, factor=factor: x * factor, outputs)
        parts, gradient = loss_and_gradient(outputs, make_batch(images), config)
        assert all(math.isfinite(part) for part in parts.values())
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_cells_outside_the_valid_region_get_no_gradient():
    outputs, batch = random_outputs(8, DEFAULT), make_batch(scene(9))
    _, gradient = loss_and_gradient(outputs, batch, DEFAULT)
    for levels in gradient:
        for level, stride in zip(levels, DEFAULT.anchors.strides, strict=True):
            second = np.array(level)[1]  # 40 x 50: valid 64 x 64
            assert (second[:, -(-64 // stride) :] == 0).all()
    assert (np.array(gradient.cls_logits[0])[1, :8, :8] != 0).all()


def test_larger_canvas_gives_the_same_losses():
    batch = make_batch(scene(10))
    large = random_outputs(11, DEFAULT, canvas=(96, 128))
    small = HeadOutputs(
        *(
            tuple(
                level[:, :h, :w]
                for level, (h, w) in zip(
                    levels, DEFAULT.anchors.grid_sizes(CANVAS), strict=True
                )
            )
            for levels in large
        )
    )
    same(
        loss_and_gradient(small, batch, DEFAULT)[0],
        loss_and_gradient(large, batch, DEFAULT)[0],
    )


def test_losses_by_level_add_up():
    outputs, batch = random_outputs(14, DEFAULT), make_batch(scene(15))
    levels = jax.jit(functools.partial(level_losses, config=DEFAULT))(outputs, batch)
    parts, _ = loss_and_gradient(outputs, batch, DEFAULT)
    for name, values in levels.items():
        assert values.shape == (2,)
        assert float(values.sum()) == pytest.approx(parts[name], rel=1e-6)


@pytest.mark.parametrize('counts', [(5, 3), (4, 0), (0, 0)])
def test_mean_over_devices_is_the_loss_of_the_whole_batch(counts):
    outputs, batch = random_outputs(16, DEFAULT), make_batch(scene(17, counts))
    whole, _ = loss_and_gradient(outputs, batch, DEFAULT)
    local = jax.vmap(
        lambda o, b: atss_loss(o, b, DEFAULT, axis_name='batch')[1], axis_name='batch'
    )
    by_device = jax.jit(local)(*jax.tree.map(lambda x: x[:, None], (outputs, batch)))
    for name, values in by_device.items():
        assert float(values.mean()) == pytest.approx(whole[name], rel=1e-5)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.0, 1.5, 2.0])
def test_focal_gradient_is_finite_where_the_network_is_sure(gamma):
    logits = jnp.array([-300.0, -110.0, -90.0, 0.0, 90.0, 300.0])
    for is_target in (False, True):
        targets = jnp.full(logits.shape, is_target)
        gradient = jax.grad(lambda x: focal_loss(x, targets, gamma, 0.25).sum())(logits)  # noqa: B023
        assert np.isfinite(gradient).all()
