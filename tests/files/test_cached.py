"""Files of the cache: mirrors, resumed downloads, hashes, on a local server."""

import hashlib

import pytest

from atss_jax.files import cached
from atss_jax.files.cached import cached_file, place_of
from atss_jax.files.download import remote_size
from tests.support.file_server import serving

CONTENT = bytes(range(256)) * 8
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f'model-{SHA256[:8]}.pth'
CLOSED = f'http://127.0.0.1:9/{NAME}'  # nothing listens at port 9


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        server.files = {f'/{mirror}/{NAME}': CONTENT for mirror in 'ab'}
        yield server


def test_the_whole_hash_is_kept_as_sha256sum_does(server, tmp_path):
    target = tmp_path / 'cache' / NAME
    assert cached_file([f'{server.url}/a/{NAME}'], target) == target
    assert target.read_bytes() == CONTENT
    kept = (tmp_path / 'cache' / f'{NAME}.sha256').read_text()
    assert kept == f'{SHA256}  {NAME}\n'
    cached_file([f'{server.url}/a/{NAME}'], target)
    assert len(server.requests) == 1


def test_the_whole_hash_is_checked_from_then_on(server, tmp_path):
    """A name without digits: at first anything is taken, later only the same."""
    server.files['/x.pth'] = CONTENT
    urls, target = [f'{server.url}/x.pth'], tmp_path / 'x.pth'
    cached_file(urls, target)
    target.write_bytes(CONTENT + b'!')
    altered = hashlib.sha256(CONTENT + b'!').hexdigest()
    message = rf'SHA-256 is {altered}, expected {SHA256} \(kept in .*\); delete it and'
    with pytest.raises(ValueError, match=message):
        cached_file(urls, target)
    target.unlink()
    server.files['/x.pth'] = b'another'
    with pytest.raises(ValueError, match='removed what was downloaded'):
        cached_file(urls, target)
    assert not target.exists()
    (tmp_path / 'x.pth.sha256').unlink()
    assert cached_file(urls, target).read_bytes() == b'another'


def test_a_file_put_there_by_hand_is_checked_and_its_hash_kept(tmp_path):
    target = tmp_path / NAME
    target.write_bytes(CONTENT)
    assert cached_file([CLOSED], target) == target
    assert (tmp_path / f'{NAME}.sha256').exists()


def test_a_cache_that_cannot_be_written_to(tmp_path, monkeypatch):
    target = tmp_path / NAME
    target.write_bytes(CONTENT)
    monkeypatch.setattr(cached.os, 'access', lambda *_: False)
    assert cached_file([CLOSED], target) == target
    assert not (tmp_path / f'{NAME}.sha256').exists()


def test_a_given_hash_replaces_that_of_the_name(server, tmp_path):
    with pytest.raises(ValueError, match='expected 00112233'):
        cached_file([f'{server.url}/a/{NAME}'], tmp_path / NAME, '00112233')


def test_a_given_hash_counts_more_than_a_kept_one(server, tmp_path):
    """A new version of the file at the same address has another hash."""
    server.files['/x.pth'] = CONTENT
    urls, target = [f'{server.url}/x.pth'], tmp_path / 'x.pth'
    cached_file(urls, target, SHA256)
    server.files['/x.pth'] = b'another'
    new = hashlib.sha256(b'another').hexdigest()
    with pytest.raises(ValueError, match=f'{new}; delete it and run'):
        cached_file(urls, target, new)
    target.unlink()
    assert cached_file(urls, target, new.upper()).read_bytes() == b'another'
    assert (tmp_path / 'x.pth.sha256').read_text() == f'{new}  x.pth\n'


# Mirrors -----------------------------------------------------------------------------


def test_the_first_mirror_that_has_the_file(server, tmp_path):
    urls = [CLOSED, f'{server.url}/missing/{NAME}', f'{server.url}/b/{NAME}']
    urls.append(f'{server.url}/a/{NAME}')
    assert cached_file(urls, tmp_path / NAME).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [f'/missing/{NAME}', f'/b/{NAME}']


def test_a_mirror_continues_where_another_stopped(server, tmp_path):
    server.break_after = 1500
    urls = [f'{server.url}/{mirror}/{NAME}' for mirror in 'ab']
    assert cached_file(urls, tmp_path / NAME).read_bytes() == CONTENT
    assert server.requests[1] == (f'/b/{NAME}', 'bytes=1500-')


def test_a_wrong_file_of_one_mirror(server, tmp_path):
    server.files[f'/a/{NAME}'] = b'<html>moved</html>'
    urls = [f'{server.url}/{mirror}/{NAME}' for mirror in 'ab']
    assert cached_file(urls, tmp_path / NAME).read_bytes() == CONTENT
    assert server.requests[1] == (f'/b/{NAME}', None)


def test_a_wrong_file_everywhere_is_removed(server, tmp_path):
    urls = [f'{server.url}/{mirror}/{NAME}' for mirror in 'ab']
    for mirror in 'ab':
        server.files[f'/{mirror}/{NAME}'] = b'wrong'
    with pytest.raises(ValueError, match='SHA-256') as error:
        cached_file(urls, tmp_path / NAME)
    assert all(url in str(error.value) for url in urls)
    assert [path.name for path in tmp_path.iterdir()] in ([], [f'{NAME}.lock'])


def test_without_a_network_every_address_and_the_path_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    urls = [CLOSED, CLOSED.replace(':9/', ':9/mirror/')]
    with pytest.raises(ConnectionError) as error:
        cached_file(urls, tmp_path / NAME)
    message = str(error.value)
    assert message.startswith(f'cannot download {NAME}:\n')
    assert all(f'  {url}: ' in message for url in urls)
    assert (
        f'one of these addresses elsewhere and put the file at {tmp_path / NAME}'
        in (message.replace('\n', ' '))
    )


def test_failures_of_two_kinds(server, tmp_path):
    """It may be worth trying again: not all servers had a wrong file."""
    server.files[f'/a/{NAME}'] = b'wrong'
    with pytest.raises(ConnectionError) as error:
        cached_file([f'{server.url}/a/{NAME}', CLOSED], tmp_path / NAME)
    assert 'its SHA-256 starts with' in str(error.value) and CLOSED in str(error.value)


# Places and sizes --------------------------------------------------------------------


def test_files_of_one_name_and_two_servers_have_two_places(tmp_path):
    places = {place_of(f'https://{server}/epoch_12.pth', tmp_path) for server in 'abc'}
    assert len(places) == 3
    assert {place.name for place in places} == {'epoch_12.pth'}
    assert place_of(f'https://a/x/{NAME}?y=1', tmp_path) == tmp_path / NAME


def test_the_size_that_a_server_states(server, tmp_path):
    assert remote_size([CLOSED, f'{server.url}/a/{NAME}']) == len(CONTENT)
    assert remote_size([CLOSED, f'{server.url}/c/{NAME}']) is None
    assert not list(tmp_path.iterdir())
