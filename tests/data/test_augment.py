"""Random scale and crop: mmdetection's rules by hand, and the stream they make."""

import dataclasses

import numpy as np
import pytest

from atss_jax.data.batch import Pipeline, empty_pixels, load_view
from atss_jax.data.plan import default_canvases, smallest_canvas
from atss_jax.data.records import Record, Records
from atss_jax.data.shapes.dataset import ShapesDataset
from atss_jax.data.transforms import Jitter, View, rescale_size
from tests.support.batches import (
    Source,
    assert_hosts_load_slices,
    assert_rebuilt_alone,
    assert_same,
    run_script,
    train_batches,
)

LSJ = Jitter(
    ratio_range=(0.1, 2.0),
    crop_size=(64, 64),
    allow_negative_crop=True,
    min_gt_bbox_wh=(0.01, 0.01),
)
MS = Jitter(img_scales=((107, 51), (107, 64)))
VALUES = Jitter(img_scales=((80, 40), (60, 60), (40, 20)), multiscale_mode='value')
JITTERS = {'lsj': LSJ, 'ms': MS, 'values': VALUES}


def pipeline(jitter, **fields):
    return Pipeline((64, 64), flip_ratio=0.5, max_boxes=5, jitter=jitter, **fields)


def record(boxes, size=(100, 200), ignored=()):
    count = len(boxes)
    return Record(
        image_id=1,
        file_name='1.png',
        size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(count, dtype=np.int32),
        ignored=np.isin(np.arange(count), ignored),
    )


def draws(jitter, one, count=300, img_scale=(64, 64), keep_ratio=True):
    random = np.random.default_rng(0)
    pipe = pipeline(jitter, keep_ratio=keep_ratio)
    pipe = dataclasses.replace(pipe, img_scale=img_scale)
    return [pipe.sample_view(0, one, random) for _ in range(count)]


class OneSource(Source):
    """One record, many times."""

    def __init__(self, one, count=1):
        self.records = Records.from_list([one] * count)


# Scale -------------------------------------------------------------------------------


def test_ratio_range_multiplies_the_scale_and_rounds_down():
    """As mmcv: int(scale * ratio), then the image is fitted to it."""

    class Fixed:
        def random(self):
            return 0.5

    jitter = Jitter(ratio_range=(0.1, 2.0))
    assert jitter.sample_scale((1024, 1000), Fixed()) == (1075, 1050)  # x 1.05
    assert jitter.largest_scales((1024, 1000)) == ((2048, 2000),)
    assert Jitter(ratio_range=(0.001, 0.001)).sample_scale((64, 9), Fixed()) == (1, 1)


def test_ratios_are_spread_over_the_range():
    heights = [
        view.size[0] for view in draws(Jitter(ratio_range=(0.5, 2.0)), record([]))
    ]
    # 100x200 fits (64, 64) as 32x64: heights 16 to 64.
    assert min(heights) in (16, 17) and max(heights) in (63, 64)
    assert abs(np.mean(heights) - 40) < 3


def test_range_draws_both_sides_between_two_scales():
    jitter = Jitter(img_scales=((1333, 800), (640, 1301)))  # either way round
    random = np.random.default_rng(0)
    scales = np.array([jitter.sample_scale((9, 9), random) for _ in range(2000)])
    assert scales.min(0).tolist() == [1301, 640]
    assert scales.max(0).tolist() == [1333, 800]
    assert jitter.largest_scales((9, 9)) == ((1333, 800),)


def test_value_draws_one_of_the_scales():
    random = np.random.default_rng(0)
    scales = [VALUES.sample_scale((9, 9), random) for _ in range(300)]
    assert set(scales) == set(VALUES.img_scales)
    assert min(scales.count(scale) for scale in VALUES.img_scales) > 70


def test_the_largest_size_of_several_scales_is_of_each_side():
    # 100x200: (80, 40) makes 40x80, (60, 60) 30x60. 200x200: 40x40 and 60x60.
    assert VALUES.largest((100, 200), (9, 9), True) == (40, 80)
    assert VALUES.largest((200, 200), (9, 9), True) == (60, 60)


