"""A file holds its old content or all of the new one, whatever happens."""

import os

import pytest

from atss_jax.files.atomic import (
    filling,
    read_given_json,
    read_json,
    replacing,
    write_bytes,
    write_json,
)
from tests.support.small_run import tree_of


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path):
    write_bytes(tmp_path / 'a.bin', b'old')
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / 'a.bin') as temporary:
        temporary.write_bytes(b'half')
        raise KeyboardInterrupt
    assert tree_of(tmp_path) == {'a.bin': b'old'}


def test_an_error_in_a_new_file_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), replacing(tmp_path / 'new.png') as temporary:
        assert temporary.suffix == '.png'
        temporary.write_bytes(b'half')
        raise ValueError
    assert tree_of(tmp_path) == {}


def test_folders_are_made_and_permissions_follow_the_umask(tmp_path):
    write_json(tmp_path / 'deep' / 'a.json', {'x': [1, None]})
    assert (tmp_path / 'deep' / 'a.json').read_text() == '{"x": [1, null]}\n'
    if os.name == 'posix':
        (tmp_path / 'usual').touch()
        modes = [(tmp_path / name).stat().st_mode for name in ('usual', 'deep/a.json')]
        assert modes[0] == modes[1]


def test_json_is_read_back(tmp_path):
    write_json(tmp_path / 'a.json', {'x': 'é'}, indent=2)
    assert read_json(tmp_path / 'a.json') == {'x': 'é'}
    (tmp_path / 'a.json').write_text('{"x": ')
    with pytest.raises(ValueError, match=r'a.json is not JSON .*damaged'):
        read_json(tmp_path / 'a.json')


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_json_of_editors_and_shells_of_windows(tmp_path, encoding):
    """Notepad writes a byte order mark, and PowerShell's `>` writes UTF-16."""
    file = tmp_path / 'a.json'
    file.write_text('{"x": "é"}\r\n', encoding=encoding)
    assert read_given_json(file) == read_json(file) == {'x': 'é'}


def test_a_file_of_a_user_is_not_called_damaged(tmp_path):
    for content in (b'', b'{"x": ', b'[' * 100_000, b'\xff\xfe', b'\x80\x00'):
        (tmp_path / 'a.json').write_bytes(content)
        with pytest.raises(ValueError, match='not a JSON file') as caught:
            read_given_json(tmp_path / 'a.json')
        assert 'damaged' not in str(caught.value)


def test_a_folder_is_filled_through_a_link_or_not_at_all(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    with pytest.raises(ValueError), filling(tmp_path / 'link', '.new') as folder:
        (folder / 'a').write_text('half')
        raise ValueError
    assert list((tmp_path / 'real').iterdir()) == []
    with filling(tmp_path / 'link', '.new') as folder:
        (folder / 'a').mkdir()
        (folder / 'a' / 'b').write_text('whole')
        assert not (tmp_path / 'real' / 'a').exists()
    assert (tmp_path / 'real' / 'a' / 'b').read_text() == 'whole'
    assert [file.name for file in (tmp_path / 'real').iterdir()] == ['a']
