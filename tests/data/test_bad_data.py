"""The table of docs/data.md, a test a row: from files on disk to batches."""

import dataclasses
import errno
import json
import resource
import unicodedata

import cv2
import numpy as np
import pytest

from atss_jax.data import image_file
from atss_jax.data.batch import check_box_counts, load_row
from atss_jax.data.image_file import BadImage
from tests.support import image_files as files
from tests.support.bad_folder import (
    CANVAS,
    PIPELINE,
    SIZE,
    Folder,
    epoch,
    evaluation,
    first_record,
    train_batches,
)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


# Rows of the table about the annotation file that are errors in both modes.


def without(section):
    def spoil(content):
        del content[section]

    return spoil


def update(section, index=3, **fields):
    def spoil(content):
        content[section][index].update(fields)

    return spoil


def update_all(section, value):
    def spoil(content):
        content[section] = value

    return spoil


def two_of_one_name(content):
    update('categories', 1, name='cell')(content)
    update('annotations', 0, category_id=5)(content)


def remove(section, key, index=3):
    def spoil(content):
        del content[section][index][key]

    return spoil


def repeat(section, **fields):
    """Appends record 3 again, with other fields."""

    def spoil(content):
        content[section].append(content[section][3] | fields)

    return spoil


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize(
    ('spoil', 'parts'),
    [
        (without('images'), ['no list of images']),
        (update_all('annotations', {}), ['no list of annotations']),
        (without('categories'), ['no list of categories']),
        (lambda content: content.update(images=[], annotations=[]), ['none of its 0']),
        (update('categories', 0, id='3'), ['categories[0]', 'id must be an integer']),
        (update('categories', 1, id=3), ['categories[1]', 'is taken by categories[0]']),
        (two_of_one_name, ["'cell' is taken by categories[0]", 'rename', 'merge']),
        (remove('categories', 'name', 0), ['categories[0]', 'name', 'missing']),
    ],
)
def test_what_cannot_be_left_out_is_always_an_error(folder, spoil, parts, on_error):
    spoil(folder.content)
    with pytest.raises(ValueError) as caught:
        folder.load(on_error=on_error, test_mode=True)
    for part in (str(folder.file), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize('unused', [3, 5])
def test_two_categories_of_one_name_of_which_one_is_used(folder, unused, on_error):
    update('categories', 1, name='cell')(folder.content)
    for annotation in folder.content['annotations']:
        annotation['category_id'] = 8 - unused
    with pytest.warns(UserWarning, match='1 of 2 categories left out: name of another'):
        source = folder.load(on_error=on_error)
    assert source.classes == ('cell',) and source.category_ids == (8 - unused,)
    assert len(source.ground_truth()['annotations']) == 10


def test_two_categories_of_one_name_that_is_no_class(folder):
    two_of_one_name(folder.content)
    folder.content['categories'].append({'id': 9, 'name': 'dish'})
    folder.content['annotations'][3]['category_id'] = 9
    source = folder.load(classes=('dish',))
    assert source.category_ids == (9,) and len(source.records.boxes) == 1


def test_two_categories_of_one_name_of_which_none_is_used(folder):
    folder.content['categories'].append({'id': 9, 'name': 'dish'})
    with pytest.warns(UserWarning, match='1 of 3 categories left out'):
        assert folder.load().category_ids == (3, 9)


@pytest.mark.parametrize(
    'spoil', [without('annotations'), update_all('annotations', None)]
)
def test_no_list_of_annotations(folder, spoil):
    spoil(folder.content)
    with pytest.raises(ValueError, match='no list of annotations'):
        folder.load()
    source = folder.load(test_mode=True)
    assert len(source.records) == 10 and not len(source.records.boxes)
    assert source.ground_truth()['annotations'] == []


def without_sizes(content):
    for image in content['images'][1:]:
        image.pop('height')
        image['width'] = None


def test_no_sizes_of_images(folder):
    without_sizes(folder.content)
    with pytest.raises(ValueError, match=r'images\[1\] .*height must .* it is missing'):
        folder.load()
    with pytest.warns(UserWarning, match='9 of 10 images have no height and width'):
        source = folder.load(test_mode=True)
    assert source.records.sizes.tolist() == [list(SIZE)] * 10
    (folder.images / '13.png').write_bytes(b'')
    with pytest.raises(
        ValueError, match=r'images\[3\] .*if no image in .* it is missing'
    ):
        folder.load(test_mode=True)
    with pytest.warns(UserWarning, match='1 of 10 images left out: height'):
        assert len(folder.load(test_mode=True, on_error='skip').records) == 9


def test_the_size_of_an_image_that_its_orientation_turns(folder):
    without_sizes(folder.content)
    folder.spoil(files.with_orientation(WHOLE_JPEG, 6))
    with pytest.warns(UserWarning, match='9 of 10 images'):
        source = folder.load(test_mode=True)
    assert source.records[3].size == SIZE[::-1]
    assert source.read_image(source.records[3]).shape == (*SIZE[::-1], 3)


@pytest.mark.parametrize(
    'name', ['deep\\13.png', 'caf\N{LATIN SMALL LETTER E WITH ACUTE}.png']
)
def test_names_written_in_another_way(folder, name):
    (folder.images / 'deep').mkdir()
    there = unicodedata.normalize('NFD', name.replace('\\', '/'))
    (folder.images / '13.png').rename(folder.images / there)
    folder.content['images'][3]['file_name'] = name
    source = folder.load()
    assert source.read_image(source.records[3]).any()


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_a_file_that_is_not_json_is_always_an_error(folder, on_error):
    folder.content = b'{"images": ['
    with pytest.raises(ValueError, match=r'annotations\.json: not a JSON file'):
        folder.load(on_error=on_error)


def test_a_byte_order_mark_is_read_over(folder):
    folder.content = b'\xef\xbb\xbf' + json.dumps(folder.content).encode()
    assert len(folder.load().records) == 10


NAN, INF = float('nan'), float('inf')
BAD_RECORDS = [
    # spoil, what the error says, what the count says, image ids left, boxes left
    (update('annotations', bbox=['1', 2, 3, 4]), 'bbox must be 4', 'bbox', 10, 9),
    (update('annotations', bbox=[1, 2, NAN, 4]), 'bbox must be 4', 'bbox', 10, 9),
    (update('annotations', bbox=[1, 2, INF, 4]), 'bbox must be 4', 'bbox', 10, 9),
    (update('annotations', bbox=[1, 2, 1e300, 4]), 'bbox must be 4', 'bbox', 10, 9),
    (update('annotations', bbox=[1, 2, 10**400, 4]), 'bbox must be 4', 'bbox', 10, 9),
    (update('annotations', bbox=[1, 2, 3]), 'bbox must be 4', 'bbox', 10, 9),
    (remove('annotations', 'bbox'), 'it is missing', 'bbox', 10, 9),
    (update('annotations', area='7'), 'area must be a finite', 'area', 10, 9),
    (update('annotations', area=NAN), 'area must be a finite', 'area', 10, 9),
    (update('annotations', iscrowd=2), 'iscrowd must be', 'iscrowd', 10, 9),
    (update('annotations', category_id='3'), 'category_id must', 'category_id', 10, 9),
    (update('annotations', image_id=99), 'found 99', 'image_id', 10, 9),
    (repeat('annotations'), '113 is taken by annotations[3]', 'id is taken', 10, 10),
]
BAD_IMAGE_RECORDS = [
    (update('images', height='40'), 'height must be an integer', 'height', 9, 9),
    (update('images', width=0), 'width must be an integer from 1', 'width', 9, 9),
    (update('images', width=2**40), 'width must be an integer', 'width', 9, 9),
    (remove('images', 'height'), 'it is missing', 'height', 9, 9),
    (remove('images', 'file_name'), 'it is missing', 'file_name', 9, 9),
    (update('images', file_name='a\0b'), 'file_name must be', 'file_name', 9, 9),
    (repeat('images'), '13 is taken by images[3]', 'id is taken', 10, 10),
    # Two images, one id: which of them the annotation is of nobody knows.
    (repeat('images', file_name='19.png'), '13 is taken by', 'id is taken', 9, 9),
]


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_an_unknown_category(folder, on_error):
    """Left out as in mmdet, whatever `on_error` says, but not silently."""
    update('annotations', category_id=4)(folder.content)
    with pytest.warns(UserWarning, match='1 of 10 annotations left out: category_id'):
        source = folder.load(on_error=on_error, filter_empty_gt=False)
    assert len(source.records) == 10
    assert len(source.ground_truth()['annotations']) == 9


@pytest.mark.parametrize(
    ('spoil', 'error', 'kind', 'images', 'boxes'), BAD_RECORDS + BAD_IMAGE_RECORDS
)
def test_a_malformed_record(folder, spoil, error, kind, images, boxes):
    spoil(folder.content)
    with pytest.raises(ValueError) as caught:
        folder.load()
    message = str(caught.value)
    assert str(folder.file) in message and error in message
    assert '[3] (id 1' in message or '[10] (id 1' in message

    with pytest.warns(UserWarning) as told:
        source = folder.load(on_error='skip', filter_empty_gt=False)
    first, *others = (str(warning.message) for warning in told)
    assert str(folder.file) in first and kind in first
    assert ('2 of 11' if 'taken' in kind and images == 9 else '1 of 1') in first
    # Of an image that is left out its annotation is left out too.
    assert len(others) == (images == 9)
    assert all('1 of 10 annotations left out: image_id' in text for text in others)

    assert len(source.records) == images
    assert len(source.ground_truth()['annotations']) == boxes
    batches = epoch(train_batches(source))
    seen = {int(i) for batch in batches for i in batch['image_id']}
    assert seen == set(source.records.image_ids.tolist())
    assert (13 in seen) == (images == 10)


def test_a_record_that_is_no_object(folder):
    folder.content['annotations'][3] = [1, 2]
    with pytest.raises(ValueError, match=r'annotations\[3\]: must be an object'):
        folder.load()
    with pytest.warns(UserWarning, match=r'left out: not an object \(annotations\[3'):
        assert len(folder.load(on_error='skip').records.boxes) == 9


def test_each_kind_is_one_line_with_its_count_and_the_first_ids(folder):
    for record in folder.content['annotations'][2:9]:
        record['bbox'] = None
    folder.content['annotations'][0]['image_id'] = 7
    with pytest.warns(UserWarning) as told:
        folder.load(on_error='skip')
    boxes, images = (str(warning.message) for warning in told)
    assert '7 of 10 annotations left out: bbox is not 4' in boxes
    assert (
        'annotations[2] (id 112), ' in boxes and 'annotations[6] (id 116), ...' in boxes
    )
    assert '[7]' not in boxes
    assert '1 of 3 annotations left out: image_id is not' in images
    assert '(annotations[0] (id 110))' in images


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize(
    ('fields', 'reason'),
    [
        ({'bbox': [1, 2, -10, 20]}, 'bbox narrower or lower than 1 pixel'),
        ({'bbox': [1, 2, 10, 0]}, 'bbox narrower or lower than 1 pixel'),
        ({'bbox': [1, 2, 0.9, 20]}, 'bbox narrower or lower than 1 pixel'),
        ({'area': 0}, 'area not above 0'),
        ({'area': -5}, 'area not above 0'),
        ({'bbox': [60, 2, 10, 20]}, 'bbox outside the image'),
        ({'bbox': [1, -20, 10, 20]}, 'bbox outside the image'),
    ],
)
def test_boxes_that_mmdet_passes_over(folder, fields, reason, on_error):
    folder.content['annotations'][0].update(fields)
    with pytest.warns(UserWarning) as told:
        source = folder.load(on_error=on_error)
    (line,) = (str(warning.message) for warning in told)
    assert f'1 of 10 annotations not trained on, as in mmdet: {reason}' in line
    assert '(ids 110)' in line and str(folder.file) in line
    assert not first_record(source)['gt_valid'].any()
    # It is scored against nevertheless, as pycocotools does.
    assert len(source.ground_truth()['annotations']) == 10


def test_a_box_partly_outside_is_clipped(folder, recwarn):
    folder.content['annotations'][0]['bbox'] = [-5, 30, 20, 100]
    row = first_record(folder.load())
    assert row['gt_boxes'][0].tolist() == [0, 30, 15, 40]
    assert not recwarn.list


def test_missing_iscrowd_and_area_are_filled(folder, recwarn):
    record = folder.content['annotations'][0]
    del record['iscrowd'], record['area']
    source = folder.load()
    row = first_record(source)
    assert row['gt_valid'].tolist() == [True, False]
    assert not row['gt_ignored'].any()
    truth = source.ground_truth()['annotations'][0]
    assert truth['iscrowd'] == 0 and truth['area'] == 200
    assert not recwarn.list


def test_no_annotations(folder):
    folder.content['annotations'] = []
    with pytest.raises(ValueError, match='none of its 10 images remains'):
        folder.load()
    source = folder.load(filter_empty_gt=False)
    assert not train_batches(source)(0)['gt_valid'].any()
    assert len(folder.load(test_mode=True).records) == 10


def test_an_image_without_objects(folder):
    del folder.content['annotations'][0]
    assert 10 not in folder.load().records.image_ids
    row = first_record(folder.load(filter_empty_gt=False))
    assert row['image_id'] == 10 and not row['gt_valid'].any()


def test_more_boxes_than_there_is_room_for(folder):
    for k in range(2):
        repeat('annotations', id=500 + k)(folder.content)
    source = folder.load()
    with pytest.raises(ValueError) as caught:
        check_box_counts(source, PIPELINE.max_boxes)
    for part in ('image id 13', '13.png', '3 boxes', 'data.max_boxes = 2'):
        assert part in str(caught.value)


# Rows about images that cannot be used.

WHOLE_PNG = files.png(SIZE, 8, files.RGB, bytes([10, 20, 30]))
WHOLE_JPEG = files.jpeg(SIZE, [77, 128, 128])


def photo(extension, *options):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    return cv2.imencode(extension, image, options)[1].tobytes()


def damaged(content):
    content = bytearray(content)
    content[len(content) // 2] ^= 1
    return bytes(content)


BAD_IMAGES = {
    'truncated JPEG': (photo('.jpg')[:2000], 'cut off, a JPEG without its end in 2000'),
    'JPEG less its last byte': (photo('.jpg')[:-1], 'cut off, a JPEG'),
    'truncated progressive JPEG': (
        photo('.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:-300],
        'cut off, a JPEG',
    ),
    'JPEG whose last half is zeros': (
        photo('.jpg')[:2000] + bytes(2000),
        'cut off, a JPEG',
    ),
    'truncated PNG': (photo('.png')[:2000], 'cut off, a PNG without its end in 2000'),
    'PNG less its last byte': (WHOLE_PNG[:-1], 'cut off, a PNG'),
    'truncated WebP': (photo('.webp')[:2000], 'a damaged WebP'),
    'truncated TIFF': (photo('.tiff')[:2000], 'a TIFF'),
    'truncated BMP': (photo('.bmp')[:2000], 'a damaged BMP'),
    'damaged PNG': (damaged(photo('.png')), 'a damaged PNG'),
    'header alone': (WHOLE_JPEG[:3], 'cut off, a JPEG'),
    'zero bytes': (b'', 'not an image (JPEG, PNG, WebP, BMP, TIFF or GIF), 0 bytes'),
    'not an image': (b'<html>404 Not Found</html>', 'not an image'),
    'kind that is not read': (b'P6\n1 1\n255\nabc', 'not an image'),
    'missing file': (None, 'No such file'),
    'other size': (
        files.png((41, 60), 8, files.GREY, b'\x09'),
        '60x41 (width x height), but annotated as 60x40',
    ),
    'turned size': (
        files.png((60, 40), 8, files.GREY, b'\x09'),
        '40x60 (width x height), but annotated as 60x40',
    ),
    'turned by EXIF, annotated as stored': (
        files.with_orientation(WHOLE_JPEG, 6),
        'EXIF orientation that the annotation tool did not apply',
    ),
    'decompression bomb, JPEG': (
        files.claiming(WHOLE_JPEG, (65500, 65500)),
        '65500x65500',
    ),
    'decompression bomb, PNG': (
        files.png((1, 30_000), 8, files.RGB, b'abc').replace(
            (30_000).to_bytes(4, 'big') + (1).to_bytes(4, 'big'),
            (30_000).to_bytes(4, 'big') * 2,
        ),
        '30000x30000',
    ),
    'decompression bomb, WebP': (
        b'RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0' + b'\xfe\xff\xff' * 2,
        '16777215x16777215',
    ),
    'decompression bomb, BMP': (
        photo('.bmp')[:18] + b'\x00\x00\x00\x40' * 2 + photo('.bmp')[26:],
        '1073741824x1073741824',
    ),
    'decompression bomb, GIF': (b'GIF89a\xff\xff\xff\xff' + bytes(20), '65535x65535'),
    'decompression bomb, TIFF': (
        b'II*\0\x08\0\0\0\x02\0'
        + b'\x00\x01\x04\0\x01\0\0\0\0\0\0\x40'
        + b'\x01\x01\x04\0\x01\0\0\0\0\0\0\x40'
        + bytes(4),
        '1073741824x1073741824',
    ),
}


@pytest.fixture(params=BAD_IMAGES)
def bad(request, folder):
    """A folder whose image 13 is bad, and what is said of it."""
    content, message = BAD_IMAGES[request.param]
    if content is None:
        (folder.images / '13.png').unlink()
    else:
        folder.spoil(content)
    return folder, message


def test_a_bad_image_is_named(bad):
    folder, message = bad
    source = folder.load()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((BadImage, FileNotFoundError)) as caught:
        load_row(source, 3, CANVAS, PIPELINE, flip=False)
    for part in (message, '13.png', 'image id 13', str(folder.file)):
        assert part in str(caught.value)
    # In KiB: nothing was taken for what a bomb claims.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_bad_image_is_replaced_in_training(bad):
    source = bad[0].load()
    batches = epoch(train_batches(source))
    rows = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    gone = rows['skipped'] >= 0
    assert gone.any() and set(rows['skipped'][gone]) == {3}
    assert 13 not in rows['image_id']
    assert set(rows['image_id']) == set(range(10, 20)) - {13}
    # What stands there is a whole record: its own image, size and boxes.
    for image, image_id in zip(rows['image'], rows['image_id'], strict=True):
        assert (image[:40, :60] == 10 * image_id).all()
    assert rows['row_valid'].all() and rows['gt_valid'][:, 0].all()

    strict = dataclasses.replace(PIPELINE, max_bad_pictures=0.0)
    with pytest.raises((BadImage, FileNotFoundError), match=r'13\.png'):
        epoch(train_batches(source, strict))


def test_a_bad_image_is_black_at_evaluation(bad):
    source = bad[0].load(test_mode=True)
    batch = evaluation(source)(0)
    assert batch['image_id'].tolist() == [10, 11, 12, 13]
    assert batch['skipped'].tolist() == [-1, -1, -1, 3]
    assert batch['row_valid'].all()
    assert not batch['image'][3].any()
    assert batch['image_size'][3].tolist() == [40, 60]

    strict = dataclasses.replace(PIPELINE, max_bad_pictures=0.0)
    with pytest.raises((BadImage, FileNotFoundError), match=r'13\.png'):
        evaluation(source, strict)(0)


def test_damage_inside_a_jpeg_shows_in_the_image_only(folder):
    """It has no checksum: OpenCV gives what it finds, and so do we."""
    whole = photo('.jpg')
    folder.spoil(whole[:2000] + b'\x12' * 100 + whole[2100:], 10)
    row = first_record(folder.load())
    assert row['image_id'] == 10 and row['image'].any()


def test_an_error_of_the_machine_is_never_passed_over(folder, monkeypatch):
    """A disk that fails now and not later would give other batches."""
    source = folder.load()

    def fails(name):
        raise OSError(errno.EIO, 'Input/output error', name)

    monkeypatch.setattr(image_file, 'file_content', fails)
    for build in (train_batches(source), evaluation(source)):
        with pytest.raises(OSError, match='Input/output error') as caught:
            build(0)
        assert 'annotations.json' in str(caught.value)


# Rows about images that are unusual and good.

FLAT_BMP = cv2.imencode('.bmp', np.full((*SIZE, 3), (30, 20, 10), np.uint8))[
    1
].tobytes()
PALETTE = files.png_chunk(b'PLTE', bytes([1, 2, 3, 10, 20, 30]))
GOOD_IMAGES = {
    'gray PNG': (files.png(SIZE, 8, files.GREY, b'\x4d'), (77, 77, 77)),
    'gray JPEG': (files.jpeg(SIZE, [77]), (77, 77, 77)),
    # The high byte is kept.
    '16-bit gray': (files.png(SIZE, 16, files.GREY, b'\x4d\x70'), (77, 77, 77)),
    '16-bit RGB': (
        files.png(SIZE, 16, files.RGB, b'\x0a\x00\x14\x11\x1e\x22'),
        (10, 20, 30),
    ),
    'palette': (files.png(SIZE, 8, files.PALETTE, b'\x01', PALETTE), (10, 20, 30)),
    'palette with transparency': (
        files.png(
            SIZE,
            8,
            files.PALETTE,
            b'\x01',
            PALETTE + files.png_chunk(b'tRNS', b'\xff\x00'),
        ),
        (10, 20, 30),
    ),
    'RGBA': (files.png(SIZE, 8, files.RGBA, bytes([10, 20, 30, 0])), (10, 20, 30)),
    'gray and alpha': (
        files.png(SIZE, 8, files.GREY_ALPHA, bytes([77, 9])),
        (77, 77, 77),
    ),
    # Inverted, as Adobe writes them: red is 200 * 220 / 255.
    'CMYK': (files.jpeg(SIZE, [200, 100, 50, 220]), (173, 86, 43)),
    'turned by EXIF, annotated as shown': (
        files.with_orientation(files.jpeg(SIZE[::-1], [77]), 6),
        (77, 77, 77),
    ),
    # Windows writes them so: a height below 0.
    'BMP with its rows from the top': (
        FLAT_BMP[:22] + (-40).to_bytes(4, 'little', signed=True) + FLAT_BMP[26:],
        (10, 20, 30),
    ),
    'more after the end of a JPEG': (WHOLE_JPEG + b'more' * 99, (77, 77, 77)),
    'more after the end of a PNG': (WHOLE_PNG + b'more' * 99, (10, 20, 30)),
}


@pytest.mark.parametrize('name', GOOD_IMAGES)
def test_unusual_images_are_read_as_opencv_reads_them(folder, name):
    content, color = GOOD_IMAGES[name]
    folder.spoil(content, 10)
    row = first_record(folder.load())
    assert row['skipped'] == -1
    image = row['image'][:40, :60].astype(int)
    assert np.abs(image - color).max() <= 1
    # JPEG is decoded to RGB at once where OpenCV can; no pixel may differ by that.
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(image, expected[..., ::-1])


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp', '.bmp', '.tiff'])
def test_kinds_of_files(folder, extension):
    folder.spoil(photo(extension), 10)
    expected = cv2.imdecode(np.frombuffer(photo(extension), np.uint8), cv2.IMREAD_COLOR)
    row = first_record(folder.load(), img_scale=(60, 40))
    np.testing.assert_array_equal(row['image'][:40, :60], expected[..., ::-1])


@pytest.mark.parametrize('size', [(1, 2000), (2000, 1)])
def test_extreme_aspect_ratio(folder, size):
    folder.content['images'][0].update(height=size[0], width=size[1])
    folder.content['annotations'][0]['bbox'] = [0, 0, *size[::-1]]
    folder.spoil(files.png(size, 8, files.GREY, b'\x4d'), 10)
    assert 10 not in folder.load().records.image_ids  # min_size is 32
    source = folder.load(min_size=1)
    canvas = PIPELINE.all_canvases()[PIPELINE.canvas_index(source)[0]]
    row = load_row(source, 0, canvas, PIPELINE, flip=True)
    # Fits (60, 40) by its long side; the short one never becomes 0.
    height, width = row['image_size']
    assert sorted([height, width]) == [1, 60]
    assert (row['image'][:height, :width] == 77).all()
    assert row['gt_boxes'][0].tolist() == [0, 0, width, height]
