"""Rows and batches: the contract table, and the same bits however they are loaded."""

import dataclasses
import threading

import cv2
import numpy as np
import pytest

from atss_jax.data.batch import check_box_counts, images_in, load_row
from atss_jax.data.loader import EvalBatches, prefetch, started
from atss_jax.data.plan import eval_batches
from atss_jax.data.records import Records
from atss_jax.structures import BATCH_FIELDS
from tests.support.batches import (
    PIPELINE,
    G,
    Source,
    assert_hosts_load_slices,
    assert_rebuilt_alone,
    assert_same,
    train_batches,
)

TRUTH = {
    'gt_boxes': ((G, 4), np.float32),
    'gt_labels': ((G,), np.int32),
    'gt_valid': ((G,), np.bool_),
    'gt_ignored': ((G,), np.bool_),
}
IMAGE = {
    'image_size': ((2,), np.int32),
    'image_id': ((), np.int64),
    'scale': ((2,), np.float32),
    'original_size': ((2,), np.int32),
    'row_valid': ((), np.bool_),
    'skipped': ((), np.int64),
}


def check_batch(batch, fields, rows, canvas):
    expected = fields | {'image': ((*canvas, 3), np.uint8)}
    assert set(batch) == set(expected)
    for name, (shape, dtype) in expected.items():
        assert batch[name].shape == (*rows, *shape), name
        assert batch[name].dtype == dtype, name


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('index', [3, 4])
def test_a_row_keeps_the_contract(index, flip):
    canvas = (64, 96)
    row = load_row(Source(), index, canvas, PIPELINE, flip)
    check_batch(row, IMAGE | TRUTH, (), canvas)
    record = Source().records[index]
    assert row['image_id'] == record.image_id
    assert row['original_size'].tolist() == list(record.size)
    assert row['row_valid']
    count = len(record.labels)
    assert row['gt_valid'].tolist() == [k < count for k in range(G)]
    np.testing.assert_array_equal(row['gt_labels'][:count], record.labels)
    np.testing.assert_array_equal(row['gt_ignored'][:count], record.ignored)
    for name in TRUTH:
        assert not row[name][count:].any()


def test_image_fills_its_size_and_nothing_else():
    row = load_row(Source(), 1, (96, 96), PIPELINE, flip=False)
    height, width = row['image_size']
    assert (height, width) == (64, 32)
    assert row['image'][:height, :width].min() > 0
    assert not row['image'][height:].any()
    assert not row['image'][:, width:].any()


def test_image_and_boxes_are_resized_alike():
    source = Source()
    record = source.records[4]  # 40x80 becomes 32x64
    row = load_row(source, 4, (32, 64), PIPELINE, flip=False)
    assert row['scale'].tolist() == pytest.approx([0.8, 0.8])
    resized = cv2.resize(source.read_image(record), (64, 32))
    np.testing.assert_array_equal(row['image'], resized)
    expected = np.clip(record.boxes * np.float32(0.8), 0, [64, 32, 64, 32])
    np.testing.assert_allclose(row['gt_boxes'][:4], expected, rtol=1e-6)


def test_scale_is_of_each_axis():
    pipeline = dataclasses.replace(PIPELINE, keep_ratio=False, img_scale=(64, 64))
    row = load_row(Source(), 4, (64, 64), pipeline, flip=False)
    assert row['scale'].tolist() == pytest.approx([64 / 80, 64 / 40])  # width, height


def test_flip_mirrors_image_and_boxes():
    plain = load_row(Source(), 3, (64, 64), PIPELINE, flip=False)
    flipped = load_row(Source(), 3, (64, 64), PIPELINE, flip=True)
    height, width = plain['image_size']
    np.testing.assert_array_equal(
        flipped['image'][:height, :width], plain['image'][:height, :width][:, ::-1]
    )
    assert not flipped['image'][:, width:].any()
    x1, y1, x2, y2 = plain['gt_boxes'][:3].T
    expected = np.stack([width - x2, y1, width - x1, y2], 1)
    np.testing.assert_allclose(flipped['gt_boxes'][:3], expected, rtol=1e-6)
    assert (expected[:, 2] > expected[:, 0]).all()
    assert not flipped['gt_boxes'][3:].any()


def test_flip_ratio_is_the_share_of_flipped_rows():
    source = Source(1)
    source.records = Records.from_list([Source(5).records[4]])
    for ratio, expected in ((0.0, {0}), (1.0, {4}), (0.5, {0, 1, 2, 3, 4})):
        pipeline = dataclasses.replace(PIPELINE, flip_ratio=ratio)
        batches = train_batches(source, pipeline=pipeline)
        plain = load_row(source, 0, (32, 64), pipeline, flip=False)['image']
        flips = [
            sum(not np.array_equal(image, plain) for image in batches(step)['image'])
            for step in range(40)
        ]
        assert set(flips) == expected


def test_an_image_without_objects():
    row = load_row(Source(), 5, (64, 64), PIPELINE, flip=True)
    check_batch(row, IMAGE | TRUTH, (), (64, 64))
    assert not any(row[name].any() for name in TRUTH)


def test_an_image_that_just_fits_has_no_padding():
    row = load_row(Source(), 4, (32, 64), PIPELINE, flip=False)
    assert row['image'].min() > 0


