"""The stream with transforms: the same on any host, with any workers, from any step."""

import dataclasses
import re
import warnings

import numpy as np
import pytest

from atss_jax.data.augment.affine import RandomAffine, RandomFlip
from atss_jax.data.augment.color import PhotoMetricDistortion, YOLOXHSVRandomAug
from atss_jax.data.augment.mixing import MixUp, Mosaic, Pool
from atss_jax.data.augment.objects import Objects, largest
from atss_jax.data.augment.rows import warn_of_dropped
from atss_jax.data.augment.user_function import UserFunction
from atss_jax.data.batch import Pipeline
from atss_jax.data.image_file import BadImage
from atss_jax.data.records import Record, Records
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.data.transforms import Flip, Jitter, flip_by_chance, flip_chances
from tests.support.batches import (
    Source,
    assert_hosts_load_slices,
    assert_rebuilt_alone,
    assert_same,
    run_script,
    train_batches,
)

DARKER = UserFunction('tests.support.user_functions:darker')
MOSAIC = (
    Mosaic(img_scale=(48, 40)),
    RandomAffine(border=(-24, -20)),
    MixUp(img_scale=(48, 40)),
    RandomFlip(prob=0.5, direction=('vertical', 'diagonal')),
)
COLOR = (PhotoMetricDistortion(), YOLOXHSVRandomAug(), DARKER)
LISTS = {
    'mosaic': {'before_resize': MOSAIC, 'after_flip': COLOR},
    'sometimes': {'before_resize': (Mosaic(img_scale=(48, 20), prob=0.5),)},
    'after': {'after_flip': (RandomAffine(), MixUp(img_scale=(64, 32)), DARKER)},
    'cropped': {
        'before_resize': MOSAIC,
        'jitter': Jitter(ratio_range=(0.5, 1.5), crop_size=(48, 48)),
    },
}


def batches_with(source=None, rows=(0, 4), img_scale=(64, 32), **fields):
    fields = {'max_boxes': 12, 'flip_ratio': 0.5} | fields
    return train_batches(source, rows, Pipeline(img_scale, **fields), (1, 2))


@pytest.mark.parametrize('fields', LISTS.values(), ids=LISTS)
def test_hosts_load_slices_of_one_global_batch(fields):
    assert_hosts_load_slices(lambda rows: batches_with(rows=rows, **fields), middle=2)


@pytest.mark.parametrize('fields', LISTS.values(), ids=LISTS)
def test_any_batch_can_be_rebuilt_alone(fields):
    assert_rebuilt_alone(lambda: batches_with(**fields), steps=9)


def augmented_shapes():
    source = ShapesDataset(21, min_size=64, max_size=80, max_objects=5)
    return batches_with(source, **LISTS['mosaic'])


@pytest.mark.long
def test_workers_change_nothing(tmp_path):
    body = """
    from tests.data.test_augment_stream import augmented_shapes
    batches = augmented_shapes()
    expected = [batches(step) for step in range(2, 5)]
    for workers in (0, 2):
        stream = prefetch(batches, 2, 100, workers)
        for one in expected:
            other = next(stream)
            for name in one:
                assert np.array_equal(one[name], other[name]), (workers, name)
        stream.close()
"""
    assert run_script(body, tmp_path).stderr == ''


@pytest.mark.parametrize('fields', LISTS.values(), ids=LISTS)
def test_boxes_lie_in_the_image_and_the_image_in_its_canvas(fields):
    batches = batches_with(**fields)
    for step in range(8):
        batch = batches(step)
        assert batch['image'].dtype == np.uint8
        for row in range(4):
            height, width = batch['image_size'][row]
            assert not batch['image'][row, height:].any()
            assert not batch['image'][row, :, width:].any()
            boxes = batch['gt_boxes'][row][batch['gt_valid'][row]]
            assert (boxes >= 0).all() and (boxes <= [width, height] * 2).all()
            assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_the_stream_is_pinned():
    """Resuming a run of last month needs last month's stream."""
    batches = batches_with(**LISTS['mosaic'])
    batch = batches(5)
    assert batch['image_id'].tolist() == PINNED_IDS
    assert batch['gt_valid'].sum(1).tolist() == PINNED_COUNTS
    np.testing.assert_allclose(batch['gt_boxes'][0, 0], PINNED_BOX, atol=0.01)


PINNED_IDS, PINNED_COUNTS = [498, 493, 492, 499], [3, 10, 6, 5]
PINNED_BOX = [35.16306, 4.897851, 37.89689, 18.565855]


def test_a_transform_more_does_not_change_the_others():
    """Each has random numbers of its own, by its position."""
    one = batches_with(after_flip=(DARKER,))
    two = batches_with(after_flip=(DARKER, RandomFlip(prob=0.0)))
    other = batches_with(after_flip=(RandomFlip(prob=0.0), DARKER))
    assert_same(one(2), two(2))
    assert not np.array_equal(one(2)['image'], other(2)['image'])