@pytest.mark.parametrize('keep_ratio', [True, False])
@pytest.mark.parametrize('jitter', JITTERS.values(), ids=JITTERS)
def test_no_view_is_larger_than_the_largest(jitter, keep_ratio):
    canvases = default_canvases((64, 64), keep_ratio, 32, jitter)
    for size in [(100, 200), (200, 100), (30, 30), (9, 400)]:
        height, width = jitter.largest(size, (64, 64), keep_ratio)
        shown = np.array(
            [v.shown for v in draws(jitter, record([], size), keep_ratio=keep_ratio)]
        )
        assert (shown <= [height, width]).all()
        assert (shown >= 1).all()
        assert smallest_canvas(canvases, (height, width), 32) is not None


@pytest.mark.parametrize(
    'jitter, scale, expected',
    [
        (Jitter(), (1333, 800), ((800, 1344), (1344, 800))),
        (
            Jitter(img_scales=((1333, 640), (1333, 800))),
            (1333, 800),
            ((800, 1344), (1344, 800)),
        ),
        (
            Jitter(ratio_range=(0.1, 2), crop_size=(1024, 1024)),
            (1024, 1024),
            ((1024, 1024),),
        ),
        (Jitter(ratio_range=(0.1, 2)), (320, 256), ((512, 640), (640, 512))),
        # Width 100, height 50 of a window in images up to 60x120 or 120x60.
        (Jitter(crop_size=(100, 50)), (120, 60), ((64, 128), (64, 64))),
    ],
)
def test_default_canvases(jitter, scale, expected):
    assert default_canvases(scale, True, 32, jitter) == expected


# Crop --------------------------------------------------------------------------------

# Drawn by hand: an image of 100x200 (height x width), kept at its size, window of
# height 40 and width 60 at row 30, column 50.
WINDOW = View(0, (100, 200), 30, 50, 40, 60, False)
CROP = Jitter(crop_size=(60, 40))


@pytest.mark.parametrize(
    'box, expected',
    [
        ((60, 40, 80, 50), (10, 10, 30, 20)),  # inside: moved
        ((40, 20, 80, 50), (0, 0, 30, 20)),  # over the corner: cut
        ((0, 0, 200, 100), (0, 0, 60, 40)),  # around it: the whole window
        ((40, 40, 50, 50), None),  # to its left, touching
        ((110, 40, 150, 50), None),  # to its right, touching
        ((60, 0, 80, 30), None),  # above
        ((60, 70, 80, 99), None),  # below
        ((60, 0, 80, 30.5), (10, 0, 30, 0.5)),  # half a pixel is enough
        ((70, 50, 70, 60), (20, 20, 20, 30)),  # no width, but inside: mmdet keeps it
    ],
)
def test_boxes_in_a_window(box, expected):
    boxes, shown = CROP.boxes(record([box]), WINDOW)
    assert shown.tolist() == [expected is not None]
    if expected is not None:
        assert boxes.tolist() == [list(map(float, expected))]


def test_without_a_crop_no_box_is_dropped():
    view = View(0, (50, 100), 0, 0, 50, 100, False)
    boxes, shown = Jitter().boxes(record([(0, 0, 9, 9), (5, 5, 5, 5)]), view)
    assert shown.all() and boxes[0].tolist() == [0, 0, 4.5, 4.5]


def test_small_boxes_are_filtered_by_both_sides():
    jitter = dataclasses.replace(CROP, min_gt_bbox_wh=(2.0, 3.0))
    sides = [(2, 9), (2.1, 3), (2.1, 3.1), (9, 9)]  # larger than, not as large as
    boxes = [(60, 40, 60 + w, 40 + h) for w, h in sides] + [(0, 0, 9, 9)]
    boxes, shown = jitter.boxes(record(boxes), WINDOW)
    assert shown.tolist() == [True] * 4 + [False]
    assert jitter.kept(boxes, shown).tolist() == [False, False, True, True, False]


