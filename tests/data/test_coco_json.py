"""What a wrong annotation file is told: the file, the record, what was found."""

import pytest

from atss_jax.data.coco.dataset import CocoDataset
from tests.support.coco_folder import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


class TestBadFiles:
    def test_no_annotation_file(self, tmp_path):
        missing = str(tmp_path / 'none.json')
        with pytest.raises(FileNotFoundError) as caught:
            CocoDataset(missing, str(tmp_path))
        assert missing in str(caught.value)
        assert 'atss train --config=atss_shapes --workdir=' in str(caught.value)

    def test_no_image_folder(self, folder):
        folder.images.rmdir()
        folder.rejects(
            str(folder.images),
            '--config=atss_shapes',
            error=FileNotFoundError,
        )

    @pytest.mark.parametrize('text', ['{"images": [', '', '\xff\xd8 an image'])
    def test_not_json(self, folder, text):
        folder.file.write_bytes(text.encode('latin-1'))
        with pytest.raises(ValueError, match=r'annotations\.json: not a JSON file'):
            CocoDataset(str(folder.file), str(folder.images))

    def test_list_of_results(self, folder):
        folder.content = [{'image_id': 1}]
        folder.rejects('not a COCO annotation file', 'found a list')

    def test_section_missing(self, folder):
        del folder.content['annotations'], folder.content['categories']
        folder.rejects('no list of annotations, categories', "found ['info', 'images']")

    def test_section_not_a_list(self, folder):
        folder.content['images'] = {}
        folder.rejects('no list of images')

    def test_nothing_left(self, folder):
        folder.rejects('none of its 3 images', 'min_size=900', min_size=900)
        folder.content['images'] = folder.content['annotations'] = []
        folder.rejects('none of its 0 images', test_mode=True)


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
        folder.rejects(
            f'{section}[1]', 'id must be an integer of 64 bits, found 1180591620'
        )
        record['id'] = taken
        folder.rejects(f'{section}[1]', f'id {taken} is taken by {section}[0]')
        del record['id']
        folder.rejects(f'{section}[1]: id must be an integer of 64', 'it is missing')

    @pytest.mark.parametrize(
        'section, key, value, message',
        [
            ('annotations', 'image_id', '7', 'image_id must be an integer'),
            ('annotations', 'category_id', '4', 'category_id must be an integer'),
            ('annotations', 'area', '12.0', 'area must be a finite number'),
            ('annotations', 'area', float('inf'), 'area must be a finite number'),
            ('annotations', 'iscrowd', 2, 'iscrowd must be an integer from 0 to 1'),
            ('annotations', 'iscrowd', '0', 'iscrowd must be an integer'),
            (
                'images',
                'height',
                '40',
                "height must be an integer from 1 to 1048576, found '40'",
            ),
            ('images', 'width', 0, 'width must be an integer from 1 to'),
            ('images', 'file_name', 12, 'file_name must be a text'),
            ('images', 'file_name', '', 'file_name must be a text of 1 to 1024'),
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
        folder.rejects(
            "annotations[2] (id 3): image_id must be the id of one of the file's",
            'found 99',
        )

    def test_unknown_category(self, folder):
        folder.content['annotations'][2]['category_id'] = 5
        with pytest.warns(
            UserWarning, match='1 of 3 annotations left out: category_id'
        ):
            source = folder.load()
        assert len(source.ground_truth()['annotations']) == 2

    def test_missing_or_null_extras_are_filled(self, folder):
        folder.content['annotations'][0].update({'area': None, 'iscrowd': None})
        annotation = folder.load().ground_truth()['annotations'][0]
        assert annotation['area'] == 200 and annotation['iscrowd'] == 0