def test_transforms_leave_the_order_of_images_and_the_flips_alone():
    plain, darker = train_batches(), batches_with(max_boxes=5, after_flip=(DARKER,))
    plan = dataclasses.replace(darker.plan, occurrences=None)
    darker = dataclasses.replace(darker, plan=plan)
    for step in range(3):
        one, other = plain(step), darker(step)
        for name in set(one) - {'image', 'gt_labels'}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        is_learned = one['gt_valid'] & ~one['gt_ignored']
        labels = one['gt_labels'][is_learned]
        np.testing.assert_array_equal(other['gt_labels'][is_learned], labels)
        assert (other['image'] <= one['image']).all()


def test_evaluation_is_not_augmented():
    pipeline = batches_with(**LISTS['cropped'], flip_direction='vertical').pipeline
    plain = Pipeline((64, 32), max_boxes=12)
    assert pipeline.without_jitter() == plain


# Objects and pixels -------------------------------------------------------------------


class Painted(Source):
    """Images of one color each, with one object of another color."""

    def __init__(self, count=6):
        super().__init__(count)
        size, box = (60, 80), (20, 10, 50, 40)
        self.records = Records.from_list(
            [
                Record(
                    index,
                    '',
                    size,
                    np.array([box], np.float32),
                    np.array([index % 2], np.int32),
                    np.array([index % 3 == 0]),
                )
                for index in range(count)
            ]
        )

    def read_image(self, record):
        image = np.full((*record.size, 3), 20, np.uint8)
        image[10:40, 20:50] = 230
        return image


@pytest.mark.parametrize(
    'before', [MOSAIC[:1], MOSAIC[:2], (RandomAffine(),), MOSAIC[3:]], ids=str
)
def test_pixels_and_boxes_go_together(before):
    """Bright pixels lie in boxes, and boxes are tight around them."""
    batches = batches_with(
        Painted(),
        img_scale=(80, 80),
        before_resize=before,
        after_flip=(RandomFlip(0.5, 'vertical'),),
        flip_direction='diagonal',
    )
    seen = 0
    for step in range(6):
        batch = batches(step)
        for row in range(4):
            height, width = batch['image_size'][row]
            bright = batch['image'][row, :height, :width, 0] > 170
            inside = np.zeros_like(bright)
            for box in batch['gt_boxes'][row][batch['gt_valid'][row]]:
                x1, y1, x2, y2 = np.round(box).astype(int)
                inside[max(y1 - 1, 0) : y2 + 2, max(x1 - 1, 0) : x2 + 2] = True
                if min(x2 - x1, y2 - y1) > 4:
                    seen += 1
                    area = bright[y1:y2, x1:x2]
                    # A rotated square fills at least half of the box around it.
                    assert area.mean() > 0.45
            assert not (bright & ~inside).any()
    assert seen > 20


def test_crowd_regions_take_part():
    batches = batches_with(Painted(), before_resize=MOSAIC)
    rows = [batches(step) for step in range(4)]
    ignored = np.concatenate([row['gt_ignored'][row['gt_valid']] for row in rows])
    assert 0 < ignored.sum() < len(ignored)


def test_of_too_many_objects_the_largest_stay():
    sides = np.array([5, 9, 2, 8, 30], np.float32)
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1)
    labels = np.arange(5, dtype=np.int32)
    ignored = np.array([False, False, False, False, True])
    objects = Objects(boxes, labels, ignored)
    assert largest(objects, 5) is objects
    assert largest(objects, 4).labels.tolist() == [0, 1, 2, 3]
    assert largest(objects, 3).labels.tolist() == [0, 1, 3]
    assert largest(objects, 1).labels.tolist() == [1]


def test_a_row_holds_max_boxes_at_most():
    few = batches_with(max_boxes=4, before_resize=MOSAIC[:1])
    many = batches_with(max_boxes=40, before_resize=MOSAIC[:1])
    counts = many.object_counts(16)
    for step in range(4):
        one, other = few(step), many(step)
        assert other['gt_valid'].sum(1).tolist() == counts[4 * step : 4 * step + 4]
        for row in range(4):
            kept = one['gt_boxes'][row][one['gt_valid'][row]]
            all_boxes = other['gt_boxes'][row][other['gt_valid'][row]]
            assert len(kept) == min(len(all_boxes), 4)
            assert {tuple(box) for box in kept} <= {tuple(box) for box in all_boxes}
    assert max(counts) > 4


