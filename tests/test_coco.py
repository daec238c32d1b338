import copy
import json

import cv2
import numpy as np
import pytest

from atss_jax.data.coco import CocoDataset

COCO = {
    'info': {'description': 'three pictures'},
    'images': [
        {'id': 7, 'file_name': 'a.png', 'height': 40, 'width': 60},
        {'id': 3, 'file_name': 'b.png', 'height': 50, 'width': 30},
        {'id': 5, 'file_name': 'c.png', 'height': 40, 'width': 40},
    ],
    'annotations': [
        {
            'id': 1,
            'image_id': 5,
            'category_id': 4,
            'bbox': [1, 2, 10, 20],
            'area': 100.5,
            'iscrowd': 0,
            'segmentation': [[1, 2, 3, 4]],
        },
        {
            'id': 2,
            'image_id': 7,
            'category_id': 9,
            'bbox': [-5.5, 2, 100, 20],
            'area': 50,
            'iscrowd': 1,
        },
        {'id': 3, 'image_id': 7, 'category_id': 4, 'bbox': [0, 0, 4, 5]},
    ],
    'categories': [
        {'id': 9, 'name': 'cat', 'supercategory': 'animal'},
        {'id': 4, 'name': 'dog'},
    ],
}


class Folder:
    """An annotation file to spoil, with a picture folder beside it."""

    def __init__(self, path):
        self.images = path / 'images'
        self.images.mkdir()
        self.file = path / 'annotations.json'
        self.content = copy.deepcopy(COCO)

    def load(self, **kwargs):
        self.file.write_text(json.dumps(self.content))
        return CocoDataset(str(self.file), str(self.images), **kwargs)

    def rejects(self, *parts, error=ValueError, **kwargs):
        """Loading fails, and the message names the file and all the parts."""
        with pytest.raises(error) as caught:
            self.load(**kwargs)
        for part in (str(self.file), *parts):
            assert part in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class TestLoading:
    def test_records(self, folder):
        source = folder.load(min_size=32)
        assert source.classes == ('cat', 'dog')
        assert source.category_ids == (9, 4)
        # b.png is 30 wide and has nothing on it; the others come in the file's order.
        assert source.records.image_ids.tolist() == [7, 5]
        first, second = source.records[0], source.records[1]
        assert first.file_name == str(folder.images / 'a.png')
        assert first.size == (40, 60)
        assert first.boxes.dtype == np.float32
        assert first.boxes.tolist() == [[-5.5, 2, 94.5, 22], [0, 0, 4, 5]]
        assert first.labels.tolist() == [0, 1]
        assert first.ignored.tolist() == [True, False]
        assert second.boxes.tolist() == [[1, 2, 11, 22]]
        assert second.labels.tolist() == [1]

    def test_test_mode_keeps_all(self, folder):
        records = folder.load(test_mode=True).records
        assert records.image_ids.tolist() == [7, 3, 5]
        assert records.counts.tolist() == [2, 0, 1]

    def test_filters_are_independent(self, folder):
        records = folder.load(filter_empty_gt=False, min_size=30).records
        assert records.image_ids.tolist() == [7, 3, 5]
        records = folder.load(filter_empty_gt=False, min_size=31).records
        assert records.image_ids.tolist() == [7, 5]

    @pytest.mark.parametrize(
        'change',
        [
            {'ignore': 1},
            {'area': 0},
            {'bbox': [1, 2, 0.9, 20]},
            {'bbox': [1, 2, 10, 0.9]},
            {'bbox': [1, 2, -10, 20]},
            {'bbox': [40, 2, 10, 20]},
            {'bbox': [1, -20, 10, 20]},
        ],
    )
    def test_dropped_annotation_still_counts_against_empty(self, folder, change):
        folder.content['annotations'][0].update(change)
        records = folder.load().records
        assert records.image_ids.tolist() == [7, 5]
        assert records.counts.tolist() == [2, 0]

    def test_kept_at_the_limits(self, folder):
        folder.content['annotations'][0].update(
            {'bbox': [39.5, -19.5, 1, 20], 'area': 0.1, 'ignore': 0}
        )
        assert folder.load().records.counts.tolist() == [2, 1]

    def test_labels_follow_classes_by_name(self, folder):
        source = folder.load(classes=('dog', 'cat'))
        assert source.category_ids == (4, 9)
        assert source.records[0].labels.tolist() == [1, 0]

    def test_subset_of_classes(self, folder):
        source = folder.load(classes=['cat'])
        assert source.classes == ('cat',)
        assert source.records.image_ids.tolist() == [7]
        assert source.records[0].labels.tolist() == [0]

    def test_ground_truth_is_complete(self, folder):
        folder.content['annotations'][1]['bbox'] = [1, 2, 0.5, 0.5]  # training drops it
        truth = folder.load(classes=('dog',)).ground_truth()
        assert truth == {
            'images': COCO['images'],
            'annotations': [
                {
                    'id': 1,
                    'image_id': 5,
                    'category_id': 4,
                    'bbox': [1, 2, 10, 20],
                    'area': 100.5,
                    'iscrowd': 0,
                },
                {
                    'id': 2,
                    'image_id': 7,
                    'category_id': 9,
                    'bbox': [1, 2, 0.5, 0.5],
                    'area': 50,
                    'iscrowd': 1,
                },
                {
                    'id': 3,
                    'image_id': 7,
                    'category_id': 4,
                    'bbox': [0, 0, 4, 5],
                    'area': 20,
                    'iscrowd': 0,
                },
            ],
            'categories': [{'id': 9, 'name': 'cat'}, {'id': 4, 'name': 'dog'}],
        }

    def test_no_annotations_at_all(self, folder):
        folder.content['annotations'] = []
        source = folder.load(test_mode=True)
        assert source.records.counts.tolist() == [0, 0, 0]
        assert source.records[0].boxes.shape == (0, 4)
        assert source.ground_truth()['annotations'] == []

    def test_unknown_category_is_skipped_with_a_warning(self, folder):
        folder.content['annotations'][2]['category_id'] = 5
        with pytest.warns(UserWarning, match=r'1 annotations are skipped.*\(5\)'):
            assert folder.load().records.counts.tolist() == [1, 1]

    def test_real_file(self, coco_tiny):
        source = CocoDataset(
            str(coco_tiny / 'annotations' / 'instances_val2017.json'),
            str(coco_tiny / 'val2017'),
            test_mode=True,
        )
        assert len(source.classes) == 80 and len(source.records) == 80
        assert source.category_ids[-1] == 90
        assert source.records.ignored.sum() == 11
        assert len(source.ground_truth()['annotations']) == 815


