"""The generated data set: pure, honest about what it draws, and valid COCO."""

import pickle

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from atss_jax.data.shapes import scene as shapes_scene
from atss_jax.data.shapes.dataset import ShapesDataset

VARIED = ShapesDataset(40, seed=5, min_size=96, max_size=160)


def visible_shares(scene):
    """Each object's visible part, counted on a large canvas around the image."""
    height, width = scene.size
    border = max(scene.size)
    owners = np.zeros((height + 2 * border, width + 2 * border), np.int32)
    full = []
    for k in reversed(range(len(scene.outlines))):
        mask = np.zeros(owners.shape, np.uint8)
        shapes_scene.fill(mask, scene.outlines[k] + border, 1, cv2.LINE_8)
        owners[mask > 0] = k + 1
        full.append(mask.sum())
    inside = owners[border : border + height, border : border + width]
    counts = [(inside == k + 1).sum() for k in range(len(full))]
    return np.array(counts) / full[::-1]


def test_order_of_access_pickling_and_global_state_change_nothing():
    records = VARIED.records
    forward = [VARIED.read_image(records[k]) for k in range(8)]
    np.random.seed(1)
    cv2.setRNGSeed(1)
    copy = pickle.loads(pickle.dumps(VARIED))
    assert copy == VARIED
    for k in reversed(range(8)):
        np.testing.assert_array_equal(copy.read_image(copy.records[k]), forward[k])
    np.testing.assert_array_equal(copy.records.boxes, records.boxes)
    np.testing.assert_array_equal(copy.records.labels, records.labels)


def test_a_longer_set_starts_with_the_shorter_one():
    longer = ShapesDataset(50, seed=5, min_size=96, max_size=160)
    for k in range(40):
        np.testing.assert_array_equal(longer.records[k].boxes, VARIED.records[k].boxes)


def test_pickles_small_even_after_listing_records():
    dataset = ShapesDataset(200)
    assert len(dataset.records) == 200
    assert len(pickle.dumps(dataset)) < 1000


def test_seeds_and_indices_give_different_images():
    first, second = ShapesDataset(2, seed=0), ShapesDataset(2, seed=1)
    images = [d.read_image(d.records[k]) for d in (first, second) for k in (0, 1)]
    for i, image in enumerate(images):
        assert all(np.abs(image - other.astype(int)).mean() > 5 for other in images[:i])


def test_records_fit_the_images():
    for k in range(len(VARIED.records)):
        record = VARIED.records[k]
        image = VARIED.read_image(record)
        assert image.shape == (*record.size, 3) and image.dtype == np.uint8
        assert record.image_id == k + 1 and record.file_name == ''
        x1, y1, x2, y2 = record.boxes.T
        assert (x1 >= 0).all() and (x2 <= record.size[1]).all() and (x1 < x2).all()
        assert (y1 >= 0).all() and (y2 <= record.size[0]).all() and (y1 < y2).all()
        assert 1 <= len(record.labels) <= VARIED.max_objects
        assert not record.ignored.any()


def test_sizes_span_the_range_in_both_orientations():
    sizes = ShapesDataset(200, min_size=96, max_size=160).records.sizes
    assert sizes.min() < 100 and sizes.max() > 156
    assert (sizes[:, 0] > sizes[:, 1]).any() and (sizes[:, 0] < sizes[:, 1]).any()


@pytest.mark.parametrize('index', range(len(VARIED.records)))
def test_boxes_are_tight_around_the_drawn_pixels(index):
    record, scene = VARIED.records[index], VARIED.scene(index)
    for box, outline in zip(record.boxes, scene.outlines, strict=True):
        canvas = np.zeros(scene.size, np.uint8)
        shapes_scene.fill(canvas, outline, 255)
        rows, columns = np.nonzero(canvas >= 128)
        extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(box - extent).max() <= 1


def test_painted_image_shows_the_box():
    """A lone object stands out of the background inside its box and nowhere else."""
    dataset = ShapesDataset(20, max_objects=1, clutter=0, noise=0)
    for k in range(20):
        image = dataset.read_image(dataset.records[k])
        rng = dataset._rng(k, 1)
        empty = shapes_scene.paint(
            shapes_scene.Scene(dataset.scene(k).size, [], []), rng, 0, 0
        )
        changed = cv2.absdiff(image, cv2.GaussianBlur(empty, (3, 3), 0.5)).max(axis=2)
        rows, columns = np.nonzero(changed > 40)
        extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.abs(dataset.records[k].boxes[0] - extent).max() < 2


def test_cut_polygon_has_the_box_of_what_is_left():
    """Half of a diamond: its widest part lies outside, the box must not know."""
    diamond = np.array([[-6.0, 10], [10, -6], [26, 10], [10, 26]]) - (20, 0)
    np.testing.assert_allclose(
        shapes_scene.drawn_box(diamond, (30, 30)), [0, 3.5, 6.5, 16.5], atol=1e-9
    )
    np.testing.assert_allclose(
        shapes_scene.drawn_box(diamond + 40, (42, 24)), [21.5, 39.5, 24, 42], atol=1e-9
    )


