"""Large annotation files are parsed once, and again whenever anything is doubtful."""

import concurrent.futures
import os
import warnings

import numpy as np
import pytest

from atss_jax.data.coco import annotation_file, kept_columns
from tests.data.test_plain_file import CONTENT, outcome, text_of


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that counts as large."""
    monkeypatch.setattr(kept_columns, '_SMALLEST', 0)
    path = tmp_path / 'a.json'
    path.write_bytes(text_of())
    return path


def read_right(path):
    """Reads as the reader of each record does."""
    result = outcome(annotation_file.read, path)
    assert result == outcome(annotation_file.read_with_checks, path)
    return result[0]


def cache_of(path):
    return kept_columns.cache_file(str(path))


def test_small_files_are_not_kept(tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(text_of())
    read_right(path)
    assert not cache_of(path).parent.exists()


def test_the_same_table_again(file):
    first = read_right(file)
    before = cache_of(file).stat()
    assert read_right(file) == first
    after = cache_of(file).stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    # It does come from there: what is kept of this content is believed.
    digest = kept_columns.sha256_of(file)
    kept = kept_columns.load(cache_of(file), str(file), digest)
    kept.table.boxes[:] = 9
    kept_columns.save(cache_of(file), kept, digest)
    assert (annotation_file.read(str(file)).boxes == 9).all()


def test_nothing_annotated(file):
    file.write_bytes(text_of(CONTENT | {'annotations': [], 'images': []}))
    assert read_right(file) == read_right(file)
    assert cache_of(file).exists()


def test_another_content_of_the_same_length_and_time(file):
    read_right(file)
    status = file.stat()
    changed = file.read_bytes().replace(b'"width": 40', b'"width": 41')
    file.write_bytes(changed)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    now = file.stat()
    assert (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert annotation_file.read(str(file)).image_sizes[0].tolist() == [30, 41]
    # One entry per path: the new content has replaced the old one.
    assert len(list(cache_of(file).parent.iterdir())) == 1
    read_right(file)


def test_options_apply_to_what_is_kept(file):
    read_right(file)
    for options in ({'classes': ('cat',)}, {'training': False}, {'on_error': 'skip'}):
        want = outcome(annotation_file.read_with_checks, file, **options)
        assert outcome(annotation_file.read, file, **options) == want


def test_malformed_files_are_not_kept(file):
    file.write_bytes(text_of().replace(b'"height": 30', b'"height": -1'))
    assert 'height must be an integer from 1' in read_right(file)
    assert not cache_of(file).exists()


def test_a_damaged_cache_is_replaced(file):
    read_right(file)
    cache = cache_of(file)
    whole = cache.read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in random.integers(0, len(whole), 15)]
    for place in random.integers(0, len(whole), 50).tolist():
        damaged.append(
            whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        )
    want = read_right(file)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for content in [*damaged, b'', b'PK', b'\x93NUMPY', b'{}']:
            cache.write_bytes(content)
            assert outcome(annotation_file.read, file)[0] == want
    read_right(file)


def test_another_layout_is_replaced(file, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(kept_columns, '_LAYOUT', 2**31)
        read_right(file)
    digest = kept_columns.sha256_of(file)
    assert kept_columns.load(cache_of(file), str(file), digest) is None
    read_right(file)
    assert kept_columns.load(cache_of(file), str(file), digest) is not None


def test_a_cache_that_cannot_be_written(file, tmp_path, monkeypatch):
    (tmp_path / 'a_file').write_text('')
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'a_file'))
    with pytest.warns(UserWarning, match='cannot be kept .*Set ATSS_JAX_CACHE to'):
        table = annotation_file.read(str(file))
    assert len(table.file_names) == 3


def test_many_at_once(file):
    """While one reads, others write; nobody sees half of a file."""
    want = read_right(file)

    def read(number):
        if number % 3 == 0:
            cache_of(file).unlink(missing_ok=True)
        return vars(annotation_file.read(str(file)))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for columns in pool.map(read, range(60)):
            assert columns['file_names'] == want['file_names']
            assert columns['boxes'].tobytes() == want['boxes'][2]
            assert columns['areas'].tobytes() == want['areas'][2]
    assert [path.suffix for path in cache_of(file).parent.iterdir()] == ['.npz']
