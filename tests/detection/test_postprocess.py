"""Detections: golden cases, a plain loop of mmdetection's procedure, NMS by hand."""

import ast
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection import postprocess
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.few_first import FewPairs, best_pairs, first_anchors
from atss_jax.detection.nms import (
    SoftNms,
    class_wise_nms,
    class_wise_nms_in_order,
    class_wise_soft_nms,
)
from atss_jax.detection.postprocess import DetectConfig, detect
from atss_jax.structures import HeadOutputs
from tests.support import oracles


@functools.cache
def _compiled(config):
    return jax.jit(functools.partial(detect, config=config))


def detections(outputs, size, scale, config=None):
    """Boxes, scores, labels of the valid rows, which must come first."""
    function = _compiled(config or DetectConfig())
    got = function(outputs, np.array(size, np.int32), np.array(scale, np.float32))
    count = int(got.valid.sum())
    assert np.asarray(got.valid)[:count].all()
    rest = [np.asarray(part)[count:] for part in got[:3]]
    assert not any(part.any() for part in rest)
    return [np.asarray(part)[:count] for part in got[:3]]


# Golden ------------------------------------------------------------------------------


@pytest.mark.parametrize('case', range(6))
def test_equals_mmdet(golden, case):
    stored = golden('predict')
    overrides = ast.literal_eval(str(stored[f'{case}/overrides']))
    if 'nms' in overrides:
        overrides['iou_threshold'] = overrides.pop('nms')['iou_threshold']
    overrides = {
        name: float(value) if name in ('min_bbox_size', 'score_thr') else value
        for name, value in overrides.items()
    }
    outputs = HeadOutputs(
        *(
            tuple(jnp.array(stored[f'{case}/{name}{level}']) for level in range(5))
            for name in ('cls', 'reg', 'ctr')
        )
    )
    boxes, scores, labels = detections(
        outputs,
        stored[f'{case}/img_shape'],
        stored[f'{case}/scale_factor'],
        DetectConfig(**overrides),
    )
    assert len(boxes) == len(stored[f'{case}/bboxes'])
    np.testing.assert_array_equal(labels, stored[f'{case}/labels'])
    np.testing.assert_allclose(boxes, stored[f'{case}/bboxes'], rtol=0, atol=1e-3)
    np.testing.assert_allclose(scores, stored[f'{case}/scores'], rtol=0, atol=1e-5)


# The plain loop ----------------------------------------------------------------------

CANVAS, SIZE, SCALE = (96, 160), (70, 120), (1.5, 1.25)  # valid region 96 x 128
LOOSE = DetectConfig(
    AnchorGenerator((8, 16)), score_thr=0.3, max_per_img=60, min_bbox_size=0.0
)
SEVERAL = AnchorGenerator((8, 32), ratios=(0.5, 2.0), octave_base_scale=4.0)


def random_outputs(seed, anchors=LOOSE.anchors, classes=3, shift=-1.5, canvas=CANVAS):
    rng = np.random.default_rng(seed)
    a = anchors.num_anchors

    def levels(channels, spread, shift=0.0):
        return tuple(
            jnp.array(rng.normal(shift, spread, (*grid, channels)), jnp.float32)
            for grid in anchors.grid_sizes(canvas)
        )

    return HeadOutputs(levels(a * classes, 1.5, shift), levels(a * 4, 1), levels(a, 1))