@pytest.mark.parametrize('min_visible', [0.4, 0.6, 1.0])
def test_every_object_is_visible_enough(min_visible):
    dataset = ShapesDataset(60, seed=2, min_visible=min_visible)
    shares = np.concatenate([visible_shares(dataset.scene(k)) for k in range(60)])
    assert shares.min() >= min_visible
    if min_visible < 1:
        assert (shares < 0.95).mean() > 0.1  # there is something to hide behind


def tilts(max_rotation):
    """Degrees by which squares are turned, from -45 to 45."""
    dataset = ShapesDataset(60, seed=2, max_rotation=max_rotation)
    scenes = [dataset.scene(k) for k in range(60)]
    found = []
    for scene in scenes:
        for label, outline in zip(scene.labels, scene.outlines, strict=True):
            if dataset.classes[label] == 'square':
                x, y = outline[1] - outline[0]
                found.append((np.degrees(np.arctan2(y, x)) + 45) % 90 - 45)
    return np.array(found)


def test_shapes_turn_as_far_as_they_may():
    np.testing.assert_allclose(tilts(0.0), 0, atol=1e-6)
    few, all_ = tilts(20.0), tilts(180.0)
    assert -20 <= few.min() < -15 and 15 < few.max() <= 20
    assert all_.min() < -35 and all_.max() > 35


def test_no_image_is_empty_even_with_the_strictest_fields():
    dataset = ShapesDataset(200, min_visible=1.0, object_size=(1.0, 1.0))
    assert dataset.records.counts.min() == 1


def test_classes_are_equally_likely_and_sizes_varied():
    records = ShapesDataset(500).records
    frequency = np.bincount(records.labels, minlength=5) / len(records.labels)
    assert len(frequency) == 5 and frequency.min() > 0.16 and frequency.max() < 0.24
    assert np.bincount(records.counts, minlength=7)[1:].min() > 40
    sides = (records.boxes[:, 2:] - records.boxes[:, :2]).max(axis=1)
    assert (sides < 32).mean() > 0.2 and (sides > 50).mean() > 0.2


def test_clutter_and_noise_are_what_they_say():
    quiet = ShapesDataset(3, seed=4, noise=0)
    loud = ShapesDataset(3, seed=4, noise=12)
    for k in range(3):
        images = [d.read_image(d.records[k]).astype(int) for d in (quiet, loud)]
        middle = (images[0] > 60) & (images[0] < 195)  # no clipping at the ends
        assert abs((images[1] - images[0])[middle].std() - 12) < 1.5
    np.testing.assert_array_equal(quiet.records.boxes, loud.records.boxes)
    bare = ShapesDataset(3, seed=4, clutter=0)
    np.testing.assert_array_equal(quiet.records.boxes, bare.records.boxes)


def test_ground_truth_is_valid_coco(capsys):
    coco = COCO()
    coco.dataset = VARIED.ground_truth()
    coco.createIndex()
    assert coco.getImgIds() == list(range(1, 41))
    assert [coco.cats[c]['name'] for c in VARIED.category_ids] == list(VARIED.classes)
    for k in range(40):
        record = VARIED.records[k]
        image = coco.imgs[record.image_id]
        assert (image['height'], image['width']) == record.size
        rows = coco.loadAnns(coco.getAnnIds(record.image_id))
        boxes = np.array([row['bbox'] for row in rows])
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], record.boxes[:, 2:])
        np.testing.assert_allclose([r['area'] for r in rows], boxes[:, 2:].prod(axis=1))
        labels = [VARIED.category_ids.index(row['category_id']) for row in rows]
        assert labels == record.labels.tolist()
    assert len(coco.anns) == len(VARIED.records.labels)


@pytest.mark.parametrize(
    'fields',
    [
        {'num_images': 0},
        {'seed': -1},
        {'min_size': 0},
        {'min_size': 128, 'max_size': 64},
        {'max_objects': 0},
        {'object_size': (0.5, 0.2)},
        {'object_size': (0.2, 1.2)},
        {'object_size': (0.2,)},
        {'min_size': 40, 'max_size': 40},
        {'min_visible': 0.0},
        {'min_visible': 1.5},
        {'max_rotation': -1.0},
        {'max_rotation': 181.0},
        {'clutter': -1.0},
        {'noise': -1.0},
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match='expected'):
        ShapesDataset(**{'num_images': 4, **fields})


def test_records_of_another_set_are_refused():
    with pytest.raises(ValueError, match=r'1\.\.2'):
        ShapesDataset(2).read_image(VARIED.records[30])
    with pytest.raises(ValueError, match='another data set'):
        ShapesDataset(40, min_size=200, max_size=200).read_image(VARIED.records[0])
