"""IoU in its four forms, and the coder: by hand, by a plain loop, at the limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection import boxes
from atss_jax.detection.boxes import DeltaXYWHBBoxCoder
from tests.support import oracles

OVERLAPS = {
    'IoULoss': boxes.iou,
    'GIoULoss': boxes.giou,
    'DIoULoss': boxes.diou,
    'CIoULoss': boxes.ciou,
}


def box(*corners):
    return jnp.array(corners, jnp.float32)


def random_boxes(seed, n=60):
    """Boxes of positive sides; half of them near the first, to overlap much."""
    rng = np.random.default_rng(seed)
    near = np.array([10, 10, 50, 40]) + rng.normal(0, 5, (n // 2, 4))
    corner = rng.uniform(-50, 100, (n - n // 2, 2))
    far = np.concatenate([corner, corner + rng.uniform(1, 80, corner.shape)], 1)
    return jnp.array(np.concatenate([near, far]), jnp.float32)


@pytest.mark.parametrize(
    'other, iou, giou, diou, ciou',
    [
        ((0, 0, 4, 4), 1, 1, 1, 1),
        # Half of it: union 16, enclosed by itself; centers 1 apart, diagonal^2 32.
        ((0, 0, 2, 4), 0.5, 0.5, 0.5 - 1 / 32, 0.5 - 1 / 32),
        # Shifted by half a side: 8/24; enclosing 6x4 is all union.
        ((2, 0, 6, 4), 1 / 3, 1 / 3, 1 / 3 - 4 / 52, 1 / 3 - 4 / 52),
        # Touches at a corner: enclosing 64, union 32.
        ((4, 4, 8, 8), 0, -0.5, -32 / 128, -32 / 128),
        # Apart: enclosing 12 x 4 with a gap of one box.
        ((8, 0, 12, 4), 0, -1 / 3, -64 / 160, -64 / 160),
    ],
)
def test_overlaps_by_hand(other, iou, giou, diou, ciou):
    a, b = box(0, 0, 4, 4), box(*other)
    for function, expected in zip(
        (boxes.iou, boxes.giou, boxes.diou, boxes.ciou),
        (iou, giou, diou, ciou),
        strict=True,
    ):
        assert function(a, b) == pytest.approx(expected, abs=1e-6)
        assert function(b, a) == pytest.approx(expected, abs=1e-6)


def test_ciou_punishes_another_aspect_ratio_by_hand():
    # 4x4 against 4x3 in the same place: IoU 3/4, centers 1/2 apart, diagonal^2 32.
    v = 4 / math.pi**2 * (math.atan(4 / 3) - math.atan(1)) ** 2
    expected = 0.75 - 0.25 / 32 - v * v / (1 - 0.75 + v)
    got = boxes.ciou(box(0, 0, 4, 4), box(0, 0, 4, 3))
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('kind', OVERLAPS)
def test_overlaps_equal_a_plain_loop(kind):
    a, b = random_boxes(0), random_boxes(1)
    ours = np.asarray(OVERLAPS[kind](a[:, None], b[None]))
    assert ours.shape == (60, 60)
    a, b = np.asarray(a), np.asarray(b)
    for i in range(60):
        for j in range(60):
            loss = oracles.bbox_loss(kind, a[i], b[j])
            expected = math.exp(-loss) if kind == 'IoULoss' else 1 - loss
            assert ours[i, j] == pytest.approx(expected, abs=2e-6)


def test_generalised_forms_never_exceed_iou():
    a, b = random_boxes(2)[:, None], random_boxes(3)[None]
    plain = boxes.iou(a, b)
    assert (plain >= 0).all() and (plain <= 1).all()
    for kind in ('GIoULoss', 'DIoULoss', 'CIoULoss'):
        overlap = OVERLAPS[kind](a, b)
        assert (overlap <= plain + 1e-6).all() and (overlap >= -1 - 1e-6).all()


DEGENERATE = [
    (0, 0, 0, 0),
    (5, 5, 5, 5),
    (5, 5, 5, 50),
    (9, 9, 3, 3),
    (0, 0, 1e-20, 1e-20),
    (-1e6, -1e6, 1e6, 1e6),
    (2, 2, 8, 8),
]


@pytest.mark.parametrize('kind', OVERLAPS)
def test_degenerate_boxes_give_finite_values_and_gradients(kind):
    pairs = [(a, b) for a in DEGENERATE for b in DEGENERATE]
    a, b = (jnp.array(side, jnp.float32) for side in zip(*pairs, strict=True))
    value, gradients = jax.value_and_grad(
        lambda a, b: OVERLAPS[kind](a, b).sum(), argnums=(0, 1)
    )(a, b)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_centers_and_area_by_hand():
    some = jnp.array([[0, 0, 4, 2], [1, 1, 1, 1], [4, 0, 0, 2]], jnp.float32)
    np.testing.assert_array_equal(boxes.centers(some), [[2, 1], [1, 1], [2, 1]])
    np.testing.assert_array_equal(boxes.area(some), [8, 0, -8])


ANCHOR = (-32.0, -32.0, 32.0, 32.0)


@pytest.mark.parametrize(
    'delta, expected',
    [
        ((0, 0, 0, 0), ANCHOR),
        # A tenth of the side to the right for 1, and down by 2.
        ((1, 2, 0, 0), (-25.6, -19.2, 38.4, 44.8)),
        # exp(0.2 * 5 ln 2) = 2: twice as wide.
        ((0, 0, 5 * math.log(2), 0), (-64, -32, 64, 32)),
        # Clipped at 1000/16 = 62.5 either way.
        ((0, 0, 1000, -1000), (-2000, -0.512, 2000, 0.512)),
    ],
)
def test_decode_by_hand(delta, expected):
    got = DeltaXYWHBBoxCoder().decode(box(*ANCHOR), box(*delta))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_decode_uses_means_and_stds():
    coder = DeltaXYWHBBoxCoder((0.5, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0))
    np.testing.assert_allclose(
        coder.decode(box(*ANCHOR), box(0.25, 0, 0, 0)), (16, -32, 80, 32)
    )


def test_decode_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    anchors = random_boxes(4)
    deltas = jnp.array(rng.normal(0, 8, (60, 4)), jnp.float32)
    ours = DeltaXYWHBBoxCoder().decode(anchors, deltas)
    expected = [
        oracles.decode(a.tolist(), d.tolist())
        for a, d in zip(anchors, deltas, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_decode_has_finite_gradients_at_huge_deltas():
    deltas = jnp.array([[1e6, -1e6, 1e6, -1e6], [0, 0, 20.7, -20.7]], jnp.float32)
    gradient = jax.grad(
        lambda d: DeltaXYWHBBoxCoder().decode(box(*ANCHOR)[None], d).sum()
    )(deltas)
    assert jnp.isfinite(gradient).all()
