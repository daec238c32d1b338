import cv2
import numpy as np
import pytest

from atss_jax.data.coco.dataset import CocoDataset
from tests.support.coco_folder import COCO, Folder


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
    @pytest.mark.filterwarnings('ignore:.*not trained on, as in mmdet')
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
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[..., 2] = 200  # OpenCV writes blue, green, red
        cv2.imwrite(str(folder.images / 'a.png'), pixels)
        image = source.read_image(source.records[0])
        assert image.shape == (40, 60, 3) and image.dtype == np.uint8
        assert image[0, 0].tolist() == [200, 0, 0]

    @pytest.mark.parametrize('shape', [(40, 60), (40, 60, 4)])
    def test_gray_and_transparent(self, source, folder, shape):
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

    @pytest.mark.parametrize('content', [b'', b'no image'])
    def test_undecodable(self, source, folder, content):
        (folder.images / 'a.png').write_bytes(content)
        self.rejects(source, 'not an image', f'{len(content)} bytes')

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


def test_indices_keeps_the_first_images_of_those_left(coco_tiny):
    folder = str(coco_tiny / 'train2017')
    ann_file = str(coco_tiny / 'annotations' / 'instances_train2017.json')
    everything = CocoDataset(ann_file, folder).records
    few = CocoDataset(ann_file, folder, indices=7).records
    assert few.image_ids.tolist() == everything.image_ids[:7].tolist()
    assert np.array_equal(few.boxes, everything.first(7).boxes)
    assert len(CocoDataset(ann_file, folder, indices=10_000).records) == len(everything)
