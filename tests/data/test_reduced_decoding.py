"""JPEGs decoded at a fraction of their size: when, how near, and nothing else changes.

The photographs are smooth noise, so that pixels of both ways can be compared.
"""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from atss_jax.data import image_file
from atss_jax.data.augment.affine import RandomAffine
from atss_jax.data.batch import Pipeline
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.image_file import BadImage, reduction_for
from atss_jax.data.loader import EvalBatches, TrainBatches
from atss_jax.data.plan import TrainPlan, eval_batches
from tests.support.image_files import with_orientation

SIZES = ((304, 456), (456, 304), (64, 80), (304, 400), (296, 402))  # height, width
PIPELINE = Pipeline((80, 60), max_boxes=3, flip_ratio=0.5, max_bad_pictures=0.0)
REDUCED = dataclasses.replace(PIPELINE, reduced_decoding=True)


def photograph(size, seed=0):
    random = np.random.default_rng(seed)
    image = np.full((*size, 3), 120.0)
    for side in (3, 7, 15):
        coarse = random.normal(0, 25, (side, side, 3))
        image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return image.clip(0, 255).astype(np.uint8)


def encoded(image, suffix='.jpg'):
    return cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def decoded(content, size, shown=None):
    return image_file.decode(content, size, 'a.jpg', 'image id 1', shown)


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize(
    ('size', 'shown', 'reduction'),
    [
        ((3000, 4000), (800, 1067), 2),
        ((3200, 4268), (800, 1067), 4),
        ((3198, 4268), (800, 1067), 2),
        ((3198, 4268), (800, 1068), 2),
        ((3200, 4268), (801, 1067), 2),
        ((3024, 4032), (800, 1067), 2),
        ((3001, 4000), (400, 533), 1),
        ((3002, 4004), (400, 533), 2),
        ((3004, 4008), (300, 400), 4),
        ((6400, 8536), (800, 1067), 8),
        ((60000, 80000), (800, 1067), 8),
        ((1600, 2134), (800, 1067), 2),
        ((1600, 2133), (800, 1067), 1),
        ((1599, 2134), (800, 1067), 1),
        ((480, 640), (800, 1067), 1),
        ((16, 10000), (8, 1000), 2),
        ((1, 1), (1, 1), 1),
    ],
)
def test_no_image_is_enlarged(size, shown, reduction):
    """Both sides of the image are at least so many times as long, and multiples."""
    assert reduction_for(size, shown) == reduction
    assert reduction_for(size[::-1], shown[::-1]) == reduction