def check(outputs, config, size=SIZE, scale=SCALE, canvas=CANVAS):
    """Equal to the oracle, in order; returns the number of detections."""
    boxes, scores, labels = detections(outputs, size, scale, config)
    grid = oracles.all_anchors(
        canvas,
        config.anchors.strides,
        config.anchors.ratios,
        config.anchors.octave_base_scale,
        config.anchors.scales_per_octave,
        config.anchors.center_offset,
    )
    classes = outputs.cls_logits[0].shape[-1] // config.anchors.num_anchors
    levels = [
        (
            np.asarray(cls).reshape(-1, classes),
            np.asarray(deltas).reshape(-1, 4),
            np.asarray(centerness).reshape(-1),
        )
        for cls, deltas, centerness in zip(*outputs, strict=True)
    ]
    divisor = config.size_divisor
    valid_size = [-(-side // divisor) * divisor for side in size]
    expected = oracles.detect(
        levels,
        grid,
        size,
        valid_size,
        scale,
        config.anchors.strides,
        dataclasses.asdict(config),
    )
    assert len(boxes) == len(expected)
    if expected:
        their_boxes, their_scores, their_labels = zip(*expected, strict=True)
        np.testing.assert_array_equal(labels, their_labels)
        np.testing.assert_allclose(boxes, their_boxes, atol=1e-3)
        np.testing.assert_allclose(scores, their_scores, atol=1e-5)
    return len(boxes)


@pytest.mark.parametrize('seed', range(3))
def test_random_outputs_equal_the_oracle(seed):
    assert check(random_outputs(seed), LOOSE) == 60


def test_soft_nms_sees_all_candidates():
    """More of them than the fast path takes, all boxes at one place: scores fall."""
    outputs = random_outputs(5, classes=80, shift=1.0)
    same_place = HeadOutputs(
        outputs.cls_logits,
        tuple(jnp.zeros_like(deltas) for deltas in outputs.deltas),
        tuple(jnp.full_like(level, 4.0) for level in outputs.centerness),
    )
    config = dataclasses.replace(
        LOOSE, nms_pre=2000, soft_nms=SoftNms('gaussian', min_score=0.01)
    )
    boxes, scores, labels = detections(same_place, SIZE, SCALE, config)
    everything = dataclasses.replace(config, with_nms=False, max_per_img=6000)
    candidates = detections(same_place, SIZE, SCALE, everything)
    assert len(candidates[1]) > 2000
    expected = class_wise_soft_nms(
        *map(jnp.asarray, candidates),
        jnp.ones(len(candidates[1]), bool),
        config.iou_threshold,
        config.soft_nms,
        config.max_per_img,
    )
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-4)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(labels, expected.labels)


def test_without_nms_the_best_scores_overlap():
    plain = detections(random_outputs(0), SIZE, SCALE, LOOSE)
    config = dataclasses.replace(LOOSE, with_nms=False)
    boxes, scores, _ = detections(random_outputs(0), SIZE, SCALE, config)
    assert len(boxes) == LOOSE.max_per_img
    assert (np.diff(scores) <= 0).all()
    assert scores.sum() > plain[1].sum()


def test_fewer_candidates_than_asked_for():
    assert 0 < check(random_outputs(0, shift=-4.5), LOOSE) < 60


def test_no_candidate_at_all():
    assert check(random_outputs(0, shift=-20), LOOSE) == 0


@pytest.mark.parametrize(
    'change',
    [
        dict(nms_pre=10),
        dict(min_bbox_size=30.0),
        dict(min_bbox_size=-1.0),
        dict(iou_threshold=0.05),
        dict(score_thr=0.0, max_per_img=40),
        dict(max_per_img=1000),
        dict(anchors=SEVERAL),
        dict(anchors=SEVERAL, nms_pre=15),
    ],
    ids=str,
)
def test_other_settings_equal_the_oracle(change):
    config = dataclasses.replace(LOOSE, **change)
    assert check(random_outputs(1, config.anchors), config) > 0


def test_other_centers_and_a_larger_valid_region_equal_the_oracle():
    """As DyHead's authors have them; only in rows that 128 adds is there anything."""
    anchors = AnchorGenerator((8, 16), center_offset=0.5)
    config = dataclasses.replace(LOOSE, anchors=anchors, size_divisor=128)
    outputs = random_outputs(3, canvas=(128, 256))
    logits = tuple(
        level.at[: 96 // stride].set(-20)
        for level, stride in zip(outputs.cls_logits, anchors.strides, strict=True)
    )
    assert check(outputs._replace(cls_logits=logits), config, canvas=(128, 256)) > 0


@pytest.mark.parametrize(
    'size, canvas', [((96, 160), (96, 160)), ((1, 1), (64, 64)), ((33, 64), (128, 64))]
)
def test_other_sizes_equal_the_oracle(size, canvas):
    outputs = random_outputs(2, canvas=canvas, shift=0.0)
    assert check(outputs, LOOSE, size, canvas=canvas) > 0


def test_what_lies_outside_the_valid_region_is_never_read():
    """Not even NaN there shows."""
    plain = random_outputs(3)

    def spoil(level, stride):
        rows, columns = -(-96 // stride), -(-128 // stride)
        level = np.array(level)
        level[rows:] = level[:, columns:] = np.nan
        return jnp.array(level)

    spoilt = HeadOutputs(
        *(tuple(map(spoil, output, LOOSE.anchors.strides)) for output in plain)
    )
    for ours, expected in zip(
        detections(spoilt, SIZE, SCALE, LOOSE),
        detections(plain, SIZE, SCALE, LOOSE),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, expected)


def test_canvas_does_not_matter():
    large = random_outputs(4, canvas=(128, 192))
    small = HeadOutputs(
        *(
            tuple(
                level[:h, :w]
                for level, (h, w) in zip(
                    output, LOOSE.anchors.grid_sizes(CANVAS), strict=True
                )
            )
            for output in large
        )
    )
    for a, b in zip(
        detections(small, SIZE, SCALE, LOOSE),
        detections(large, SIZE, SCALE, LOOSE),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_detections_lie_in_the_original_image():
    boxes, scores, labels = detections(random_outputs(5), SIZE, SCALE, LOOSE)
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= np.array([120 / 1.5, 70 / 1.25]) + 1e-4).all()
    assert (np.diff(scores) <= 0).all() and (scores > 0).all() and (scores <= 1).all()
    assert set(labels) == {0, 1, 2}


def test_one_cell_by_hand():
    """One anchor is certain of class 1: its own square, clipped and scaled back."""
    outputs = random_outputs(0, shift=-20)
    cls = list(outputs.cls_logits)
    # P4: stride 16, anchors of side 128.
    cls[1] = jnp.full_like(cls[1], -20).at[2, 3, 1].set(20)
    zeros = tuple(map(jnp.zeros_like, outputs.deltas))
    centerness = tuple(map(jnp.zeros_like, outputs.centerness))
    outputs = HeadOutputs(tuple(cls), zeros, centerness)
    boxes, scores, labels = detections(outputs, SIZE, (2.0, 0.5), LOOSE)
    # Center (48, 32): from -16 to 112 and -32 to 96, clipped to 120 x 70.
    np.testing.assert_allclose(boxes, [[0, 0, 56, 140]], atol=1e-4)
    np.testing.assert_allclose(scores, [0.5])
    np.testing.assert_array_equal(labels, [1])


# Few pairs and many ------------------------------------------------------------------


def outputs_with_pairs(count, columns=16, canvas=CANVAS, classes=3):
    """Exactly `count` pairs of P3 above the threshold, in as many anchors as fit."""
    outputs = random_outputs(0, shift=-20, canvas=canvas, classes=classes)
    cls = list(outputs.cls_logits)
    logits = np.array(cls[0])
    order = np.random.default_rng(0).permutation(logits.shape[0] * columns)
    for i in range(count):
        row, column = divmod(order[i % len(order)], columns)
        logits[row, column, i // len(order)] = 0.5 + i / 1000
    cls[0] = jnp.array(logits)
    return outputs._replace(cls_logits=tuple(cls))


@pytest.mark.parametrize('count', [1, 1023, 1024, 1025])
def test_around_the_number_of_pairs_that_is_few(count):
    """On both sides of it the oracle agrees."""
    size = 320, 320
    config = dataclasses.replace(LOOSE, iou_threshold=0.9, max_per_img=1100)
    outputs = outputs_with_pairs(count, 5, size, 6)  # in 200 anchors: 264 are few
    assert check(outputs, config, size, canvas=size) > count / 2


@pytest.mark.parametrize('count', [123, 124, 125, 400])
def test_around_the_number_of_anchors_that_is_few(count):
    """The same, where each pair belongs to another anchor."""
    size = 160, 192
    config = dataclasses.replace(LOOSE, iou_threshold=0.9, max_per_img=500)
    outputs = outputs_with_pairs(count, 24, size)
    assert check(outputs, config, size, canvas=size) > count / 2


@pytest.mark.parametrize('count', [0, 1, 123, 124, 125])
def test_first_anchors(count):
    """In order; 124 of 480 are few, and may be all only if there are fewer."""
    maxima = np.full(480, -np.inf, np.float32)
    expected = np.sort(np.random.default_rng(0).permutation(480)[:count])
    maxima[expected] = np.random.default_rng(1).normal(size=count)
    index, is_there, is_all = first_anchors(jnp.array(maxima))
    assert len(index) == 124 and is_there.sum() == min(count, 124)
    np.testing.assert_array_equal(index[: is_there.sum()], expected[:124])
    assert is_all == (count < 124)


def test_a_level_that_is_few_as_a_whole():
    index, is_there, is_all = first_anchors(jnp.array([1.0, -jnp.inf, 0.0]))
    assert index[:2].tolist() == [0, 2] and is_there.tolist() == [True, True, False]
    assert is_all
    assert first_anchors(jnp.zeros(70))[2]


def test_best_pairs():
    """Of equal scores the first; -inf is no pair."""
    none = -jnp.inf
    scores = jnp.array([[0.25, none], [none, 0.5]]), jnp.array([[0.5, 0.75]])
    corners = jnp.arange(12.0).reshape(3, 4)
    levels = [
        FewPairs(s, rows, -rows, jnp.array(2), jnp.array(True))
        for s, rows in zip(scores, (corners[:2], corners[2:]), strict=True)
    ]
    best = best_pairs(levels)
    assert best.scores.tolist() == [0.75, 0.5, 0.5, 0.25, none, none]
    assert best.labels[:4].tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(best.anchors[:4], corners[jnp.array([2, 1, 2, 0])])
    np.testing.assert_array_equal(best.deltas, -best.anchors)
    assert best.is_all


@pytest.mark.parametrize('nms_pre', [512, 513])
def test_of_equal_scores_few_and_all_candidates_give_the_same(nms_pre):
    """Up to 512 all candidates are taken, from 513 on few of them first."""
    plain = random_outputs(6, shift=-2.5)
    coarse = plain._replace(
        cls_logits=tuple(jnp.round(level) for level in plain.cls_logits),
        centerness=tuple(jnp.round(level / 4) for level in plain.centerness),
    )
    config = dataclasses.replace(
        LOOSE, nms_pre=nms_pre, iou_threshold=0.9, max_per_img=30
    )
    assert check(coarse, config) == 30
    scores = detections(coarse, SIZE, SCALE, config)[1]
    assert len(np.unique(scores)) < 15


@pytest.mark.parametrize('nms_pre', [512, 513])
def test_centerness_that_is_nan_is_no_detection(nms_pre):
    outputs = random_outputs(7, shift=-4.0)
    centerness = tuple(level.at[::2].set(jnp.nan) for level in outputs.centerness)
    config = dataclasses.replace(LOOSE, nms_pre=nms_pre)
    scores = detections(outputs._replace(centerness=centerness), SIZE, SCALE, config)[1]
    low = tuple(level.at[::2].set(-1e9) for level in outputs.centerness)
    expected = detections(outputs._replace(centerness=low), SIZE, SCALE, config)[1]
    np.testing.assert_array_equal(scores, expected[expected > 0])
    assert 0 < len(scores) < len(expected)


def empty_outputs(classes, canvas, logit=-20.0):
    """Outputs of two levels as NumPy arrays, without any detection."""
    grids = LOOSE.anchors.grid_sizes(canvas)
    return [
        [np.full((*grid, channels), value, np.float32) for grid in grids]
        for channels, value in ((classes, logit), (4, 0), (1, 0))
    ]


def count_few_and_all(monkeypatch, outputs, size, dtype=jnp.float32, **changes):
    """Number of detections with few candidates first, and of all at once."""
    outputs = HeadOutputs(*(tuple(jnp.array(x, dtype) for x in o) for o in outputs))
    config = dataclasses.replace(LOOSE, nms_pre=513, **changes)
    counts = []
    for least in (512, 10**9):
        monkeypatch.setattr(postprocess, '_MIN_NMS_PRE', least)
        run = jax.jit(functools.partial(detect, config=config))
        got = run(outputs, np.array(size, np.int32), np.ones(2, np.float32))
        counts.append(int(got.valid.sum()))
    return counts


def test_centerness_that_is_nan_at_more_pairs_than_are_taken(monkeypatch):
    """The pairs count, as NaN does not show before the best are taken."""
    logits, _, centerness = outputs = empty_outputs(80, (64, 128))
    logits[0][0, :10], centerness[0][0, :10] = 3.0, np.nan
    logits[0][4, 9, 5] = 1.0
    assert count_few_and_all(monkeypatch, outputs, (64, 128)) == [0, 0]


def test_logits_that_are_nan_are_never_taken(monkeypatch):
    """With a threshold of 0 too, where other logits are not dropped first."""
    logits, *_ = outputs = empty_outputs(1, (192, 288), np.nan)
    logits[0][:1], logits[0][0, :5] = -np.inf, 1.0
    logits[1][:] = -np.inf
    counts = count_few_and_all(
        monkeypatch, outputs, (192, 288), score_thr=0.0, iou_threshold=1.0
    )
    assert counts == [5, 5]


@pytest.mark.parametrize(
    'dtype, score_thr, logits',
    [
        (jnp.float32, 0.999999, (20, 13.814509)),
        (jnp.bfloat16, 0.04, (1, -3.171875)),
        (jnp.bfloat16, 0.998, (20, 6.1875)),
    ],
)
def test_scores_just_above_the_threshold_are_not_dropped(
    monkeypatch, dtype, score_thr, logits
):
    """Rounded, they are above it, though their logits are below the threshold's."""
    outputs = empty_outputs(2, (64, 64))
    outputs[0][0][2, 2] = logits
    passing = jax.nn.sigmoid(jnp.array(logits, dtype)) > score_thr
    assert passing.all()
    counts = count_few_and_all(
        monkeypatch, outputs, (64, 64), dtype, score_thr=score_thr
    )
    assert counts == [2, 2]


def test_one_image_with_many_among_others_with_few():
    """In a batch, each has what it has alone."""
    images = [
        outputs_with_pairs(3),
        random_outputs(1, shift=0.0),
        outputs_with_pairs(9),
    ]
    batch = jax.tree.map(lambda *parts: jnp.stack(parts), *images)
    sizes, scales = np.tile(np.int32(SIZE), (3, 1)), np.tile(np.float32(SCALE), (3, 1))
    got = jax.jit(jax.vmap(functools.partial(detect, config=LOOSE)))(
        batch, sizes, scales
    )
    for row, image in enumerate(images):
        boxes, scores, labels = detections(image, SIZE, SCALE, LOOSE)
        count = int(got.valid[row].sum())
        assert count == len(boxes)
        np.testing.assert_array_equal(got.labels[row, :count], labels)
        np.testing.assert_allclose(got.boxes[row, :count], boxes, atol=1e-4)
        np.testing.assert_allclose(got.scores[row, :count], scores, atol=1e-6)


@pytest.mark.parametrize(
    'score_thr',
    [
        *(0.0, 0.05, 1.0),
        *(pytest.param(x, marks=pytest.mark.slow) for x in (1e-35, 0.5, 0.999)),
    ],
)
def test_scores_at_the_threshold_do_not_pass(score_thr):
    """Class scores around the threshold, as near as float32 has them."""
    config = dataclasses.replace(LOOSE, score_thr=score_thr, iou_threshold=1.0)
    outputs = random_outputs(0, shift=-20)
    near = 0.5 if score_thr in (0.0, 1.0, 1e-35) else score_thr
    logit = np.float32(np.log(near / (1 - near)))
    cls = [np.array(level) for level in outputs.cls_logits]
    cls[0].reshape(-1)[:48] = logit + np.arange(-24, 24) * np.spacing(logit + 1)
    outputs = outputs._replace(cls_logits=tuple(map(jnp.array, cls)))
    scores = [jax.nn.sigmoid(level[:, :16]).ravel() for level in outputs.cls_logits]
    passing = int((np.concatenate(scores) > np.float32(score_thr)).sum())
    got = detections(outputs, SIZE, SCALE, config)[0]
    assert len(got) == min(passing, config.max_per_img)


# NMS by hand -------------------------------------------------------------------------


def nms(boxes, scores, labels=None, valid=None, threshold=0.5, limit=4):
    n = len(boxes)
    got = jax.jit(class_wise_nms, static_argnums=(4, 5))(
        jnp.array(boxes, jnp.float32),
        jnp.array(scores, jnp.float32),
        jnp.array(labels or [0] * n),
        jnp.array(valid or [True] * n),
        threshold,
        limit,
    )
    rows = np.asarray(got.valid)
    return [
        (tuple(box), float(score), int(label))
        for box, score, label in zip(
            np.asarray(got.boxes)[rows].tolist(),
            got.scores[rows],
            got.labels[rows],
            strict=True,
        )
    ]


A, B, FAR = (0, 0, 4, 4), (0, 0, 4, 3), (10, 10, 14, 14)  # A and B overlap by 3/4


def test_the_better_box_suppresses_its_class_mate():
    assert nms([B, FAR, A], [0.5, 0.25, 0.75]) == [(A, 0.75, 0), (FAR, 0.25, 0)]


def test_another_class_on_the_same_spot_stays():
    assert nms([A, A, B], [0.5, 0.75, 0.25], [0, 1, 1]) == [(A, 0.75, 1), (A, 0.5, 0)]


def test_overlap_must_exceed_the_threshold():
    assert len(nms([A, B], [0.5, 0.25], threshold=0.75)) == 2
    assert len(nms([A, B], [0.5, 0.25], threshold=0.749)) == 1


def test_of_equal_scores_the_first_wins():
    assert nms([B, A], [0.5, 0.5]) == [(B, 0.5, 0)]
    assert nms([A, B], [0.5, 0.5]) == [(A, 0.5, 0)]


def test_what_a_suppressed_box_overlaps_stays():
    chain = [(0, 0, 4, 4), (0, 1, 4, 5), (0, 2, 4, 6)]  # neighbors 0.6, ends 1/3
    assert nms(chain, [0.75, 0.5, 0.25]) == [(chain[0], 0.75, 0), (chain[2], 0.25, 0)]


def test_boxes_without_area_neither_suppress_nor_repeat():
    point = (1, 1, 1, 1)
    assert nms([point, point, A], [0.75, 0.5, 0.25]) == [
        (point, 0.75, 0),
        (point, 0.5, 0),
        (A, 0.25, 0),
    ]


def test_invalid_rows_never_come_out():
    got = nms([A, FAR], [0.9, 0.25], valid=[False, True])
    assert got == [(FAR, 0.25, 0)]
    assert nms([A, FAR], [0.9, 0.25], valid=[False, False]) == []


def test_limit_keeps_the_best():
    boxes = [(10 * i, 0, 10 * i + 5, 5) for i in range(8)]
    scores = [0.5, 0.125, 0.75, 0.25, 0.875, 0.625, 0.375, 1.0]
    got = nms(boxes, scores, limit=3)
    assert [score for _, score, _ in got] == [1.0, 0.875, 0.75]


@pytest.mark.parametrize('seed', range(3))
def test_random_boxes_equal_full_nms(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 20, (80, 2))], 1)
    boxes = boxes.astype(np.float32)
    scores = rng.permutation(80).astype(np.float32) / 80
    labels = rng.integers(0, 3, 80)
    got = nms(boxes, scores, labels.tolist(), threshold=0.3, limit=30)
    kept = oracles.nms(boxes.tolist(), scores, labels, 0.3, 30)
    assert [score for _, score, _ in got] == [float(scores[i]) for i in kept]


def test_in_order_it_is_the_same():
    """Boxes without area, ties and invalid rows between them included."""
    rng = np.random.default_rng(4)
    corner = rng.integers(0, 8, (90, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 6, (90, 2))], 1)
    scores = np.sort(rng.integers(1, 30, 90))[::-1] / np.float32(32)
    arrays = boxes.astype(np.float32), scores, rng.integers(0, 3, 90)
    arrays = (*map(jnp.asarray, arrays), jnp.asarray(rng.random(90) < 0.8))
    for limit in (20, 100):
        expected = class_wise_nms(*arrays, 0.4, limit)
        assert 10 < expected.valid.sum() < 90
        got = class_wise_nms_in_order(*arrays, 0.4, limit)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