def accepts(boxes, **fields):
    jitter = dataclasses.replace(CROP, **fields)
    return jitter.accepts(record(boxes), WINDOW)


def test_a_window_without_boxes():
    inside, outside, thin = (60, 40, 70, 50), (0, 0, 9, 9), (60, 40, 60.5, 50)
    assert accepts([outside, inside])
    assert not accepts([outside]) and not accepts([])
    assert accepts([outside], allow_negative_crop=True)
    assert accepts([], allow_negative_crop=True)
    # The filter speaks only where the window shows boxes at all, as in mmdet.
    large = {'min_gt_bbox_wh': (1, 1), 'allow_negative_crop': True}
    assert not accepts([thin], **large)
    assert accepts([thin, inside], **large)
    assert accepts([thin], keep_empty=False, **large)
    assert accepts([outside], **large) and accepts([], **large)


def test_crowds_are_cropped_and_filtered_like_boxes():
    boxes = [(60, 40, 80, 60), (0, 0, 9, 9), (100, 60, 140, 90), (60, 60, 61, 60.5)]
    jitter = dataclasses.replace(CROP, min_gt_bbox_wh=(0.6, 0.6))
    one = record(boxes, ignored=(1, 2, 3))
    source = OneSource(one)
    row = load_view(source, WINDOW, pipeline(jitter), empty_pixels((64, 64)))
    assert row['gt_valid'].tolist() == [True, True, False, False, False]
    assert row['gt_labels'][:2].tolist() == [0, 2]
    assert row['gt_ignored'].tolist() == [False, True, False, False, False]
    assert row['gt_boxes'][:2].tolist() == [[10, 10, 30, 30], [50, 30, 60, 40]]
    # A crowd alone makes a window acceptable.
    assert jitter.accepts(record(boxes[2:3], ignored=(0,)), WINDOW)


FILTERS = (None, (0.01, 0.01), (3.0, 5.0))


def test_golden_crops(golden):
    """mmdetection's own RandomCrop and FilterAnnotations, bit for bit."""
    case = golden('crop')
    start_in = start_out = refused = 0
    for row in case['cases'].tolist():
        height, width, long, short, crop_w, crop_h = row[:6]
        negative, small, keep_empty = row[6:9]
        top, left, count_in, is_kept, count_out = row[9:]
        given = case['boxes_in'][start_in : start_in + count_in]
        expected = case['boxes_out'][start_out : start_out + count_out]
        start_in, start_out = start_in + count_in, start_out + count_out
        jitter = Jitter(
            crop_size=(crop_w, crop_h),
            allow_negative_crop=bool(negative),
            min_gt_bbox_wh=FILTERS[small],
            keep_empty=bool(keep_empty),
        )
        crowds = tuple(np.flatnonzero(given[:, 4]))
        one = record(given[:, :4], (height, width), crowds)
        size = rescale_size(one.size, (long, short))
        view = View(0, size, top, left, *jitter.cropped(size), False)
        assert jitter.accepts(one, view) == bool(is_kept)
        if not is_kept:
            refused += 1
            continue
        boxes, shown = jitter.boxes(one, view)
        kept = jitter.kept(boxes, shown)
        np.testing.assert_array_equal(boxes[kept], expected[:, :4])
        np.testing.assert_array_equal(one.labels[kept], expected[:, 4])
        np.testing.assert_array_equal(one.ignored[kept], expected[:, 5])
    assert refused == 60


def test_windows_lie_anywhere_in_the_image():
    jitter = Jitter(crop_size=(40, 30), allow_negative_crop=True)
    views = draws(jitter, record([]), 3000, img_scale=(80, 40))  # 40x80
    assert {view.shown for view in views} == {(30, 40)}
    assert {view.top for view in views} == set(range(11))
    assert {view.left for view in views} == set(range(41))


def test_a_small_image_stays_whole():
    jitter = Jitter(crop_size=(64, 16), allow_negative_crop=True)
    views = draws(jitter, record([]), img_scale=(40, 20))  # 20x40: cut in height only
    assert {(view.shown, view.left) for view in views} == {((16, 40), 0)}