class TestBadFiles:
    def test_no_annotation_file(self, tmp_path):
        missing = str(tmp_path / 'none.json')
        with pytest.raises(FileNotFoundError) as caught:
            CocoDataset(missing, str(tmp_path))
        assert missing in str(caught.value)
        assert 'python train.py --config=configs/atss_shapes.py' in str(caught.value)

    def test_no_picture_folder(self, folder):
        folder.images.rmdir()
        folder.rejects(
            str(folder.images),
            'configs/atss_shapes.py',
            error=FileNotFoundError,
        )

    @pytest.mark.parametrize('text', ['{"images": [', '', '\xff\xd8 a picture'])
    def test_not_json(self, folder, text):
        folder.file.write_bytes(text.encode('latin-1'))
        with pytest.raises(ValueError, match=r'annotations\.json: not a JSON file'):
            CocoDataset(str(folder.file), str(folder.images))

    def test_list_of_results(self, folder):
        folder.content = [{'image_id': 1}]
        folder.rejects('not a COCO annotation file', 'found a list')

    def test_section_missing(self, folder):
        del folder.content['annotations'], folder.content['categories']
        folder.rejects('no list of annotations, categories', "found 'info', 'images'")

    def test_section_not_a_list(self, folder):
        folder.content['images'] = {}
        folder.rejects('no list of images')

    def test_nothing_left(self, folder):
        folder.rejects('none of its 3 pictures', 'min_size=900', min_size=900)
        folder.content['images'] = folder.content['annotations'] = []
        folder.rejects('none of its 0 pictures', test_mode=True)


class TestBadRecords:
    @pytest.mark.parametrize(
        'box',
        [
            [1, 2, 3],
            [1, 2, 3, '4'],
            [1, 2, 3, None],
            [1, 2, 3, [4]],
            [1, 2, 3, float('nan')],
            [1, 2, 3, float('inf')],
            '1 2 3 4',
            None,
        ],
    )
    def test_box(self, folder, box):
        folder.content['annotations'][1]['bbox'] = box
        folder.rejects(
            'annotations[1] (id 2): bbox must be 4 finite numbers', f'found {box!r}'
        )

    @pytest.mark.parametrize(
        'section, key',
        [
            ('annotations', 'bbox'),
            ('annotations', 'image_id'),
            ('annotations', 'category_id'),
            ('images', 'height'),
            ('images', 'width'),
            ('images', 'file_name'),
            ('categories', 'name'),
        ],
    )
    def test_key_missing(self, folder, section, key):
        record = folder.content[section][1]
        del record[key]
        folder.rejects(f'{section}[1] (id {record["id"]}): {key} must', 'it is missing')

    @pytest.mark.parametrize('section', ['images', 'annotations', 'categories'])
    def test_ids(self, folder, section):
        record = folder.content[section][1]
        taken = folder.content[section][0]['id']
        for wrong in ('12', 1.5, True, None):
            record['id'] = wrong
            folder.rejects(f'{section}[1] (id {wrong!r}): id must be an integer')
        record['id'] = 2**70
        folder.rejects(f'{section}[1]', 'id must be an integer from')
        record['id'] = taken
        folder.rejects(f'{section}[1]', f'id {taken} is taken by {section}[0]')
        del record['id']
        folder.rejects(f'{section}[1]: id must be an integer, it is missing')

    @pytest.mark.parametrize(
        'section, key, value, message',
        [
            ('annotations', 'image_id', '7', 'image_id must be an integer'),
            ('annotations', 'category_id', '4', 'category_id must be an integer'),
            ('annotations', 'area', '12.0', 'area must be a number'),
            ('annotations', 'area', float('inf'), 'area must be a finite number'),
            ('annotations', 'iscrowd', 2, 'iscrowd must be an integer from 0 to 1'),
            ('annotations', 'iscrowd', '0', 'iscrowd must be an integer'),
            ('images', 'height', '40', "height must be an integer, found '40'"),
            ('images', 'width', 0, 'width must be an integer from 1 to'),
            ('images', 'file_name', 12, 'file_name must be a text'),
            ('images', 'file_name', '', 'file_name must be a text that is not empty'),
            ('categories', 'name', 3, 'name must be a text'),
        ],
    )
    def test_wrong_value(self, folder, section, key, value, message):
        folder.content[section][1][key] = value
        folder.rejects(f'{section}[1] (id ', message)

    def test_record_is_no_object(self, folder):
        folder.content['images'][1] = 'b.png'
        folder.rejects("images[1]: must be an object, found 'b.png'")

    def test_unknown_image(self, folder):
        folder.content['annotations'][2]['image_id'] = 99
        folder.rejects("annotations[2] (id 3): image_id 99 is not among the file's")

    def test_missing_or_null_extras_are_filled(self, folder):
        folder.content['annotations'][0].update({'area': None, 'iscrowd': None})
        annotation = folder.load().ground_truth()['annotations'][0]
        assert annotation['area'] == 200 and annotation['iscrowd'] == 0