def test_objects_that_a_function_adds_beyond_the_capacity_are_a_warning():
    function = UserFunction('tests.support.user_functions:three_of_each')
    source = batches_with().source
    counts = source.records.counts
    limit = 3 * int(counts.max()) - 1
    batches = batches_with(max_boxes=limit, after_flip=(function,))
    loaded = [batches(step) for step in range(6)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        watched = list(warn_of_dropped((batch for batch in loaded), limit))
    assert all(a is b for a, b in zip(watched, loaded, strict=True))
    assert sum(batch['dropped'].sum() for batch in loaded) > 1
    (warning,) = caught  # once
    assert re.search(
        rf'after_flip: [1-4] of 4 images of a batch have more objects than '
        rf'data\.max_boxes = {limit}, up to {limit + 1}; they keep the {limit} largest',
        str(warning.message),
    )
    plain = batches_with()(0)
    assert 'dropped' not in plain
    assert list(warn_of_dropped((batch for batch in [plain]), 1)) == [plain]


# Sizes --------------------------------------------------------------------------------


def test_a_mosaic_by_chance_has_a_canvas_for_both_shapes():
    """Upright images become oblong mosaics half of the time."""
    mosaic = Mosaic(img_scale=(64, 20), prob=0.5)
    batches = batches_with(before_resize=(mosaic,))
    assert batches.pipeline.all_canvases() == ((32, 64), (64, 32), (64, 64))
    shapes = {tuple(size) for step in range(8) for size in batches(step)['image_size']}
    assert any(h > w for h, w in shapes) and any(h < w for h, w in shapes)
    always = dataclasses.replace(mosaic, prob=1.0)
    pipeline = batches_with(before_resize=(always,)).pipeline
    assert set(pipeline.canvas_index(Source())) == {0}
    assert pipeline.all_canvases() == ((32, 64), (64, 32))


def test_a_border_that_leaves_nothing_is_an_error():
    with pytest.raises(
        ValueError, match=r'border \(-40, 0\) leaves nothing of .*40x80'
    ):
        batches_with(before_resize=(RandomAffine(border=(-40, 0)),))


# Further images -----------------------------------------------------------------------


def test_further_images_occur_as_often_as_in_an_epoch():
    pool = Pool(Source(4), np.cumsum([1, 0, 3, 2]))
    random = np.random.default_rng(0)
    counts = np.bincount([pool.pick(random) for _ in range(6000)], minlength=4)
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]] / 1000, [1, 3, 2], atol=0.15)


def test_mixup_looks_for_an_image_with_objects():
    source = Source()
    empty = [len(source.records[k].labels) == 0 for k in range(len(source.records))]
    assert any(empty)
    random, mixup = np.random.default_rng(0), MixUp(img_scale=(32, 32))
    picks = [mixup.sample((32, 32), random, Pool(source))[1] for _ in range(300)]
    assert not any(empty[index] for (index,) in picks)
    source.records = Records.from_list([source.records[0]])  # without any object
    sampled, others = mixup.sample((32, 32), random, Pool(source))
    assert sampled is None and others == ()


class Damaged(Painted):
    """Record 3 is bad, unless it is a row's own."""

    def read_image(self, record):
        if record.image_id == 3:
            raise BadImage('3.png: cut off')
        return super().read_image(record)


def test_a_bad_further_image_is_left_out_and_counted():
    lists = {'before_resize': MOSAIC[:1]}
    batches = batches_with(Damaged(), max_bad_pictures=0.2, flip_ratio=0.0, **lists)
    whole = batches_with(Painted(), flip_ratio=0.0, **lists)
    counted = 0
    for step in range(6):
        one, other = batches(step), whole(step)
        own = one['image_id'] == other['image_id']
        for row in np.flatnonzero(own):
            if one['skipped'][row] == 3:
                counted += 1
                assert one['gt_valid'][row].sum() < other['gt_valid'][row].sum()
                assert (one['image'][row] == 114).sum() > 1000
            else:
                np.testing.assert_array_equal(one['image'][row], other['image'][row])
    assert counted > 2
    with pytest.raises(BadImage, match=r'3\.png'):
        for step in range(6):
            batches_with(Damaged(), max_bad_pictures=0.0, **lists)(step)


# Flips --------------------------------------------------------------------------------


def test_chances_of_flips():
    assert flip_chances(0.5, 'vertical') == [(Flip.VERTICAL, 0.5)]
    names = ('horizontal', 'vertical')
    shared = flip_chances(0.5, names)
    assert shared == [(Flip.HORIZONTAL, 0.25), (Flip.VERTICAL, 0.25)]
    chances = flip_chances((0.3, 0.5), names)
    numbers = {0.0: 1, 0.299: 1, 0.3: 2, 0.799: 2, 0.8: 0, 0.999: 0}
    assert {x: int(flip_by_chance(chances, x)) for x in numbers} == numbers


@pytest.mark.parametrize('direction', ['vertical', 'diagonal'])
def test_directions_mirror_image_and_boxes(direction):
    source = Source(2)
    plain = batches_with(source, flip_ratio=0.0)
    flipped = batches_with(source, flip_ratio=1.0, flip_direction=direction)
    for step in range(2):
        one, other = plain(step), flipped(step)
        for row in range(4):
            height, width = one['image_size'][row]
            high, wide = np.float32(height), np.float32(width)
            image = one['image'][row, :height, :width][::-1]
            boxes = one['gt_boxes'][row][one['gt_valid'][row]]
            x1, y1, x2, y2 = boxes.T
            y1, y2 = high - y2, high - y1
            if direction == 'diagonal':
                image, x1, x2 = image[:, ::-1], wide - x2, wide - x1
            np.testing.assert_array_equal(other['image'][row, :height, :width], image)
            found = other['gt_boxes'][row][other['gt_valid'][row]]
            np.testing.assert_array_equal(found, np.stack([x1, y1, x2, y2], 1))
