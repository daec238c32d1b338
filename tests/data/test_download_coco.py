"""COCO's archives, in small, from a server of ours on this machine."""

import importlib.util
import io
import pathlib
import shutil
import stat
import zipfile

import pytest

from atss_jax.commands import main as commands
from atss_jax.data.coco import archives as coco_download
from atss_jax.data.coco.archives import Archive, download_coco
from tests.support.file_server import serving
from tests.support.small_run import tree_of

FILES = {
    'annotations': {'a.json': b'{"a": 1}' * 50, 'b.json': b'{}'},
    'val2017': {f'{k:012d}.jpg': bytes([k]) * (100 + k) for k in range(5)},
}
WHOLE = {f'{folder}/{n}': x for folder, own in FILES.items() for n, x in own.items()}


def zipped(members):
    """The content of a zip file; names may be ZipInfos."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        for folder, files in FILES.items():
            members = {f'{folder}/': b''}  # folders have entries of their own
            members |= {f'{folder}/{name}': x for name, x in files.items()}
            server.files[f'/zips/{folder}.zip'] = zipped(members)
        yield server


@pytest.fixture
def call(server, tmp_path):
    def run(**kwargs):
        archives = tuple(
            Archive(path[1:], len(server.files[path]), folder, len(files))
            for folder, files in FILES.items()
            for path in (f'/zips/{folder}.zip',)
        )
        kwargs = {'archives': archives} | kwargs
        download_coco(tmp_path / 'coco', server.url + '/', **kwargs)

    return run


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'coco').mkdir()
    return tmp_path / 'coco'


def unpacked(root):
    """Every file but the locks."""
    return {
        name: content
        for name, content in tree_of(root).items()
        if (root / name).is_file() and not name.endswith('.lock')
    }


def test_fetches_and_unpacks(call, root, server):
    call()
    assert unpacked(root) == WHOLE
    assert [path for path, _ in server.requests] == [
        '/zips/annotations.zip',
        '/zips/val2017.zip',
    ]


def test_nothing_to_do(call, root, server):
    call()
    server.requests.clear()
    call()
    assert server.requests == [] and unpacked(root) == WHOLE


def test_archives_can_be_kept(call, root, server):
    call(keep_archives=True)
    archives = {path[6:]: content for path, content in server.files.items()}
    assert unpacked(root) == WHOLE | archives
    (root / 'val2017' / '000000000003.jpg').unlink()
    server.requests.clear()
    call(keep_archives=True)  # what lacks comes from the archive that is there
    assert server.requests == [] and unpacked(root) == WHOLE | archives


@pytest.mark.parametrize('ranges', [True, False])
def test_a_broken_connection_is_resumed(call, root, server, ranges):
    server.ranges = ranges
    server.break_after = 60
    size = len(server.files['/zips/annotations.zip'])
    with pytest.raises(ConnectionError, match=f'after 60 of {size} bytes') as error:
        call()
    assert 'Run this again' in str(error.value)
    assert (root / 'annotations.zip.part').stat().st_size == 60
    server.break_after = None
    server.requests.clear()
    call()
    assert unpacked(root) == WHOLE
    assert server.requests[0] == ('/zips/annotations.zip', 'bytes=60-')


def test_a_whole_part_is_not_fetched_again(call, root, server):
    content = server.files['/zips/annotations.zip']
    (root / 'annotations.zip.part').write_bytes(content)
    call()
    assert [path for path, _ in server.requests] == ['/zips/val2017.zip']


def test_a_part_of_something_larger_is_dropped(call, root, server):
    content = server.files['/zips/annotations.zip']
    (root / 'annotations.zip.part').write_bytes(content + b'!')
    call()
    assert unpacked(root) == WHOLE
    assert server.requests[0] == ('/zips/annotations.zip', None)


def test_a_server_that_goes_on_elsewhere(call, root, server):
    server.wrong_start = 1
    (root / 'annotations.zip.part').write_bytes(b'12345')
    with pytest.raises(ValueError, match=r"from 5 on, the server sent 'bytes 6-"):
        call()
    assert (root / 'annotations.zip.part').read_bytes() == b'12345'


def test_an_archive_of_another_size_is_not_fetched(call, root, server):
    archives = (Archive('zips/val2017.zip', 10**6, 'val2017', 5),)
    size = len(server.files['/zips/val2017.zip'])
    with pytest.raises(ValueError, match=f'has {size:,} bytes, expected 1,000,000'):
        call(archives=archives)
    assert unpacked(root) == {}


def test_an_archive_of_another_size_on_disk(call, root):
    (root / 'annotations.zip').write_bytes(b'short')
    with pytest.raises(ValueError, match=r'annotations.zip: has 5 bytes, .*delete it'):
        call()


def test_a_damaged_archive(call, root, server):
    content = bytearray(server.files['/zips/val2017.zip'])
    name = b'000000000002.jpg'
    content[content.index(name) + len(name) + 1] ^= 0xFF  # in what follows its header
    server.files['/zips/val2017.zip'] = bytes(content)
    with pytest.raises(ValueError, match=r'val2017.zip: damaged .*delete it'):
        call()
    assert not list((root / 'val2017').glob('*2.jpg'))


def test_no_archive_at_all(call, root, server):
    server.files['/zips/val2017.zip'] = b'<html>not found</html>'
    with pytest.raises(ValueError, match='not a zip file'):
        call()


def test_stopped_while_unpacking(call, root, server, monkeypatch):
    real, written = coco_download._extract, []

    def extract(content, member, path):
        if len(written) == 4:
            (root / 'val2017' / '000000000002.jpg.part').write_bytes(b'half')
            raise KeyboardInterrupt
        written.append(path.name)
        real(content, member, path)

    monkeypatch.setattr(coco_download, '_extract', extract)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert written[2:] == ['000000000000.jpg', '000000000001.jpg']
    monkeypatch.undo()
    server.requests.clear()
    call()
    assert server.requests == [] and unpacked(root) == WHOLE


def test_a_file_in_the_way_is_not_overwritten(call, root):
    (root / 'annotations').mkdir()
    (root / 'annotations' / 'b.json').write_bytes(b'mine')
    with pytest.raises(ValueError, match=r'b.json: has 4 bytes, .*move it away'):
        call()
    assert (root / 'annotations' / 'b.json').read_bytes() == b'mine'


def link():
    info = zipfile.ZipInfo('val2017/link')
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    'member',
    [
        '../evil.jpg',
        'val2017/../../evil.jpg',
        'val2017/../evil.jpg',
        '/evil.jpg',
        'val2017//evil.jpg',
        'val2017/./evil.jpg',
        'val2017\\..\\evil.jpg',
        'evil.jpg',
        'train2017/evil.jpg',
        link(),
    ],
    ids=str,
)
def test_an_archive_that_writes_elsewhere_is_refused(call, root, server, member):
    content = zipped({'val2017/fine.jpg': b'fine', member: b'../../evil.jpg'})
    server.files['/zips/val2017.zip'] = content
    with pytest.raises(ValueError, match='refused'):
        call()
    names = {path.name for path in root.parent.rglob('*')}
    assert not names & {'evil.jpg', 'fine.jpg', 'link'}


def test_space_is_checked_before_anything_is_fetched(call, root, server, monkeypatch):
    sizes = [len(content) for content in server.files.values()]
    # Archives and images; the first archive is deleted before the second comes.
    needed = sizes[0] + 2 * sizes[1]
    usage = shutil.disk_usage(root)
    for free, works in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(
            coco_download.shutil,
            'disk_usage',
            lambda path, free=free: usage._replace(free=free),
        )
        if works:
            call()
        else:
            with pytest.raises(OSError, match='GB are needed'):
                call()
            assert server.requests == []
    assert unpacked(root) == WHOLE


def test_what_is_there_needs_no_space(root):
    archive = Archive('zips/val2017.zip', 1000, 'val2017', 5)
    need = coco_download._bytes_needed
    assert need(root, [archive], False) == 2000
    (root / 'val2017.zip.part').write_bytes(bytes(400))
    assert need(root, [archive], False) == 1600
    (root / 'val2017').mkdir()
    (root / 'val2017' / 'a.jpg').write_bytes(bytes(300))
    assert need(root, [archive], False) == 1300
    second = Archive('zips/b.zip', 100, 'b', 5)
    assert need(root, [archive, second], False) == 1300
    assert need(root, [archive, second], True) == 1500
    assert need(root, [second, archive], False) == 100 + 1300


def test_one_at_a_time(call, root):
    busy = pytest.raises(OSError, match='another process is at work')
    with coco_download.locked(root / '.lock'), busy:
        call()


def test_command(server, root, monkeypatch, capsys):
    archives = (
        Archive(
            'zips/val2017.zip', len(server.files['/zips/val2017.zip']), 'val2017', 5
        ),
    )
    monkeypatch.setattr(
        coco_download.download_coco, '__defaults__', (None, False, archives)
    )
    command = ['download-coco', '--root', str(root), '--base_url', server.url]
    assert commands.main(command) == 0
    assert f'complete in {root}' in capsys.readouterr().out
    assert set(unpacked(root)) == {f'val2017/{name}' for name in FILES['val2017']}
    server.break_after = 5
    shutil.rmtree(root / 'val2017')
    assert commands.main(command) == 1
    printed = capsys.readouterr().err
    assert 'cannot download' in printed and 'Traceback' not in printed


def test_sizes_are_the_published_ones():
    """Those that TensorFlow Datasets checks its own downloads against."""
    folder = pathlib.Path(importlib.util.find_spec('tensorflow_datasets').origin).parent
    published = {}
    for name in ('url_checksums/coco_captions.txt', 'datasets/lvis/checksums.tsv'):
        for line in (folder / name).read_text().splitlines():
            url, size, *_ = line.split('\t')
            published[url] = int(size)
    for archive in coco_download.ARCHIVES:
        url = f'{coco_download.BASE_URL}/{archive.path}'
        assert published[url] == archive.size
