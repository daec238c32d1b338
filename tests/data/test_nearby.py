"""Paths of a folder too high or too low: the message says which one is right."""

import os

import pytest

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import describe, find
from tests.data.test_coco_form import LAYOUTS
from tests.support import voc_set, yolo_set
from tests.support.forms import IMAGE, write_files
from tests.support.hugging_face import ROWS, write_folder

VOC_IN_SPLITS = {
    'train/a.xml': voc_set.A,
    'train/a.png': IMAGE,
    'valid/c.xml': voc_set.C,
    'valid/c.png': IMAGE,
}
SETS = {
    'YOLO': yolo_set.USUAL,
    'YOLO in splits': yolo_set.IN_SPLITS | {'data.yaml': yolo_set.NAMES},
    'COCO 2017': LAYOUTS['COCO 2017'][0],
    'Roboflow': LAYOUTS['Roboflow'][0],
    'Pascal VOC': voc_set.USUAL,
    'Pascal VOC in splits': VOC_IN_SPLITS,
}


@pytest.fixture(params=SETS)
def data_set(request, tmp_path):
    """The folder `downloads/mine` with a data set."""
    folder = tmp_path / 'downloads' / 'mine'
    write_files(folder, SETS[request.param])
    return folder


def refusal(path, split='train'):
    """The message about a path; '' if a data set of this split is there."""
    try:
        AutoDataset(str(path), split)
    except ValueError as error:
        return str(error)
    return ''


def test_the_folder_above(data_set):
    line = describe(find(str(data_set)))
    message = refusal(data_set.parent)
    # A form of XML files may lie in any folder.
    assert bool(message) != (': Pascal VOC' in line)
    if message:
        assert message == (
            f"path = '{data_set.parent}': no data set lies there itself, but in a "
            f'folder of it: {line}. Give {data_set} instead'
        )


def test_two_folders_above(data_set):
    """Before the advice to name the classes of what looks like a part of a set."""
    line = describe(find(str(data_set)))
    if ': Pascal VOC' in line:
        pytest.skip('a form of XML files may lie in any folder')
    message = refusal(data_set.parent.parent)
    assert message.endswith(f'but in a folder of it: {line}. Give {data_set} instead')


def test_each_folder_in_it(data_set):
    """They are no data sets, or a part of one, and then `train` alone is missing."""
    line = describe(find(str(data_set)))
    folders = [path for path in data_set.rglob('*') if path.is_dir()]
    assert len(folders) >= 2
    for folder in folders:
        message = refusal(folder)
        if folder.name == 'annotations':  # COCO files lead to their images
            assert message == ''
        else:
            assert message.startswith((f"path = '{folder}': that is a", 'split = '))
            assert f'a part of {line}. Give' in message or (
                f'that is a part of a data set: {line}. Give' in message
            )
            assert message.endswith(f'. Give {data_set} instead')


def test_a_part_that_is_used_as_a_whole(tmp_path):
    """One split may be used alone where that is what is asked for."""
    write_files(tmp_path, LAYOUTS['Roboflow'][0])
    assert len(AutoDataset(str(tmp_path / 'train'), 'all').records) == 1


def test_a_folder_of_metadata_and_one_around_it(tmp_path):
    write_folder(tmp_path / 'mine' / 'train', ROWS)
    write_folder(tmp_path / 'mine' / 'validation', ROWS)
    message = refusal(tmp_path / 'mine' / 'train')
    assert message.endswith(f'. Give {tmp_path}/mine instead')
    assert f'is only a part of {tmp_path}/mine: Hugging Face with train' in message


def test_several_in_one_folder(tmp_path):
    write_files(tmp_path / 'a', yolo_set.USUAL)
    write_files(tmp_path / 'b', LAYOUTS['Roboflow'][0])
    lines = [describe(find(str(tmp_path / name))) for name in 'ab']
    assert refusal(tmp_path) == (
        f"path = '{tmp_path}': no data set lies there itself, but in folders of it: "
        f'{lines[0]}; {lines[1]}. Give the path of one of them instead'
    )


def test_links_to_one_folder_count_once(tmp_path):
    write_files(tmp_path / 'disk' / 'set', yolo_set.USUAL)
    (tmp_path / 'here').mkdir()
    for name in ('one', 'two'):
        (tmp_path / 'here' / name).symlink_to(tmp_path / 'disk' / 'set')
    assert refusal(tmp_path / 'here').endswith(f'. Give {tmp_path}/here/one instead')


