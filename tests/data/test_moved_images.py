"""Images that do not lie where a COCO file says, as Label Studio writes it."""

import json
import os
import warnings

import pytest

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.to_coco import write_coco
from tests.data.test_coco_form import coco
from tests.support.forms import IMAGE, read, write_files

SERVER_PATHS = {
    'an upload': '/data/upload/1/3f2a1b4c-a.png',
    'an upload on Windows': (
        '..\\..\\label-studio\\label-studio\\media\\upload\\4\\3f2a1b4c-a.png'
    ),
    'a folder of the project': 'images\\1/3f2a1b4c-a.png',
    'a disk of Windows': 'C:\\Users\\me\\3f2a1b4c-a.png',
    'an address': 'https://localhost:8080/data/upload/1/3f2a1b4c-a.png',
    'local storage': '/data/local-files/?d=my%20set%2F3f2a1b4c-a.png',
    'a bucket': 's3://bucket/3f2a1b4c-a.png',
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'set'


@pytest.mark.parametrize('kind', SERVER_PATHS)
@pytest.mark.parametrize('image', ['3f2a1b4c-a.png', 'a.png', 'deep/a.png'])
def test_paths_on_a_server(folder, kind, image):
    """Also images as they were named before the upload."""
    name = SERVER_PATHS[kind]
    write_files(folder, {'result.json': coco(name), f'images/{image}': IMAGE})
    with pytest.warns(UserWarning) as told:
        source = AutoDataset(str(folder), 'all')
    assert [str(each.message) for each in told] == [
        f'{folder}/result.json: 1 of 1 images do not lie where file_name says and were '
        f'found by the end of their paths, the first one, {name}, at '
        f'{folder}/images/{image}'
    ]
    assert source.records[0].file_name == str(folder / 'images' / image)
    assert source.read_image(source.records[0]).shape == (50, 80, 3)


def test_the_longest_end_decides(folder):
    names = ('/srv/one/x/a.png', '/srv/two/x/a.png', '/srv/two/a.png')
    files = {f'images/{name}': IMAGE for name in ('one/x/a.png', 'two/x/a.png')}
    write_files(folder, files | {'images/two/a.png': IMAGE, 'train.json': coco(*names)})
    with pytest.warns(UserWarning, match='3 of 3 images do not lie where'):
        assert read(folder).file_names == [
            'images/one/x/a.png',
            'images/two/x/a.png',
            'images/two/a.png',
        ]


def test_two_images_fit(folder):
    files = {f'images/{name}/a.png': IMAGE for name in ('one', 'two')}
    write_files(folder, files | {'train.json': coco('/data/upload/1/a.png')})
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert str(caught.value) == (
        f"{folder}/train.json: the image with file_name '/data/upload/1/a.png' may be "
        f'{folder}/images/one/a.png or {folder}/images/two/a.png. Correct file_name, '
        'or remove the wrong image'
    )


@pytest.mark.parametrize('first', ['/data/upload/1/a.png', 'a.png'])
def test_one_image_fits_two_names(folder, first):
    """Found for both, or lying where one of them says."""
    text = coco(first, '/data/upload/2/a.png')
    write_files(folder, {'train.json': text, 'images/a.png': IMAGE})
    with pytest.raises(ValueError) as caught:
        read(folder)
    assert str(caught.value).startswith(
        f'{folder}/train.json: {folder}/images/a.png is the only image that fits '
        f"file_name {first!r} as well as '/data/upload/2/a.png'. Correct file_name"
    )


def test_some_names_of_another_machine(folder):
    """The others lie where the file says."""
    text = coco('a.png', '..\\label\\b.png')
    write_files(folder, {'x.json': text, 'images/a.png': IMAGE, 'images/b.png': IMAGE})
    with pytest.warns(UserWarning, match='1 of 2 images do not lie where'):
        names = read(folder, 'all').file_names
    assert names == ['images/a.png', 'images/b.png']


def test_a_plain_name_is_not_looked_for_elsewhere(folder):
    """An image that is missing among others stays so, whatever lies around it."""
    text = coco('x/a.png', 'x/b.png')
    write_files(folder, {'x.json': text, 'x/a.png': IMAGE, 'y/b.png': IMAGE})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read(folder, 'all').file_names == ['x/a.png', 'x/b.png']


def test_an_image_that_is_nowhere(folder):
    """The loader names it as the file does."""
    text = coco('/data/upload/1/a.png', '/data/upload/1/b.png')
    write_files(folder, {'x.json': text, 'images/a.png': IMAGE})
    with pytest.warns(UserWarning, match='1 of 2 images'):
        source = AutoDataset(str(folder), 'all')
    assert source.records[1].file_name == '/data/upload/1/b.png'
    with pytest.raises(FileNotFoundError, match=r'/data/upload/1/b\.png'):
        source.read_image(source.records[1])


def test_names_that_lead_out_of_the_folder_and_are_right(folder):
    """As `atss split` writes them."""
    write_files(folder, {'x.json': coco('../pool/a.png'), 'images/a.png': IMAGE})
    write_files(folder.parent, {'pool/a.png': IMAGE})
    assert read(folder, 'all').file_names == ['../pool/a.png']


def test_a_file_in_annotations(folder):
    """The whole data set is searched then, and only that."""
    files = {'annotations/train.json': coco('/data/a.png'), 'pics/a.png': IMAGE}
    write_files(folder, files)
    write_files(folder.parent, {'other/a.png': IMAGE})
    with pytest.warns(UserWarning, match=r'/data/a\.png, at .*/set/pics/a\.png'):
        names = read(folder).file_names
    assert list(map(os.path.normpath, names)) == ['pics/a.png']


def test_a_conversion_has_the_names_that_are_right(folder):
    write_files(folder, {'x.json': coco('/data/a.png'), 'images/a.png': IMAGE})
    with pytest.warns(UserWarning, match='do not lie where'):
        write_coco(str(folder), str(folder.parent / 'out.json'))
    content = json.loads((folder.parent / 'out.json').read_text())
    assert [image['file_name'] for image in content['images']] == ['set/images/a.png']


# Categories ---------------------------------------------------------------------------

ROBOFLOW = [
    {'id': 0, 'name': 'objects', 'supercategory': 'none'},
    {'id': 1, 'name': 'dog', 'supercategory': 'objects'},
    {'id': 2, 'name': 'cat', 'supercategory': 'objects'},
]


def test_the_root_of_the_categories(folder):
    """It is left out, with a line, so that the number of classes is right."""
    text = coco('a.png', categories=ROBOFLOW)
    write_files(folder, {'train/_annotations.coco.json': text, 'train/a.png': IMAGE})
    with pytest.warns(UserWarning) as told:
        source = AutoDataset(str(folder), 'train')
    assert source.classes == ('dog', 'cat') and source.category_ids == (1, 2)
    assert [str(each.message) for each in told] == [
        f'{folder}/train/_annotations.coco.json: 1 of 3 categories left out: '
        "'objects', a name for all others, without annotations (categories[0] (id 0))"
    ]


def test_a_root_that_classes_name(folder):
    text = coco('a.png', categories=ROBOFLOW)
    write_files(folder, {'train/_annotations.coco.json': text, 'train/a.png': IMAGE})
    classes = ('objects', 'dog', 'cat')
    assert AutoDataset(str(folder), 'train', classes=classes).classes == classes


@pytest.mark.parametrize(
    'categories',
    [
        [ROBOFLOW[0] | {'supercategory': 'things'}, *ROBOFLOW[1:]],
        [ROBOFLOW[0] | {'name': 'animals'}, *ROBOFLOW[1:]],
        [
            {'id': 1, 'name': 'dog', 'supercategory': 'none'},
            {'id': 2, 'name': 'cat', 'supercategory': 'dog'},
        ],
        [ROBOFLOW[0], ROBOFLOW[1] | {'supercategory': ['objects']}],
    ],
    ids=['with a parent', 'parent of none', 'with annotations', 'malformed'],
)
def test_categories_that_are_no_root(folder, categories):
    text = coco('a.png', categories=categories)
    write_files(folder, {'train.json': text, 'a.png': IMAGE})
    names = tuple(row['name'] for row in categories)
    assert AutoDataset(str(folder), 'train').classes == names