def test_boxes_without_room_are_an_error_and_never_dropped():
    few = dataclasses.replace(PIPELINE, max_boxes=3)
    with pytest.raises(ValueError) as at_start:
        check_box_counts(Source(), few.max_boxes)
    with pytest.raises(ValueError) as at_load:
        load_row(Source(), 4, (32, 64), few, flip=False)
    for caught in (at_start, at_load):
        for part in ('data.max_boxes = 3', 'image id 496', '4.png', '4 boxes'):
            assert part in str(caught.value)
    check_box_counts(Source(), 4)


def test_images_to_score_may_have_any_number_of_boxes():
    few = dataclasses.replace(PIPELINE, max_boxes=1)
    batches = eval_batches(few.canvas_index(Source()), 4)
    build = EvalBatches(Source(), few, batches, (0, 4))
    found = [build(position) for position in range(len(batches))]
    rows = sum(int(batch['row_valid'].sum()) for batch in found)
    assert rows == len(Source().records)


def test_a_training_batch_keeps_the_contract():
    batches = train_batches()
    for step in range(batches.plan.steps_per_epoch):
        canvas = batches.plan.canvas(step)
        batch = batches(step)
        check_batch(batch, IMAGE | TRUTH, (4,), canvas)
        ids = batches.source.records.image_ids[batches.plan.records(step)]
        np.testing.assert_array_equal(batch['image_id'], ids)
        assert batch['row_valid'].all()


def test_the_declared_fields_are_those_of_a_batch():
    batch = train_batches()(0)
    sizes = dict(zip('BHWG', (*batch['image'].shape[:3], G), strict=True))
    assert set(batch) == set(BATCH_FIELDS)
    for name, field in BATCH_FIELDS.items():
        assert batch[name].shape == tuple(sizes.get(n, n) for n in field.shape), name
        assert batch[name].dtype == field.dtype, name


def test_a_blank_batch_has_the_shapes_and_types_of_the_real_one():
    batches = train_batches(rows=(1, 4))
    for step in range(3):
        blank, batch = batches.blank(step), batches(step)
        assert set(blank) == {'image', 'image_size', *TRUTH}
        for name, value in blank.items():
            assert (value.shape, value.dtype) == (batch[name].shape, batch[name].dtype)


def test_hosts_load_slices_of_one_global_batch():
    assert_hosts_load_slices(lambda rows: train_batches(rows=rows), middle=1)


def test_any_batch_can_be_rebuilt_alone():
    assert_rebuilt_alone(train_batches)


def test_an_evaluation_batch_keeps_the_contract():
    source = Source()
    batches = eval_batches(PIPELINE.canvas_index(source), 4)
    build = EvalBatches(source, PIPELINE, batches, (0, 4))
    seen = []
    for position, (canvas, records) in enumerate(batches):
        batch = build(position)
        check_batch(batch, IMAGE, (4,), PIPELINE.all_canvases()[canvas])
        np.testing.assert_array_equal(batch['row_valid'], records >= 0)
        seen += batch['image_id'][batch['row_valid']].tolist()
    assert sorted(seen) == sorted(source.records.image_ids.tolist())


def test_an_evaluation_slice_of_nothing_but_filling():
    source = Source(3)  # two images on one canvas, one on the other
    batches = eval_batches(PIPELINE.canvas_index(source), 4)
    batch = EvalBatches(source, PIPELINE, batches, (2, 4))(1)
    assert not batch['row_valid'].any()
    assert batch['image'].shape[0] == 2


def test_an_empty_range_gives_nothing():
    assert list(prefetch(train_batches(), 5, 5, workers=0)) == []
    assert list(prefetch(train_batches(), 5, 5, workers=2)) == []


class Numbers:
    """Batches of one black pixel, that know their number."""

    image_bytes = 3

    def __init__(self, broken):
        self.broken = broken

    def __call__(self, number, memory=None):
        if number == self.broken:
            raise ValueError(f'batch {number} is broken')
        images = images_in(memory, (1, 1, 1, 3))
        images[:] = 0
        return {'image': images, 'number': np.array(number)}


def test_an_error_in_a_thread_reaches_the_reader():
    batches = prefetch(Numbers(broken=2), 0, 5, workers=0)
    assert [int(next(batches)['number']) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match='batch 2 is broken'):
        next(batches)


def test_a_started_stream_is_the_same_stream():
    expected = list(prefetch(train_batches(), 0, 5, workers=0))
    with started(prefetch(train_batches(), 0, 5, workers=0)) as batches:
        for one, other in zip(batches, expected, strict=True):
            assert_same(one, other)


def test_a_stream_starts_before_it_is_asked_and_is_closed_unread():
    events, loaded = [], threading.Event()

    def stream():
        try:
            events.append('loads')
            loaded.set()
            yield {}
        finally:
            events.append('closed')

    with pytest.raises(KeyError), started(stream()):
        assert loaded.wait(10)
        raise KeyError
    assert events == ['loads', 'closed']


def test_an_error_at_the_start_reaches_the_reader():
    stream = prefetch(Numbers(broken=0), 0, 5, workers=0)
    with pytest.raises(ValueError, match='batch 0 is'), started(stream) as batches:
        next(batches)