@pytest.mark.parametrize('flip', [False, True])
def test_pixels_and_boxes_of_a_view_go_together(flip):
    """The box's pixels are the ones that the image has there."""
    one = record([(80, 40, 100, 60)])

    class Painted(OneSource):
        def read_image(self, record):
            image = np.full((*record.size, 3), 50, np.uint8)
            image[40:60, 80:100] = 200
            return image

    view = View(0, (50, 100), 10, 30, 32, 40, flip)  # half size
    row = load_view(Painted(one), view, pipeline(CROP), empty_pixels((32, 64)))
    assert row['image_size'].tolist() == [32, 40]
    expected = [40 - 20, 10, 40 - 10, 20] if flip else [10, 10, 20, 20]
    assert row['gt_boxes'][0].tolist() == expected
    x1, y1, x2, y2 = expected
    inner = row['image'][y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
    assert (inner == 200).all()
    assert (row['image'][:32, :40, 0] > 125).sum() == 100
    assert not row['image'][:, 40:].any()


# The stream --------------------------------------------------------------------------


def batches_with(jitter, rows=(0, 4), source=None, times=1, **fields):
    return train_batches(source, rows, pipeline(jitter, **fields), times)


@pytest.mark.parametrize('jitter', JITTERS.values(), ids=JITTERS)
def test_hosts_load_slices_of_one_global_batch(jitter):
    assert_hosts_load_slices(lambda rows: batches_with(jitter, rows), middle=1)


@pytest.mark.parametrize('jitter', JITTERS.values(), ids=JITTERS)
def test_any_batch_can_be_rebuilt_alone(jitter):
    assert_rebuilt_alone(lambda: batches_with(jitter))


def jittered_shapes():
    source = ShapesDataset(21, min_size=64, max_size=80, max_objects=5)
    return batches_with(
        dataclasses.replace(LSJ, allow_negative_crop=False), source=source
    )


def test_workers_change_nothing(tmp_path):
    body = """
    from tests.data.test_augment import jittered_shapes
    batches = jittered_shapes()
    expected = [batches(step) for step in range(3, 6)]
    for workers in (0, 2):
        stream = prefetch(batches, 3, 100, workers)
        for one in expected:
            other = next(stream)
            for name in one:
                assert np.array_equal(one[name], other[name]), (workers, name)
        stream.close()
"""
    assert run_script(body, tmp_path).stderr == ''


def test_a_record_is_shown_at_many_sizes():
    one = record([(10, 10, 60, 60)])
    batches = batches_with(LSJ, source=OneSource(one, 2))
    sizes = {tuple(size) for step in range(10) for size in batches(step)['image_size']}
    assert len(sizes) > 20


def test_the_stream_is_pinned():
    """Resuming a run of last month needs last month's stream."""
    batches = batches_with(LSJ)
    views = [tuple(batches.view(step, 1)) for step in (0, 5)]
    assert views == [
        (1, (107, 54), 6, 0, 64, 54, False),
        (5, (10, 5), 0, 0, 10, 5, False),
    ]


def test_another_seed_is_another_stream():
    one = batches_with(LSJ)
    other = dataclasses.replace(one, plan=dataclasses.replace(one.plan, seed=2))
    assert one.view(0, 0)[1:] != other.view(0, 0)[1:]


def test_a_negative_crop_is_replaced_by_another_image():
    """Boxes in one corner: most windows of the large images show none."""
    jitter = Jitter(crop_size=(32, 32))
    records = [record([(0, 0, 8, 8)], (64, 64)), record([(0, 0, 64, 64)], (64, 64))]
    source = Source()
    source.records = Records.from_list(records)
    batches = batches_with(jitter, source=source)
    shown = [batches.view(step, row) for step in range(40) for row in range(4)]
    assert all(
        jitter.boxes(source.records[view.record], view)[1].any() for view in shown
    )
    taken = [view.record for view in shown]
    # Each is planned 80 times; the corner is seen in about 1 of 20 windows.
    assert taken.count(0) < 20 and taken.count(1) > 140
    for step in range(5):
        batch = batches(step)
        assert batch['gt_valid'].any(axis=1).all()


def test_data_without_any_object_is_an_error():
    batches = batches_with(Jitter(crop_size=(32, 32)), source=OneSource(record([])))
    with pytest.raises(ValueError, match='allow_negative_crop=True'):
        batches(0)


def test_replacements_stay_on_their_canvas():
    batches = batches_with(dataclasses.replace(CROP, crop_size=(30, 30)))
    plan = batches.plan
    for step in range(plan.steps_per_epoch):
        for row in range(4):
            taken = batches.view(step, row).record
            assert (
                plan.canvas_index[taken] == plan.canvas_index[plan.records(step)[row]]
            )


def test_the_canvas_is_the_smallest_that_holds_the_batch():
    canvases = ((64, 64), (32, 32), (32, 64), (64, 128), (128, 64))
    batches = batches_with(MS, canvases=canvases)
    found = set()
    for step in range(40):
        shown = np.array([batches.view(step, row).shown for row in range(4)])
        canvas = batches.canvas(step)
        assert batches(step)['image'].shape[1:3] == canvas
        assert canvas == smallest_canvas(canvases, shown.max(0), 32)
        found.add(canvas)
    # MS makes images of 51 to 64 on the short side, so no canvas of 32 will do.
    assert found <= {(64, 64), (64, 128), (128, 64)} and len(found) > 1


class WithBadImage(Source):
    """The image of record 2 cannot be read."""

    def read_image(self, record):
        if record.image_id == self.records.image_ids[2]:
            raise FileNotFoundError('498: no such image')
        return super().read_image(record)


@pytest.mark.parametrize('jitter', JITTERS.values(), ids=JITTERS)
def test_what_takes_the_place_of_a_bad_image_fits_the_canvas(jitter):
    canvases = ((64, 64), (64, 128), (128, 64))
    fields = {'canvases': canvases, 'max_bad_pictures': 0.5}
    good = batches_with(jitter, **fields)
    bad = batches_with(jitter, source=WithBadImage(), **fields)
    replaced = 0
    for step in range(12):
        batch, plain = bad(step), good(step)
        assert batch['image'].shape == plain['image'].shape
        skipped = batch['skipped'] == 2
        ids = bad.source.records.image_ids
        np.testing.assert_array_equal(skipped, plain['image_id'] == ids[2])
        assert not (batch['image_id'] == ids[2]).any()
        for name in ('image', 'gt_boxes', 'image_size'):
            np.testing.assert_array_equal(batch[name][~skipped], plain[name][~skipped])
        replaced += skipped.sum()
        assert_same(bad(step), batch)
    assert replaced > 2


def test_smallest_canvas():
    canvases = ((64, 96), (96, 64), (64, 64))
    assert smallest_canvas(canvases, (33, 64), 32) == (64, 64)
    assert smallest_canvas(canvases, (65, 10), 32) == (96, 64)
    assert smallest_canvas(canvases[:2], (10, 10), 32) == (64, 96)  # the first of equal
    assert smallest_canvas(canvases, (65, 65), 32) is None


def test_an_epoch_passes_several_times_over_the_data():
    plan = batches_with(MS, times=3).plan  # 11 records, two canvases: 6 and 5
    once = batches_with(MS).plan
    assert once.steps_per_epoch == 2 + 2
    assert plan.steps_per_epoch == 5 + 4  # ceil(18/4) + ceil(15/4)
    for epoch in range(2):
        steps = range(epoch * 9, epoch * 9 + 9)
        counts = np.bincount(np.concatenate([plan.records(step) for step in steps]))
        assert counts.min() == 3 and counts.sum() == 36 and counts.max() <= 4


def test_evaluation_of_training_images_draws_nothing():
    plain = pipeline(LSJ).without_jitter()
    assert plain.jitter == Jitter() and plain.flip_ratio == 0
    assert plain.all_canvases() == ((64, 64),)
