"""Anchors fitted to objects, against hand-worked cases and a slow plain loop."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.data.plan import round_up
from atss_jax.data.records import Record, Records
from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import assign
from atss_jax.tuning.fit import (
    Choice,
    Objects,
    anchor_sides,
    box_sides,
    fit,
    sample_objects,
)
from tests.support.tuning import USUAL, fit_of, objects_of

SCALE = (256, 192)


def record(index, size, boxes, labels=None, ignored=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes)) if labels is None else labels
    ignored = np.zeros(len(boxes)) if ignored is None else ignored
    return Record(
        image_id=index,
        file_name=f'{index}.png',
        size=size,
        boxes=boxes,
        labels=np.array(labels, np.int32),
        ignored=np.array(ignored, bool),
    )


def random_objects(seed, count=20):
    """Images of unlike sizes, some without objects, some with crowds; padded."""
    random = np.random.default_rng(seed)
    records = []
    for index in range(count):
        height, width = (int(side) for side in random.integers(60, 400, 2))
        number = 1 + int(random.integers(6))
        sides = random.uniform(4, 1.2 * min(height, width), (number, 2))
        corner = random.uniform(-10, [width - 20, height - 20], (number, 2))
        boxes = np.concatenate([corner, corner + sides], 1)
        ignored = random.random(number) < 0.3
        ignored[0] = False
        labels = random.integers(3, size=number)
        records.append(record(index, (height, width), boxes, labels, ignored))
    return sample_objects(Records.from_list(records), count)


# By hand ------------------------------------------------------------------------------


def test_an_object_exactly_on_an_anchor():
    # The anchor of P4 in row 6, column 8: 128 pixels wide, around (128, 96).
    objects = objects_of((192, 256), [[(0, 64, 32, 192, 160)]])
    result = fit(objects, Choice(SCALE, USUAL))
    # Candidates: on P3 64 pixels in 128, IoU at most 1/4. On P4 itself, 1, its 4
    # neighbors at a shift of 16 pixels, 112 / 144, and 4 at 16 both ways. On P5 256
    # pixels around the same center, 1/4, and less for others. P4 alone passes.
    diagonal = 112**2 / (2 * 128**2 - 112**2)
    assert result.by_level.tolist() == [[0, 9, 0, 0, 0]]
    assert result.positives.tolist() == [9]
    expected = (1 + 4 * 112 / 144 + 4 * diagonal) / 9
    np.testing.assert_allclose(result.overlaps, [expected], rtol=1e-6)
    assert result.sides.tolist() == [128]
    assert result.unassigned == 0


def test_an_object_between_the_centers_has_no_anchor():
    objects = objects_of((192, 256), [[(0, 65, 33, 71, 39), (0, 64, 32, 192, 160)]])
    result = fit(objects, Choice(SCALE, USUAL))
    assert result.positives.tolist() == [0, 9]
    assert result.overlaps[0] == 0
    assert result.unassigned == 0.5


def test_overlaps_of_classes():
    result = fit_of({2: [0.25, 0.75], 0: [0.125]})
    np.testing.assert_array_equal(
        result.class_overlaps(4), [0.125, np.nan, 0.5, np.nan]
    )


def test_rows_of_sizes():
    sides = np.array([0, 15.9, 16, 31.9, 32, 300], np.float32)
    by_level = np.array([[0, 0], [1, 0], [2, 0], [1, 1], [0, 4], [0, 0]])
    result = dataclasses.replace(
        fit_of({0: [0.5] * 6}),
        sides=sides,
        by_level=by_level,
        positives=by_level.sum(1),
    )
    rows = result.size_rows()
    assert [row[:4] for row in rows] == [
        ('0 to 16', 2, 0.5, 0.5),
        ('16 to 32', 2, 0.0, 2.0),
        ('32 to 64', 1, 0.0, 4.0),
        ('256 or more', 1, 1.0, 0.0),
    ]
    shares = [row.levels.tolist() for row in rows]
    assert shares == [[1, 0], [0.75, 0.25], [0, 1], [0, 0]]


def test_sides():
    boxes = np.array([[0, 0, 4, 9], [5, 5, 5, 8], [5, 5, 4, 4]])
    assert box_sides(boxes).tolist() == [6, 0, 0]
    anchors = AnchorGenerator(octave_base_scale=4.0, scales_per_octave=2)
    np.testing.assert_allclose(anchor_sides(anchors), [32, 32 * 2**0.5], rtol=1e-6)


def test_boxes_are_clipped_to_the_resized_image():
    objects = objects_of((96, 128), [[(0, -50, -50, 500, 500), (0, 100, 10, 140, 50)]])
    boxes, sizes = objects.resized(SCALE)
    assert sizes.tolist() == [[192, 256]]
    assert boxes.tolist() == [[[0, 0, 256, 192], [200, 20, 256, 100]]]


# By a plain loop ----------------------------------------------------------------------


def intersection_over_union(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def expected_fit(objects, choice):
    """Counts by level and mean overlap of each object, from `assign` of each image."""
    boxes, sizes = objects.resized(choice.img_scale)
    side = round_up(int(sizes.max()), 32)
    all_anchors = choice.anchors.all((side, side)).astype(float)
    level = []
    for index, (rows, columns) in enumerate(choice.anchors.grid_sizes((side, side))):
        level += [index] * (rows * columns * choice.anchors.num_anchors)
    run = jax.jit(lambda *image: assign(*image, (side, side), anchors=choice.anchors))
    counts, overlaps = [], []
    for row in range(len(boxes)):
        image = boxes[row], objects.valid[row], sizes[row]
        assigned = np.asarray(run(*map(jnp.asarray, image)))
        for column in np.flatnonzero(objects.valid[row]):
            on_levels, values = [0] * 5, []
            for anchor in np.flatnonzero(assigned == column):
                on_levels[level[anchor]] += 1
                box = boxes[row, column].astype(float)
                values.append(intersection_over_union(box, all_anchors[anchor]))
            counts.append(on_levels)
            overlaps.append(np.mean(values) if values else 0)
    return counts, overlaps


CHOICES = {
    'usual': USUAL,
    'three': AnchorGenerator(octave_base_scale=4.0, scales_per_octave=3),
    'finer': AnchorGenerator(strides=(4, 8, 16, 32, 64)),
}


@pytest.mark.parametrize('name', CHOICES)
def test_equals_a_plain_loop(name):
    objects = random_objects(len(name))
    assert not objects.valid.all()
    choice = Choice(SCALE, CHOICES[name])
    result = fit(objects, choice)
    counts, overlaps = expected_fit(objects, choice)
    assert result.by_level.tolist() == counts
    np.testing.assert_allclose(result.overlaps, overlaps, rtol=0, atol=1e-5)
    assert (result.positives == result.by_level.sum(1)).all()
    boxes, _ = objects.resized(SCALE)
    np.testing.assert_array_equal(result.sides, box_sides(boxes)[objects.valid])
    np.testing.assert_array_equal(result.labels, objects.labels[objects.valid])


# Properties ---------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 15, 16, 17])
def test_images_do_not_depend_on_each_other(count):
    objects = random_objects(3, 17)
    choice = Choice(SCALE, USUAL)
    whole = fit(objects, choice)
    first = fit(Objects(*(column[:count] for column in objects)), choice)
    number = int(objects.valid[:count].sum())
    np.testing.assert_array_equal(first.by_level, whole.by_level[:number])
    np.testing.assert_array_equal(first.overlaps, whole.overlaps[:number])


def test_rows_of_sizes_have_all_objects():
    result = fit(random_objects(4), Choice(SCALE, USUAL))
    rows = result.size_rows()
    assert sum(row.objects for row in rows) == len(result.labels)
    positives = sum(row.objects * row.positives for row in rows)
    assert positives == pytest.approx(result.positives.sum())
    for row in rows:
        assert row.levels.sum() == pytest.approx(float(row.positives > 0))


def test_half_the_strides_on_half_the_image_are_the_same():
    # Sides that are multiples of 64 before: padding is the same share of both.
    random = np.random.default_rng(5)
    corner = random.uniform(0, 400, (4, 5, 2))
    boxes = np.concatenate([corner, corner + random.uniform(8, 160, (4, 5, 2))], -1)
    images = [[(0, *box) for box in listed] for listed in boxes.tolist()]
    objects = objects_of((448, 640), images)
    large = fit(objects, Choice((640, 448), USUAL))
    finer = AnchorGenerator(strides=(4, 8, 16, 32, 64))
    small = fit(objects, Choice((320, 224), finer))
    np.testing.assert_array_equal(large.by_level, small.by_level)
    np.testing.assert_allclose(large.overlaps, small.overlaps, atol=1e-5)
    np.testing.assert_allclose(large.sides, 2 * small.sides, rtol=1e-5)


# Samples ------------------------------------------------------------------------------

BOX = [1, 2, 30, 40]


def test_all_images_with_objects_if_they_are_few():
    records = Records.from_list(
        [
            record(0, (50, 60), [BOX, BOX], [1, 2], [False, True]),
            record(1, (50, 60), []),
            record(2, (70, 80), [BOX], [0]),
            record(3, (90, 80), [BOX, BOX], [0, 1], [True, True]),
        ]
    )
    objects = sample_objects(records, 200)
    assert objects.sizes.tolist() == [[50, 60], [70, 80]]
    assert objects.valid.tolist() == [[True, False], [True, False]]
    assert objects.labels.tolist() == [[1, 2], [0, 0]]
    assert objects.boxes[1].tolist() == [BOX, [0, 0, 0, 0]]


def test_a_sample_is_the_same_each_time_and_has_objects():
    sizes = [(100 + index, 100) for index in range(60)]
    records = Records.from_list(
        [record(i, size, [BOX] * (i % 3)) for i, size in enumerate(sizes)]
    )
    samples = [sample_objects(records, 10, seed) for seed in (0, 0, 1)]
    chosen = [sample.sizes[:, 0].tolist() for sample in samples]
    assert len(set(chosen[0])) == 10
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0])
    assert all((height - 100) % 3 for height in chosen[0])
    assert samples[0].valid.any(axis=1).all()


def test_a_large_data_set_takes_no_time():
    images, each = 2000, 50  # 100,000 boxes
    boxes = np.tile(np.array(BOX, np.float32), (images * each, 1))
    records = Records(
        image_ids=np.arange(images),
        file_names=np.array(['x'] * images),
        sizes=np.full((images, 2), 100, np.int32),
        offsets=np.arange(images + 1) * each,
        boxes=boxes,
        labels=np.zeros(images * each, np.int32),
        ignored=np.zeros(images * each, bool),
    )
    began = time.perf_counter()
    objects = sample_objects(records, 200)
    assert time.perf_counter() - began < 1
    assert objects.valid.sum() == 200 * each