@pytest.mark.parametrize('shown', [(152, 228), (76, 100), (38, 57), (10, 12)])
def test_a_reduced_image_is_the_same_image(shown):
    content = encoded(photograph((304, 456)))
    whole = decoded(content, (304, 456))
    reduction = reduction_for((304, 456), shown)
    reduced = decoded(content, (304, 456), shown)
    height, width = reduced.shape[:2]
    assert (height, width) == (304 // reduction, 456 // reduction)
    assert height >= shown[0] and width >= shown[1]
    by_area = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    assert reduction > 1 and 0 < difference(reduced, by_area) < 1.5
    swapped = reduced[..., ::-1]
    assert difference(swapped, by_area) > 5  # RGB, not BGR


def test_an_image_that_is_not_twice_as_large_is_the_same_bit_for_bit():
    content = encoded(photograph((304, 456)))
    whole = decoded(content, (304, 456))
    np.testing.assert_array_equal(decoded(content, (304, 456), (153, 228)), whole)
    np.testing.assert_array_equal(decoded(content, (304, 456), (600, 900)), whole)


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.bmp', '.tiff'])
def test_other_kinds_are_decoded_as_ever(suffix):
    content = encoded(photograph((120, 161)), suffix)
    whole = decoded(content, (120, 161))
    np.testing.assert_array_equal(decoded(content, (120, 161), (12, 16)), whole)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_an_image_is_turned_by_its_orientation(orientation):
    content = with_orientation(encoded(photograph((304, 456))), orientation)
    size = (456, 304) if orientation >= 5 else (304, 456)
    shown = tuple(side // 4 for side in size)
    whole, reduced = decoded(content, size), decoded(content, size, shown)
    assert reduced.shape[:2] == tuple(side // 4 for side in size)
    by_area = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert difference(reduced, by_area) < 1.5
    assert difference(reduced[::-1], by_area) > 5


def test_gray_becomes_three_channels():
    content = encoded(photograph((200, 304))[..., 0])
    reduced = decoded(content, (200, 304), (50, 76))
    assert reduced.shape == (50, 76, 3)
    assert (reduced[..., :1] == reduced).all()


def test_bad_images_are_refused_with_the_same_words():
    content = encoded(photograph((300, 400)))
    bad = [
        (content, (400, 300)),  # annotated the wrong way round
        (with_orientation(content, 6), (300, 400)),
        (content, (300, 401)),
        (content[:-100], (300, 400)),
        (b'no image', (300, 400)),
    ]
    for damaged, size in bad:
        messages = []
        for shown in (None, (30, 40)):
            with pytest.raises(BadImage) as caught:
                decoded(damaged, size, shown)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


# Batches -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A COCO data set of photographs, one of which is small and one a PNG."""
    folder = tmp_path_factory.mktemp('photographs')
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES):
        name = f'{number}.png' if number == 3 else f'{number}.jpg'
        content = encoded(photograph((height, width), number), name[1:])
        (folder / name).write_bytes(content)
        images.append(
            {'id': number, 'file_name': name, 'height': height, 'width': width}
        )
        box = [width / 4, height / 4, width / 3, height / 2]
        annotations.append(
            {'id': number, 'image_id': number, 'category_id': 1, 'bbox': box}
            | {'area': box[2] * box[3], 'iscrowd': 0}
        )
    categories = [{'id': 1, 'name': 'thing'}]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (folder / 'annotations.json').write_text(json.dumps(content))
    return CocoDataset(str(folder / 'annotations.json'), str(folder))


def check_pixels(batch, other):
    """Those of the small JPEG and of the PNG are equal, the others nearly."""
    for row, image_id in enumerate(batch['image_id']):
        one, two = batch['image'][row], other['image'][row]
        if image_id in (2, 3):
            np.testing.assert_array_equal(one, two)
        else:
            assert 0 < difference(one, two) < 2.5


def training(source, pipeline):
    canvases = pipeline.canvas_index(source)
    plan = TrainPlan(canvases, pipeline.all_canvases(), 2, 3)
    return TrainBatches(source, plan, pipeline, (0, 2))


def test_only_the_pixels_of_training_batches_differ(source):
    plain, reduced = training(source, PIPELINE), training(source, REDUCED)
    for step in range(6):
        batch, other = plain(step), reduced(step)
        check_pixels(batch, other)
        for name in set(batch) - {'image'}:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_only_the_pixels_of_evaluation_batches_differ(source):
    def of(pipeline):
        batches = eval_batches(pipeline.canvas_index(source), 2)
        return EvalBatches(source, pipeline, batches, (0, 2))

    plain, reduced = of(PIPELINE.without_jitter()), of(REDUCED.without_jitter())
    for position in range(len(plain.batches)):
        batch, other = plain(position), reduced(position)
        check_pixels(batch, other)
        for name in set(batch) - {'image'}:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_transforms_before_the_resize_get_whole_images(source):
    shift = (RandomAffine(),)
    plain = dataclasses.replace(PIPELINE, before_resize=shift)
    reduced = dataclasses.replace(REDUCED, before_resize=shift)
    for step in range(3):
        batch = training(source, plain)(step)
        other = training(source, reduced)(step)
        np.testing.assert_array_equal(batch['image'], other['image'])