def test_a_prefix_asks_for_one_form(tmp_path):
    write_files(tmp_path / 'a', yolo_set.USUAL)
    write_files(tmp_path / 'b', LAYOUTS['Roboflow'][0])
    assert refusal(f'coco:{tmp_path}').endswith(f'. Give {tmp_path}/b instead')
    assert refusal(f'hf:{tmp_path}').startswith(f"path = 'hf:{tmp_path}': found no")


def test_relative_paths(tmp_path, monkeypatch):
    write_files(tmp_path / 'mine', yolo_set.USUAL)
    monkeypatch.chdir(tmp_path)
    assert refusal('.').endswith('. Give ./mine instead')
    assert refusal('mine/images/').endswith('. Give mine instead')
    monkeypatch.chdir(tmp_path / 'mine' / 'images')
    assert refusal('.').endswith('. Give .. instead')


@pytest.mark.parametrize(
    'file', ['images/train/a.png', 'labels/val/c.txt', 'labels/train/../train/a.txt']
)
def test_a_file_of_a_data_set(tmp_path, file):
    write_files(tmp_path, yolo_set.USUAL)
    message = refusal(tmp_path / file)
    assert 'that is a part of a data set' in message
    assert message.endswith(f'. Give {tmp_path} instead')


def test_what_is_around_is_read_only_if_the_name_is_that_of_a_part(tmp_path):
    """Else a data set next to an empty folder would be found, or a disk searched."""
    write_files(tmp_path, yolo_set.USUAL)
    for name in ('pics', 'my train', 'attrain'):
        (tmp_path / name).mkdir()
        assert 'found no annotations' in refusal(tmp_path / name)
    for name in ('Images', 'train2017', 'valid'):
        (tmp_path / name).mkdir()
        assert refusal(tmp_path / name).endswith(f'. Give {tmp_path} instead')


def test_the_home_folder_is_not_searched(tmp_path, monkeypatch):
    write_files(tmp_path, yolo_set.USUAL)
    (tmp_path / 'train').mkdir()
    monkeypatch.setenv('HOME', str(tmp_path))
    assert 'found no annotations' in refusal(tmp_path / 'train')


def test_malformed_neighbors_are_passed_by(tmp_path):
    """And nothing is warned of that is not used."""
    write_files(tmp_path / 'a', yolo_set.USUAL | {'data.yaml': 'names: [a, b'})
    write_files(tmp_path / 'b', yolo_set.USUAL)
    text = f'{yolo_set.YAML}test: none\n'
    write_files(tmp_path / 'c', yolo_set.USUAL | {'data.yaml': text})
    write_files(tmp_path / '.d', yolo_set.USUAL)
    write_files(tmp_path / '__MACOSX' / 'e', yolo_set.USUAL)
    message = refusal(tmp_path)
    assert f'{tmp_path}/b: YOLO' in message and f'{tmp_path}/c: YOLO' in message
    assert message.count(': YOLO with') == 2


def test_labels_without_names_in_a_folder_of_nothing_else(tmp_path):
    """There the names are what is missing."""
    files = {k: v for k, v in yolo_set.USUAL.items() if k != 'data.yaml'}
    write_files(tmp_path / 'mine', files)
    assert 'no file that names the classes' in refusal(tmp_path)
    assert 'no file that names the classes' in refusal(tmp_path / 'mine')


def test_xml_files_without_images(tmp_path):
    write_files(tmp_path / 'mine', {'a.xml': voc_set.A, 'c.xml': voc_set.C})
    message = refusal(tmp_path / 'mine')
    for part in ('Pascal VOC, such as a.xml, but no images', 'in JPEGImages/ next to'):
        assert part in message


def test_a_folder_of_many_folders(tmp_path):
    """Those after the first hundred are not looked at."""
    for number in range(120):
        (tmp_path / f'{number:03}').mkdir()
    write_files(tmp_path / '099', yolo_set.USUAL)
    assert refusal(tmp_path).endswith(f'. Give {tmp_path}/099 instead')
    os.rename(tmp_path / '099', tmp_path / '200')
    assert 'no file that names the classes' in refusal(tmp_path)
