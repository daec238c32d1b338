"""Archives given in place of a folder: the message has the command to unpack them."""

import bz2
import gzip
import lzma
import shutil
import subprocess

import pytest

from atss_jax.data.forms.find import find
from tests.support import yolo_set
from tests.support.forms import write_files


@pytest.fixture
def folder(tmp_path):
    """A folder with a data set, in a folder of its own."""
    write_files(tmp_path / 'mine', yolo_set.USUAL)
    return tmp_path / 'mine'


def message(path):
    with pytest.raises(ValueError) as caught:
        find(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('zip', 'my set.zip'),
        ('tar', 'my set.tar'),
        ('gztar', 'my set.tar.gz'),
        ('bztar', 'my set.tar.bz2'),
        ('xztar', 'my set.tar.xz'),
    ],
)
def test_the_command_unpacks(folder, tmp_path, kind, name):
    """Run as it stands in the message it makes the folder that is to be given."""
    file = shutil.make_archive(str(tmp_path / 'my set'), kind, folder)
    assert file == str(tmp_path / name)
    text = message(file)
    program = 'zip' if kind == 'zip' else 'tar'
    start = f'path = {file!r}: {file} is an archive ({program}). Unpack it, and give '
    assert text.startswith(f'{start}the folder: ')
    command = text.removeprefix(f'{start}the folder: ')
    if not shutil.which(command.split()[0]):
        pytest.skip(f'needs {command.split()[0]}')
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    assert find(str(tmp_path / 'my set')).name == 'YOLO'


@pytest.mark.parametrize(
    ('name', 'opened'),
    [('a.json.gz', gzip.open), ('a.json.bz2', bz2.open), ('a.json.xz', lzma.open)],
)
def test_a_compressed_file(tmp_path, name, opened):
    with opened(tmp_path / name, 'wb') as file:
        file.write(b'{"images": [], "categories": []}')
    text = message(tmp_path / name)
    assert 'is compressed (' in text
    command = text.partition('and give the file: ')[2]
    subprocess.run(command, shell=True, check=True)
    assert find(str(tmp_path / 'a.json')).name == 'COCO'


@pytest.mark.parametrize(
    ('content', 'program', 'command'),
    [
        (b'7z\xbc\xaf\x27\x1c', '7z', '7z x {0}/x.bin -o{0}/x.bin_unpacked'),
        (b'Rar!\x1a\x07\x01', 'rar', 'unrar x {0}/x.bin {0}/x.bin_unpacked/'),
        (b'PK\x05\x06', 'zip', 'unzip {0}/x.bin -d {0}/x.bin_unpacked'),
        (b'\x28\xb5\x2f\xfd', 'zstd', 'unzstd --keep {0}/x.bin'),
    ],
)
def test_others_by_their_beginnings(tmp_path, content, program, command):
    write_files(tmp_path, {'x.bin': content})
    text = message(tmp_path / 'x.bin')
    assert f'({program})' in text and text.endswith(f': {command.format(tmp_path)}')


def test_an_archive_in_a_folder(folder, tmp_path):
    """It is named where nothing else is there."""
    (tmp_path / 'dl').mkdir()
    file = shutil.make_archive(str(tmp_path / 'dl' / 'set'), 'zip', folder)
    assert message(tmp_path / 'dl').startswith(
        f"path = '{tmp_path}/dl': {file} is an archive (zip). Unpack it, and give the "
        f'folder: unzip {file} -d {tmp_path}/dl/set'
    )
    folder.rename(tmp_path / 'dl' / 'set')
    text = message(tmp_path / 'dl')
    assert text.endswith(f'. Give {tmp_path}/dl/set instead')


def test_a_data_set_next_to_its_archive(folder):
    shutil.make_archive(str(folder / 'images'), 'gztar', folder / 'images')
    assert find(str(folder)).name == 'YOLO'


def test_a_name_alone_is_no_archive(tmp_path):
    write_files(tmp_path, {'x.zip': 'text', 'y.tar.gz': ''})
    assert 'found no annotations' in message(tmp_path)
    assert 'found no annotations' in message(tmp_path / 'x.zip')
