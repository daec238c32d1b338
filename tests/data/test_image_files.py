"""The files below a folder, and links that lead in circles or to the same place."""

import pytest

from atss_jax.data.forms import image_files
from tests.support.forms import write_files


def linked(folder, links):
    for name, target in links.items():
        (folder / name).symlink_to(folder / target)


def test_files_in_all_folders(tmp_path):
    names = ['a.PNG', 'b/c.jpeg', 'b/d/e.tif', 'f.txt', '.g.png', '__MACOSX/h.png']
    write_files(tmp_path, dict.fromkeys(names, 'x'))
    assert image_files.files_below(str(tmp_path)) == ['a.PNG', 'b/c.jpeg', 'b/d/e.tif']
    assert image_files.files_below(str(tmp_path), ('.txt',)) == ['f.txt']
    assert image_files.has_any(str(tmp_path / 'b'))
    (tmp_path / 'none').mkdir()
    assert not image_files.has_any(str(tmp_path / 'none'))


def test_a_link_to_a_folder_next_to_it(tmp_path):
    """Both count: `val` may be a link to `train`."""
    write_files(tmp_path, {'train/a.png': 'x', 'train/deep/b.png': 'x'})
    linked(tmp_path, {'val': 'train', 'a_first': 'train'})
    assert image_files.files_below(str(tmp_path)) == [
        f'{name}/{file}'
        for name in ('a_first', 'train', 'val')
        for file in ('a.png', 'deep/b.png')
    ]


def test_a_link_to_a_folder_above(tmp_path):
    write_files(tmp_path, {'a/b/c.png': 'x', 'd.png': 'x'})
    linked(tmp_path, {'a/b/loop': '.', 'a/self': 'a'})
    assert image_files.files_below(str(tmp_path)) == ['a/b/c.png', 'd.png']


@pytest.mark.parametrize('count', [4, 15])
def test_folders_with_links_to_each_other(tmp_path, count):
    """Every way through all of 15 would be a number of 13 digits."""
    names = [f'{number:02}' for number in range(count)]
    write_files(tmp_path, {f'{name}/x.png': 'x' for name in names})
    for name in names:
        linked(tmp_path, {f'{name}/to_{other}': other for other in names})
    files = image_files.files_below(str(tmp_path))
    assert len(files) < 3 * count**2
    assert {f'{name}/x.png' for name in names} <= set(files)


def test_folders_with_links_to_the_folder_above(tmp_path):
    """Thirty folders, each with two links to all."""
    outside = tmp_path / 'outside'
    write_files(outside, {f'{n}/x.png': 'x' for n in range(30)})
    linked(outside, {f'{n}/up{k}': '.' for n in range(30) for k in range(2)})
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'in').symlink_to(outside / '7')
    files = image_files.files_below(str(tmp_path / 'set'))
    assert 'in/x.png' in files and len(files) <= 2 * 30


@pytest.mark.parametrize(('length', 'expected'), [(25, 1), (60, 0)])
def test_a_chain_of_doubling_links(tmp_path, length, expected):
    """Two links in each folder to the next one: 2**25 ways to the image.

    The system itself cannot open the image at the end of the longer chain.
    """
    write_files(tmp_path, {f'{n}/x.txt': 'x' for n in range(length)})
    write_files(tmp_path, {f'{length}/x.png': 'x', 'set/x.txt': 'x'})
    linked(tmp_path, {f'{n}/{k}': f'{n + 1}' for n in range(length) for k in 'ab'})
    linked(tmp_path, {'set/start': '0'})
    files = image_files.files_below(str(tmp_path / 'set'))
    assert files == ['start/' + 'a/' * length + 'x.png'] * expected
    assert all((tmp_path / 'set' / file).is_file() for file in files)