class TestClasses:
    def test_unknown_name(self, folder):
        folder.rejects(
            "no category 'Dogs'", "did you mean 'dog'?", 'cat, dog', classes=('Dogs',)
        )

    def test_nothing_close(self, folder):
        folder.rejects("no category 'zebra'. Its", 'cat, dog', classes=('zebra',))

    def test_twice(self, folder):
        with pytest.raises(ValueError, match="lists 'cat' more than once"):
            folder.load(classes=('cat', 'dog', 'cat'))

    def test_text(self, folder):
        with pytest.raises(ValueError, match='must be a tuple of names'):
            folder.load(classes='cat')

    def test_empty(self, folder):
        folder.rejects('no classes', classes=())

    def test_name_twice_in_the_file(self, folder):
        folder.content['categories'][1]['name'] = 'cat'
        folder.rejects("categories[1] (id 4): name 'cat' is taken by categories[0]")


class TestReadImage:
    @pytest.fixture
    def source(self, folder):
        return folder.load()

    def test_rgb(self, source, folder):
        picture = np.zeros((40, 60, 3), np.uint8)
        picture[..., 2] = 200  # OpenCV writes blue, green, red
        cv2.imwrite(str(folder.images / 'a.png'), picture)
        image = source.read_image(source.records[0])
        assert image.shape == (40, 60, 3) and image.dtype == np.uint8
        assert image[0, 0].tolist() == [200, 0, 0]

    @pytest.mark.parametrize('shape', [(40, 60), (40, 60, 4)])
    def test_grey_and_transparent(self, source, folder, shape):
        cv2.imwrite(str(folder.images / 'a.png'), np.full(shape, 9, np.uint8))
        image = source.read_image(source.records[0])
        assert image.shape == (40, 60, 3) and (image == 9).all()

    def rejects(self, source, *parts, error=ValueError):
        record = source.records[0]
        with pytest.raises(error) as caught:
            source.read_image(record)
        for part in (record.file_name, 'image id 7', 'annotations.json', *parts):
            assert part in str(caught.value)

    def test_missing(self, source):
        self.rejects(source, 'No such file', error=FileNotFoundError)

    def test_folder(self, source, folder):
        (folder.images / 'a.png').mkdir()
        self.rejects(source, error=OSError)

    @pytest.mark.parametrize('content', [b'', b'no picture', b'\x89PNG\r\n\x1a\n'])
    def test_undecodable(self, source, folder, content):
        (folder.images / 'a.png').write_bytes(content)
        self.rejects(source, 'not a picture', f'{len(content)} bytes')

    def test_other_size(self, source, folder):
        cv2.imwrite(str(folder.images / 'a.png'), np.zeros((41, 60, 3), np.uint8))
        self.rejects(source, '60x41', 'annotated as 60x40')

    def test_swapped_size(self, source, folder):
        cv2.imwrite(str(folder.images / 'a.png'), np.zeros((60, 40, 3), np.uint8))
        self.rejects(source, '40x60', 'annotated as 60x40', 'EXIF orientation')

    def test_orientation_is_applied(self, source, folder):
        # As mmdet: a JPEG of 60x40 to be shown turned by a quarter is 40x60.
        jpeg = cv2.imencode('.jpg', np.zeros((60, 40, 3), np.uint8))[1].tobytes()
        exif = (
            b'Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01'
            b'\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00'
        )
        segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
        (folder.images / 'a.png').write_bytes(jpeg[:2] + segment + jpeg[2:])
        assert source.read_image(source.records[0]).shape == (40, 60, 3)
