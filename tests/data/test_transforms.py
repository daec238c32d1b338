import numpy as np
import pytest

from atss_jax.data import transforms
from atss_jax.data.coco import dataset


class TestRescaleSize:
    def test_the_tighter_of_both_sides_decides(self):
        # 480x640 to (1333, 800): min(1333/640, 800/480) = 1.6667 -> 800, 1066.67 + 0.5
        assert transforms.rescale_size((480, 640), (1333, 800)) == (800, 1067)
        assert transforms.rescale_size((100, 640), (1333, 800)) == (208, 1333)

    def test_order_of_the_scale_does_not_matter(self):
        assert transforms.rescale_size((480, 640), (800, 1333)) == (800, 1067)

    def test_without_keeping_the_ratio_the_scale_is_width_and_height(self):
        assert transforms.rescale_size((480, 640), (200, 100), False) == (100, 200)

    def test_sliver_keeps_one_pixel(self):
        assert transforms.rescale_size((1, 5000), (1333, 800)) == (1, 1333)

    @pytest.mark.parametrize('size, scale', [((0, 5), (9, 9)), ((5, 5), (9, -1))])
    def test_not_positive(self, size, scale):
        with pytest.raises(ValueError, match='not positive'):
            transforms.rescale_size(size, scale)

    def test_golden(self, golden):
        case = golden('resize')
        for shape, size, scale in zip(
            case['shapes'], case['sizes'], case['scale_factors'], strict=True
        ):
            new_size = transforms.rescale_size(tuple(shape), (1333, 800))
            assert new_size == tuple(size)
            found = transforms.scale_factor(tuple(shape), new_size)
            np.testing.assert_array_equal(found, scale)


class TestImages:
    def test_golden_resize_and_flip(self, golden):
        case = golden('resize')
        image = case['pixels_in']
        for name, img_scale in (('up', (133, 80)), ('down', (40, 30))):
            size = transforms.rescale_size(image.shape[:2], img_scale)
            resized = transforms.resize(image, size)
            np.testing.assert_array_equal(resized, case[f'pixels_{name}'])
            if name == 'up':
                flipped = transforms.flip_image(resized)
                np.testing.assert_array_equal(flipped, case['flip_up'])

    def test_flip_mirrors_columns(self):
        image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
        np.testing.assert_array_equal(transforms.flip_image(image), image[:, ::-1])

    def test_written_where_they_stay(self):
        """Into part of a larger array, as into a new one, whatever was there."""
        random = np.random.default_rng(0)
        image = random.integers(0, 256, (30, 41, 3)).astype(np.uint8)
        for size in ((50, 67), (20, 27), (30, 41)):
            canvas = random.integers(0, 256, (64, 96, 3)).astype(np.uint8)
            expected = np.zeros_like(canvas)
            expected[: size[0], : size[1]] = transforms.resize(image, size)
            corner = transforms.corner(canvas, size)
            transforms.resize(image, size, out=corner)
            np.testing.assert_array_equal(canvas, expected)
            transforms.flip_image(corner, out=corner)
            expected[:, : size[1]] = expected[:, : size[1]][:, ::-1]
            np.testing.assert_array_equal(canvas, expected)

    def test_a_corner_leaves_black_around_it(self):
        canvas = np.full((4, 5, 3), 9, np.uint8)
        corner = transforms.corner(canvas, (2, 3))
        assert corner.shape == (2, 3, 3)
        corner[:] = 7
        np.testing.assert_array_equal(canvas[:2, :3], 7)
        assert canvas.sum() == 7 * corner.size

    def test_a_corner_that_does_not_fit(self):
        with pytest.raises(ValueError, match=r'height 2, width 3 .* height 4, width 2'):
            transforms.corner(np.zeros((4, 2, 3), np.uint8), (2, 3))


class TestBoxes:
    boxes = np.array(
        [[-5, 10, 20, 30], [90, 40, 120, 60], [101, 5, 130, 8]], np.float32
    )

    def test_resize(self):
        resized = transforms.resize_boxes(self.boxes, np.array([2.0, 0.5]))
        assert resized.dtype == np.float32
        np.testing.assert_array_equal(resized[0], [-10, 5, 40, 15])

    def test_clip_reaches_to_the_edge_and_removes_nothing(self):
        clipped = transforms.clip_boxes(self.boxes, (50, 100))
        assert clipped.dtype == np.float32
        np.testing.assert_array_equal(
            clipped, [[0, 10, 20, 30], [90, 40, 100, 50], [100, 5, 100, 8]]
        )

    def test_flip(self):
        flipped = transforms.flip_boxes(self.boxes, 100)
        assert flipped.dtype == np.float32
        np.testing.assert_array_equal(flipped[0], [80, 10, 105, 30])
        np.testing.assert_array_equal(transforms.flip_boxes(flipped, 100), self.boxes)

    def test_none(self):
        none = np.zeros((0, 4), np.float32)
        for out in (
            transforms.resize_boxes(none, np.ones(2)),
            transforms.clip_boxes(none, (5, 5)),
            transforms.flip_boxes(none, 5),
        ):
            assert out.shape == (0, 4) and out.dtype == np.float32


def test_golden_pipeline(golden, coco_tiny):
    """mmdet's loading, Resize and RandomFlip on 80 real images, pixel for pixel."""
    case = golden('pipeline')
    case = {key: case[key] for key in case.files}
    source = dataset.CocoDataset(
        str(coco_tiny / 'annotations' / 'instances_train2017.json'),
        str(coco_tiny / 'train2017'),
    )
    assert len(source.records) == case['num_images'] == 80
    assert source.classes == tuple(case['classes'])
    order = dict.fromkeys(int(key.split('/')[0]) for key in case if '/' in key)
    assert source.records.image_ids.tolist() == list(order)
    for index in range(80):
        record = source.records[index]
        size = transforms.rescale_size(record.size, (1333, 800))
        scale = transforms.scale_factor(record.size, size)
        image = transforms.resize(source.read_image(record), size)
        boxes = transforms.clip_boxes(
            transforms.resize_boxes(record.boxes, scale), size
        )
        for flip in (0, 1):
            if flip:
                image = transforms.flip_image(image)
                boxes = transforms.flip_boxes(boxes, size[1])
            prefix = f'{record.image_id}/{flip}/'
            want = {
                k[len(prefix) :]: v for k, v in case.items() if k.startswith(prefix)
            }
            assert len(want) == 7
            assert size == tuple(want['img_shape'])
            np.testing.assert_array_equal(scale, want['scale_factor'])
            real = ~record.ignored
            np.testing.assert_allclose(boxes[real], want['bboxes'], atol=1e-3)
            np.testing.assert_allclose(boxes[~real], want['ignored'], atol=1e-3)
            np.testing.assert_array_equal(record.labels[real], want['labels'])
            pixel_sum = image.reshape(-1, 3).sum(axis=0, dtype=np.int64)
            np.testing.assert_array_equal(pixel_sum, want['pixel_sum'])
            np.testing.assert_array_equal(image[100:400:97, 50:700:131], want['pixels'])
