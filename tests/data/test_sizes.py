"""Sizes of image files: read from headers, kept, and read again where they changed."""

import json
import os
import threading

import numpy as np
import pytest

from atss_jax.data.forms.sizes import UNREADABLE, image_sizes
from atss_jax.data.image_file import file_content
from tests.support.forms import IMAGE
from tests.support.image_files import RGB, jpeg, png, with_orientation


class Images:
    """Image files in a folder, and which of them are read."""

    def __init__(self, folder):
        self.folder, self.opened = folder, []
        self._lock = threading.Lock()

    def write(self, name, content):
        (self.folder / name).write_bytes(content)

    def sizes(self, *names, **kwargs):
        """The sizes of images; `opened` then has the names of those that were read."""
        self.opened = []

        def content(path):
            with self._lock:
                self.opened.append(os.path.basename(path))
            return file_content(path)

        paths = [str(self.folder / name) for name in names]
        sizes = image_sizes(paths, str(self.folder), content, **kwargs)
        assert sizes.dtype == np.int64
        self.opened.sort()
        return list(map(tuple, sizes.tolist()))


@pytest.fixture
def images(tmp_path):
    (tmp_path / 'set').mkdir()
    return Images(tmp_path / 'set')


@pytest.fixture
def cache(tmp_path):
    """The only file of sizes in the cache."""

    def file():
        (path,) = (tmp_path / 'cache' / 'image_sizes').iterdir()
        return path

    return file


def image(height, width):
    return png((height, width), 8, RGB, b'abc')


def test_height_and_width_in_the_order_of_the_paths(images):
    images.write('a.png', image(5, 8))
    images.write('b.jpg', jpeg((16, 24), [9, 9, 9]))
    assert images.sizes('b.jpg', 'a.png', 'b.jpg') == [(16, 24), (5, 8), (16, 24)]


def test_no_images(images):
    assert image_sizes([], str(images.folder)).shape == (0, 2)
    assert not (images.folder.parent / 'cache').exists()


def test_an_orientation_turns_the_size(images):
    images.write('a.jpg', with_orientation(jpeg((16, 24), [9, 9, 9]), 6))
    assert images.sizes('a.jpg') == [(24, 16)]


def test_a_size_is_read_once(images):
    images.write('a.png', image(5, 8))
    assert images.sizes('a.png') == [(5, 8)] and images.opened == ['a.png']
    images.write('b.png', image(6, 9))
    assert images.sizes('a.png', 'b.png') == [(5, 8), (6, 9)]
    assert images.opened == ['b.png']
    assert images.sizes('a.png', 'b.png') == [(5, 8), (6, 9)]
    assert images.opened == []


def test_another_data_set_has_a_cache_of_its_own(images, tmp_path):
    images.write('a.png', image(5, 8))
    images.sizes('a.png')
    image_sizes([str(images.folder / 'a.png')], str(tmp_path))
    assert len([*(tmp_path / 'cache' / 'image_sizes').iterdir()]) == 2


def test_relative_and_absolute_paths_of_a_set_share_a_cache(images, monkeypatch, cache):
    images.write('a.png', image(5, 8))
    images.sizes('a.png')
    monkeypatch.chdir(images.folder.parent)
    assert image_sizes(['set/a.png'], 'set').tolist() == [[5, 8]]
    assert cache().exists()  # and there is one only


@pytest.mark.parametrize(('length', 'later'), [(300, 0), (200, 1)])
def test_a_file_that_changed_is_read_again(images, length, later):
    """Another length at the same time, or the same length later."""
    path = images.folder / 'a.png'
    images.write('a.png', image(5, 8).ljust(200, b'\0'))
    images.sizes('a.png')
    before = path.stat()
    images.write('a.png', image(8, 5).ljust(length, b'\0'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))
    assert images.sizes('a.png') == [(8, 5)]
    assert images.opened == ['a.png']


def test_what_cannot_be_read(images):
    """An entry for each: no file, a folder, no image, an image that is cut off."""
    (images.folder / 'folder').mkdir()
    images.write('text.png', b'not an image')
    images.write('empty.png', b'')
    images.write('good.png', image(5, 8))
    names = 'none.png', 'folder', 'text.png', 'empty.png', 'good.png'
    assert images.sizes(*names) == [UNREADABLE] * 4 + [(5, 8)]


def test_a_file_that_was_mended_is_read_again(images):
    images.write('a.png', b'')
    assert images.sizes('a.png') == [UNREADABLE]
    images.write('a.png', image(5, 8))
    assert images.sizes('a.png') == [(5, 8)]
    (images.folder / 'a.png').unlink()
    assert images.sizes('a.png') == [UNREADABLE]


def test_images_in_a_larger_file(images):
    """The file decides whether they are read again."""
    images.write('all.bin', b'1')
    names = 'all.bin', 'x'
    files = {
        str(images.folder / name): str(images.folder / 'all.bin') for name in names
    }
    paths, opened = list(files), []

    def content(path):
        opened.append(path)
        return image(5, 8) if path.endswith('x') else image(6, 9)

    for _ in range(2):
        sizes = image_sizes(paths, str(images.folder), content, files.get)
        assert sizes.tolist() == [[6, 9], [5, 8]]
        assert sorted(opened) == paths
    images.write('all.bin', b'22')
    image_sizes(paths, str(images.folder), content, files.get)
    assert len(opened) == 4


# The cache ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'content',
    [
        *(b'', b'{', b'\xff\xfe', b'[]', b'3', b'{"PATH": 3}'),
        *(b'{"PATH": {"stamp": 1}}', b'{"PATH": {"stamp": STAMP}}'),
        b'{"PATH": {"stamp": STAMP, "size": 7}}',
        b'{"PATH": {"stamp": STAMP, "size": [1]}}',
        b'{"PATH": {"stamp": STAMP, "size": ["a", null]}}',
    ],
)
def test_a_damaged_cache_is_written_anew(images, cache, content):
    images.write('a.png', image(5, 8))
    images.sizes('a.png')
    path = images.folder / 'a.png'
    stamp = json.dumps([path.stat().st_size, path.stat().st_mtime_ns])
    content = content.replace(b'PATH', str(path).encode())
    cache().write_bytes(content.replace(b'STAMP', stamp.encode()))
    assert images.sizes('a.png') == [(5, 8)] and images.opened == ['a.png']
    assert images.sizes('a.png') == [(5, 8)] and images.opened == []


def test_a_cache_that_cannot_be_written(images, monkeypatch, tmp_path):
    """A warning each time; the sizes are right."""
    (tmp_path / 'file').write_text('not a folder')
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'file'))
    images.write('a.png', image(5, 8))
    for _ in range(2):
        with pytest.warns(UserWarning, match='cannot be kept .*Set ATSS_JAX_CACHE to'):
            assert images.sizes('a.png') == [(5, 8)]
        assert images.opened == ['a.png']


def test_a_folder_of_the_cache_that_is_a_file(images, tmp_path):
    (tmp_path / 'cache').mkdir()
    (tmp_path / 'cache' / 'image_sizes').write_text('x')
    images.write('a.png', image(5, 8))
    with pytest.warns(UserWarning, match='each start reads them again'):
        assert images.sizes('a.png') == [(5, 8)]


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path):
    (tmp_path / 'a.png').write_bytes(IMAGE)
    path = str(tmp_path / 'a.png')

    def fails(path):
        raise OSError(5, 'Input/output error', path)

    failing = image_sizes([path], str(tmp_path), content=fails)
    assert failing.tolist() == [list(UNREADABLE)]
    assert image_sizes([path], str(tmp_path)).tolist() == [[50, 80]]
